"""Levels of quantiles that a number of residuals is enough for. No torch, no scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # the intervals that hold 50, 80 and 90 %, and the median


def rows_needed(levels: Sequence[float]) -> int:
    """Return how many residuals the quantiles at `levels` need: n >= q / (1 - q) for every q or 1 - q.

    Raises:
        ValueError: a level is not between 0 and 1.

    Example:
        >>> rows_needed([0.5]), rows_needed([0.05, 0.95]), rows_needed([0.99])
        (1, 19, 99)
    """
    for level in levels:
        if not 0 < level < 1:
            raise ValueError(f"quantile level {level}: give numbers between 0 and 1, both excluded")
    return max((ceil(max(q, 1 - q) / min(q, 1 - q) - 1e-9) for q in levels), default=1)


def levels_possible(n: int, levels: Sequence[float] = LEVELS) -> tuple[float, ...]:
    """Return those of `levels` that n residuals are enough for, ascending."""
    return tuple(sorted(level for level in levels if rows_needed([level]) <= n))


def rank(level: float, n: int) -> int:
    """Return which of n residuals, counted from 1, is their finite-sample quantile: never too narrow.

    Upper levels take ceil(level * (n + 1)) and lower ones floor(level * (n + 1)); rounding noise of the product does
    not count.
    """
    position = level * (n + 1)
    return ceil(position - 1e-9) if level >= 0.5 else floor(position + 1e-9)


def check_levels(levels: Sequence[float], n: int) -> None:
    """Raise ValueError when n residuals are too few for a quantile at one of `levels`; it says how many are needed."""
    if n < (needed := rows_needed(levels)):
        raise ValueError(
            f"quantiles at {', '.join(f'{q:g}' for q in levels)} need at least {needed} rows, there are {n}: "
            f"measure {needed - n} more, or ask for levels between {1 / (n + 1):.3g} and {n / (n + 1):.3g}"
        )
