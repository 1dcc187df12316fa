"""Empirical attainment: what share of a method's runs reach a region of the objectives (Fonseca et al. 2011).

A run attains a point when one of its networks is at least as good in every objective. The 50 % surface bounds what
half of the runs attain. Two objectives, minimised; computed by moocore.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import moocore
import numpy as np

from search.comparison.records import RunRecord
from search.pareto import Floats, as_values, nondominated

PERCENTILES = (25.0, 50.0, 75.0)


@dataclass(frozen=True)
class AttainmentDifference:
    """Where two methods differ.

    Attributes:
        corners: (r, 4) rectangles: lower x, lower y, upper x, upper y; infinite where they have no end.
        shares: (r,) share of runs of the first method that attain the rectangle, minus the second's.
        n_runs: runs of each.
    """

    corners: Floats
    shares: Floats
    n_runs: int


def run_fronts(records: Iterable[RunRecord], case: str, method: str, *, at: int) -> dict[int, Floats]:
    """Return by seed the front (k, m) of each run after `at` evaluations; of a point the whole front, at any cost.

    Runs that are shorter, or that found nothing, are left out.
    """
    found = {}
    for run in records:
        if (run.case, run.method) == (case, method) and (run.is_point or len(run.values) >= at):
            values = as_values(run.values if run.is_point else run.values[:at])
            front = values[nondominated(values, duplicates=False)]
            if len(front):
                found[run.seed] = front[np.argsort(front[:, 0], kind="stable")]
    return found


def attainment_surfaces(fronts: Sequence[Floats], percentiles: Sequence[float] = PERCENTILES) -> dict[float, Floats]:
    """Return the surface (k, 2) of each percentile, ascending in the first objective.

    Args:
        fronts: (k, 2) of each run.
        percentiles: of the runs that attain what lies beyond the surface.

    Raises:
        ValueError: no front, or not two objectives.
    """
    points, sets = _stacked(fronts)
    found = moocore.eaf(points, sets, percentiles=list(percentiles))
    surfaces = {}
    for level in percentiles:
        surface = found[np.isclose(found[:, -1], level), :-1]
        surfaces[level] = surface[np.argsort(surface[:, 0], kind="stable")]
    return surfaces


def attainment_difference(first: Sequence[Floats], second: Sequence[Floats]) -> AttainmentDifference:
    """Return where the share of runs that attain a point differs between two methods with as many runs.

    Raises:
        ValueError: no front, not two objectives, or unequal numbers of runs.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} runs against {len(second)}: give as many of both, of the same seeds")
    parts = [np.column_stack(_stacked(fronts)) for fronts in (first, second)]
    found = moocore.eafdiff(*parts, rectangles=True, intervals=len(first))
    corners = np.column_stack([found[:, [0, 2]].min(1), found[:, [1, 3]].min(1), found[:, [0, 2]].max(1),
                               found[:, [1, 3]].max(1)])  # fmt: skip
    return AttainmentDifference(corners, found[:, -1] / len(first), len(first))


def staircase(surface: Floats, x: Floats) -> Floats:
    """Return the lowest second objective of a surface at a first one of at most x; infinity left of it.

    Example:
        >>> staircase(np.array([[1.0, 5.0], [3.0, 2.0]]), np.array([0.0, 1.0, 4.0])).tolist()
        [inf, 5.0, 2.0]
    """
    lowest = np.concatenate([[np.inf], np.minimum.accumulate(surface[:, 1])])
    return np.asarray(lowest[np.searchsorted(surface[:, 0], x, side="right")])


def _stacked(fronts: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return all points and the number of the run of each, from 1 on."""
    if not fronts or any(front.ndim != 2 or front.shape[1] != 2 or not len(front) for front in fronts):
        raise ValueError("attainment needs the front (k, 2) of at least one run, each with a point")
    sets = np.repeat(np.arange(1.0, len(fronts) + 1), [len(front) for front in fronts])
    return np.concatenate(fronts), sets
