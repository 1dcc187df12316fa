"""Architecture ids straight from genes: a hundred thousand take a fraction of a second. No torch.

An id writes the heads and the neurons of the blocks as runs ("h12x3.8.4x8"). For many architectures at once, the last
block of every run gets the text of the run, looked up in a table, and all other blocks get no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from supernet.encoding import from_genes
from supernet.space import SearchSpace


class GeneIds:
    """Names the architectures of a space whose layers are a prefix, with genes of their own.

    Args:
        space: the search space.

    Example:
        >>> space = SearchSpace(name="doc", n_embd=(32, 64), n_layer=(1, 2), n_head=(2, 4), mlp_ratio=(2, 4))
        >>> GeneIds(space)(np.array([[1, 0, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0, 0]]))
        ['e64-l0_1-h4.2-f256x2-b1', 'e32-l0-h2-f64-b1']
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._L = L = space.max_layer
        self._depths = np.array(space.n_layer, np.int64)
        self._multi_head = all(h == g for h, g in space.attention_choices)
        starts = [[_start(width, depth) for depth in space.n_layer] for width in space.n_embd]
        self._starts = np.array(starts, object)  # (widths, depths)
        self._ends = np.array([f"-b{int(bias)}" for bias in space.bias_choices], object)
        heads = _run_texts([h for h, _ in space.attention_choices], L)
        self._heads = np.stack([heads] * len(space.n_embd))  # (widths, choices, run lengths)
        self._neurons = np.stack([_run_texts(space.mlp_choices(width), L) for width in space.n_embd])

    def __call__(self, genes: np.ndarray) -> list[str]:
        """Return the ids of architectures with these canonical genes (n, g)."""
        if not self._multi_head:  # ids of grouped-query attention have one part more
            return [from_genes(self._space, row).id for row in genes.tolist()]
        if len(genes) == 1:
            return [self._one(genes[0].tolist())]
        L, depth = self._L, self._depths[genes[:, 2]]
        parts = np.empty((len(genes), 2 * L + 3), object)
        parts[:, 0] = self._starts[genes[:, 0], genes[:, 2]]
        parts[:, 1 : 1 + L] = _runs(genes[:, 3 : 3 + L], depth, self._heads, genes[:, 0])
        parts[:, 1 + L] = "-f"
        parts[:, 2 + L : -1] = _runs(genes[:, 3 + L :], depth, self._neurons, genes[:, 0])
        parts[:, -1] = self._ends[genes[:, 1]]
        return ["".join(row) for row in parts.tolist()]

    def _one(self, row: list[int]) -> str:
        """Return the id of one architecture, without the machinery for many."""
        depth = self._space.n_layer[row[2]]
        texts = []
        for start, table in ((3, self._heads[row[0]]), (3 + self._L, self._neurons[row[0]])):
            runs = ((choice, len(list(run))) for choice, run in groupby(row[start : start + depth]))
            texts.append(".".join([table[run] for run in runs]))
        return f"{self._starts[row[0], row[2]]}{texts[0]}-f{texts[1]}{self._ends[row[1]]}"


def _start(width: int, depth: int) -> str:
    return f"e{width}-l{f'0_{depth - 1}' if depth > 1 else '0'}-h"


def _run_texts(values: Sequence[int], longest: int) -> np.ndarray:
    """Return the text of a run by choice and length, (choices, 2 longest + 1): `longest` more where a run follows."""
    texts = [["", *(f"{v}x{n}" if n > 1 else f"{v}" for n in range(1, longest + 1))] for v in values]
    return np.array([[*row, *(f"{text}." for text in row[1:])] for row in texts], object)


def _runs(choices: np.ndarray, depth: np.ndarray, texts: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Return the text that each block adds, (n, L) of str: that of a run for its last block, else nothing."""
    n, L = choices.shape
    lengths = np.zeros((n, L), np.int64)  # of runs that end at the block, else 0
    length = np.zeros(n, np.int64)
    for block in range(L):
        length += 1
        last = block == depth - 1
        follows = (block < depth - 1) & (choices[:, block] != choices[:, min(block + 1, L - 1)])
        lengths[:, block] = np.where(last, length, np.where(follows, length + L, 0))
        length[last | follows] = 0
    return np.asarray(texts[widths[:, None], choices, lengths])
