"""Expected hypervolume improvement in closed form, as a logarithm that does not underflow; everything is minimised.

The region that no point of a front dominates, below a reference point, is cut into boxes (Lacour et al. 2017,
doi:10.1016/j.cor.2016.03.015): one for each local upper bound, 2n + 1 or fewer for three objectives. A random point
with independent normal objectives improves a box by a product of one-dimensional expectations (Emmerich et al. 2011;
Yang et al. 2019), here the same for any number of objectives. Of one objective it is the expected improvement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx, logsumexp, ndtr

from search.pareto import Floats, nondominated

_MOST_TERMS = 2_000_000  # numbers held at once


@dataclass(frozen=True)
class Boxes:
    """Disjoint boxes whose union is what no point of a front dominates, below a reference point.

    Attributes:
        lower: (c, m), may be -inf.
        upper: (c, m).
    """

    lower: Floats
    upper: Floats


def nondominated_boxes(front: Floats, reference: Floats) -> Boxes:
    """Return the boxes left by points (n, m) that a reference point (m,) bounds; points beyond it leave no trace."""
    m = len(reference)
    points = front[(front < reference).all(axis=1)].reshape(-1, m)
    points = points[nondominated(points, duplicates=False)] if len(points) else points
    upper = reference[None].astype(np.float64)  # local upper bounds
    defining = np.full((1, m, m), -np.inf)  # defining[i, k]: the point that gives upper[i] its k-th coordinate
    defining[0, np.arange(m), np.arange(m)] = reference
    for point in points:
        upper, defining = _with_point(upper, defining, point)
    lower = np.full(upper.shape, -np.inf)
    for j in range(1, m):
        lower[:, j] = defining[:, :j, j].max(axis=1)
    full = (lower < upper).all(axis=1)
    return Boxes(lower[full], upper[full])


def _with_point(upper: Floats, defining: Floats, point: Floats) -> tuple[Floats, Floats]:
    """Return the local upper bounds and the points that define them after one point more."""
    m = len(point)
    hit = (point < upper).all(axis=1)
    new_upper, new_defining = [upper[~hit]], [defining[~hit]]
    for j in range(m):
        others = [k for k in range(m) if k != j]
        limit = defining[hit][:, others, j].max(axis=1, initial=-np.inf)
        bounds, points = upper[hit][point[j] >= limit], defining[hit][point[j] >= limit]
        bounds[:, j], points[:, j] = point[j], point
        new_upper.append(bounds)
        new_defining.append(points)
    return np.concatenate(new_upper), np.concatenate(new_defining)


def log_ehvi(mean: Floats, std: Floats, boxes: Boxes) -> Floats:
    """Return logarithms (n,) of the expected hypervolume improvement of n points, each evaluated alone.

    Args:
        mean: of the objectives, (n, m).
        std: theirs, (n, m), positive; objectives are independent.
        boxes: of the front and its reference point.
    """
    rows = max(1, _MOST_TERMS // max(1, boxes.upper.size))
    parts = [_log_ehvi(mean[i : i + rows], std[i : i + rows], boxes) for i in range(0, len(mean), rows)]
    return np.concatenate(parts) if parts else np.empty(0)


def _log_ehvi(mean: Floats, std: Floats, boxes: Boxes) -> Floats:
    total = np.zeros((len(mean), len(boxes.upper)))
    for k in range(mean.shape[1]):
        edges, place = np.unique(np.concatenate([boxes.lower[:, k], boxes.upper[:, k]]), return_inverse=True)
        table = _log_expected_shortfall(edges, mean[:, k, None], std[:, k, None])
        low, high = table[:, place[: len(boxes.lower)]], table[:, place[len(boxes.lower) :]]
        with np.errstate(divide="ignore", invalid="ignore"):
            total += high + np.log1p(-np.exp(np.minimum(low - high, 0.0)))
    return np.asarray(logsumexp(np.where(np.isnan(total), -np.inf, total), axis=1))


def _log_expected_shortfall(edges: Floats, mean: Floats, std: Floats) -> Floats:
    """Return log E[max(edge - Y, 0)] of normal Y, (n, e)."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(std) + log_h((edges - mean) / std))


def log_h(z: Floats) -> Floats:
    """Return log(phi(z) + z Phi(z)) without underflow, as in Ament et al. 2023 (arXiv:2310.20708); -inf at -inf."""
    z = np.asarray(z, dtype=np.float64)
    out = np.empty(z.shape)
    near, far = z > -1.0, z < -1e4
    out[near] = np.log(np.exp(-0.5 * z[near] ** 2) / np.sqrt(2 * np.pi) + z[near] * ndtr(z[near]))
    middle = ~near & ~far
    mills = np.sqrt(np.pi / 2) * erfcx(-z[middle] / np.sqrt(2))
    out[middle] = -0.5 * z[middle] ** 2 - 0.5 * np.log(2 * np.pi) + np.log1p(z[middle] * mills)
    with np.errstate(over="ignore"):
        out[far] = -0.5 * z[far] ** 2 - 0.5 * np.log(2 * np.pi) - 2 * np.log(-z[far])
    return out
