"""The texts of a run: drawn without overlap, written by the network itself, refused when too short."""

import litgpt
import pytest
import torch
from pruning_supernets import FAMILIES, STORIES, build_supernet

from pruning import self_text
from pruning.calibration import draw_blocks
from pruning.pretrained import find_checkpoint, load_pretrained
from pruning.self_text import _with_own_keys, write_blocks
from pruning.texts import CalibrationSettings, draw_texts, training_blocks
from supernet.checkpoint import LoadedSupernet, load_supernet
from supernet.corpus import find_documents
from supernet.text import ByteTokenizer
from supernet.tokens import tokenise

needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="../shared/models/stories260K is absent")


@pytest.fixture
def loaded():
    return LoadedSupernet(build_supernet("llama-gqa6", padded_vocab_size=256).eval(), None, ByteTokenizer())


def write(path, n):
    path.write_text("".join(chr(97 + i % 26) + str(i) for i in range(n)))
    return path


def test_the_three_texts_do_not_overlap(loaded, tmp_path):
    text = write(tmp_path / "text.txt", 400)
    settings = CalibrationSettings(
        text=text, seq_len=16, n_blocks=5, n_search_blocks=3, n_held_out_blocks=4, cache_dir=tmp_path / "cache"
    )
    texts = draw_texts(loaded, settings)
    assert texts.calibration.shape == (5, 17)
    assert texts.search.shape == (3, 17)
    assert torch.equal(torch.cat([texts.for_table, texts.for_ranking]), texts.search[:, :-1])
    assert len(texts.for_table) == 1
    assert texts.held_out.shape == (4, 17)
    pieces = [tuple(row[:16].tolist()) for part in (texts.calibration, texts.search, texts.held_out) for row in part]
    assert len(set(pieces)) == 12
    again = draw_texts(loaded, settings)
    assert torch.equal(texts.search, again.search)


