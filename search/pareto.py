"""Pareto dominance, crowding, hypervolume and normalisation of objective values. Everything is minimised.

Values are arrays (n, m): n points, m objectives. A row with a NaN or an infinity is no result: it is never on a front
and ranks behind all others. Two notions of dominance are offered and named:

* "pareto" (the default): p dominates q when p <= q in every objective and p < q in at least one.
* "strict": p dominates q only when p < q in every objective, so that weakly dominated points with one tie stay on the
  front. This is what LTS's published code does (Javaheripi et al. 2022).

Non-dominated sorting and crowding: Deb et al. 2002 (NSGA-II). Hypervolume and sorting are computed by moocore.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Dominance = Literal["pareto", "strict"]


def as_values(values: ArrayLike) -> Floats:
    """Return `values` as a float array (n, m).

    Raises:
        ValueError: not two-dimensional, or without objectives.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(f"objective values have shape {array.shape}: give (n points, m objectives) with m >= 1")
    return array


def is_valid(values: ArrayLike) -> NDArray[np.bool_]:
    """Return which rows (n,) hold only finite numbers."""
    return np.asarray(np.isfinite(as_values(values)).all(axis=1))


def nondominated(values: ArrayLike, *, dominance: Dominance = "pareto", duplicates: bool = True) -> NDArray[np.bool_]:
    """Return which points (n,) no other point dominates.

    Args:
        values: (n, m), minimised.
        dominance: "pareto" or "strict"; see the top of this file.
        duplicates: whether all points of equal values stay, or only the first of them.

    Example:
        >>> nondominated([[1, 2], [2, 1], [2, 2], [3, 1]]).tolist()
        [True, True, False, False]
        >>> nondominated([[1, 2], [2, 1], [2, 2], [3, 1]], dominance="strict").tolist()
        [True, True, True, True]
    """
    points = as_values(values)
    mask = is_valid(points)
    good = points[mask]
    if len(good):
        keep = _strictly_nondominated(good) if dominance == "strict" else _pareto_nondominated(good)
        if not duplicates:
            keep &= _first_of_equals(good)
        mask[mask] = keep
    return mask


def _pareto_nondominated(points: Floats) -> NDArray[np.bool_]:
    if points.shape[1] == 1:
        return points[:, 0] == points[:, 0].min()
    return np.asarray(moocore.is_nondominated(points, keep_weakly=True), dtype=bool)


def _strictly_nondominated(points: Floats) -> NDArray[np.bool_]:
    return np.array([not (points < p).all(axis=1).any() for p in points], dtype=bool)


def _first_of_equals(points: Floats) -> NDArray[np.bool_]:
    first = np.zeros(len(points), dtype=bool)
    first[np.unique(points, axis=0, return_index=True)[1]] = True
    return first


def ranks(values: ArrayLike) -> NDArray[np.int64]:
    """Return the front (n,) each point belongs to: 0 is the best, equal points share it, invalid rows come last."""
    points = as_values(values)
    valid = is_valid(points)
    out = np.zeros(len(points), dtype=np.int64)
    if valid.any():
        good = points[valid]
        if points.shape[1] == 1:
            out[valid] = np.unique(good[:, 0], return_inverse=True)[1]
        else:
            out[valid] = moocore.pareto_rank(good)
    out[~valid] = out[valid].max(initial=-1) + 1
    return out


def constrained_ranks(values: ArrayLike, violation: ArrayLike | None = None) -> NDArray[np.int64]:
    """Return ranks (n,) under Deb's constraint domination.

    Feasible points come first by their front, then infeasible ones by their violation, then rows without a result.

    Args:
        values: (n, m), minimised.
        violation: (n,), 0 where every constraint holds, else how far it is missed; None for no constraints.
    """
    points = as_values(values)
    missed = np.zeros(len(points)) if violation is None else np.asarray(violation, dtype=np.float64)
    valid = is_valid(points) & np.isfinite(missed)
    feasible = valid & (missed <= 0)
    infeasible = valid & (missed > 0)
    out = np.zeros(len(points), dtype=np.int64)
    if feasible.any():
        out[feasible] = ranks(points[feasible])
    if infeasible.any():
        offset = out[feasible].max(initial=-1) + 1
        out[infeasible] = offset + np.unique(missed[infeasible], return_inverse=True)[1]
    out[~valid] = out[valid].max(initial=-1) + 1
    return out


