"""From a campaign of measurements to the surrogate of all its targets: every candidate cross-validated, scores kept.

For each target: the drift of the hour is estimated and divided out (`drift`); linear models, boosted trees and their
blend predict every training row out of fold; the best by mean absolute relative error is taken, fitted to all training
rows, and gets conformal intervals by width from the winner's out-of-fold residuals. No torch.

Shapes: n rows of the campaign, m training rows of a target, T targets, W widths, Q levels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xgboost as xgb
from sklearn.model_selection import KFold

from hw_profiles.table import METRICS
from surrogates.campaign import Campaign, TargetKey
from surrogates.drift import Series, drift_and_fit
from surrogates.layer_features import LayerFeatures
from surrogates.noise import repeat_std
from surrogates.quantile_grid import POINTS, QuantileGrid
from surrogates.space_model import TABLES, Residual, SpaceModel, Spread, Trend
from surrogates.trend_fit import fit_logs, fit_sums, predict_linear
from surrogates.validation import Scores, scores

log = logging.getLogger(__name__)

LINEAR, BY_WIDTH, POSITIONS = "linear", "linear_by_width", "positions_by_width"
RAW_TREES, TREES, BLEND = "xgboost_raw_genes", "xgboost", "blend"
MEMORY_METRIC = "memory_mib"
_LEAST_BY_WIDTH = POINTS  # residuals of a width that its own quantiles need
_CLIP = 4.0  # standard deviations a residual may count for in the trees


@dataclass(frozen=True)
class TreeSettings:
    """Boosted trees of a group of targets."""

    n_estimators: int = 200
    max_depth: int = 4
    learning_rate: float = 0.05
    min_child_weight: float = 20
    colsample_bytree: float = 1.0
    subsample: float = 0.8

    def parameters(self, *, seed: int, n_jobs: int) -> dict[str, object]:
        """Return XGBoost's parameters."""
        return {
            "objective": "reg:squarederror", "tree_method": "hist", "max_depth": self.max_depth,
            "learning_rate": self.learning_rate, "min_child_weight": self.min_child_weight,
            "colsample_bytree": self.colsample_bytree, "subsample": self.subsample, "base_score": 0.0,
            "seed": seed, "nthread": n_jobs, "multi_strategy": "multi_output_tree",
        }  # fmt: skip


HARDWARE = TreeSettings()
MEMORY = TreeSettings(n_estimators=600, min_child_weight=10, colsample_bytree=0.5)
QUALITY = TreeSettings(
    n_estimators=600, max_depth=5, learning_rate=0.03, min_child_weight=10, colsample_bytree=0.4, subsample=0.7
)
SMALL = TreeSettings(n_estimators=200, max_depth=2, learning_rate=0.05, min_child_weight=5, colsample_bytree=0.5)
_SMALL_ROWS = 1000  # below, the trees of quality are SMALL


@dataclass(frozen=True)
class TargetFit:
    """How one target was fitted.

    Attributes:
        key: the target.
        winner: the candidate that was taken.
        n_train: training rows.
        candidates: cross-validated scores of every candidate, against drift-adjusted measurements.
        drift: (n,) log factor of the hour of every row of the campaign; 0 where there is no drift model.
        share: of the trees' correction that is trusted, 0 to 1.
    """

    key: TargetKey
    winner: str
    n_train: int
    candidates: Mapping[str, Scores]
    drift: np.ndarray = field(repr=False)
    share: float


@dataclass(frozen=True)
class _Rows:
    """Training rows of one target, out-of-fold predictions by candidate, and the drift of all rows."""

    rows: np.ndarray
    y: np.ndarray
    drift: np.ndarray
    predicted: dict[str, np.ndarray]


