"""Quality indicators of a run against a frozen reference front, after every evaluation. Everything is minimised.

Values are normalised by the front's ideal (0) and nadir (1) point; the hypervolume's reference is 1.1 in every
objective. Rows with a NaN or an infinity are evaluations without a result: they cost budget and add nothing.

* Hypervolume regret: 1 - HV(run) / HV(reference front). Below 0 where a run beats the frozen front; it is kept.
* IGD+ (Ishibuchi et al. 2015) and additive epsilon (Zitzler et al. 2003) against the front's points, by moocore.
* Mean log10 regret: the area under the regret curve on a logarithmic axis, divided by the number of evaluations.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

import moocore
import numpy as np
from numpy.typing import ArrayLike

from search.pareto import REFERENCE, Floats, Normalisation, as_values, is_valid, nondominated
from surrogates.reference_fronts import ReferenceFront

FLOOR = 1e-4  # regrets below it count as it where a logarithm is taken


class Distances(NamedTuple):
    """How far a front is from some points, normalised.

    Attributes:
        igd_plus: mean over the front's points of by how much the nearest of the points is worse.
        epsilon: by how much the points must be moved, in every objective, to dominate the whole front.
    """

    igd_plus: float
    epsilon: float


@dataclass(frozen=True)
class FrontScale:
    """What the runs of a panel are scored against.

    Attributes:
        normalisation: by the ideal and nadir point of the front.
        front: (k, m) normalised points of the front.
        volume: their hypervolume.
    """

    normalisation: Normalisation
    front: Floats
    volume: float

    @classmethod
    def of(cls, reference: ReferenceFront) -> FrontScale:
        """Return the scale of a reference front; an objective in which the whole front is equal is divided by 1.

        Raises:
            ValueError: the front has no point with finite values.
        """
        points = as_values(reference.front)
        points = points[is_valid(points)]
        if not len(points):
            raise ValueError("the reference front is empty: nothing can be scored against it")
        ideal, nadir = np.asarray(reference.ideal, float), np.asarray(reference.nadir, float)
        nadir = np.where(nadir > ideal, nadir, ideal + 1.0)
        normalisation = Normalisation(tuple(ideal.tolist()), tuple(nadir.tolist()))
        front = normalisation(points)
        return cls(normalisation, front, float(hypervolume_curve(front)[-1]))

    def regret_curve(self, values: ArrayLike) -> Floats:
        """Return the hypervolume regret (n,) after each of the evaluations `values` (n, m)."""
        return 1.0 - hypervolume_curve(self.normalisation(values)) / self.volume

    def distances(self, values: ArrayLike) -> Distances:
        """Return how far the front is from what was found, by two indicators; infinity where nothing was found."""
        points = self.normalisation(values)
        found = points[nondominated(points)]  # dominated points change neither indicator
        if not len(found):
            return Distances(float("inf"), float("inf"))
        igd_plus, epsilon = moocore.igd_plus(found, ref=self.front), moocore.epsilon_additive(found, ref=self.front)
        return Distances(float(igd_plus), float(epsilon))


def hypervolume_curve(points: ArrayLike, reference: float = REFERENCE) -> Floats:
    """Return the hypervolume (n,) of the first 1, 2, ..., n points, incrementally.

    Args:
        points: (n, m) with m >= 2; invalid rows and points beyond the reference add nothing.
        reference: the reference point, the same in every objective.

    Example:
        >>> hypervolume_curve([[1, 2], [3, 3], [2, 1]], reference=3.0).tolist()
        [2.0, 2.0, 3.0]
    """
    values = as_values(points)
    inside = np.flatnonzero(is_valid(values) & (values < reference).all(axis=1))
    gains = np.zeros(len(values))
    gain = _staircase_gains if values.shape[1] == 2 else _archive_gains
    gains[inside] = gain(values[inside], reference)
    return np.cumsum(gains)


def _staircase_gains(points: Floats, reference: float) -> list[float]:
    """Return what each point adds in two dimensions: the front is kept sorted, x ascending and y descending."""
    xs: list[float] = []
    ys: list[float] = []
    gains = []
    for x, y in points.tolist():
        start = bisect_left(xs, x)
        if (start and ys[start - 1] <= y) or (start < len(xs) and xs[start] == x and ys[start] <= y):
            gains.append(0.0)
            continue
        gain, left, top, end = 0.0, x, ys[start - 1] if start else reference, start
        while end < len(xs) and ys[end] >= y:  # points that the new one dominates
            gain += (xs[end] - left) * (top - y)
            left, top = xs[end], ys[end]
            end += 1
        gains.append(gain + ((xs[end] if end < len(xs) else reference) - left) * (top - y))
        xs[start:end], ys[start:end] = [x], [y]
    return gains


def _archive_gains(points: Floats, reference: float) -> Floats:
    """Return what each point adds in any number of dimensions: moocore's volume of an archive of the front."""
    gains = np.zeros(len(points))
    archive, volume = points[:0], 0.0
    corner = np.full(points.shape[1], reference)
    for i, point in enumerate(points):
        if (archive <= point).all(axis=1).any():
            continue
        archive = np.vstack([archive[~(point <= archive).all(axis=1)], point])
        grown = float(moocore.hypervolume(archive, ref=corner))
        gains[i], volume = grown - volume, grown
    return gains


def mean_log_regret(regrets: ArrayLike) -> Floats:
    """Return the mean log10 regret (n,) over the first 1, 2, ..., n evaluations; regrets below `FLOOR` count as it.

    Example:
        >>> mean_log_regret([1.0, 0.1, 0.01]).round(2).tolist()
        [0.0, -0.5, -1.0]
    """
    logs = np.log10(np.maximum(np.asarray(regrets, dtype=np.float64), FLOOR))
    return np.asarray(np.cumsum(logs) / np.arange(1, len(logs) + 1))


def evaluations_to_reach(regrets: ArrayLike, target: float) -> float:
    """Return after how many evaluations the regret is at most `target`; infinity where it never is.

    Example:
        >>> evaluations_to_reach([1.0, 0.3, 0.2], 0.3), evaluations_to_reach([1.0], 0.3)
        (2.0, inf)
    """
    reached = np.flatnonzero(np.asarray(regrets, dtype=np.float64) <= target)
    return float(reached[0] + 1) if len(reached) else float("inf")
