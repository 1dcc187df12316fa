"""Intervals around a surrogate's predictions, by name: conformal, normalised, or quantile regression. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from surrogates.calibration import ResidualQuantiles
from surrogates.normalised import NormalisedQuantiles, NormalisedRows
from surrogates.prediction import FittedState, Prediction
from surrogates.quantile_regression import QuantileRegression

INTERVALS = ("conformal", "normalised", "quantile_regression")


class Intervals(Protocol):
    """What gives point predictions their standard deviations and quantiles."""

    def predict_rows(self, X: np.ndarray, mean: np.ndarray, levels: Sequence[float] | None = None) -> Prediction:
        """Return a prediction for rows X (n, d) around point predictions (n,) of them."""

    def state(self) -> FittedState:
        """Return what is saved."""


@dataclass(frozen=True)
class RatioQuantiles:
    """Quantile regression of measured / predicted: intervals of any form around any model's predictions.

    Attributes:
        model: fitted to the ratios of out-of-fold predictions.
    """

    model: QuantileRegression

    @classmethod
    def of(cls, X: np.ndarray, y: np.ndarray, predicted: np.ndarray, model: QuantileRegression) -> RatioQuantiles:
        """Fit `model` to rows X (n, d), positive measurements (n,) and predictions by models that had not seen them.

        Raises:
            ValueError: a measurement or prediction that is not positive.
        """
        if not (np.asarray(y) > 0).all() or not (np.asarray(predicted) > 0).all():
            raise ValueError("quantile regression of ratios needs positive measurements: choose intervals=conformal")
        return cls(model.fit(X, np.asarray(y) / np.asarray(predicted)))

    def predict_rows(self, X: np.ndarray, mean: np.ndarray, levels: Sequence[float] | None = None) -> Prediction:
        """Return a prediction for rows X (n, d) around point predictions (n,)."""
        ratio = self.model.predict(X, levels=levels)
        assert ratio.std is not None and ratio.quantiles is not None
        return Prediction(mean, mean * ratio.std, ratio.levels, mean[:, None] * ratio.quantiles)

    def state(self) -> FittedState:
        """Return the fitted model, and which columns it looks at."""
        inner, columns = self.model.state(), self.model.columns
        own = {} if columns is None else {"columns": np.array(columns, np.int64)}
        return FittedState({**inner.arrays, **own}, inner.boosters)

    @classmethod
    def from_state(cls, state: FittedState) -> RatioQuantiles:
        """Read what `state` gave; settings that matter for fitting only are not kept."""
        levels = tuple(state.arrays["correction_levels"].tolist())
        columns = tuple(state.arrays["columns"].tolist()) if "columns" in state.arrays else None
        return cls(QuantileRegression(base_levels=levels, columns=columns).restore(state))


_CLASSES: dict[str, type[ResidualQuantiles] | type[NormalisedRows] | type[RatioQuantiles]] = {
    "conformal": ResidualQuantiles,
    "normalised": NormalisedRows,
    "quantile_regression": RatioQuantiles,
}


def make_intervals(
    kind: str, X: np.ndarray, y: np.ndarray, predicted: np.ndarray, *,
    by: int, columns: Sequence[int] = (), seed: int = 0,
) -> Intervals:  # fmt: skip
    """Calibrate intervals on rows that the model had not seen.

    Args:
        kind: "conformal", the same relative width for all rows; "normalised", a width that depends on the network;
            "quantile_regression", boosted trees for each quantile of the ratio of measurement and prediction.
        X: (n, d) features.
        y: (n,) measurements.
        predicted: (n,) out-of-fold predictions.
        by: index of the column of the network width.
        columns: indices of columns that the size of errors may depend on.
        seed: of folds and row sampling.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in INTERVALS:
        raise ValueError(f"intervals = {kind!r}; allowed: {', '.join(INTERVALS)}")
    if kind == "conformal":
        return ResidualQuantiles.of(y, predicted)
    if kind == "quantile_regression":
        return RatioQuantiles.of(X, y, predicted, QuantileRegression(columns=(by, *columns), seed=seed))
    quantiles = NormalisedQuantiles.of(y, predicted, widths=X[:, by], features=X[:, list(columns)], seed=seed)
    return NormalisedRows(quantiles, by, tuple(columns))


def kind_of(intervals: Intervals) -> str:
    """Return the name of the intervals, one of INTERVALS."""
    return next(kind for kind, cls in _CLASSES.items() if type(intervals) is cls)


def intervals_from(kind: str, state: FittedState) -> Intervals:
    """Build intervals from what their `state()` gave.

    Raises:
        KeyError: an unknown kind.
    """
    return _CLASSES[kind].from_state(state)