class SpaceFit:
    """One fit of all targets of a campaign.

    Args:
        data: the measurements.
        train: (n,) bool, the rows to learn from; the others are never looked at.
        job_size: consecutive rows of a series that were one job; None for one job.
        folds: of the cross-validation.
        seed: of folds and trees.
        n_jobs: threads of XGBoost.
        tree_baselines: whether XGBoost alone (engineered features, raw genes) is scored too; it takes most of the time.
    """

    def __init__(
        self, data: Campaign, train: np.ndarray, *, job_size: int | None = None, folds: int = 5, seed: int = 0,
        n_jobs: int = 1, tree_baselines: bool = True,
    ) -> None:  # fmt: skip
        self.data, self.train, self.job_size = data, np.asarray(train, bool), job_size
        self.folds, self.seed, self.n_jobs, self.tree_baselines = folds, seed, n_jobs, tree_baselines
        self.features = LayerFeatures(data.space)
        self.widths = self.features.widths(data.genes)
        self.n_widths = len(data.space.n_embd)
        self.sums = self.features.linear(data.genes)
        self.places = np.hstack([self.sums, self.features.positions(data.genes)])
        self.tables = {name: table(self.features, data.genes) for name, table in TABLES.items()}
        self.raw = self.features.raw(data.genes)

    def fit(self) -> tuple[SpaceModel, list[TargetFit]]:
        """Fit all targets; returns the model and how each target was fitted."""
        targets = self.data.targets
        prepared = {key: self._prepare(key) for key in targets}
        groups = self._groups(prepared)
        residuals: list[Residual] = []
        shares: dict[TargetKey, float] = {}
        for keys in groups:
            part, share = self._fit_trees(keys, prepared)
            shares |= share
            if part is not None:
                residuals.append(part)
        fits = [self._report(key, prepared[key], shares.get(key, 0.0)) for key in targets]
        model = SpaceModel(
            self.data.space, targets, trend=self._trend(targets, prepared), residuals=residuals,
            spread=self._spread(targets, prepared, fits),
        )  # fmt: skip
        return model, fits

    # --- one target ---------------------------------------------------------------------------------------------------

    def _prepare(self, key: TargetKey) -> _Rows:
        """Estimate the drift, and predict out of fold with linear models and single trees."""
        values = self.data.values[key]
        measured = np.isfinite(values)
        rows = np.flatnonzero(self.train & measured)
        if len(rows) < 10 * self.folds:
            raise ValueError(f"{key} has {len(rows)} training rows; at least {10 * self.folds} are needed")
        drift = self._drift(key, values, measured)
        y = values[rows] / np.exp(drift[rows])
        predicted: dict[str, np.ndarray] = {}
        for name in self._candidates(key):
            predicted[name] = self._out_of_fold(name, key, rows, y)
        log.info("%s: %d rows, %s", key, len(rows), {name: round(_error(y, p), 3) for name, p in predicted.items()})
        return _Rows(rows, y, drift, predicted)

    def _candidates(self, key: TargetKey) -> tuple[str, ...]:
        """Return the models to try: where a block is matters for quality, not for the time or the bytes it takes."""
        trees = (RAW_TREES, TREES) if self.tree_baselines else ()
        return (LINEAR, BY_WIDTH, *(() if _is_hardware(key) else (POSITIONS,)), *trees)

    def _drift(self, key: TargetKey, values: np.ndarray, measured: np.ndarray) -> np.ndarray:
        """Return the log drift of all rows, from training rows; 0 for metrics that no clock can touch."""
        drift = np.zeros(len(values))
        if not METRICS[key.metric].per_device or key.metric == MEMORY_METRIC:
            return drift
        rows = np.flatnonzero(measured)
        known, widths = self.train[rows], self.widths[rows]
        series = Series.of(self.data.order[key][rows], widths, job_size=self.job_size)

        def fit_predict(y: np.ndarray) -> np.ndarray:
            coef = fit_sums(self.sums[rows][known], widths[known], y[known], n_widths=self.n_widths)
            return np.maximum(predict_linear(coef, self.sums[rows], widths), 0.1 * y[known].min())

        drift[rows] = drift_and_fit(values[rows], series, known, fit_predict)[0]
        return drift

    def _out_of_fold(self, name: str, key: TargetKey, rows: np.ndarray, y: np.ndarray) -> np.ndarray:
        predicted = np.empty(len(rows))
        for train, test in self._split(key, len(rows)):
            predicted[test] = self._predict_one(name, key, rows[train], y[train], rows[test])
        return predicted

    def _split(self, key: TargetKey, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the folds; twice as many where errors come from too few rows and not from noise (perplexity)."""
        folds = self.folds if _is_hardware(key) else 2 * self.folds
        return list(KFold(folds, shuffle=True, random_state=self.seed).split(np.empty(n)))

    def _predict_one(self, name: str, key: TargetKey, train: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Fit a candidate to rows of the campaign and predict others, in the metric's unit."""
        floor = 0.1 * y.min()
        if name in (RAW_TREES, TREES):
            table = self.raw if name == RAW_TREES else self.tables[_table(key)]
            return self._single_trees(table, key, train, y, test)
        if name == POSITIONS:
            coef = fit_logs(self.places[train], self.widths[train], np.log(y), n_widths=self.n_widths)
            return np.asarray(np.exp(predict_linear(coef, self.places[test], self.widths[test])))
        if name == BY_WIDTH:
            coef = fit_sums(self.sums[train], self.widths[train], y, n_widths=self.n_widths)
            return np.maximum(predict_linear(coef, self.sums[test], self.widths[test]), floor)
        X = self._costs()
        coef = fit_sums(X[train], np.zeros(len(train), int), y, n_widths=1)
        return np.maximum(predict_linear(coef, X[test], np.zeros(len(test), int)), floor)

    def _costs(self) -> np.ndarray:
        """Return terms of a cost that do not know the width as a class: the linear baseline, (n, 6)."""
        names = self.features.tree_names
        width, depth, bias, work = (
            self.tables["layers"][:, names.index(n)].astype(float)
            for n in ("n_embd", "n_layer", "bias", "block_weights")
        )
        return np.column_stack([width, depth, bias * depth, width * depth, width**2, work])

    def _single_trees(
        self, table: np.ndarray, key: TargetKey, train: np.ndarray, y: np.ndarray, test: np.ndarray
    ) -> np.ndarray:
        z = np.log(y)
        mean, std = z.mean(), z.std() or 1.0
        settings = self._settings([key], len(train))
        booster = self._boost(settings, table[train], ((z - mean) / std)[:, None])
        return np.asarray(np.exp(booster.inplace_predict(table[test]).reshape(-1) * std + mean))

    def _boost(self, settings: TreeSettings, X: np.ndarray, Z: np.ndarray) -> xgb.Booster:
        parameters = settings.parameters(seed=self.seed, n_jobs=self.n_jobs)
        if Z.shape[1] == 1:
            parameters["multi_strategy"] = "one_output_per_tree"
        return xgb.train(parameters, xgb.DMatrix(X, Z, nthread=self.n_jobs), settings.n_estimators)

    def _settings(self, keys: Sequence[TargetKey], n: int) -> TreeSettings:
        if _is_hardware(keys[0]):
            return MEMORY if keys[0].metric == MEMORY_METRIC else HARDWARE
        return QUALITY if n >= _SMALL_ROWS else SMALL

    # --- trees on the residuals of a group ----------------------------------------------------------------------------

    def _groups(self, prepared: Mapping[TargetKey, _Rows]) -> list[list[TargetKey]]:
        """Return targets that share rows and kind: they can share trees."""
        groups: dict[tuple[str, bytes], list[TargetKey]] = {}
        for key, item in prepared.items():
            groups.setdefault((_table(key), item.rows.tobytes()), []).append(key)
        return list(groups.values())

    def _fit_trees(
        self, keys: list[TargetKey], prepared: Mapping[TargetKey, _Rows]
    ) -> tuple[Residual | None, dict[TargetKey, float]]:
        """Fit one booster to the log residuals of the best trend of each target; adds the blend to the candidates."""
        rows = prepared[keys[0]].rows
        table = self.tables[_table(keys[0])][rows]
        widths = self.widths[rows]
        trends = [prepared[key].predicted[_best_trend(prepared[key])] for key in keys]
        left = np.column_stack([np.log(prepared[key].y / t) for key, t in zip(keys, trends, strict=True)])
        scale = np.array([_robust_std(left[widths == w]) for w in range(self.n_widths)])  # (W, t)
        Z = np.clip(left / scale[widths], -_CLIP, _CLIP)
        settings = self._settings(keys, len(rows))
        again = np.empty_like(Z)
        for train, test in self._split(keys[0], len(rows)):
            again[test] = (
                self._boost(settings, table[train], Z[train]).inplace_predict(table[test]).reshape(len(test), -1)
            )
        share = np.clip((again * Z).sum(axis=0) / np.maximum((again**2).sum(axis=0), 1e-12), 0.0, 1.0)
        for i, key in enumerate(keys):
            prepared[key].predicted[BLEND] = trends[i] * np.exp(share[i] * again[:, i] * scale[widths, i])
            if _mape(prepared[key], BLEND) >= _mape(prepared[key], _best_trend(prepared[key])):
                share[i] = 0.0
        used = np.flatnonzero(share > 0)
        shares = {key: float(s) for key, s in zip(keys, share, strict=True)}
        if not len(used):
            return None, shares
        booster = self._boost(settings, table, Z[:, used])
        columns = np.array([self.data.targets.index(keys[i]) for i in used])
        return Residual(booster, columns, scale[:, used] * share[used], _table(keys[0])), shares

    # --- what is shipped ----------------------------------------------------------------------------------------------

    def _trend(self, targets: Sequence[TargetKey], prepared: Mapping[TargetKey, _Rows]) -> Trend:
        K = 1 + self.places.shape[1]
        coef = np.zeros((self.n_widths, K, len(targets)))
        logs, floor = np.zeros(len(targets), bool), np.zeros(len(targets))
        for t, key in enumerate(targets):
            item = prepared[key]
            widths = self.widths[item.rows]
            floor[t], logs[t] = 0.1 * item.y.min(), _best_trend(item) == POSITIONS
            if logs[t]:
                coef[:, :, t] = fit_logs(self.places[item.rows], widths, np.log(item.y), n_widths=self.n_widths)
            else:
                own = fit_sums(self.sums[item.rows], widths, item.y, n_widths=self.n_widths)
                coef[:, : own.shape[1], t] = own
        return Trend(coef, logs, floor)

    def _spread(
        self, targets: Sequence[TargetKey], prepared: Mapping[TargetKey, _Rows], fits: Sequence[TargetFit]
    ) -> Spread:
        shape = (self.n_widths, len(targets), POINTS)
        device, published = np.empty(shape), np.empty(shape)
        noise = np.full(shape[:2], np.nan)
        for t, (key, item) in enumerate(zip(targets, (prepared[key] for key in targets), strict=True)):
            name = BLEND if fits[t].share > 0 else _best_trend(item)
            widths = self.widths[item.rows]
            left = np.log(item.y / item.predicted[name])
            device[:, t] = quantiles_by_width(left, widths, self.n_widths)
            published[:, t] = quantiles_by_width(left + item.drift[item.rows], widths, self.n_widths)
            if key in self.data.repeats:
                noise[:, t] = self._noise(key, item.rows)
        levels = np.arange(1, POINTS + 1) / (POINTS + 1)
        return Spread(levels, device, published, noise)

    def _noise(self, key: TargetKey, rows: np.ndarray) -> np.ndarray:
        """Return the typical standard deviation of log repeats in each width, (W,)."""
        std, widths = repeat_std(self.data.repeats[key][rows]), self.widths[rows]
        return np.array([np.nanmedian(std[widths == w]) for w in range(self.n_widths)])

    def _report(self, key: TargetKey, item: _Rows, share: float) -> TargetFit:
        widths = self.data.widths[item.rows]
        found = {name: scores(item.y, predicted, widths=widths) for name, predicted in item.predicted.items()}
        winner = BLEND if share > 0 else _best_trend(item)
        return TargetFit(key, winner, len(item.rows), found, item.drift, share)


def quantiles_by_width(residuals: np.ndarray, widths: np.ndarray, n_widths: int) -> np.ndarray:
    """Return conformal quantiles of log residuals (m,) for each width, (n_widths, POINTS).

    A width with too few residuals for its own gets those of all widths, each divided by the spread of its width.
    """
    scale = np.array([_robust_std(residuals[widths == w, None])[0] for w in range(n_widths)])
    pooled = QuantileGrid.of((residuals / scale[widths])[:, None]).values[0]
    pooled = np.interp(np.arange(len(pooled)), np.flatnonzero(~np.isnan(pooled)), pooled[~np.isnan(pooled)])
    table = np.empty((n_widths, len(pooled)))
    for w in range(n_widths):
        own = residuals[widths == w]
        table[w] = QuantileGrid.of(own[:, None]).values[0] if len(own) >= _LEAST_BY_WIDTH else pooled * scale[w]
    return table


def _is_hardware(key: TargetKey) -> bool:
    return METRICS[key.metric].per_device


def _table(key: TargetKey) -> str:
    """Return which features the trees of a target split on, a name in `TABLES`."""
    if not _is_hardware(key):
        return "positions"
    return "packing" if key.metric == MEMORY_METRIC else "layers"


def _best_trend(item: _Rows) -> str:
    return min((name for name in (BY_WIDTH, POSITIONS) if name in item.predicted), key=lambda name: _mape(item, name))


def _mape(item: _Rows, name: str) -> float:
    return _error(item.y, item.predicted[name])


def _error(y: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.abs(predicted / y - 1).mean())


def _robust_std(values: np.ndarray) -> np.ndarray:
    """Return 1.4826 x the median absolute deviation of each column of (m, t), never 0; 1 without rows."""
    if not len(values):
        return np.ones(values.shape[1])
    return 1.4826 * np.median(np.abs(values - np.median(values, axis=0)), axis=0) + 1e-9
