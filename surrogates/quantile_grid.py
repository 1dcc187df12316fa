"""Quantiles of residuals at evenly spaced levels: a calibration in a few numbers instead of all rows. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surrogates.levels import LEVELS, check_levels, levels_possible, rank

POINTS = 199  # levels 0.005, 0.010, ..., 0.995


@dataclass(frozen=True)
class QuantileGrid:
    """Finite-sample quantiles of residuals at evenly spaced levels, instead of all residuals.

    A level of the grid has exactly the conformal rank of all residuals, never too narrow; between two of them the
    quantile is interpolated linearly, so its coverage lies between theirs, at most one step (half a percent) off.

    Attributes:
        values: (t, k) quantiles at levels 1 / (k + 1), ..., k / (k + 1), ascending; NaN where residuals are too few.
        counts: (t,) number of residuals.
        mean_square: (t,) of the residuals.
    """

    values: np.ndarray
    counts: np.ndarray
    mean_square: np.ndarray

    @classmethod
    def of(cls, residuals: np.ndarray, *, points: int = POINTS) -> QuantileGrid:
        """Return the grid of residuals (n, t), NaN where there is none; every target needs at least one."""
        levels = np.arange(1, points + 1) / (points + 1)
        values = np.full((residuals.shape[1], points), np.nan)
        counts = (~np.isnan(residuals)).sum(axis=0)
        if not counts.all():
            raise ValueError(f"target {int(np.argmin(counts))} of {len(counts)} has no residuals: leave it out")
        for row, column, n in zip(values, residuals.T, counts, strict=True):
            ranks = np.array([rank(level, n) for level in levels])
            inside = (ranks >= 1) & (ranks <= n)
            row[inside] = np.sort(column)[ranks[inside] - 1]  # NaN comes last
        return cls(values, counts, np.nanmean(residuals**2, axis=0))

    @property
    def levels(self) -> np.ndarray:
        """The levels of the grid, (k,)."""
        k = self.values.shape[1]
        return np.arange(1, k + 1) / (k + 1)

    def possible(self, levels: Sequence[float] = LEVELS) -> tuple[float, ...]:
        """Return those of `levels` that every target has, ascending."""
        known = self.levels[~np.isnan(self.values).any(axis=0)]
        chosen = levels_possible(int(self.counts.min()), levels)
        return tuple(q for q in chosen if len(known) and known[0] - 1e-9 <= q <= known[-1] + 1e-9)

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Return quantiles, (t, q).

        Raises:
            ValueError: a level outside the grid, or too few residuals for it; says what is allowed.
        """
        grid = self.levels
        for level in levels:
            if not grid[0] - 1e-9 <= level <= grid[-1] + 1e-9:
                raise ValueError(f"quantile level {level}: this grid has levels from {grid[0]:g} to {grid[-1]:g}")
        check_levels(levels, int(self.counts.min()))
        rows = (~np.isnan(row) for row in self.values)
        return np.array([np.interp(levels, grid[k], row[k]) for row, k in zip(self.values, rows, strict=True)])