def test_a_held_out_text_is_read_in_order_whatever_the_seed(loaded, tmp_path):
    text, other = write(tmp_path / "a.txt", 400), tmp_path / "b.txt"
    other.write_text("0123456789" * 20)
    held = [
        draw_texts(
            loaded,
            CalibrationSettings(
                text=text, held_out=other, seq_len=10, n_blocks=2, n_search_blocks=2, n_held_out_blocks=3, seed=seed,
                cache_dir=tmp_path / "cache",
            ),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    assert bytes(held[0].held_out[0].tolist()) == b"01234567890"
    assert torch.equal(held[0].held_out, held[1].held_out)
    assert not torch.equal(held[0].calibration, held[1].calibration)
    assert held[0].held_out_name == "b.txt"


def test_too_little_text_is_refused_with_what_is_needed(loaded, tmp_path):
    text = write(tmp_path / "text.txt", 20)
    with pytest.raises(ValueError, match="give more text"):
        draw_texts(loaded, CalibrationSettings(text=text, seq_len=16, cache_dir=tmp_path / "cache"))
    with pytest.raises(ValueError, match="n_held_out_blocks"):
        draw_texts(
            loaded,
            CalibrationSettings(
                text=write(tmp_path / "c.txt", 400), held_out=text, seq_len=16, n_blocks=2, n_search_blocks=1,
                cache_dir=tmp_path / "cache",
            ),
        )  # fmt: skip
    with pytest.raises(ValueError, match="at least 1"):
        CalibrationSettings(n_blocks=0)


def test_a_network_writes_text_by_its_own_distribution():
    gpt = build_supernet("llama-gqa6").eval()
    blocks = write_blocks(gpt, n_blocks=3, seq_len=12, vocab_size=50, bos_id=1, seed=3, batch_size=2)
    assert blocks.shape == (3, 12)
    assert (blocks[:, 0] == 1).all()
    assert blocks.max() < 50
    assert torch.equal(blocks, write_blocks(gpt, n_blocks=3, seq_len=12, vocab_size=50, bos_id=1, seed=3, batch_size=2))
    greedy = write_blocks(gpt, n_blocks=1, seq_len=12, vocab_size=50, bos_id=1, temperature=1e-6)
    for end in range(1, 12):  # without a cache
        with torch.no_grad():
            assert gpt(greedy[:, :end])[0, -1, :50].argmax() == greedy[0, end]
    with pytest.raises(ValueError, match="context"):
        write_blocks(gpt, n_blocks=1, seq_len=10**6, vocab_size=50)


def test_every_second_block_is_written_where_self_is_one_of_several_texts(loaded, tmp_path):
    text = write(tmp_path / "text.txt", 600)
    sizes = {
        "seq_len": 16,
        "n_blocks": 6,
        "n_search_blocks": 4,
        "n_held_out_blocks": 3,
        "cache_dir": tmp_path / "cache",
    }
    alone = draw_texts(loaded, CalibrationSettings(text=text, **sizes))
    mixed = draw_texts(loaded, settings := CalibrationSettings(text=[text, "self"], **sizes))
    blocks, read = (torch.cat([t.calibration, t.search, t.held_out]) for t in (mixed, alone))
    written = write_blocks(loaded.supernet, n_blocks=6, seq_len=17, vocab_size=loaded.tokenizer.vocab_size)
    assert len(blocks) == 13 and mixed.held_out_name == "text.txt, own text (held-out part)"
    assert torch.equal(blocks[0::2], read[:7]) and torch.equal(blocks[1::2], written)
    rows = training_blocks(loaded, settings, mixed, text=None, n=16)
    assert torch.equal(rows[:6], mixed.calibration) and torch.equal(
        rows[6:][0::2], drawn_after(7, text, loaded, settings)
    )
    used = {tuple(row.tolist()) for row in blocks}
    assert len(rows) == 16 and not used & {tuple(row.tolist()) for row in rows[6:]}


def drawn_after(used, text, loaded, settings):
    tokens = tokenise(find_documents(text), loaded.tokenizer, settings.cache_dir).tokens
    drawn = draw_blocks(tokens, n_blocks=len(tokens) // 17, seq_len=17, seed=settings.seed)
    return drawn[used : used + 5]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_network_that_writes_is_the_same_network(family):
    gpt, ids = build_supernet(family).eval(), torch.arange(2, 26).view(2, 12)
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            if "norm_k" in name:
                parameter.uniform_(0.5, 1.5)
        writer = _with_own_keys(gpt).eval()
        torch.testing.assert_close(writer(ids), gpt(ids), rtol=0, atol=1e-5)
    grouped = gpt.config.n_query_groups not in (1, gpt.config.n_head)
    assert grouped == (writer is not gpt) and writer.config.n_query_groups in (1, gpt.config.n_head)
    assert writer.transformer.h[0].mlp.proj.weight.data_ptr() == gpt.transformer.h[0].mlp.proj.weight.data_ptr()


def test_texts_are_written_a_few_at_a_time_where_memory_is_short(monkeypatch):
    gpt, asked = build_supernet("llama-gqa6").eval(), []
    set_cache = litgpt.GPT.set_kv_cache

    def spied(gpt, batch_size, **given):
        asked.append(batch_size)
        set_cache(gpt, batch_size, **given)

    monkeypatch.setattr(litgpt.GPT, "set_kv_cache", spied)
    monkeypatch.setattr(self_text, "_MOST_CACHE", 2 * 2 * 4 * 4 * 6 * 12 * gpt.config.head_size)
    assert write_blocks(gpt, n_blocks=5, seq_len=12, vocab_size=50, bos_id=1).shape == (5, 12)
    assert asked == [1, 2, 2]


def test_training_text_leaves_out_what_is_compared_and_reported(loaded, tmp_path):
    text = write(tmp_path / "text.txt", 400)
    settings = CalibrationSettings(
        text=text, seq_len=16, n_blocks=5, n_search_blocks=3, n_held_out_blocks=4, cache_dir=tmp_path / "cache"
    )
    texts = draw_texts(loaded, settings)
    rows = training_blocks(loaded, settings, texts, text=None, n=1000)
    assert torch.equal(rows[:5], texts.calibration)
    assert len(rows) > 20
    train = {tuple(row.tolist()) for row in rows}
    assert len(train) == len(rows)
    assert not train & {tuple(row.tolist()) for row in torch.cat([texts.search, texts.held_out])}
    other = tmp_path / "other.txt"
    other.write_text("xyz" * 100)
    assert bytes(training_blocks(loaded, settings, texts, text=other, n=2)[0].tolist()).strip(b"xyz") == b""
    assert len(training_blocks(loaded, settings, texts, text="self", n=3)) == 3


@needs_stories
def test_a_trained_network_writes_what_it_predicts_well():
    loaded = load_supernet(STORIES)
    blocks = write_blocks(
        loaded.supernet, n_blocks=2, seq_len=64, vocab_size=loaded.tokenizer.vocab_size, bos_id=loaded.tokenizer.bos_id
    )
    noise = torch.randint(3, 500, blocks.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(loaded.supernet(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            for ids in (blocks, noise)
        ]
    assert losses[0] < 2.5 < losses[1]


def test_a_checkpoint_is_found_by_path_and_refused_by_name(tmp_path, monkeypatch):
    assert find_checkpoint(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError, match="Did you mean 'smollm2-135m'"):
        find_checkpoint("smollm2-135")
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_checkpoint("missing.gguf")


def test_a_hub_that_cannot_be_reached_is_a_clear_error(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def refuse(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match="owner/name cannot be had from the Hugging Face hub"):
        find_checkpoint("owner/name")


def test_a_checkpoint_without_a_tokenizer_is_refused(tmp_path):
    from supernet.checkpoint import save_supernet

    save_supernet(tmp_path / "net", build_supernet("llama-gqa6"))
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_pretrained(tmp_path / "net")
