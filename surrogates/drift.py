"""The hour of a measurement as a nuisance: factors of a job and of the position in it, estimated and divided out.

A long series of measurements does not only see the networks: clocks, temperatures and neighbours change meanwhile, and
a job that ran on another node is off as a whole, by a factor that may depend on the size of the network. Surrogates
that learn such a series as it is learn the hour too. Here log(measured / predicted) of the rows that a model was fitted
to is smoothed along the series within a job and a width: by a running median, which keeps steps, and by a regression on
what the nearest rows in time are still off. The model is then fitted again to the measurements divided by it. A row's
factor comes from its neighbours in time, never from the row itself. No torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WINDOW = 31
LAGS = 8
_SHRINKAGE = 50.0  # ridge penalty of the neighbours' weights, in rows
_CLIP = 3.0  # standard deviations


@dataclass(frozen=True)
class Series:
    """When the rows of a series were measured, and which of them react alike.

    Attributes:
        job: (n,) which of the jobs that ran side by side; each has a drift of its own.
        position: (n,) order within the job.
        group: (n,) network width, or whatever the drift may depend on.
    """

    job: np.ndarray
    position: np.ndarray
    group: np.ndarray

    @classmethod
    def of(cls, order: np.ndarray, group: np.ndarray, *, job_size: int | None = None) -> Series:
        """Return jobs of `job_size` consecutive rows of a series (None: one job)."""
        order = np.asarray(order, np.int64)
        if job_size is None:
            return cls(np.zeros_like(order), order, np.asarray(group))
        return cls(order // job_size, order % job_size, np.asarray(group))


def estimate_drift(
    series: Series, residuals: np.ndarray, known: np.ndarray, *, window: int = WINDOW, lags: int = LAGS
) -> np.ndarray:
    """Return the log factor of the hour for every row, (n,), from other rows' residuals; its median is 0 in each group.

    Args:
        series: when the rows were measured.
        residuals: (n,) log(measured / predicted); only those of known rows are looked at.
        known: (n,) bool, rows that may be used.
        window: neighbours of the running median; fewer where a job has fewer.
        lags: how far the regression on the nearest rows looks, of any group.
    """
    drift = running_median(series, residuals, known, window=window)
    drift += neighbour_effect(series, residuals - drift, known, lags=lags)
    for group in np.unique(series.group):
        rows = series.group == group
        if (rows & known).any():
            drift[rows] -= np.median(drift[rows & known])
    return drift


def running_median(
    series: Series, residuals: np.ndarray, known: np.ndarray, *, window: int = WINDOW
) -> np.ndarray:  # fmt: skip
    """Return the median of the `window` known residuals nearest in job and group, without the row's own, (n,).

    0 where a job has no other known row of the group.
    """
    smooth = np.zeros(len(residuals))
    for job in np.unique(series.job):
        for group in np.unique(series.group):
            rows = np.flatnonzero((series.job == job) & (series.group == group))
            train = rows[known[rows]]
            if len(train) < 2:
                continue
            train = train[np.argsort(series.position[train], kind="stable")]
            width = min(window + 1, len(train))
            start = np.searchsorted(series.position[train], series.position[rows]) - width // 2
            near = train[np.clip(start, 0, len(train) - width)[:, None] + np.arange(width)]  # (rows, width)
            values = np.where(near == rows[:, None], np.nan, residuals[near])
            smooth[rows] = np.nanmedian(values, axis=1)
    return smooth


def neighbour_effect(series: Series, residuals: np.ndarray, known: np.ndarray, *, lags: int = LAGS) -> np.ndarray:
    """Return what the residuals of the rows just before and after say about each row's, (n,).

    Residuals are standardised by group and clipped; the weights of the lags are a ridge regression by group.
    """
    scaled, scale = np.zeros(len(residuals)), np.ones(len(residuals))
    groups = [series.group == group for group in np.unique(series.group)]
    for rows in groups:
        if (rows & known).any():
            scale[rows] = 1.4826 * np.median(np.abs(residuals[rows & known])) + 1e-12
            scaled[rows] = np.clip(residuals[rows] / scale[rows], -_CLIP, _CLIP)
    near = _lag_sums(series, np.where(known, scaled, 0.0), known, lags)
    effect = np.zeros(len(residuals))
    for rows in groups:
        train = near[rows & known]
        weights = np.linalg.solve(train.T @ train + _SHRINKAGE * np.eye(lags), train.T @ scaled[rows & known])
        effect[rows] = near[rows] @ weights
    return effect * scale


def _lag_sums(series: Series, values: np.ndarray, known: np.ndarray, lags: int) -> np.ndarray:
    """Return for each row the sum of the known values `lag` positions before and after in its job, (n, lags)."""
    sums = np.zeros((len(values), lags))
    for job in np.unique(series.job):
        rows = np.flatnonzero(series.job == job)
        position = series.position[rows] - series.position[rows].min()
        table = np.zeros(position.max() + 1 + 2 * lags)
        table[position + lags] = np.where(known[rows], values[rows], 0.0)
        for lag in range(1, lags + 1):
            sums[rows, lag - 1] = table[position + lags - lag] + table[position + lags + lag]
    return sums


def drift_and_fit(
    y: np.ndarray, series: Series, known: np.ndarray, fit_predict: Callable[[np.ndarray], np.ndarray],
    *, window: int = WINDOW, rounds: int = 3,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Fit a model and the drift of its training rows in turn (backfitting).

    Args:
        y: (n,) positive measurements.
        series: when they were taken.
        known: (n,) bool, the rows to learn from; the others only get a factor.
        fit_predict: from (n,) targets, of which it may only look at the known ones, to (n,) predictions.
        window: of `running_median`.
        rounds: how often.

    Returns:
        log drift (n,) and the last predictions (n,).
    """
    drift = np.zeros(len(y))
    for _ in range(rounds):
        predicted = fit_predict(y / np.exp(drift))
        drift = estimate_drift(series, np.log(y / predicted), known, window=window)
    return drift, fit_predict(y / np.exp(drift))
