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

Evaluate = Callable[[np.ndarray], np.ndarray]  # genes (n, g) -> values (n, 2), minimised
_MOST = 200  # points of a front that is searched on


def frozen_front(
    evaluate: Evaluate, features: LayerFeatures, rng: np.random.Generator, *,
    generations: int = 40, children: int = 2000, sweeps: int = 8,
) -> ReferenceFront:  # fmt: skip
    """Search for the front of two objectives.

    Args:
        evaluate: values of canonical genes.
        features: of the space.
        rng: source of all randomness.
        generations: of the evolutionary search.
        children: evaluated in each.
        sweeps: rounds of the final local search, at most; each tries the neighbours of points that are new.
    """
    genes = features.check(np.concatenate([random_genes(features, 4 * children, rng), corners(features)]))
    genes, values = _front(genes, evaluate(genes))
    for _ in range(generations):
        new = offspring(features, genes, children, rng)
        genes, values = _merge(genes, values, new, evaluate(new))
    explored: set[bytes] = set()
    for _ in range(sweeps):
        fresh = np.array([row.tobytes() not in explored for row in genes])
        if not fresh.any():
            break
        explored |= {row.tobytes() for row in genes[fresh]}
        new = neighbours(features, genes[fresh])
        genes, values = _merge(genes, values, new, evaluate(new))
    return ReferenceFront(values, values.min(axis=0), values.max(axis=0), genes)


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


def _merge(
    genes: np.ndarray, values: np.ndarray, new_genes: np.ndarray, new_values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return _front(np.concatenate([genes, new_genes]), np.concatenate([values, new_values]))


def _front(genes: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the non-dominated rows, ascending in the first objective; at most _MOST, those with most hypervolume."""
    keep = np.flatnonzero(moocore.is_nondominated(values, keep_weakly=False))
    keep = keep[np.argsort(values[keep, 0], kind="stable")]
    if len(keep) > _MOST:
        points = values[keep]
        span = np.ptp(points, axis=0)
        gaps = np.diff(points, axis=0) / span
        area = np.abs(gaps[:-1, 0] * gaps[1:, 1])  # what an inner point adds to the hypervolume
        inner = 1 + np.sort(np.argsort(-area, kind="stable")[: _MOST - 2])
        keep = keep[np.concatenate([[0], inner, [len(keep) - 1]])]
    return genes[keep], values[keep]
