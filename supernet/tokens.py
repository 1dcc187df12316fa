"""A corpus as token ids on disk: tokenised once, memory-mapped, cached by content. No torch.

Files of a cached corpus, named by the hash of its text and tokenizer: KEY.bin (ids, uint16 or uint32), KEY.sizes (bytes
of text behind each id, uint16; not for byte-level ids) and KEY.json, which is written last and describes them.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from supernet.artifacts import atomic_path, read_json, write_json
from supernet.corpus import Document
from supernet.text import Tokenizer

_FORMAT = 1
_MAX_SIZE = np.iinfo(np.uint16).max


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """What a tokenised corpus holds; the content of its sidecar.

    Attributes:
        key: hash of the text and the tokenizer.
        tokenizer: fingerprint of the tokenizer.
        vocab_size: ids are below it.
        n_tokens: number of ids, special tokens between documents included.
        n_bytes: bytes of text.
        sha256: hash of the documents' hashes, in order.
        documents: name, SHA-256 and first token of each document.
        has_sizes: whether ids stand for other than one byte each.
        format: version of the files.
    """

    key: str
    tokenizer: str
    vocab_size: int
    n_tokens: int
    n_bytes: int
    sha256: str
    documents: tuple[tuple[str, str, int], ...]
    has_sizes: bool
    format: int = _FORMAT

    @property
    def dtype(self) -> np.dtype:
        """Type of the ids on disk."""
        return np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)

    @property
    def starts(self) -> list[int]:
        """First token of each document."""
        return [start for _, _, start in self.documents]


@dataclass(frozen=True, slots=True)
class TokenSlice:
    """A run of tokens: ids (n,), and the bytes of text behind each (n,), or None when that is one each."""

    ids: np.ndarray
    sizes: np.ndarray | None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> TokenSlice:
        return TokenSlice(self.ids[part], None if self.sizes is None else self.sizes[part])

    @property
    def n_bytes(self) -> int:
        """Bytes of text behind the tokens."""
        return len(self.ids) if self.sizes is None else int(self.sizes.sum(dtype=np.int64))


@dataclass(frozen=True, slots=True)
class TokenCorpus:
    """A tokenised corpus, memory-mapped."""

    info: CorpusInfo
    tokens: TokenSlice

    def split(self, val_fraction: float) -> tuple[TokenSlice, TokenSlice]:
        """Return training and validation tokens: the validation part is the tail, whole documents where possible.

        The cut lies at the document boundary nearest to `val_fraction`; where no boundary gives between half and twice
        of what was asked for (few or one document), it lies inside a document.

        Raises:
            ValueError: `val_fraction` is not in [0, 1).
        """
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction = {val_fraction}: give a part of the corpus, at least 0 and below 1")
        wanted = round(len(self.tokens) * val_fraction)
        cut = len(self.tokens) - wanted
        inner = [s for s in self.info.starts if s > 0 and wanted <= 2 * (len(self.tokens) - s) <= 4 * wanted]
        if inner and wanted:
            cut = min(inner, key=lambda start: abs(start - cut))
        return self.tokens[slice(None, cut)], self.tokens[slice(cut, None)]


class TokenBlocks:
    """Blocks of `seq_len` + 1 consecutive tokens, `seq_len` apart: every token is a target once.

    Args:
        tokens: where the blocks lie.
        seq_len: T, the tokens a model sees at once.
    """

    def __init__(self, tokens: TokenSlice, seq_len: int) -> None:
        if seq_len < 1:
            raise ValueError(f"seq_len = {seq_len}: must be at least 1")
        self.tokens, self.seq_len = tokens, seq_len

    def __len__(self) -> int:
        return max(len(self.tokens) - 1, 0) // self.seq_len

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return these blocks, (n, T + 1) int64."""
        starts = np.asarray(indices, dtype=np.int64)[:, None] * self.seq_len
        return self.tokens.ids[starts + np.arange(self.seq_len + 1)].astype(np.int64)

    def first(self, n_blocks: int | None = None) -> TokenBlocks:
        """Return the first `n_blocks` blocks (None: all; fewer when there are fewer)."""
        if n_blocks is None or n_blocks >= len(self):
            return self
        return TokenBlocks(self.tokens[slice(0, n_blocks * self.seq_len + 1)], self.seq_len)

    @property
    def n_target_bytes(self) -> int:
        """Bytes of text behind all targets, for bits per byte."""
        return self.tokens[slice(1, len(self) * self.seq_len + 1)].n_bytes


