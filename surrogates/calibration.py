"""Prediction intervals that hold what they say: conformal quantiles of residuals of rows the model has not seen.

Split conformal (Papadopoulos et al. 2002; Lei et al. 2018): with n exchangeable residuals, the k-th smallest bounds the
next one from above with probability at least k / (n + 1), whatever the model and the noise. Residuals are log(y / mean)
where targets are positive, so that intervals are relative; their signs are kept, so that skewed noise gives skewed
intervals. Small tables cannot spare rows: "cross" takes out-of-fold residuals and a model of all rows, as CV+ and the
jackknife+ do (Barber et al. 2021); its coverage is close to nominal but not guaranteed. No torch.

`surrogates.normalised` divides residuals by a scale that depends on the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from surrogates.levels import check_levels, levels_possible, rank
from surrogates.models import out_of_fold
from surrogates.prediction import FittedState, Prediction, Surrogate, checked_rows, log_where, shaped


def signed_residuals(Y: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals (n, t) of targets (n,) or (n, t), NaN where Y is, and where (t,) they are logarithms.

    They are log(y / predicted) where all of a target's numbers are positive, else y - predicted.

    Raises:
        ValueError: shapes that differ, infinite numbers, or a prediction that is not finite.
    """
    Y, predicted = np.asarray(Y, float), np.asarray(predicted, float)
    if Y.shape != predicted.shape or Y.ndim not in (1, 2) or not len(Y):
        raise ValueError(f"Y has shape {Y.shape}, predictions {predicted.shape}: give the same, at least one row")
    Y, predicted = Y.reshape(len(Y), -1), predicted.reshape(len(Y), -1)
    if np.isinf(Y).any() or not np.isfinite(predicted[~np.isnan(Y)]).all():
        raise ValueError("targets or predictions hold numbers that are not finite: leave those rows out")
    positive = np.where(np.isnan(Y), np.inf, np.minimum(Y, predicted)).min(axis=0) > 0
    return log_where(Y, positive) - log_where(predicted, positive), positive


def around(
    mean: np.ndarray, offsets: np.ndarray, spread: np.ndarray, log: np.ndarray, levels: Sequence[float]
) -> Prediction:
    """Return a prediction with quantiles and standard deviations around point predictions.

    Args:
        mean: (n,) or (n, t) point predictions.
        offsets: (t, q) or (n, t, q) quantiles of the residuals.
        spread: (t,) or (n, t) root mean square of the residuals. Of logarithms, the standard deviation is that of a
            log-normal variable, mean * sqrt(exp(spread^2) - 1).
        log: (t,) whether residuals are logarithms.
        levels: q of them, ascending.
    """
    single = mean.ndim == 1
    means = mean[:, None] if single else mean
    quantiles = np.where(
        log[:, None], means[:, :, None] * np.exp(np.where(log[:, None], offsets, 0.0)), means[:, :, None] + offsets
    )
    spread = np.broadcast_to(spread, means.shape)
    std = np.where(log, means * np.sqrt(np.expm1(np.where(log, spread, 0.0) ** 2)), spread)
    return Prediction(mean, shaped(std, single), tuple(levels), quantiles[:, 0] if single else quantiles)


