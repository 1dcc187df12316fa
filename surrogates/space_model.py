"""The surrogate of all targets of a space in one: trends by width, and boosted trees on what they leave over. No torch.

A trend is linear in the numbers of blocks of each kind (and, for perplexity, in which block is of which kind), with
coefficients of its own for each width. What it leaves over on a log scale is learned by XGBoost: all targets of a
booster share its trees (`multi_output_tree`), so that a query costs one traversal. Intervals are conformal, by width.

Shapes: n rows, g genes, T targets, W widths, K trend features, q levels, Q levels of the stored grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from supernet.space import SearchSpace
from surrogates.campaign import TargetKey
from surrogates.layer_features import LayerFeatures
from surrogates.packing_features import packing

if TYPE_CHECKING:
    import xgboost as xgb

    from surrogates.tree_ensemble import TreeEnsemble

TABLES: Mapping[str, Callable[[LayerFeatures, np.ndarray], np.ndarray]] = {
    "layers": LayerFeatures.trees,
    "positions": partial(LayerFeatures.trees, positions=True),
    "packing": packing,
}
_CHUNK = 16384  # rows at a time: bounds the memory of large batches


@dataclass(frozen=True)
class Trend:
    """Linear models by width, of the value itself or of its logarithm.

    Attributes:
        coef: (W, K, T) of [1, blocks of each kind, position of each kind].
        log: (T,) whether the logarithm is linear.
        floor: (T,) the least value a linear model may give, in the metric's unit.
    """

    coef: np.ndarray
    log: np.ndarray
    floor: np.ndarray


@dataclass(frozen=True)
class Residual:
    """One booster for the log residuals of some targets.

    Attributes:
        booster: gives (n, t), standardised.
        targets: (t,) indices of the targets.
        scale: (W, t) standard deviation x share of the residual that the trees are trusted with.
        table: which features the trees split on: one of `TABLES`.
        outputs: (t,) which of the booster's outputs is whose; None for all in order.
    """

    booster: xgb.Booster | TreeEnsemble
    targets: np.ndarray
    scale: np.ndarray
    table: str
    outputs: np.ndarray | None = None

    def of_targets(self, columns: np.ndarray) -> Residual:
        """Return it for the targets `columns`, renumbered in that order; those that it lacks are left out."""
        places = [
            (new, int(np.flatnonzero(self.targets == old)[0])) for new, old in enumerate(columns) if old in self.targets
        ]
        new, own = (np.array(side) for side in zip(*places, strict=True))
        outputs = own if self.outputs is None else self.outputs[own]
        return Residual(self.booster, new, self.scale[:, own], self.table, outputs)

    def predict(self, trees: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Return what is to be added to the log of the trend, (n, t)."""
        left = self.booster.inplace_predict(trees).reshape(len(trees), -1)
        return (left if self.outputs is None else left[:, self.outputs]) * self.scale[widths]


@dataclass(frozen=True)
class Spread:
    """Quantiles of log(measured / predicted) of rows that the model had not seen, by width.

    Attributes:
        levels: (Q,) ascending.
        device: (W, T, Q) of drift-adjusted measurements.
        published: (W, T, Q) of measurements as published, with the drift of their hour.
        noise: (W, T) standard deviation of log repeats, NaN where nothing was repeated.
    """

    levels: np.ndarray
    device: np.ndarray
    published: np.ndarray
    noise: np.ndarray


