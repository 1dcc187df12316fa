"""The token cache: contents, split, blocks, damage, concurrency."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from supernet.corpus import find_documents
from supernet.text import ByteTokenizer, Encoded
from supernet.tokens import TokenBlocks, TokenSlice, _bounded, corpus_key, default_cache_dir, tokenise


class WordTokenizer:
    """Words as ids, with BOS and EOS; more ids than uint16 has."""

    vocab_size, bos_id, eos_id, fingerprint = 70_000, 1, 2, "words"

    def encode(self, text):
        return self.encode_sized(text).ids

    def encode_sized(self, text):
        words = text.split()
        ids = np.array([int(w) for w in words], dtype=np.int64)
        sizes = np.array([len(w) + 1 for w in words], dtype=np.int64)
        return Encoded(ids, sizes)

    def decode(self, ids):
        return " ".join(str(i) for i in ids)

    def save(self, folder):
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path):
    """Twenty documents of 100 bytes."""
    (tmp_path / "text").mkdir()
    for i in range(20):
        (tmp_path / "text" / f"{i}.txt").write_text(f"{i:03d}\n" * 25)
    return tmp_path / "text"


def test_byte_tokens_are_the_text_of_the_documents_in_order(folder, tmp_path):
    documents = find_documents(folder)
    corpus = tokenise(documents, ByteTokenizer(), tmp_path / "cache")
    text = "".join("".join(d.pieces()) for d in documents)
    assert ByteTokenizer().decode(corpus.tokens.ids) == text
    assert corpus.info.starts == list(range(0, 2000, 100))
    assert corpus.info.n_bytes == corpus.tokens.n_bytes == corpus.info.n_tokens == 2000
    assert [name for name, _, _ in corpus.info.documents] == [d.name for d in documents]
    assert corpus.tokens.ids.dtype == np.uint16


def test_special_tokens_stand_between_documents_and_count_no_byte(tmp_path):
    (tmp_path / "a.txt").write_text("66000 7 ")
    (tmp_path / "b.txt").write_text("8 9 10 ")
    documents = sorted(find_documents([tmp_path / "a.txt", tmp_path / "b.txt"]), key=lambda d: d.name)
    corpus = tokenise(documents, WordTokenizer(), tmp_path / "cache")
    assert corpus.tokens.ids.tolist() == [1, 66000, 7, 2, 1, 8, 9, 10]
    assert corpus.tokens.sizes.tolist() == [0, 6, 2, 0, 0, 2, 2, 3]
    assert corpus.tokens.ids.dtype == np.uint32 and corpus.info.starts == [0, 4]
    assert corpus.tokens[slice(4, 7)].n_bytes == 4


def test_a_cached_corpus_is_not_tokenised_again(folder, tmp_path, monkeypatch):
    documents = find_documents(folder)
    first = tokenise(documents, ByteTokenizer(), tmp_path / "cache")
    monkeypatch.setattr("supernet.tokens._write_corpus", None)
    again = tokenise(documents, ByteTokenizer(), tmp_path / "cache")
    assert again.info == first.info
    np.testing.assert_array_equal(again.tokens.ids, first.tokens.ids)


def test_the_key_follows_text_order_and_tokenizer(folder):
    documents = find_documents(folder)
    keys = {corpus_key(documents, ByteTokenizer()), corpus_key(documents, WordTokenizer())}
    keys.add(corpus_key(documents[::-1], ByteTokenizer()))
    (folder / "0.txt").write_text("changed")
    keys.add(corpus_key(find_documents(folder), ByteTokenizer()))
    assert len(keys) == 4


@pytest.mark.parametrize("damage", ["bin", "json", "gone"])
def test_a_damaged_cache_is_named_and_written_anew(folder, tmp_path, damage):
    documents = find_documents(folder)
    before = tokenise(documents, ByteTokenizer(), tmp_path / "cache").tokens.ids.tolist()
    (binary,) = (tmp_path / "cache").glob("*.bin")
    if damage == "bin":
        binary.write_bytes(binary.read_bytes()[:100])
    elif damage == "gone":
        binary.unlink()
    else:
        binary.with_suffix(".json").write_text('{"key": ')
    with pytest.warns(UserWarning, match=r"damaged \(.*tokenising again"):
        corpus = tokenise(documents, ByteTokenizer(), tmp_path / "cache")
    assert corpus.tokens.ids.tolist() == before


def test_a_failed_write_leaves_no_file(folder, tmp_path):
    (folder / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"bad\.txt is not UTF-8"):
        tokenise(find_documents(folder), ByteTokenizer(), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def _tokenise_in_child(folder: Path, cache: Path) -> int:
    return int(tokenise(find_documents(folder), ByteTokenizer(), cache).tokens.ids.sum())


@pytest.mark.slow
def test_processes_that_tokenise_at_once_all_get_the_corpus(folder, tmp_path):
    (folder / "long.txt").write_text("".join(f"line {i}\n" for i in range(200_000)))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        sums = pool.starmap(_tokenise_in_child, [(folder, tmp_path / "cache")] * 6)
    assert len(set(sums)) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_split_keeps_whole_documents_and_shares_no_token(folder, tmp_path):
    corpus = tokenise(find_documents(folder), ByteTokenizer(), tmp_path / "cache")
    train, val = corpus.split(0.12)
    assert len(train) == 1800 and len(val) == 200  # 240 asked for; the nearest boundary
    np.testing.assert_array_equal(np.concatenate([train.ids, val.ids]), corpus.tokens.ids)
    assert len(corpus.split(0.01)[1]) == 20  # no boundary is near: cut inside the last document
    assert len(corpus.split(0)[1]) == 0
    with pytest.raises(ValueError, match=r"val_fraction = 1\.5"):
        corpus.split(1.5)


def test_every_token_but_the_first_is_a_target_once():
    blocks = TokenBlocks(TokenSlice(np.arange(100, dtype=np.uint16), None), 9)
    rows = blocks.rows(range(len(blocks)))
    assert rows.shape == (11, 10) and rows.dtype == np.int64
    assert rows[:, 1:].flatten().tolist() == list(range(1, 100))
    assert blocks.n_target_bytes == 99
    assert len(TokenBlocks(blocks.tokens[slice(0, 9)], 9)) == 0
    assert len(blocks.first(3)) == 3 and len(blocks.first(50)) == 11
    np.testing.assert_array_equal(blocks.first(3).rows([0, 1, 2]), rows[:3])


def test_target_bytes_leave_out_what_is_no_target():
    sizes = np.arange(1, 11, dtype=np.uint16)
    blocks = TokenBlocks(TokenSlice(np.zeros(10, dtype=np.uint16), sizes), 4)
    assert len(blocks) == 2 and blocks.n_target_bytes == sum(range(2, 10))


def test_sizes_too_large_for_the_file_keep_their_sum():
    sizes = np.array([5, 200_000, 3, 0, 0, 1])
    assert _bounded(sizes).sum() == sizes.sum() and _bounded(sizes).max() <= 65_535


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PARETOLM_CACHE", raising=False)
    assert default_cache_dir() == tmp_path / "paretolm" / "tokens"
    monkeypatch.setenv("PARETOLM_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own" / "tokens"
