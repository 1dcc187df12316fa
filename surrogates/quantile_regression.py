"""Conformalised quantile regression: boosted trees predict quantiles, held-out rows correct them. No torch.

Romano, Patterson and Candes, NeurIPS 2019. XGBoost fits several quantiles with one booster (`reg:quantileerror`). Every
quantile is then shifted by the finite-sample quantile of y - q(x) on rows that the booster has not seen: their Theorem
2, which holds each tail by itself, so lower and upper levels may be asked for in any combination. Positive targets are
taken as logarithms, so that shifts are relative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import xgboost as xgb
from sklearn.base import BaseEstimator
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted

from surrogates.calibration import kept_and_held
from surrogates.levels import LEVELS, check_levels, levels_possible, rank
from surrogates.prediction import (
    FittedState,
    Prediction,
    TargetScale,
    checked_features,
    checked_rows,
    select_columns,
    shaped,
)

_ONE_SIGMA = (0.15865525393145707, 0.8413447460685429)  # of a normal variable: mean -+ one standard deviation


class QuantileRegression(BaseEstimator):
    """Conformalised quantiles of one or more targets; the point prediction is the median.

    Args:
        base_levels: quantiles that the trees fit; others are interpolated before they are conformalised.
        n_estimators: trees of each target.
        max_depth: depth of a tree.
        learning_rate: shrinkage of each tree.
        subsample: share of the rows that a tree sees.
        min_child_weight: rows that a leaf needs; quantiles need more of them than means do.
        columns: indices of the features to use; None for all.
        method: "cross" fits the trees to all rows and corrects them by models without the fold of a row; "split" keeps
            rows apart, which costs accuracy and gives coverage that is guaranteed for exchangeable rows.
        folds: of "cross".
        calibration_share: share of the rows that "split" keeps apart.
        n_jobs: threads.
        seed: of the folds, the split and the row sampling.
    """

    def __init__(
        self, *, base_levels: Sequence[float] = LEVELS, n_estimators: int = 200, max_depth: int = 3,
        learning_rate: float = 0.05, subsample: float = 0.8, min_child_weight: float = 5.0,
        columns: Sequence[int] | None = None, method: str = "cross", folds: int = 5, calibration_share: float = 0.3,
        n_jobs: int = 1, seed: int = 0,
    ) -> None:  # fmt: skip
        self.base_levels = base_levels
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.subsample = subsample
        self.min_child_weight = min_child_weight
        self.columns = columns
        self.method = method
        self.folds = folds
        self.calibration_share = calibration_share
        self.n_jobs = n_jobs
        self.seed = seed

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Fit X (n, d) to Y (n,) or (n, t).

        Raises:
            ValueError: shapes that do not match, numbers that are not finite, bad settings, or too few rows.
        """
        X, targets, self.single_ = checked_rows(X, Y)
        if not len(self.base_levels) or not all(0 < level < 1 for level in self.base_levels):
            raise ValueError(f"base_levels = {tuple(self.base_levels)}: give numbers between 0 and 1, both excluded")
        self.n_features_in_ = X.shape[1]
        kept, held = kept_and_held(len(X), self.method, self.calibration_share, self.seed)
        self.scale_ = TargetScale.of(targets, log=True)
        Z = self.scale_.forward(targets)
        F = select_columns(X, self.columns)
        self.boosters_ = self._train(F[kept], Z[kept])
        base = self._base(self.boosters_, F[held]) if self.method == "split" else self._out_of_fold(F, Z)
        self.correction_ = Correction(np.array(sorted(self.base_levels), float), base, Z[held])
        return self

    def predict(self, X: np.ndarray, *, levels: Sequence[float] | None = None) -> Prediction:
        """Predict X (n, d) with quantiles at `levels` (default: those of `LEVELS` that the rows allow).

        `mean` is the conformalised median. `std` is half the distance of the 16 % and 84 % quantiles, as far as the
        rows allow; both equal mean and standard deviation of a normal variable.

        Raises:
            ValueError: too few rows for a level; says how many are needed.
        """
        check_is_fitted(self)
        F = select_columns(checked_features(X, self.n_features_in_), self.columns)
        n = len(self.correction_.targets)
        chosen = levels_possible(n) if levels is None else tuple(sorted(levels))
        edge = max(_ONE_SIGMA[0], 1 / (n + 1))
        base = self._base(self.boosters_, F)
        Z = np.concatenate([self.correction_.apply(base, chosen),
                            self.correction_.apply(base, (edge, 0.5, 1 - edge))], axis=2)  # fmt: skip
        Y = np.moveaxis(np.stack([self.scale_.inverse(Z[:, :, i]) for i in range(Z.shape[2])]), 0, 2)
        quantiles, (low, median, high) = Y[:, :, : len(chosen)], np.moveaxis(Y[:, :, len(chosen) :], 2, 0)
        return Prediction(
            shaped(median, self.single_), shaped((high - low) / 2, self.single_), chosen,
            quantiles[:, 0] if self.single_ else quantiles,
        )  # fmt: skip

    def _train(self, F: np.ndarray, Z: np.ndarray) -> list[xgb.Booster]:
        parameters = {
            "objective": "reg:quantileerror", "quantile_alpha": sorted(self.base_levels), "tree_method": "hist",
            "max_depth": self.max_depth, "learning_rate": self.learning_rate, "subsample": self.subsample,
            "min_child_weight": self.min_child_weight, "nthread": self.n_jobs, "seed": self.seed,
        }  # fmt: skip
        return [xgb.train(parameters, xgb.QuantileDMatrix(F, z, nthread=self.n_jobs), self.n_estimators) for z in Z.T]

    def _base(self, boosters: Sequence[xgb.Booster], F: np.ndarray) -> np.ndarray:
        """Return the trees' quantiles (n, t, k) on the scale of the model, crossing ones sorted."""
        k = len(self.base_levels)
        if not len(F):
            return np.empty((0, len(boosters), k))
        parts = [booster.inplace_predict(F).reshape(len(F), k) for booster in boosters]
        return np.sort(np.stack(parts, axis=1).astype(float), axis=2)

    def _out_of_fold(self, F: np.ndarray, Z: np.ndarray) -> np.ndarray:
        if not 2 <= self.folds <= len(F):
            raise ValueError(
                f"{self.folds} folds of {len(F)} rows: give at least 2 folds and at least as many rows as folds"
            )
        base = np.empty((*Z.shape, len(self.base_levels)))
        for train, test in KFold(self.folds, shuffle=True, random_state=self.seed).split(F):
            base[test] = self._base(self._train(F[train], Z[train]), F[test])
        return base

    def state(self) -> FittedState:
        """Return the boosters, the scale of the targets, and the rows that correct them."""
        check_is_fitted(self)
        own = {
            "single": np.array(self.single_), "n_features": np.array(self.n_features_in_),
            "correction_levels": self.correction_.levels, "correction_base": self.correction_.base,
            "correction_targets": self.correction_.targets,
        }  # fmt: skip
        raw = tuple(bytes(booster.save_raw("ubj")) for booster in self.boosters_)
        return FittedState(self.scale_.arrays() | own, raw)

    def restore(self, state: FittedState) -> Self:
        """Take what `state` gave."""
        arrays = state.arrays
        self.scale_ = TargetScale.from_arrays(arrays)
        self.single_, self.n_features_in_ = bool(arrays["single"]), int(arrays["n_features"])
        self.correction_ = Correction(*(arrays[f"correction_{name}"] for name in ("levels", "base", "targets")))
        self.boosters_ = [xgb.Booster(model_file=bytearray(raw)) for raw in state.boosters]
        for booster in self.boosters_:
            booster.set_param({"nthread": self.n_jobs})
        return self


