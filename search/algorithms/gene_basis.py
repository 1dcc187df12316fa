"""Canonical genes as columns of 0 and 1, and which of their coefficients share a prior. No torch.

A gene with choices 0, 1, 2 has the columns "at least 1" and "at least 2": the steps between neighbouring choices are
what is learned. One step of the genes of all blocks is a track. Its coefficients are a total (how many blocks took the
step), a few cosines (whereabouts in the depth) and a rest for each block. All of them are shared by all widths, and
each width may differ from what is shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.algorithms.gene_arrays import Genes
from search.pareto import Floats
from supernet.encoding import gene_sizes
from supernet.space import SearchSpace

_COSINES = 4  # of a track: shapes over the depth beyond its total


@dataclass(frozen=True)
class PriorGroup:
    """Coefficients of one scale: sums of `directions` with weights N(0, scale^2).

    Attributes:
        name: what it is.
        directions: (q columns, p).
        by_width: whether each width has weights of its own.
        expected: median of the prior of the scale, for values of spread 1.
    """

    name: str
    directions: Floats
    by_width: bool
    expected: float


class GeneBasis:
    """Columns of one space.

    Args:
        space: any.
        n_extra: number of columns that the caller adds, such as the logarithm of the number of parameters.

    Attributes:
        n_widths: choices of `n_embd`.
        groups: of the coefficients.

    Example:
        >>> space = SearchSpace(name="doc", n_embd=(32, 64), n_layer=(1, 2), n_head=(2, 4), mlp_ratio=(1, 2, 4))
        >>> basis = GeneBasis(space)
        >>> basis(np.array([[1, 0, 1, 0, 1, 2, 1]]), np.empty((1, 0))).astype(int).tolist()
        [[1, 1, 0, 1, 1, 1, 1, 0]]
    """

    def __init__(self, space: SearchSpace, n_extra: int = 0) -> None:
        sizes = gene_sizes(space)
        self.space = space
        self.n_extra = n_extra
        self.n_widths = int(sizes[0])
        steps = [(gene, step) for gene in range(1, len(sizes)) for step in range(1, int(sizes[gene]))]
        self._genes = np.array([gene for gene, _ in steps], dtype=np.int64)
        self._steps = np.array([step for _, step in steps], dtype=np.int64)
        self.groups = self._groups(self._tracks(len(sizes)))

    @property
    def n_columns(self) -> int:
        """Number of columns: a constant, the extra ones, the steps."""
        return 1 + self.n_extra + len(self._genes)

    def __call__(self, genes: Genes, extra: Floats) -> Floats:
        """Return the columns (n, q) of canonical genes (n, g) with extra columns (n, n_extra)."""
        steps = genes[:, self._genes] >= self._steps
        return np.concatenate([np.ones((len(genes), 1)), extra, steps], axis=1)

    def _tracks(self, n_genes: int) -> list[NDArray[np.int64]]:
        """Return the columns of one step of one kind of gene over all blocks, for each step of each kind."""
        L = self.space.max_layer
        slots = L if self.space.per_layer else 1
        starts = [(n_genes - 2 * slots, slots), (n_genes - slots, slots)]
        if self.space.layer_choice == "subset":
            starts.append((2, L))
        tracks = []
        for start, length in starts:
            inside = (self._genes >= start) & (self._genes < start + length)
            tracks += [np.flatnonzero(inside & (self._steps == step)) for step in np.unique(self._steps[inside])]
        return [1 + self.n_extra + track for track in tracks if len(track) > 1]

    def _groups(self, tracks: list[NDArray[np.int64]]) -> tuple[PriorGroup, ...]:
        q = self.n_columns
        one = np.eye(q)
        in_tracks = np.concatenate(tracks) if tracks else np.empty(0, dtype=np.int64)
        rest = np.setdiff1d(np.arange(1 + self.n_extra, q), in_tracks)
        totals = [_spread(q, track, np.ones(len(track))) for track in tracks]
        shapes = [
            _spread(q, track, np.sqrt(2) * np.cos(np.pi * k * (np.arange(len(track)) + 0.5) / len(track)))
            for track in tracks
            for k in range(1, min(_COSINES, len(track) - 1) + 1)
        ]
        singles = [_spread(q, track[[i]], np.full(1, 1 / len(track))) for track in tracks for i in range(len(track))]
        kinds = [
            ("constant", one[:, :1], 3.0, 1.0),
            ("extra", one[:, 1 : 1 + self.n_extra], 1.0, 0.3),
            ("whole network", one[:, rest], 0.3, 0.1),
            ("total", _columns(q, totals), 1.0, 0.3),
            ("shape", _columns(q, shapes), 0.3, 0.1),
            ("block", _columns(q, singles), 0.3, 0.1),
        ]
        groups = [
            PriorGroup(name, directions, by_width, deviation if by_width else scale)
            for name, directions, scale, deviation in kinds
            for by_width in ((False, True) if self.n_widths > 1 else (False,))
        ]
        return tuple(group for group in groups if group.directions.shape[1])


def _spread(q: int, columns: NDArray[np.int64], weights: Floats) -> Floats:
    """Return a direction (q,) with these weights, divided by their number, on some columns."""
    direction = np.zeros(q)
    direction[columns] = weights / len(columns)
    return direction


def _columns(q: int, directions: list[Floats]) -> Floats:
    return np.column_stack(directions) if directions else np.empty((q, 0))
