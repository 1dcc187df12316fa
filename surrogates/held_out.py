"""Held-out measurements of a campaign beside what a space model and simple baselines say about them. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from hw_profiles.table import ANY_DEVICE, METRICS
from supernet.cost import parameter_counts
from supernet.encoding import from_genes
from surrogates.accuracy_report import TargetTest
from surrogates.campaign import Campaign, TargetKey
from surrogates.candidates import BASELINE, candidate_models
from surrogates.drift import Series, estimate_drift
from surrogates.features import features
from surrogates.models import XGBoostSurrogate
from surrogates.quantile_grid import POINTS

RAW_GENES = "xgboost_raw_genes"
LEVELS = np.arange(1, POINTS + 1) / (POINTS + 1)
_STEADY = ("memory_mib",)  # of a device, but counted and not timed


class SpacePredictor(Protocol):
    """What is read of a model of all targets of a space."""

    @property
    def targets(self) -> Sequence[TargetKey]:
        """The targets, T of them."""

    def predict(self, genes: np.ndarray) -> np.ndarray:
        """Return medians (n, T) of canonical genes (n, g)."""

    def log_quantiles(self, genes: np.ndarray, levels: Sequence[float], *, drift: bool = False) -> np.ndarray:
        """Return log(quantile / median), (n, T, q)."""


def held_out_tests(
    data: Campaign, model: SpacePredictor, *, train: np.ndarray, test: np.ndarray, job_size: int | None = None,
    baselines: bool = True, seed: int = 0,
) -> Iterator[TargetTest]:  # fmt: skip
    """Give the held-out measurements and predictions of every target that campaign and model share.

    The drift of a held-out row is estimated from the residuals of training rows only, near it in time. Baselines learn
    the same adjusted training values as the model: the linear one exact costs, XGBoost the genes as they are.

    Args:
        data: the measurements.
        model: fitted to the training rows.
        train: (n,) bool, rows the model was fitted to.
        test: (n,) bool, rows to score.
        job_size: consecutive rows of a series that were one job; None for one job.
        baselines: whether to fit the baselines, which takes most of the time.
        seed: of the baselines.

    Raises:
        ValueError: a row in both, or none to score.
    """
    train, test = np.asarray(train, bool), np.asarray(test, bool)
    if (train & test).any() or not test.any():
        raise ValueError(
            f"{(train & test).sum()} rows are in both training and test, {test.sum()} to test: separate them"
        )
    archs = [from_genes(data.space, row) for row in data.genes]
    parameters = parameter_counts(data.space.model_config, archs).total.astype(float)
    X = features(data.space, archs) if baselines else None
    predicted = model.predict(data.genes)
    for t, key in enumerate(model.targets):
        if key not in data.values:
            continue
        values = data.values[key]
        measured = np.isfinite(values)
        rows, held = np.flatnonzero(measured & train), np.flatnonzero(measured & test)
        if len(held) < 2:
            continue
        drift = log_drift(data, key, predicted[:, t], train, job_size=job_size)
        adjusted = values / np.exp(drift)
        found = _baselines(data, X, adjusted, rows, held, seed=seed) if X is not None else {}
        median = predicted[held, t]
        device, published = (
            median[:, None] * np.exp(model.log_quantiles(data.genes[held], LEVELS.tolist(), drift=d)[:, t])
            for d in (False, True)
        )
        yield TargetTest(
            space=data.space.name, metric=key.metric, device=key.device, n_train=len(rows), raw=values[held],
            adjusted=adjusted[held], predicted=median, widths=data.widths[held], levels=LEVELS, quantiles=device,
            raw_quantiles=published, parameters=parameters[held], repeats=_repeats(data, key, held), baselines=found,
        )  # fmt: skip


def _repeats(data: Campaign, key: TargetKey, rows: np.ndarray) -> np.ndarray | None:
    return data.repeats[key][rows] if key in data.repeats else None


def log_drift(
    data: Campaign, key: TargetKey, predicted: np.ndarray, train: np.ndarray, *, job_size: int | None = None
) -> np.ndarray:  # fmt: skip
    """Return the log drift (n,) of a target's rows, 0 where it was not measured or cannot drift.

    Args:
        data: the measurements.
        key: the target.
        predicted: (n,) predictions for all rows.
        train: (n,) bool, rows whose residuals may be used.
        job_size: consecutive rows of a series that were one job.
    """
    drift = np.zeros(len(data.ids))
    if key.device == ANY_DEVICE or not METRICS[key.metric].per_device or key.metric in _STEADY:
        return drift
    rows = np.flatnonzero(np.isfinite(data.values[key]))
    residuals = np.log(data.values[key][rows] / predicted[rows])
    series = Series.of(data.order[key][rows], data.genes[rows, 0], job_size=job_size)
    drift[rows] = estimate_drift(series, residuals, train[rows])
    return drift


def _baselines(
    data: Campaign, X: np.ndarray, y: np.ndarray, rows: np.ndarray, held: np.ndarray, *, seed: int
) -> dict[str, np.ndarray]:  # fmt: skip
    linear = candidate_models(data.space, [BASELINE])[BASELINE].fit(X[rows], y[rows])
    trees = XGBoostSurrogate(n_estimators=300, max_depth=6, seed=seed).fit(data.genes[rows], y[rows])
    return {BASELINE: linear.predict(X[held]).mean, RAW_GENES: trees.predict(data.genes[held]).mean}