def crowding_distance(values: ArrayLike) -> Floats:
    """Return NSGA-II's crowding distance (n,) of points of one front.

    The ends of each objective get infinity. Of points with equal values the first counts and the others get 0, so
    that survival drops copies first (as pymoo does).
    """
    points = as_values(values)
    distance = np.zeros(len(points))
    first = np.flatnonzero(_first_of_equals(points)) if len(points) else np.empty(0, dtype=int)
    if len(first) <= 2:
        distance[first] = np.inf
        return distance
    unique = points[first]
    order = np.argsort(unique, axis=0, kind="stable")
    ordered = np.take_along_axis(unique, order, axis=0)
    span = ordered[-1] - ordered[0]
    gaps = np.full(unique.shape, np.inf)
    gaps[1:-1] = (ordered[2:] - ordered[:-2]) / np.where(span > 0, span, 1.0)
    gaps[:, span == 0] = 0.0
    total = np.zeros(unique.shape)
    np.put_along_axis(total, order, gaps, axis=0)
    distance[first] = total.mean(axis=1)
    return distance


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume between the points and the reference; invalid rows and points beyond it add nothing.

    Args:
        values: (n, m), minimised.
        reference: (m,), or one number for all objectives.
    """
    points = as_values(values)
    points = points[is_valid(points)]
    corner = np.broadcast_to(np.asarray(reference, dtype=np.float64), points.shape[1:]).copy()
    points = points[(points < corner).all(axis=1)]
    return float(moocore.hypervolume(points, ref=corner)) if len(points) else 0.0


@dataclass(frozen=True)
class Normalisation:
    """An affine map that sends a front's ideal point to 0 and its nadir to 1 in every objective.

    Attributes:
        ideal: the smallest value of each objective on the front.
        nadir: the largest value of each objective on the front.
    """

    ideal: tuple[float, ...]
    nadir: tuple[float, ...]

    @classmethod
    def of(cls, values: ArrayLike) -> Normalisation:
        """Return the normalisation by the front of `values` (n, m).

        An objective in which the whole front is equal takes the largest value of all points instead, or one unit.

        Raises:
            ValueError: no row holds only finite numbers.
        """
        points = as_values(values)
        points = points[is_valid(points)]
        if not len(points):
            raise ValueError("cannot normalise: no point has finite values in all objectives")
        front = points[nondominated(points)]
        ideal, nadir = front.min(axis=0), front.max(axis=0)
        nadir = np.where(nadir > ideal, nadir, points.max(axis=0))
        nadir = np.where(nadir > ideal, nadir, ideal + 1.0)
        return cls(tuple(ideal.tolist()), tuple(nadir.tolist()))

    def __call__(self, values: ArrayLike) -> Floats:
        """Return normalised values (n, m)."""
        ideal = np.asarray(self.ideal)
        return (as_values(values) - ideal) / (np.asarray(self.nadir) - ideal)


REFERENCE = 1.1  # hypervolume reference in normalised units, so that the ends of the front count too


def normalised_hypervolume(values: ArrayLike, normalisation: Normalisation) -> float:
    """Return the hypervolume of normalised values with the reference point (1.1, ..., 1.1)."""
    return hypervolume(normalisation(values), REFERENCE)


def convex_front(values: ArrayLike, *, tolerance: float = 1e-9) -> NDArray[np.bool_]:
    """Return which points (n,) lie on the lower convex hull: those some non-negative weighting of objectives prefers.

    A subset of the non-dominated points. Solved as one small linear program a point, for any number of objectives.
    """
    points = as_values(values)
    mask = nondominated(points)
    front = np.flatnonzero(mask)
    if len(front) > 1:
        scaled = Normalisation.of(points[front])(points[front])
        mask[front] = [_is_supported(scaled, i, tolerance) for i in range(len(front))]
    return mask


def _is_supported(points: Floats, index: int, tolerance: float) -> bool:
    """Return whether weights w >= 0 with sum 1 exist such that w . (q - p) >= 0 for all q."""
    from scipy.optimize import linprog  # takes longer to import than all else here

    m = points.shape[1]
    worse = points[index] - points  # w . worse <= 0
    result = linprog(
        np.zeros(m), A_ub=worse, b_ub=np.full(len(points), tolerance), A_eq=np.ones((1, m)), b_eq=[1.0], method="highs"
    )
    return bool(result.status == 0)


def knee(values: ArrayLike) -> int:
    """Return the index of the point furthest below the plane through the front's ends (smallest normalised sum).

    Raises:
        ValueError: no row holds only finite numbers.
    """
    points = as_values(values)
    total = Normalisation.of(points)(points).sum(axis=1)
    return int(np.argmin(np.where(nondominated(points), total, np.inf)))
