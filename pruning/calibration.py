"""Calibration text as token blocks: drawn by a seed, checked before anything is computed from them.

Calibrate on one text and report on another: what is reported must never be calibrated on.

Shapes: n blocks, T tokens; blocks are (n, T) int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import litgpt
import numpy as np
import torch
from torch import Tensor

from supernet.corpus import find_documents
from supernet.data import check_seq_len, check_vocab_size
from supernet.text import Tokenizer
from supernet.tokens import TokenBlocks, TokenSlice, tokenise


def calibration_blocks(
    source: str | Path | Sequence[str | Path],
    tokenizer: Tokenizer,
    *,
    n_blocks: int = 16,
    seq_len: int = 512,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> Tensor:
    """Return blocks drawn from text files, (n_blocks, seq_len) int64.

    Args:
        source: "stdlib"; a text file, plain or .gz; a folder; or several of those.
        tokenizer: of the network.
        n_blocks: how many.
        seq_len: T, tokens of each.
        seed: another seed draws other blocks.
        cache_dir: where token ids are kept; None is `supernet.tokens.default_cache_dir()`.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: there is no text, or too little of it (says how much is needed).
    """
    corpus = tokenise(find_documents(source), tokenizer, cache_dir)
    return draw_blocks(corpus.tokens, n_blocks=n_blocks, seq_len=seq_len, seed=seed)


def draw_blocks(tokens: TokenSlice | np.ndarray, *, n_blocks: int, seq_len: int, seed: int = 0) -> Tensor:
    """Draw distinct blocks of consecutive tokens that do not overlap, (n_blocks, seq_len) int64.

    Args:
        tokens: the text's ids, (n,).
        n_blocks: how many.
        seq_len: T, tokens of each.
        seed: another seed draws other blocks.

    Raises:
        ValueError: sizes below 1, or too few tokens.

    Example:
        >>> draw_blocks(np.arange(7), n_blocks=2, seq_len=3).sort(0).values.tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    for name, value, least in (("n_blocks", n_blocks, 1), ("seq_len", seq_len, 2)):
        if value < least:
            raise ValueError(f"{name} = {value}: must be at least {least}")
    piece = tokens if isinstance(tokens, TokenSlice) else TokenSlice(np.asarray(tokens), None)
    available = len(piece) // seq_len
    if available < n_blocks:
        raise ValueError(
            f"the calibration text has {len(piece)} tokens, {n_blocks} blocks of {seq_len} need {n_blocks * seq_len}: "
            "give more text, or fewer or shorter blocks"
        )
    chosen = np.random.default_rng(seed).permutation(available)[:n_blocks]
    rows = piece.ids[chosen[:, None].astype(np.int64) * seq_len + np.arange(seq_len)]
    return torch.from_numpy(rows.astype(np.int64))


def check_blocks(blocks: Tensor | np.ndarray | TokenBlocks, model: litgpt.GPT, *, shortest: int = 2) -> Tensor:
    """Return the blocks as (n, T) int64 if `model` can take them.

    Args:
        blocks: token ids; of TokenBlocks, whose rows hold T + 1 ids, the last id of each is left out.
        model: the network.
        shortest: the least T.

    Raises:
        ValueError: no block, blocks too short, of the wrong shape or type, longer than the model's context, or with ids
            outside its vocabulary.
    """
    if isinstance(blocks, TokenBlocks):
        blocks = blocks.rows(np.arange(len(blocks)))[:, :-1]
    ids = torch.as_tensor(blocks)
    if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ValueError(f"calibration blocks are {tuple(ids.shape)} {ids.dtype}: give (n, T) integer token ids")
    if not len(ids) or ids.shape[1] < shortest:
        raise ValueError(
            f"calibration blocks are {tuple(ids.shape)}: the text is empty or too short; give at least one block of "
            f"{shortest} tokens (thousands of tokens for good results)"
        )
    check_seq_len(ids.shape[1], model.max_seq_length)
    if int(ids.min()) < 0:
        raise ValueError(f"calibration blocks hold the id {int(ids.min())}: token ids are not negative")
    check_vocab_size(int(ids.max()) + 1, model.config.padded_vocab_size)
    return ids.long()
