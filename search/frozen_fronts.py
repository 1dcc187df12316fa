"""The best known trade-offs of a benchmark's targets, to be frozen: evolution with large budgets. No torch.

Works on gene arrays, thousands at a time. Children are mutated, crossed or get two blocks swapped: a swap changes
where heads and neurons are (perplexity) and not how many there are (hardware cost). At the end every neighbour of the
front is tried, and those of what that adds, for some rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import moocore
import numpy as np

from surrogates.layer_features import LayerFeatures
from surrogates.reference_fronts import ReferenceFront

Evaluate = Callable[[np.ndarray], np.ndarray]  # genes (n, g) -> values (n, m), minimised; NaN rows are left out
_MOST = 200  # points of a front that is searched on


def frozen_front(
    evaluate: Evaluate, features: LayerFeatures, rng: np.random.Generator, *,
    generations: int = 40, children: int = 2000, sweeps: int = 8, width: int | None = None, most: int = _MOST,
    known: np.ndarray | None = None,
) -> ReferenceFront:  # fmt: skip
    """Search for the front of two or more objectives.

    Args:
        evaluate: values of canonical genes; NaN where a network does not count.
        features: of the space.
        rng: source of all randomness.
        generations: of the evolutionary search.
        children: evaluated in each.
        sweeps: rounds of the final local search, at most; each tries the neighbours of points that are new.
        width: index of the only n_embd that networks may have; None for any.
        most: points of the front to keep.
        known: genes (n, g) of good networks to start from.

    Raises:
        ValueError: no network that was tried counts.
    """

    def merged(genes: np.ndarray, values: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if width is not None:
            new[:, 0] = width
        return _front(np.concatenate([genes, new]), np.concatenate([values, evaluate(new)]), most)

    start = [random_genes(features, 4 * children, rng), corners(features), *([] if known is None else [known])]
    genes = features.check(np.concatenate(start))
    if width is not None:
        genes[:, 0] = width
    genes, values = _front(genes, evaluate(genes), most)
    if not len(genes):
        raise ValueError(f"no network of space {features.space.name!r} that was tried has a value")
    for _ in range(generations):
        genes, values = merged(genes, values, offspring(features, genes, children, rng))
    explored: set[bytes] = set()
    for _ in range(sweeps):
        fresh = np.array([row.tobytes() not in explored for row in genes])
        if not fresh.any():
            break
        explored |= {row.tobytes() for row in genes[fresh]}
        genes, values = merged(genes, values, neighbours(features, genes[fresh]))
    return ReferenceFront(values, values.min(axis=0), values.max(axis=0), genes)


def front_of(genes: np.ndarray, values: np.ndarray) -> ReferenceFront:
    """Return the front of networks with genes (n, g) and values (n, m), all of its points; rows with NaN do not count.

    Raises:
        ValueError: no row counts.
    """
    keep = _nondominated(values)
    if not len(keep):
        raise ValueError(f"none of {len(values)} networks has a value in every objective")
    front = values[keep]
    return ReferenceFront(front, front.min(axis=0), front.max(axis=0), genes[keep])


def random_genes(features: LayerFeatures, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n random rows of genes, not canonical."""
    return np.column_stack([rng.integers(0, size, n) for size in features.sizes])


def corners(features: LayerFeatures) -> np.ndarray:
    """Return networks whose blocks are all alike, of every width, bias, depth and kind of block."""
    L = features.space.max_layer
    sizes = features.sizes
    grid = np.stack(np.meshgrid(*(np.arange(s) for s in (*sizes[:3], sizes[3], sizes[3 + L])), indexing="ij"), -1)
    rows = grid.reshape(-1, 5)
    return np.column_stack([rows[:, :3], np.repeat(rows[:, [3]], L, axis=1), np.repeat(rows[:, [4]], L, axis=1)])


def offspring(features: LayerFeatures, parents: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n canonical children of random parents: half are crossed, some genes redrawn, some blocks swapped."""
    first, second = parents[rng.integers(0, len(parents), (2, n))]
    crossed = (rng.random(n) < 0.5)[:, None] & (rng.random(first.shape) < 0.5)
    child = np.where(crossed, second, first)
    rate = rng.choice([0.5, 1.0, 2.0, 4.0], n)[:, None] / child.shape[1]
    redrawn = rng.random(child.shape) < rate
    child = np.where(redrawn, random_genes(features, n, rng), child)
    _swap(child, rng, rng.random(n) < 0.5, features.space.max_layer)
    return features.check(child)


def neighbours(features: LayerFeatures, genes: np.ndarray) -> np.ndarray:
    """Return every row with one gene changed, or with the genes of two blocks swapped (attention or MLP), canonical."""
    found = []
    for column, size in enumerate(features.sizes):
        for step in range(1, int(size)):
            row = genes.copy()
            row[:, column] = (row[:, column] + step) % size
            found.append(row)
    L = features.space.max_layer
    for start in (3, 3 + L):
        for i in range(L):
            for j in range(i + 1, L):
                differ = genes[genes[:, start + i] != genes[:, start + j]].copy()
                differ[:, [start + i, start + j]] = differ[:, [start + j, start + i]]
                found.append(differ)
    return np.unique(features.check(np.concatenate(found)), axis=0)


def _swap(genes: np.ndarray, rng: np.random.Generator, rows: np.ndarray, L: int) -> None:
    """Swap two blocks' attention or MLP genes, in place, in the rows where `rows` is true."""
    at = np.flatnonzero(rows)
    start = rng.choice([3, 3 + L], len(at))
    i, j = start + rng.integers(0, L, len(at)), start + rng.integers(0, L, len(at))
    genes[at, i], genes[at, j] = genes[at, j], genes[at, i].copy()


def _front(genes: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the non-dominated rows, ascending in the first objective, at most `most`."""
    keep = _nondominated(values)
    if len(keep) > most:
        keep = keep[(_largest_areas if values.shape[1] == 2 else _spread_out)(values[keep], most)]
    return genes[keep], values[keep]


def _nondominated(values: np.ndarray) -> np.ndarray:
    """Return the indices of the rows without NaN that no other dominates, ascending in the first objective."""
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    if not len(rows):
        return rows
    keep = rows[moocore.is_nondominated(values[rows], keep_weakly=False)]
    return keep[np.argsort(values[keep, 0], kind="stable")]


def _largest_areas(points: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of the ends and of those that add most to the hypervolume, of ascending points (n, 2)."""
    span = np.ptp(points, axis=0)
    gaps = np.diff(points, axis=0) / span
    area = np.abs(gaps[:-1, 0] * gaps[1:, 1])  # what an inner point adds to the hypervolume
    inner = 1 + np.sort(np.argsort(-area, kind="stable")[: most - 2])
    return np.concatenate([[0], inner, [len(points) - 1]])


def _spread_out(points: np.ndarray, most: int) -> np.ndarray:
    """Return the indices of the smallest of each objective, and of the best (smallest sum) in each cell of a grid.

    The grid is as fine as `most` allows.
    """
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scaled = (points - low) / np.where(span > 0, span, 1.0)
    order = np.argsort(scaled.sum(axis=1), kind="stable")
    ends = np.unique(points.argmin(axis=0))
    cells = float(most)
    while True:
        first = np.unique(np.floor(scaled[order] * cells), axis=0, return_index=True)[1]
        chosen = np.union1d(order[first], ends)
        if len(chosen) <= most:
            return chosen
        cells *= 0.9