@dataclass(frozen=True)
class ResidualQuantiles:
    """Residuals of rows that the model has not seen, and the quantiles they give.

    Attributes:
        residuals: (n, t), each column ascending; log(y / mean) or y - mean.
        log: (t,) bool, which of the two.
    """

    residuals: np.ndarray
    log: np.ndarray

    @classmethod
    def of(cls, Y: np.ndarray, predicted: np.ndarray) -> ResidualQuantiles:
        """Return the residuals of targets Y (n,) or (n, t) and their predictions, which are positive where Y is.

        Raises:
            ValueError: shapes that differ, or numbers that are not finite.
        """
        residuals, log = signed_residuals(Y, predicted)
        if np.isnan(residuals).any():
            raise ValueError("targets or predictions hold numbers that are not finite: leave those rows out")
        return cls(np.sort(residuals, axis=0), log)

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Return the finite-sample quantiles of the residuals, (t, q); see `rank`.

        Raises:
            ValueError: too few residuals for a level; says how many are needed.
        """
        n = len(self.residuals)
        check_levels(levels, n)
        return self.residuals[np.array([rank(level, n) for level in levels], int) - 1].T

    def predict(self, mean: np.ndarray, levels: Sequence[float] | None = None) -> Prediction:
        """Return a prediction with standard deviation and quantiles around point predictions (n,) or (n, t).

        `levels` defaults to those of `LEVELS` that the number of residuals allows.
        """
        chosen = levels_possible(len(self.residuals)) if levels is None else tuple(sorted(levels))
        spread = np.sqrt((self.residuals**2).mean(axis=0))
        return around(mean, self.quantiles(chosen), spread, self.log, chosen)

    def predict_rows(self, X: np.ndarray, mean: np.ndarray, levels: Sequence[float] | None = None) -> Prediction:
        """Return `predict` of point predictions; all rows of features X (n, d) have the same relative intervals."""
        return self.predict(mean, levels)

    def state(self) -> FittedState:
        """Return the residuals."""
        return FittedState({"residuals": self.residuals, "log": self.log})

    @classmethod
    def from_state(cls, state: FittedState) -> ResidualQuantiles:
        """Read what `state` gave."""
        return cls(state.arrays["residuals"], state.arrays["log"])


class ConformalSurrogate(BaseEstimator):
    """A surrogate with calibrated standard deviations and quantiles.

    Args:
        model: what predicts.
        method: "cross" fits the model to all rows and takes out-of-fold residuals; "split" keeps rows apart for the
            residuals, which costs accuracy and gives coverage that is guaranteed for exchangeable rows.
        folds: of "cross".
        calibration_share: share of the rows that "split" keeps apart.
        seed: of the folds and of the split.
    """

    def __init__(
        self, model: Surrogate, *, method: str = "cross", folds: int = 5, calibration_share: float = 0.3, seed: int = 0
    ) -> None:
        self.model = model
        self.method = method
        self.folds = folds
        self.calibration_share = calibration_share
        self.seed = seed

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Fit the model and its residuals to X (n, d) and Y (n,) or (n, t).

        Raises:
            ValueError: an unknown method, or too few rows.
        """
        X, targets, single = checked_rows(X, Y)
        Y = shaped(targets, single)
        self.model_, held, predicted = fitted_and_held(
            self.model, X, Y, method=self.method, folds=self.folds, share=self.calibration_share, seed=self.seed
        )
        self.calibration_ = ResidualQuantiles.of(Y[held], predicted)
        return self

    def predict(self, X: np.ndarray, *, levels: Sequence[float] | None = None) -> Prediction:
        """Predict X (n, d) with quantiles at `levels` (default: those of `LEVELS` that the rows allow).

        Raises:
            ValueError: too few rows for a level; says how many are needed.
        """
        check_is_fitted(self)
        return self.calibration_.predict(self.model_.predict(X).mean, levels)

    def state(self) -> FittedState:
        """Return the model and the residuals."""
        check_is_fitted(self)
        inner = self.model_.state()
        arrays = {f"model.{name}": value for name, value in inner.arrays.items()}
        own = {"residuals": self.calibration_.residuals, "residuals_log": self.calibration_.log}
        return FittedState(arrays | own, inner.boosters)

    def restore(self, state: FittedState) -> Self:
        """Take what `state` gave."""
        inner = {k.removeprefix("model."): v for k, v in state.arrays.items() if k.startswith("model.")}
        self.model_ = clone(self.model).restore(FittedState(inner, state.boosters))
        self.calibration_ = ResidualQuantiles(state.arrays["residuals"], state.arrays["residuals_log"])
        return self


def fitted_and_held(
    model: Surrogate, X: np.ndarray, Y: np.ndarray, *, method: str, folds: int, share: float, seed: int
) -> tuple[Surrogate, np.ndarray, np.ndarray]:
    """Fit a model and predict rows that calibrate it: rows kept apart ("split"), or all rows out of fold ("cross").

    Returns:
        The model, the indices (c,) of the rows that calibrate, and their predictions (c, t).

    Raises:
        ValueError: an unknown method, or too few rows.
    """
    kept, held = kept_and_held(len(X), method, share, seed)
    fitted = clone(model).fit(X[kept], Y[kept])
    if method == "split":
        return fitted, held, fitted.predict(X[held]).mean
    return fitted, held, out_of_fold(model, X, Y, folds=folds, seed=seed)


def kept_and_held(n: int, method: str, calibration_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to fit and the rows to calibrate: apart for "split", all rows twice for "cross".

    Raises:
        ValueError: an unknown method, or a share that leaves too few rows for one of both.
    """
    if method not in ("cross", "split"):
        raise ValueError(f"method = {method!r}; allowed: 'cross', 'split'")
    if method == "cross":
        return np.arange(n), np.arange(n)
    order = np.random.default_rng(seed).permutation(n)
    apart = round(calibration_share * n)
    if not 1 <= apart <= n - 2:
        raise ValueError(
            f"calibration_share = {calibration_share} of {n} rows leaves {n - apart} to fit and "
            f"{apart} to calibrate: at least 2 and 1 are needed"
        )
    return order[apart:], order[:apart]
