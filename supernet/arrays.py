"""Many architectures as a few numpy arrays, so that costs and encodings need no Python loop over them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from supernet.architecture import Architecture


@dataclass(frozen=True)
class ArchitectureArrays:
    """n architectures of a supernet of L blocks; per-layer columns are the supernet's blocks.

    Attributes:
        n_embd: (n,) int64.
        bias: (n,) bool.
        kept: (n, L) bool, whether the architecture keeps the block.
        n_head: (n, L) int64, 0 where the block is not kept or has no attention; so is the next.
        n_query_groups: (n, L) int64.
        intermediate_size: (n, L) int64, 0 where the block is not kept or has no MLP.
    """

    n_embd: np.ndarray
    bias: np.ndarray
    kept: np.ndarray
    n_head: np.ndarray
    n_query_groups: np.ndarray
    intermediate_size: np.ndarray

    @property
    def n_layer(self) -> np.ndarray:
        """Numbers of kept blocks, (n,) int64."""
        return self.kept.sum(axis=1)

    @property
    def has_attention(self) -> np.ndarray:
        """Whether each block is kept and has attention, (n, L) bool."""
        return self.n_head > 0

    @property
    def has_mlp(self) -> np.ndarray:
        """Whether each block is kept and has an MLP, (n, L) bool."""
        return self.intermediate_size > 0


def architecture_arrays(archs: Sequence[Architecture], n_layer: int) -> ArchitectureArrays:
    """Return `archs` as arrays, for a supernet of `n_layer` blocks.

    Raises:
        ValueError: an architecture keeps a block that the supernet does not have.
    """
    n = len(archs)
    depths = np.fromiter((len(arch.layers) for arch in archs), np.int64, n)
    total = int(depths.sum())

    def flat(name: str) -> np.ndarray:
        return np.fromiter(chain.from_iterable(getattr(arch, name) for arch in archs), np.int64, total)

    rows, columns = np.repeat(np.arange(n), depths), flat("layers")
    if total and columns.max() >= n_layer:
        first = archs[rows[columns >= n_layer][0]]
        raise ValueError(f"layers = {first.layers} is not in this supernet; allowed: block indices 0 to {n_layer - 1}")

    def spread(values: np.ndarray) -> np.ndarray:
        table = np.zeros((n, n_layer), values.dtype)
        table[rows, columns] = values
        return table

    return ArchitectureArrays(
        n_embd=np.fromiter((arch.n_embd for arch in archs), np.int64, n),
        bias=np.fromiter((arch.bias for arch in archs), bool, n),
        kept=spread(np.ones(total, bool)),
        n_head=spread(flat("n_head")),
        n_query_groups=spread(flat("n_query_groups")),
        intermediate_size=spread(flat("intermediate_size")),
    )
