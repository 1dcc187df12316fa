"""The texts of a pruning run, which never overlap: calibration, search, the held-out one that is reported, training.

Shapes: n blocks, T tokens; blocks are (n, T + 1): inputs and targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pruning.calibration import draw_blocks
from pruning.self_text import write_blocks
from supernet.checkpoint import LoadedSupernet
from supernet.corpus import find_documents
from supernet.text import Tokenizer
from supernet.tokens import TokenCorpus, tokenise

SELF = "self"
_MOST_BYTES = 1_000_000  # of a text that only a few blocks are wanted of
Source = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """Which text a network is pruned with.

    Attributes:
        text: a file, a folder, several of those, "stdlib", or "self": written by the network itself. With "self" among
            several, every second block is written: of one's own text alone a network forgets the rest.
        held_out: text on which perplexity is reported; None is a part of `text` that nothing else uses.
        seq_len: T, tokens of a block; at the most the network's context less one is taken.
        n_blocks: blocks for moments (importance and least squares).
        n_search_blocks: blocks for the search: a third for the quality table, the rest to compare candidates on.
        n_held_out_blocks: blocks that perplexity is reported on.
        seed: of the draw.
        cache_dir: where token ids are kept; None is the user's cache.

    Raises:
        ValueError: a size below 1.
    """

    text: Source = SELF
    held_out: Source | None = None
    seq_len: int = 512
    n_blocks: int = 64
    n_search_blocks: int = 12
    n_held_out_blocks: int = 32
    seed: int = 0
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("seq_len", 2), ("n_blocks", 1), ("n_search_blocks", 1), ("n_held_out_blocks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"calibration {name} = {getattr(self, name)}: must be at least {least}")


@dataclass(frozen=True, eq=False)
class Texts:
    """Token blocks, inputs and targets.

    Attributes:
        calibration: (n, T + 1).
        search: (m, T + 1).
        held_out: (k, T + 1).
        held_out_name: where the held-out text is from.
    """

    calibration: Tensor
    search: Tensor
    held_out: Tensor
    held_out_name: str

    @property
    def for_table(self) -> Tensor:
        """Inputs of the search text's first third, for the quality table, (., T)."""
        return self.search[: max(1, len(self.search) // 3), :-1]

    @property
    def for_ranking(self) -> Tensor:
        """Inputs of the rest, for whole networks, (., T): plans fit the table's text and must not be judged by it."""
        return self.search[len(self.for_table) :, :-1] if len(self.search) > 1 else self.search[:, :-1]


def draw_texts(loaded: LoadedSupernet, settings: CalibrationSettings, *, progress: bool = False) -> Texts:
    """Draw the texts of a run.

    Raises:
        FileNotFoundError: a text does not exist.
        ValueError: too little text (says how much is needed), or blocks longer than the network's context.
    """
    tokenizer, n, m, k = loaded.tokenizer, settings.n_blocks, settings.n_search_blocks, settings.n_held_out_blocks
    if tokenizer is None:
        raise ValueError("the checkpoint has no tokenizer: texts cannot be read")
    T = _seq_len(loaded, settings)
    shared = k if settings.held_out is None else 0
    blocks = _blocks(loaded, tokenizer, settings, n + m + shared, T + 1, progress=progress)
    if settings.held_out is None:
        held_out, name = blocks[n + m :], f"{_name(settings.text)} (held-out part)"
    else:
        held_out = first_blocks(_corpus(settings.held_out, tokenizer, settings.cache_dir), k, T)
        name = _name(settings.held_out)
    return Texts(blocks[:n], blocks[n : n + m], held_out, name)


def blocks_of(loaded: LoadedSupernet, settings: CalibrationSettings, text: Source, n: int) -> Tensor:
    """Return the first n blocks of another text, (n, T + 1)."""
    assert loaded.tokenizer is not None  # `draw_texts` saw it
    documents = find_documents(text, max_bytes=_MOST_BYTES)
    corpus = tokenise(documents, loaded.tokenizer, settings.cache_dir)
    return first_blocks(corpus, n, _seq_len(loaded, settings))


def training_blocks(
    loaded: LoadedSupernet, settings: CalibrationSettings, texts: Texts, *, text: Source | None, n: int,
    progress: bool = False,
) -> Tensor:  # fmt: skip
    """Return blocks to train on, at most n of them, (., T + 1); none is of the search or the held-out text.

    Args:
        loaded: network and tokenizer.
        settings: of the run.
        texts: of the run.
        text: another text to train on; None is the run's own: calibration blocks and what was not used of it.
        n: how many are wanted; fewer where there is less text.
        progress: show a progress bar while the network writes text.

    Raises:
        ValueError: `text` has not one block.
    """
    assert loaded.tokenizer is not None  # `draw_texts` saw it
    text = None if text == settings.text else text
    length = _seq_len(loaded, settings) + 1
    read, written = _read_and_written(settings.text if text is None else text)
    own = texts.calibration if text is None else texts.calibration[:0]
    missing = n - len(own)
    if missing <= 0:
        return own[:n]
    n_written = 0 if not written else missing if read is None else missing // 2
    found = _written(loaded, loaded.tokenizer, settings.seed + 1, n_written, length, progress=progress)
    if read is None:
        return torch.cat([own, found])
    corpus = _corpus(read, loaded.tokenizer, settings.cache_dir)
    available = len(corpus.tokens) // length
    if not available:
        raise ValueError(f"the training text has {len(corpus.tokens)} tokens: give at least {length}")
    drawn = draw_blocks(corpus.tokens, n_blocks=available, seq_len=length, seed=settings.seed)
    used = 0
    if text is None:  # the same seed drew the run's texts from the beginning of this order
        used = settings.n_blocks + settings.n_search_blocks
        used += settings.n_held_out_blocks if settings.held_out is None else 0
        used -= used // 2 if written else 0
    return torch.cat([own, _alternating(drawn[used : used + missing - n_written], found)])


def _seq_len(loaded: LoadedSupernet, settings: CalibrationSettings) -> int:
    """Return T: blocks of T + 1 tokens fit the network's context, since it may have to write them."""
    return min(settings.seq_len, loaded.supernet.max_seq_length - 1)


def _blocks(
    loaded: LoadedSupernet,
    tokenizer: Tokenizer,
    settings: CalibrationSettings,
    n: int,
    length: int,
    *,
    progress: bool,
) -> Tensor:
    read, written = _read_and_written(settings.text)
    n_written = 0 if not written else n if read is None else n // 2
    found = _written(loaded, tokenizer, settings.seed, n_written, length, progress=progress)
    if read is None:
        return found
    corpus = _corpus(read, tokenizer, settings.cache_dir)
    drawn = draw_blocks(corpus.tokens, n_blocks=n - n_written, seq_len=length, seed=settings.seed)
    return _alternating(drawn, found)


def _read_and_written(source: Source) -> tuple[Source | None, bool]:
    """Return what of a source is read, None for nothing, and whether the network writes, too."""
    parts = [source] if isinstance(source, str | Path) else list(source)
    read = [part for part in parts if part != SELF]
    if len(read) == len(parts):
        return source, False
    return read or None, True


def _written(
    loaded: LoadedSupernet, tokenizer: Tokenizer, seed: int, n: int, length: int, *, progress: bool
) -> Tensor:  # fmt: skip
    """Return n blocks that the network writes, (n, length)."""
    if not n:
        return torch.zeros((0, length), dtype=torch.int64)
    return write_blocks(
        loaded.supernet, n_blocks=n, seq_len=length, vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id,
        seed=seed, progress=progress,
    )  # fmt: skip


def _alternating(read: Tensor, written: Tensor) -> Tensor:
    """Return blocks of both, one of each in turn while there are any, so that every part of a run has both."""
    n = min(len(read), len(written))
    pairs = torch.stack([read[:n], written[:n]], 1).flatten(0, 1)
    return torch.cat([pairs, read[n:], written[n:]])


def first_blocks(corpus: TokenCorpus, n: int, seq_len: int) -> Tensor:
    """Return the first blocks of a text in order, (n, seq_len + 1): the same for every seed and every method.

    Raises:
        ValueError: too little text.
    """
    ids, needed = corpus.tokens.ids, n * seq_len + 1
    if len(ids) < needed:
        raise ValueError(
            f"the held-out text has {len(ids)} tokens, {n} blocks of {seq_len} need {needed}: give more text, or lower "
            "calibration.n_held_out_blocks"
        )
    rows = torch.from_numpy(ids[:needed].astype("int64"))
    return torch.stack([rows[i * seq_len : (i + 1) * seq_len + 1] for i in range(n)])


def _corpus(source: Source, tokenizer: Tokenizer, cache_dir: str | Path | None) -> TokenCorpus:
    return tokenise(find_documents(source), tokenizer, cache_dir)


def _name(source: Source) -> str:
    if isinstance(source, str | Path):
        return "own text" if source == SELF else Path(source).name
    return ", ".join("own text" if part == SELF else Path(part).name for part in source)
