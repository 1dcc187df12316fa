"""Tokenizers: ids, bytes behind ids, folders."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from supernet.text import BYTE_FILE, ByteTokenizer, HFTokenizer, Tokenizer, load_tokenizer

TEXT = "Once upon a time, é and 漢字 and 🙂.\n\n  Indented\tline\n"
STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    """A byte-level BPE folder with BOS in its post-processor, as `save_pretrained` would write it."""
    folder = tmp_path_factory.mktemp("hf")
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    backend.train_from_iterator([TEXT * 20], trainer)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))
    return folder


@pytest.mark.parametrize("kind", ["byte", "hf"])
def test_decoding_gives_the_encoded_text_back(kind, hf_folder):
    tokenizer = ByteTokenizer() if kind == "byte" else HFTokenizer(hf_folder)
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.int64 and ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == TEXT
    assert isinstance(tokenizer, Tokenizer)


@pytest.mark.parametrize("kind", ["byte", "hf"])
def test_sizes_of_tokens_add_up_to_the_bytes_of_the_text(kind, hf_folder):
    tokenizer = ByteTokenizer() if kind == "byte" else HFTokenizer(hf_folder)
    encoded = tokenizer.encode_sized(TEXT)
    np.testing.assert_array_equal(encoded.ids, tokenizer.encode(TEXT))
    assert encoded.n_bytes.sum() == len(TEXT.encode()) and encoded.n_bytes.min() >= 0
    first = tokenizer.decode(encoded.ids[:3])
    assert encoded.n_bytes[:3].sum() == len(first.encode())


def test_a_token_of_ascii_text_counts_its_own_bytes(hf_folder):
    tokenizer = HFTokenizer(hf_folder)
    encoded = tokenizer.encode_sized("upon a time and Indented")
    lengths = [len(tokenizer.decode([i])) for i in encoded.ids]
    assert encoded.n_bytes.tolist() == lengths


def test_empty_text_has_no_token(hf_folder):
    for tokenizer in (ByteTokenizer(), HFTokenizer(hf_folder)):
        assert len(tokenizer.encode("")) == 0
        assert tokenizer.encode_sized("").n_bytes.sum() == 0


def test_bos_is_only_set_when_the_tokenizer_adds_it_by_default(hf_folder, tmp_path):
    plain = HFTokenizer(hf_folder)
    assert plain.bos_id is None  # it has a BOS token, but does not add it
    assert plain.eos_id == 1
    with_flag = HFTokenizer(plain.save(tmp_path / "flag"))
    config = {"bos_token": "<s>", "add_bos_token": True}
    (tmp_path / "flag" / "tokenizer_config.json").write_text(json.dumps(config))
    assert HFTokenizer(tmp_path / "flag").bos_id == 0
    backend = Backend.from_file(str(hf_folder / "tokenizer.json"))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    processed = plain.save(tmp_path / "template")
    backend.save(str(processed / "tokenizer.json"))
    adding = HFTokenizer(processed)
    assert adding.bos_id == 0
    np.testing.assert_array_equal(adding.encode(TEXT), with_flag.encode(TEXT))  # never inside a text


def test_truncation_stored_in_a_tokenizer_file_is_not_applied(hf_folder, tmp_path):
    backend = Backend.from_file(str(hf_folder / "tokenizer.json"))
    backend.enable_truncation(max_length=4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    np.testing.assert_array_equal(HFTokenizer(tmp_path).encode(TEXT), HFTokenizer(hf_folder).encode(TEXT))


def test_a_saved_tokenizer_is_loaded_as_the_same_one(hf_folder, tmp_path):
    for name, tokenizer in (("byte", ByteTokenizer()), ("hf", HFTokenizer(hf_folder))):
        again = load_tokenizer(tokenizer.save(tmp_path / name))
        assert type(again) is type(tokenizer)
        assert again.fingerprint == tokenizer.fingerprint and again.eos_id == tokenizer.eos_id
        assert load_tokenizer(again) is again
    assert load_tokenizer("byte").vocab_size == 256
    assert load_tokenizer(hf_folder / "tokenizer.json").eos_id == 1


def test_a_pickled_hf_tokenizer_gives_the_same_ids_in_a_worker(hf_folder):
    tokenizer = HFTokenizer(hf_folder)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tokenizer)).encode(TEXT), tokenizer.encode(TEXT))


def test_tokenizers_with_other_ids_have_other_fingerprints(hf_folder, tmp_path):
    backend = Backend.from_file(str(hf_folder / "tokenizer.json"))
    backend.add_tokens(["Indented"])
    backend.save(str(tmp_path / "tokenizer.json"))
    assert HFTokenizer(tmp_path).fingerprint != HFTokenizer(hf_folder).fingerprint
    assert HFTokenizer(tmp_path).vocab_size == HFTokenizer(hf_folder).vocab_size + 1


def test_a_missing_or_damaged_tokenizer_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*nowhere: give 'byte'"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"type": ')
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a Hugging Face tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / BYTE_FILE).write_text('{"type": "word"}')
    with pytest.raises(ValueError, match="byte tokenizer"):
        load_tokenizer(tmp_path)


def test_ids_that_are_no_bytes_are_refused():
    with pytest.raises(ValueError, match="bytes are 0 to 255"):
        ByteTokenizer().decode([256])
    assert ByteTokenizer().decode([0xC3]) == "\ufffd"


@pytest.mark.slow
@pytest.mark.skipif(not STORIES.is_dir(), reason="needs ../shared/models/stories260K")
def test_stories260k_tokenizer_gives_the_ids_of_transformers():
    from transformers import AutoTokenizer

    ours, theirs = HFTokenizer(STORIES), AutoTokenizer.from_pretrained(STORIES)
    assert ours.encode(TEXT).tolist() == theirs(TEXT, add_special_tokens=False)["input_ids"]
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (theirs.bos_token_id, theirs.eos_token_id, 512)
    assert ours.encode_sized(TEXT).n_bytes.sum() == len(TEXT.encode())


def test_what_stands_beside_the_tokenizer_goes_with_it(hf_folder, tmp_path):
    files = {
        "tokenizer_config.json": "{}", "special_tokens_map.json": "{}", "generation_config.json": '{"do_sample": true}',
        "chat_template.jinja": "{{ messages[0]['content'] }}\n",
    }  # fmt: skip
    source = tmp_path / "source"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    (source / "tokenizer.json").write_text((hf_folder / "tokenizer.json").read_text())
    saved = HFTokenizer(source).save(tmp_path / "saved")
    assert {name: (saved / name).read_text() for name in files} == files
