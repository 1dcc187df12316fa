"""Surrogates: regressors from a feature matrix to measured metrics, with scikit-learn's fit/predict contract. No torch.

Shapes: n rows, d features, t targets. `fit` takes Y (n,) or (n, t) and `predict` answers in the same form. Positive
targets are modelled on a log scale or with a relative loss: latency spans decades, and its relative error matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import xgboost as xgb
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted

from surrogates.prediction import (
    FittedState,
    Prediction,
    Surrogate,
    TargetScale,
    checked_features,
    checked_rows,
    log_where,
    select_columns,
    shaped,
)

# --- gradient boosting --------------------------------------------------------------------------------------------


class XGBoostSurrogate(BaseEstimator):
    """Gradient-boosted trees (Chen and Guestrin, KDD 2016), one booster a target or one for all.

    The defaults suit 50 to some thousand rows. The same seed and n_jobs give the same model.

    Args:
        n_estimators: trees.
        max_depth: depth of a tree.
        learning_rate: shrinkage of each tree.
        subsample: share of the rows that a tree sees.
        colsample_bytree: share of the features that a tree sees.
        min_child_weight: rows that a leaf needs.
        reg_lambda: L2 penalty of leaf values.
        log_target: model the logarithm of targets that are positive everywhere.
        multi_output_tree: one booster whose leaves hold all targets (faster and smaller for many targets).
        columns: indices of the features to use; None for all.
        n_jobs: threads.
        seed: of the row and feature sampling.
    """

    def __init__(
        self, *, n_estimators: int = 400, max_depth: int = 3, learning_rate: float = 0.05, subsample: float = 0.8,
        colsample_bytree: float = 1.0, min_child_weight: float = 1.0, reg_lambda: float = 1.0, log_target: bool = True,
        multi_output_tree: bool = False, columns: Sequence[int] | None = None, n_jobs: int = 1, seed: int = 0,
    ) -> None:  # fmt: skip
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.min_child_weight = min_child_weight
        self.reg_lambda = reg_lambda
        self.log_target = log_target
        self.multi_output_tree = multi_output_tree
        self.columns = columns
        self.n_jobs = n_jobs
        self.seed = seed

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Fit X (n, d) to Y (n,) or (n, t).

        Raises:
            ValueError: shapes that do not match, or numbers that are not finite.
        """
        X, targets, self.single_ = checked_rows(X, Y)
        self.n_features_in_ = X.shape[1]
        self.scale_ = TargetScale.of(targets, log=self.log_target)
        Z = self.scale_.forward(targets)
        groups = [Z] if self.multi_output_tree else list(Z.T[:, :, None])
        self.boosters_ = [self._train(select_columns(X, self.columns), group) for group in groups]
        return self

    def _train(self, X: np.ndarray, Z: np.ndarray) -> xgb.Booster:
        parameters = {
            "objective": "reg:squarederror", "tree_method": "hist", "max_depth": self.max_depth,
            "learning_rate": self.learning_rate, "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree, "min_child_weight": self.min_child_weight,
            "reg_lambda": self.reg_lambda, "base_score": 0.0, "nthread": self.n_jobs, "seed": self.seed,
            "multi_strategy": "multi_output_tree" if Z.shape[1] > 1 else "one_output_per_tree",
        }  # fmt: skip
        return xgb.train(parameters, xgb.DMatrix(X, Z, nthread=self.n_jobs), self.n_estimators)

    def predict(self, X: np.ndarray) -> Prediction:
        """Predict X (n, d); `std` and `quantiles` are None (see surrogates.calibration)."""
        check_is_fitted(self)
        X = select_columns(checked_features(X, self.n_features_in_), self.columns)
        if not len(X):
            return Prediction(shaped(np.empty((0, len(self.scale_.mean))), self.single_))
        parts = [booster.inplace_predict(X).reshape(len(X), -1) for booster in self.boosters_]
        return Prediction(shaped(self.scale_.inverse(np.hstack(parts).astype(float)), self.single_))

    def state(self) -> FittedState:
        """Return the boosters and the scale of the targets."""
        check_is_fitted(self)
        arrays = self.scale_.arrays() | {"single": np.array(self.single_), "n_features": np.array(self.n_features_in_)}
        return FittedState(arrays, tuple(bytes(booster.save_raw("ubj")) for booster in self.boosters_))

    def restore(self, state: FittedState) -> Self:
        """Take what `state` gave."""
        self.scale_ = TargetScale.from_arrays(state.arrays)
        self.single_, self.n_features_in_ = bool(state.arrays["single"]), int(state.arrays["n_features"])
        self.boosters_ = [xgb.Booster(model_file=bytearray(raw)) for raw in state.boosters]
        for booster in self.boosters_:
            booster.set_param({"nthread": self.n_jobs})
        return self