class SpaceModel:
    """Medians, intervals and repeat noise of all targets of a space. Immutable: reads are safe in threads.

    Args:
        space: layers are a prefix, with genes of their own.
        targets: T distinct targets.
        trend: their linear part.
        residuals: their trees; each target at most once.
        spread: their intervals.
    """

    def __init__(
        self, space: SearchSpace, targets: Sequence[TargetKey], *,
        trend: Trend, residuals: Sequence[Residual], spread: Spread,
    ) -> None:  # fmt: skip
        self.space = space
        self.targets = tuple(targets)
        self.trend = trend
        self.residuals = tuple(residuals)
        self.spread = spread
        self.features = LayerFeatures(space)

    def of_targets(self, targets: Sequence[TargetKey]) -> SpaceModel:
        """Return a model of some of the targets, in this order; it skips the trees that only others need.

        Raises:
            ValueError: a target that this model does not have.
        """
        if missing := [str(key) for key in targets if key not in self.targets]:
            raise ValueError(f"no surrogate of {missing[0]}; targets: {', '.join(map(str, self.targets))}")
        columns = np.array([self.targets.index(key) for key in targets])
        trend = Trend(self.trend.coef[:, :, columns], self.trend.log[columns], self.trend.floor[columns])
        spread = Spread(
            self.spread.levels, self.spread.device[:, columns], self.spread.published[:, columns],
            self.spread.noise[:, columns],
        )  # fmt: skip
        residuals = [part.of_targets(columns) for part in self.residuals if np.isin(part.targets, columns).any()]
        return SpaceModel(self.space, targets, trend=trend, residuals=residuals, spread=spread)

    def __repr__(self) -> str:
        return f"SpaceModel({self.space.name!r}, {len(self.targets)} targets)"

    def predict(self, genes: np.ndarray) -> np.ndarray:
        """Return noise-free medians (n, T), each in its metric's unit.

        Args:
            genes: (n, g) int64, canonical (`LayerFeatures.check`).
        """
        if not len(genes):
            return np.empty((0, len(self.targets)))
        if len(genes) <= _CHUNK:
            return self._predict(genes)
        return np.concatenate([self._predict(genes[i : i + _CHUNK]) for i in range(0, len(genes), _CHUNK)])

    def log_quantiles(self, genes: np.ndarray, levels: Sequence[float], *, drift: bool = False) -> np.ndarray:
        """Return log(quantile / median), (n, T, q), ascending along the last axis for ascending levels.

        Args:
            genes: (n, g) int64, canonical.
            levels: probabilities.
            drift: False for the device's own, drift-adjusted median; True for a value as published, which was also
                shifted by the hour it was measured in.

        Raises:
            ValueError: a level outside the stored grid.
        """
        grid = self.spread.levels
        low, high = float(grid[0]), float(grid[-1])
        for level in levels:
            if not low <= level <= high:
                raise ValueError(f"quantile level {level}: this model has levels from {low:g} to {high:g}")
        table = self.spread.published if drift else self.spread.device
        return interpolate(grid, table, levels)[self.features.widths(genes)]

    def noise_std(self, genes: np.ndarray) -> np.ndarray:
        """Return the standard deviation of the logarithm of repeats, (n, T); NaN where nothing was repeated."""
        return self.spread.noise[self.features.widths(genes)]

    def _predict(self, genes: np.ndarray) -> np.ndarray:
        logs = trend_logs(self.trend, self.features, genes)
        for part in self.residuals:
            trees = TABLES[part.table](self.features, genes)
            logs[:, part.targets] += part.predict(trees, self.features.widths(genes))
        return np.exp(logs)


def trend_terms(features: LayerFeatures, genes: np.ndarray) -> np.ndarray:
    """Return the regressors of a trend, [1, blocks of each kind, position of each kind], (n, K)."""
    return np.concatenate([np.ones((len(genes), 1)), features.linear(genes), features.positions(genes)], axis=1)


def trend_logs(trend: Trend, features: LayerFeatures, genes: np.ndarray) -> np.ndarray:
    """Return the logarithm of what the trend predicts, (n, T)."""
    terms, widths = trend_terms(features, genes), features.widths(genes)
    if len(genes) == 1:
        values = terms @ trend.coef[widths[0]]
    else:
        values = np.empty((len(genes), trend.coef.shape[2]))
        for width in range(len(trend.coef)):
            rows = np.flatnonzero(widths == width)
            values[rows] = terms[rows] @ trend.coef[width]
    return np.where(trend.log, values, np.log(np.maximum(values, trend.floor)))


def interpolate(grid: np.ndarray, table: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Return a table (..., Q) of quantiles at `grid` (Q,) at other levels, linearly interpolated, (..., q)."""
    wanted = np.asarray(levels, float)
    right = np.clip(np.searchsorted(grid, wanted), 1, len(grid) - 1)
    share = (wanted - grid[right - 1]) / (grid[right] - grid[right - 1])
    return np.asarray(table[..., right - 1] * (1 - share) + table[..., right] * share)
