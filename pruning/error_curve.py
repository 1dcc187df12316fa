"""From least-squares errors, known for all levels of a part, to damages, measured for a few: a monotone curve.

log damage is piecewise linear in log error through the measured levels. Below the smallest measured error its slope is
given, or one: a small change of the output has a squared error and a KL that are both quadratic in it. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

K = TypeVar("K")
_LEAST = 1e-9  # of errors and damages: logarithms need something


def spread(errors: Mapping[K, float], n: int) -> list[K]:
    """Return n keys whose errors are spread evenly on a logarithmic scale, the smallest one among them.

    The error of the absent part, 1, is taken for the scale's other end, which is measured besides.

    Example:
        >>> spread({1: 0.5, 2: 0.1, 3: 0.02, 4: 0.01}, 2)
        [4, 2]
    """
    logs = {key: np.log(max(error, _LEAST)) for key, error in errors.items()}
    if not logs or n < 1:
        return []
    lowest, chosen = min(logs.values()), list[K]()
    for target in np.linspace(lowest, 0.0, n + 1)[:n]:
        left = [key for key in logs if key not in chosen]
        if left:
            chosen.append(min(left, key=lambda key: (abs(logs[key] - target), logs[key])))
    return chosen


class ErrorCurve:
    """The monotone curve through measured pairs of error and damage.

    Args:
        errors: relative errors.
        damages: of the same levels; where a larger error was found to do less damage, the mean of both counts.
        slope: of log damage in log error below the smallest error.
    """

    def __init__(self, errors: Sequence[float], damages: Sequence[float], *, slope: float = 1.0) -> None:
        x, y = _logs(errors), _logs(damages)
        order = np.lexsort((y, x))
        self._x, self._y = _without_ties(x[order], _pooled(y[order]))
        self._slope = slope

    def __call__(self, errors: Sequence[float]) -> np.ndarray:
        """Return the damages at these errors, (n,); 0 at an error of 0."""
        given = np.asarray(errors, float)
        x = _logs(given)
        below = self._slope * np.minimum(x - self._x[0], 0.0)
        return np.where(given <= 0, 0.0, np.exp(np.interp(x, self._x, self._y) + below))


def slope_between(errors: Sequence[float], damages: Sequence[float]) -> float:
    """Return the slope of log damage in log error between two levels; ValueError where their errors are one."""
    (x0, x1), (y0, y1) = _logs(errors), _logs(damages)
    if x0 == x1:
        raise ValueError(f"errors {list(errors)}: a slope needs two different ones")
    return float((y1 - y0) / (x1 - x0))


def _logs(values: Sequence[float] | np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(values, float), _LEAST))


def _pooled(values: np.ndarray) -> np.ndarray:
    """Return the nearest values, in squares, that do not fall (pool adjacent violators)."""
    pools: list[list[float]] = []  # sum, count
    for value in values:
        pools.append([float(value), 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] > pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [pools[-1][0] + last[0], pools[-1][1] + last[1]]
    return np.repeat([total / count for total, count in pools], [int(count) for _, count in pools])


def _without_ties(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places, which = np.unique(x, return_inverse=True)
    return places, np.bincount(which, y) / np.bincount(which)