# --- linear -------------------------------------------------------------------------------------------------------


class LinearSurrogate(BaseEstimator):
    """Ridge regression on a few features, on request with coefficients of their own for each network width.

    The penalty is chosen by leave-one-out error. `loss="log"` fits the logarithm of positive targets (products of
    features become sums); `loss="relative"` fits the targets themselves and weighs errors relative to them (a time
    that is a sum of exact costs). A target that is not positive everywhere is fitted as it is.

    Args:
        columns: indices of the features to use; None for all.
        by: index of the feature (the width) whose values each get their own coefficients; None for one set.
        loss: "log" or "relative".
    """

    def __init__(self, *, columns: Sequence[int] | None = None, by: int | None = None, loss: str = "relative") -> None:
        self.columns = columns
        self.by = by
        self.loss = loss

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Fit X (n, d) to Y (n,) or (n, t).

        Raises:
            ValueError: shapes that do not match, numbers that are not finite, or a loss that does not exist.
        """
        if self.loss not in ("log", "relative"):
            raise ValueError(f"loss = {self.loss!r}; allowed: 'log', 'relative'")
        X, targets, self.single_ = checked_rows(X, Y)
        self.n_features_in_ = X.shape[1]
        self.widths_ = np.empty(0) if self.by is None else np.unique(X[:, self.by])
        F = self._terms(X)
        self.center_ = F.mean(axis=0)
        spread = F.std(axis=0)
        self.spread_ = np.where(spread > 1e-12 * np.abs(self.center_).max(initial=1.0), spread, np.inf)
        self.positive_ = targets.min(axis=0) > 0
        self.floor_ = np.where(self.positive_, 0.1 * targets.min(axis=0), -np.inf)
        F = (F - self.center_) / self.spread_
        fitted = [self._ridge(F, y, positive) for y, positive in zip(targets.T, self.positive_, strict=True)]
        self.coef_ = np.column_stack([coef for coef, _ in fitted])
        self.intercept_ = np.array([intercept for _, intercept in fitted])
        return self

    def _ridge(self, F: np.ndarray, y: np.ndarray, positive: bool) -> tuple[np.ndarray, float]:
        """Return coefficients (k,) and intercept for one target."""
        relative = positive and self.loss == "relative"
        z = np.log(y) if positive and not relative else y
        size = np.abs(z).max() or 1.0  # the penalty then means the same in every unit
        weight = (np.median(y) / y) ** 2 if relative else None
        ridge = RidgeCV(alphas=np.logspace(-6, 3, 19)).fit(F, z / size, sample_weight=weight)
        return ridge.coef_ * size, float(ridge.intercept_) * size

    def _terms(self, X: np.ndarray) -> np.ndarray:
        """Return the regressors (n, k): the features, and again for each width (zero in rows of other widths)."""
        F = select_columns(X, self.columns)
        if self.by is None:
            return F
        at = (X[:, self.by, None] == self.widths_).astype(float)  # (n, w)
        return np.hstack([F, at, (at[:, :, None] * F[:, None, :]).reshape(len(F), at.shape[1] * F.shape[1])])

    def predict(self, X: np.ndarray) -> Prediction:
        """Predict X (n, d); `std` and `quantiles` are None (see surrogates.calibration)."""
        check_is_fitted(self)
        F = (self._terms(checked_features(X, self.n_features_in_)) - self.center_) / self.spread_
        Z = F @ self.coef_ + self.intercept_
        Y = np.exp(np.where(self.positive_, Z, 0.0)) if self.loss == "log" else np.maximum(Z, self.floor_)
        return Prediction(shaped(np.where(self.positive_, Y, Z), self.single_))

    def state(self) -> FittedState:
        """Return coefficients and the scale of the features."""
        check_is_fitted(self)
        names = ("widths_", "center_", "spread_", "positive_", "floor_", "coef_", "intercept_")
        arrays = {name: np.asarray(getattr(self, name)) for name in names}
        return FittedState(
            arrays | {"single_": np.array(self.single_), "n_features_in_": np.array(self.n_features_in_)}
        )

    def restore(self, state: FittedState) -> Self:
        """Take what `state` gave."""
        for name, value in state.arrays.items():
            setattr(self, name, value)
        self.single_, self.n_features_in_ = bool(self.single_), int(self.n_features_in_)
        return self


# --- blend --------------------------------------------------------------------------------------------------------


class ResidualSurrogate(BaseEstimator):
    """A linear model, and boosted trees on what it leaves over (tile sizes, caches).

    The trees are fitted to out-of-fold residuals, which the linear model cannot have memorised. Their share of the
    sum (0 to 1) is the least-squares one for trees that are themselves out-of-fold, so trees that only learn noise get
    next to none.

    Args:
        linear: the model of the trend.
        trees: the model of the residual, which is log(y / trend) where targets are positive.
        folds: of the out-of-fold predictions.
        seed: of the folds.
    """

    def __init__(
        self, *, linear: LinearSurrogate | None = None, trees: XGBoostSurrogate | None = None,
        folds: int = 5, seed: int = 0,
    ) -> None:  # fmt: skip
        self.linear = linear
        self.trees = trees
        self.folds = folds
        self.seed = seed

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Fit X (n, d) to Y (n,) or (n, t), with a fold a row where rows are fewer than `folds`."""
        X, targets, self.single_ = checked_rows(X, Y)
        folds = min(self.folds, len(X))
        self.linear_, self.trees_ = self._parts()
        trend = out_of_fold(self.linear_, X, targets, folds=folds, seed=self.seed)
        self.log_ = targets.min(axis=0) > 0
        left = log_where(targets, self.log_) - log_where(trend, self.log_)
        again = out_of_fold(self.trees_, X, left, folds=folds, seed=self.seed + 1)
        power = (again**2).sum(axis=0)
        share = (again * left).sum(axis=0) / np.where(power > 0, power, 1.0)
        self.share_ = np.clip(share, 0.0, 1.0)
        self.linear_.fit(X, targets)
        self.trees_.fit(X, left)
        return self

    def _parts(self) -> tuple[LinearSurrogate, XGBoostSurrogate]:
        linear = clone(self.linear) if self.linear is not None else LinearSurrogate()
        trees = clone(self.trees) if self.trees is not None else XGBoostSurrogate()
        return linear, trees.set_params(log_target=False)

    def predict(self, X: np.ndarray) -> Prediction:
        """Predict X (n, d); `std` and `quantiles` are None (see surrogates.calibration)."""
        check_is_fitted(self)
        trend = self.linear_.predict(X).mean
        left = self.share_ * self.trees_.predict(X).mean
        mean = np.where(self.log_, trend * np.exp(np.where(self.log_, left, 0.0)), trend + left)
        return Prediction(shaped(mean, self.single_))

    def state(self) -> FittedState:
        """Return both parts and the share of the trees."""
        check_is_fitted(self)
        linear, trees = self.linear_.state(), self.trees_.state()
        arrays = {f"linear.{k}": v for k, v in linear.arrays.items()}
        arrays |= {f"trees.{k}": v for k, v in trees.arrays.items()}
        own = {"log": self.log_, "share": self.share_, "single": np.array(self.single_)}
        return FittedState(arrays | own, trees.boosters)

    def restore(self, state: FittedState) -> Self:
        """Take what `state` gave."""

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {k.removeprefix(prefix): v for k, v in state.arrays.items() if k.startswith(prefix)}

        linear, trees = self._parts()
        self.linear_ = linear.restore(FittedState(part("linear.")))
        self.trees_ = trees.restore(FittedState(part("trees."), state.boosters))
        self.log_, self.share_ = state.arrays["log"], state.arrays["share"]
        self.single_ = bool(state.arrays["single"])
        return self


def out_of_fold(model: Surrogate, X: np.ndarray, Y: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """Return predictions shaped like Y, each row's by a clone of `model` that was fitted without its fold.

    Raises:
        ValueError: fewer than 2 folds, or fewer rows than folds.
    """
    if not 2 <= folds <= len(X):
        raise ValueError(f"{folds} folds of {len(X)} rows: give at least 2 folds and at least as many rows as folds")
    predicted = np.empty(np.shape(Y))
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(X):
        predicted[test] = clone(model).fit(X[train], Y[train]).predict(X[test]).mean
    return predicted