@dataclass(frozen=True)
class Correction:
    """Rows that the quantiles' model has not seen, and the shifts they call for.

    Attributes:
        levels: (k,) of the base quantiles, ascending.
        base: (m, t, k) base quantiles of those rows.
        targets: (m, t) what was measured, on the same scale.
    """

    levels: np.ndarray
    base: np.ndarray
    targets: np.ndarray

    def shifts(self, levels: Sequence[float]) -> np.ndarray:
        """Return by how much each quantile must rise to hold its share of the rows, (t, q).

        Raises:
            ValueError: too few rows for a level; says how many are needed.
        """
        m = len(self.targets)
        check_levels(levels, m)
        scores = np.sort(self.targets[:, :, None] - self._at(self.base, levels), axis=0)  # (m, t, q)
        ranks = [rank(level, m) - 1 for level in levels]
        return scores[ranks, :, range(len(ranks))].T

    def apply(self, base: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """Return conformalised quantiles (n, t, q) at ascending levels from base quantiles (n, t, k)."""
        return np.sort(self._at(base, levels) + self.shifts(levels), axis=2)

    def _at(self, base: np.ndarray, levels: Sequence[float]) -> np.ndarray:
        """Return base quantiles at any levels: linear between those of the trees, the outermost ones outside."""
        k = len(self.levels)
        position = np.interp(levels, self.levels, np.arange(k))
        below = np.minimum(position.astype(int), max(k - 2, 0))
        share = position - below
        return base[:, :, below] * (1 - share) + base[:, :, np.minimum(below + 1, k - 1)] * share