def default_cache_dir() -> Path:
    """Return the folder of cached corpora: $PARETOLM_CACHE, or paretolm/ in the user's cache folder."""
    own = os.environ.get("PARETOLM_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paretolm"
    return base / "tokens"


def corpus_key(documents: Sequence[Document], tokenizer: Tokenizer) -> str:
    """Return the hash that names a tokenised corpus: it changes with the text, its order and the tokenizer."""
    return _hash([f"format {_FORMAT}", tokenizer.fingerprint, *(d.sha256 for d in documents)])[:32]


def tokenise(documents: Sequence[Document], tokenizer: Tokenizer, cache_dir: str | Path | None = None) -> TokenCorpus:
    """Return the corpus of these documents, tokenised now or taken from the cache.

    Documents follow one another, an EOS between them and a BOS before each where the tokenizer has them. Several
    processes may do this at once; an interrupted one leaves nothing half-written behind.

    Raises:
        ValueError: a document is not UTF-8 text, or the documents have no token.
    """
    folder = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    key = corpus_key(documents, tokenizer)
    info = _cached_info(folder, key)
    if info is None:
        info = _write_corpus(folder, key, documents, tokenizer)
    else:  # names are not part of the key
        names = [d.name for d in documents]
        renamed = tuple((n, sha, start) for n, (_, sha, start) in zip(names, info.documents, strict=True))
        info = replace(info, documents=renamed)
    return open_corpus(folder, info)


def open_corpus(folder: str | Path, info: CorpusInfo) -> TokenCorpus:
    """Memory-map the files of a tokenised corpus."""
    ids = np.memmap(Path(folder) / f"{info.key}.bin", dtype=info.dtype, mode="r", shape=(info.n_tokens,))
    sizes = None
    if info.has_sizes:
        sizes = np.memmap(Path(folder) / f"{info.key}.sizes", dtype=np.uint16, mode="r", shape=(info.n_tokens,))
    return TokenCorpus(info, TokenSlice(ids, sizes))


def _cached_info(folder: Path, key: str) -> CorpusInfo | None:
    """Return the sidecar of a cached corpus, or None (with a warning when files are damaged)."""
    sidecar = folder / f"{key}.json"
    if not sidecar.is_file():
        return None
    try:
        data = read_json(sidecar)
        info = CorpusInfo(**data | {"documents": tuple(tuple(d) for d in data["documents"])})
        files = {folder / f"{key}.bin": info.dtype.itemsize} | ({folder / f"{key}.sizes": 2} if info.has_sizes else {})
        damaged = [p.name for p, size in files.items() if not p.is_file() or p.stat().st_size != size * info.n_tokens]
    except (ValueError, TypeError, KeyError) as error:
        damaged = [f"{sidecar.name} ({error})"]
    if damaged:
        warnings.warn(f"cached corpus in {folder} is damaged ({', '.join(damaged)}): tokenising again", stacklevel=3)
        return None
    return info


def _write_corpus(folder: Path, key: str, documents: Sequence[Document], tokenizer: Tokenizer) -> CorpusInfo:
    has_sizes = tokenizer.fingerprint != "byte"
    info = CorpusInfo(
        key=key, tokenizer=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size, n_tokens=0,
        n_bytes=sum(d.n_bytes for d in documents), sha256=_hash([d.sha256 for d in documents]),
        documents=(), has_sizes=has_sizes,
    )  # fmt: skip
    with ExitStack() as stack:
        ids = stack.enter_context(stack.enter_context(atomic_path(folder / f"{key}.bin")).open("wb"))
        sizes = None
        if has_sizes:
            sizes = stack.enter_context(stack.enter_context(atomic_path(folder / f"{key}.sizes")).open("wb"))
        starts = _write_documents(documents, tokenizer, info.dtype, ids, sizes)
        info = replace(
            info,
            n_tokens=ids.tell() // info.dtype.itemsize,
            documents=tuple((d.name, d.sha256, start) for d, start in zip(documents, starts, strict=True)),
        )
        if not info.n_tokens:
            raise ValueError(f"{len(documents)} document(s) give no token with this tokenizer: {tokenizer!r}")
    write_json(folder / f"{key}.json", asdict(info))
    return info


def _write_documents(
    documents: Sequence[Document], tokenizer: Tokenizer, dtype: np.dtype, ids: BinaryIO, sizes: BinaryIO | None
) -> list[int]:
    """Write ids and sizes of all documents; returns the first token of each."""
    starts, n_tokens = [], 0

    def write(new_ids: np.ndarray, new_sizes: np.ndarray) -> None:
        nonlocal n_tokens
        ids.write(new_ids.astype(dtype).tobytes())
        if sizes is not None:
            sizes.write(_bounded(new_sizes).astype(np.uint16).tobytes())
        n_tokens += len(new_ids)

    for i, document in enumerate(documents):
        if i and tokenizer.eos_id is not None:
            write(np.array([tokenizer.eos_id]), np.array([0]))
        starts.append(n_tokens)
        if tokenizer.bos_id is not None:
            write(np.array([tokenizer.bos_id]), np.array([0]))
        for piece in document.pieces():
            write(*tokenizer.encode_sized(piece))
    return starts


def _bounded(sizes: np.ndarray) -> np.ndarray:
    """Return sizes that fit uint16: what is too much for one token counts for the next ones of the piece."""
    if not len(sizes) or sizes.max() <= _MAX_SIZE:
        return sizes
    bounded, carried = sizes.copy(), 0
    for i, size in enumerate(sizes):
        bounded[i] = min(size + carried, _MAX_SIZE)
        carried += size - bounded[i]
    return bounded


def _hash(parts: Sequence[Any]) -> str:
    return hashlib.sha256("\n".join(str(p) for p in parts).encode("utf-8")).hexdigest()
