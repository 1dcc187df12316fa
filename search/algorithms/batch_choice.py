"""Which candidates to evaluate next: those that would add most hypervolume, each by one opinion in turn. No torch.

Greedy: each choice is made by one opinion as if what was chosen before were already evaluated with the values that this
opinion expects, so that a batch spreads over the front. With posterior draws as opinions this is Thompson sampling for
several objectives (Bradford, Schweidtmann and Lapkin 2018, doi:10.1007/s10898-018-0609-2).

Shapes: n candidates, m objectives, D opinions, k points of a front.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.algorithms.guided_population import Candidates
from search.pareto import REFERENCE, Floats, Normalisation, hypervolume, nondominated

_MOST = 200  # candidates of three or more objectives whose hypervolume is computed


def choose_batch(
    n: int, candidates: Candidates, *, told: Floats, expected: Floats, expected_violation: Floats,
) -> list[int]:  # fmt: skip
    """Return the indices of up to n candidates.

    Args:
        n: how many.
        candidates: to choose from.
        told: (k, m) values of what was evaluated and meets all budgets; none yet is fine.
        expected: (D, p, m) values of networks that are being evaluated.
        expected_violation: (D, p) theirs.
    """
    n_opinions = len(candidates.values)
    left: NDArray[np.bool_] = np.asarray(np.isfinite(candidates.values).all(axis=(0, 2)))
    if not left.any():
        return []
    to_units = _units(told, candidates)
    front = to_units(told[nondominated(told)]) if len(told) else told
    fronts = [
        np.concatenate([front, to_units(values[missed <= 0])])
        for values, missed in zip(expected, expected_violation, strict=True)
    ]
    units = np.array([to_units(values) for values in candidates.values])
    chosen: list[int] = []
    while len(chosen) < n and left.any():
        opinion = len(chosen) % n_opinions
        score = _scores(fronts[opinion], units[opinion], candidates.violation[opinion], left)
        best = int(np.argmax(np.where(left, score, -np.inf)))
        left[best] = False
        chosen.append(best)
        fronts = [
            np.concatenate([front, own[[best]]]) if missed[best] <= 0 else front
            for front, own, missed in zip(fronts, units, candidates.violation, strict=True)
        ]
    return chosen


def hypervolume_improvements(points: Floats, front: Floats, reference: float = REFERENCE) -> Floats:
    """Return by how much each of `points` (n, m) would raise the hypervolume of `front` (k, m), (n,).

    Example:
        >>> hypervolume_improvements(np.array([[0.0, 0.0], [0.5, 0.5], [2.0, 0.0]]), np.array([[0.5, 0.5]]), 1.0)
        array([0.75, 0.  , 0.  ])
    """
    if front.shape[1:] == (1,) or points.shape[1] == 1:
        lowest = min(float(front.min()) if len(front) else reference, reference)
        return np.maximum(lowest - points[:, 0], 0.0)
    front = front[nondominated(front, duplicates=False)] if len(front) else np.empty((0, points.shape[1]))
    if points.shape[1] == 2:
        return _improvements_2d(points, front[np.argsort(front[:, 0])], reference)
    before = hypervolume(front, reference) if len(front) else 0.0
    return np.array([hypervolume(np.concatenate([front, p[None]]), reference) - before for p in points])


def _improvements_2d(points: Floats, front: Floats, reference: float) -> Floats:
    """Return the areas that points gain, summed over the steps of the front's staircase (ascending in x)."""
    edges = np.minimum(np.concatenate([[-np.inf], front[:, 0], [reference]]), reference)
    heights = np.minimum(np.concatenate([[reference], front[:, 1]]), reference)
    widths = np.maximum(edges[1:] - np.maximum(points[:, :1], edges[:-1]), 0.0)
    return np.asarray((widths * np.maximum(heights - points[:, 1:], 0.0)).sum(axis=1))


def _scores(front: Floats, points: Floats, violation: Floats, left: NDArray[np.bool_]) -> Floats:
    """Return what is largest for the candidate to take: the gain; without any, how near the front it comes.

    Where no candidate is expected to meet the budgets, the one that misses them least.
    """
    feasible = left & (violation <= 0)
    if not feasible.any():
        return -violation
    score = np.full(len(points), -np.inf)
    rows = np.flatnonzero(feasible)
    if points.shape[1] > 2:  # each gain takes a hypervolume
        rows = rows[nondominated(points[rows])]
        rows = rows[np.argsort(_shortfall(points[rows], front), kind="stable")[:_MOST]]
    gains = hypervolume_improvements(points[rows], front)
    if gains.max() > 0:
        score[rows] = gains
    else:
        score[feasible] = -_shortfall(points[feasible], front)
    return score


def _shortfall(points: Floats, front: Floats) -> Floats:
    """Return by how much each point must improve in some objective for nothing on the front to dominate it."""
    if not len(front):
        return points.sum(axis=1)
    return np.asarray((points[:, None] - front).min(axis=2).max(axis=1))


def _units(told: Floats, candidates: Candidates) -> Normalisation:
    """Return the normalisation by the front told, else by what the first opinion thinks of the candidates."""
    return Normalisation.of(told if len(told) else candidates.values[0])
