"""What surrogates give, keep and share: predictions, saved state, target scales, checks of shapes. No torch.

Shapes: n rows, d features, t targets, q quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np

# --- what surrogates give and keep --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prediction:
    """What a surrogate says about n rows; for t targets every array has a second axis of t.

    Attributes:
        mean: (n,) or (n, t) point prediction, in the unit of the targets (of a log-scale model: the median).
        std: like `mean`, standard deviation of the error; None from a model that was not calibrated.
        levels: probabilities of the quantiles, ascending.
        quantiles: (n, q) or (n, t, q), ascending along the last axis; None from a model that was not calibrated.
    """

    mean: np.ndarray
    std: np.ndarray | None = None
    levels: tuple[float, ...] = ()
    quantiles: np.ndarray | None = None

    def quantile(self, level: float) -> np.ndarray:
        """Return the quantile at one of `levels`, shaped like `mean`.

        Raises:
            KeyError: the prediction does not hold that level.
        """
        if self.quantiles is None or level not in self.levels:
            raise KeyError(f"no quantile {level} in this prediction; it has {self.levels}: ask predict for it")
        return self.quantiles[..., self.levels.index(level)]


@dataclass(frozen=True)
class FittedState:
    """A fitted model without its Python class: what is saved.

    Attributes:
        arrays: numeric arrays by name.
        boosters: XGBoost models in UBJ form.
    """

    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    boosters: tuple[bytes, ...] = ()


class Surrogate(Protocol):
    """A regressor that can be cloned (scikit-learn's get_params), saved and restored."""

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Fit X (n, d) to Y (n,) or (n, t) and return self."""

    def predict(self, X: np.ndarray) -> Prediction:
        """Predict X (n, d)."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments."""

    def state(self) -> FittedState:
        """Return what `fit` learned."""

    def restore(self, state: FittedState) -> Self:
        """Take what `state` gave, instead of `fit`, and return self."""


@dataclass(frozen=True)
class TargetScale:
    """Standardises targets, on a log scale where `log` says so.

    Attributes:
        log: (t,) bool.
        mean: (t,) mean on the scale of the model.
        std: (t,) standard deviation on that scale, 1 for a constant target.
    """

    log: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, Y: np.ndarray, *, log: bool) -> TargetScale:
        """Return the scale of Y (n, t); with `log`, targets that are positive everywhere are taken as logarithms."""
        use_log = (Y.min(axis=0) > 0) & log
        Z = log_where(Y, use_log)
        std = Z.std(axis=0)
        return cls(use_log, Z.mean(axis=0), np.where(std > 0, std, 1.0))

    def forward(self, Y: np.ndarray) -> np.ndarray:
        """Return Y (n, t) on the scale of the model."""
        return (log_where(Y, self.log) - self.mean) / self.std

    def inverse(self, Z: np.ndarray) -> np.ndarray:
        """Return Z (n, t) in the unit of the targets."""
        Y = Z * self.std + self.mean
        return np.where(self.log, np.exp(np.where(self.log, Y, 0.0)), Y)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fields for `FittedState`."""
        return {"target_log": self.log, "target_mean": self.mean, "target_std": self.std}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> TargetScale:
        """Read what `arrays` gave."""
        return cls(arrays["target_log"], arrays["target_mean"], arrays["target_std"])


# --- checks and shapes --------------------------------------------------------------------------------------------


def checked_rows(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return X (n, d) and Y (n, t) as float64, and whether Y was (n,)."""
    X, targets = checked_features(X, None), np.asarray(Y, float)
    if targets.ndim not in (1, 2) or len(targets) != len(X):
        raise ValueError(f"Y has shape {targets.shape} for X of shape {X.shape}: give (n,) or (n, t) with the same n")
    if len(X) < 2:
        raise ValueError(f"{len(X)} rows are too few to fit a surrogate: at least 2 are needed")
    if not np.isfinite(targets).all():
        raise ValueError(f"Y has {int((~np.isfinite(targets)).sum())} values that are not finite: leave those rows out")
    return X, targets.reshape(len(X), -1), targets.ndim == 1


def checked_features(X: np.ndarray, n_features: int | None) -> np.ndarray:
    """Return X (n, d) as float64; `n_features` is what d must be."""
    X = np.asarray(X, float)
    if X.ndim != 2 or (n_features is not None and X.shape[1] != n_features):
        raise ValueError(f"X has shape {X.shape}; expected (n, {'d' if n_features is None else n_features})")
    if not np.isfinite(X).all():
        raise ValueError("X has values that are not finite")
    return X


def select_columns(X: np.ndarray, columns: Sequence[int] | None) -> np.ndarray:
    """Return the columns of X, all of them for None."""
    return X if columns is None else X[:, list(columns)]


def log_where(Y: np.ndarray, log: np.ndarray) -> np.ndarray:
    """Return Y with its logarithm where `log` (broadcast) is true."""
    return np.where(log, np.log(np.where(log, Y, 1.0)), Y)


def shaped(Y: np.ndarray, single: bool) -> np.ndarray:
    """Return Y (n, t), as (n,) where a single target was given so."""
    return Y[:, 0] if single else Y
