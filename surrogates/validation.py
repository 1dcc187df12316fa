"""Scores of predictions on rows the model has not seen, whole and inside each network width. No torch.

Over a whole space a rank correlation is high for any model that knows the width, so every score is also given within
widths. Errors are relative (percent): a latency spans decades.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats
from sklearn.model_selection import KFold

from surrogates.calibration import ResidualQuantiles
from surrogates.intervals import Intervals
from surrogates.levels import rows_needed
from surrogates.prediction import Surrogate

COVERAGES = (0.5, 0.8, 0.9)
CRITERIA = ("mape", "kendall", "r2")
_LEAST_IN_WIDTH = 3


@dataclass(frozen=True)
class IntervalScore:
    """How an interval did on rows it was not made from.

    Attributes:
        nominal: share of the rows that it should hold.
        coverage: share that it held.
        width: median of its width / prediction.
    """

    nominal: float
    coverage: float
    width: float


@dataclass(frozen=True)
class Scores:
    """Agreement of predictions with measurements; what is undefined (ranks of constants) is NaN.

    Attributes:
        n: rows.
        r2: coefficient of determination.
        kendall: Kendall's tau-b.
        spearman: Spearman's rho.
        mape: mean absolute relative error, percent.
        within_5: share of rows with a relative error below 5 percent.
        within_10: share below 10 percent.
        intervals: of the prediction intervals, where there were rows enough.
        within_width: the same scores inside each width with at least 3 rows.
        width: the width they are of; None for all rows.
        crps: continuous ranked probability score / measurement, percent; NaN without quantiles. Of a prediction
            without any spread it is the MAPE.
    """

    n: int
    r2: float
    kendall: float
    spearman: float
    mape: float
    within_5: float
    within_10: float
    intervals: tuple[IntervalScore, ...] = ()
    within_width: tuple[Scores, ...] = ()
    width: float | None = None
    crps: float = float("nan")

    @property
    def kendall_within_width(self) -> float:
        """Mean of Kendall's tau over the widths, weighted by rows; NaN where no width has a tau."""
        known = [(s.kendall, s.n) for s in self.within_width if np.isfinite(s.kendall)]
        return _weighted(known)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, NaN as None."""
        return _plain(asdict(self) | {"kendall_within_width": self.kendall_within_width})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scores:
        """Read what `to_dict` gives."""
        values: dict[str, Any] = {name: float("nan") if value is None else value for name, value in data.items()}
        values.pop("kendall_within_width", None)
        values["width"] = data["width"]
        values["intervals"] = tuple(IntervalScore(**interval) for interval in data["intervals"])
        values["within_width"] = tuple(cls.from_dict(inside) for inside in data["within_width"])
        return cls(**values)


@dataclass(frozen=True)
class CrossValidation:
    """Predictions for every row by a model that has not seen it.

    Attributes:
        predicted: (n,) out-of-fold predictions.
        fold: (n,) which fold the row was held out in.
        scores: of those predictions.
    """

    predicted: np.ndarray
    fold: np.ndarray
    scores: Scores


def scores(y: np.ndarray, predicted: np.ndarray, *, widths: np.ndarray | None = None) -> Scores:
    """Score predictions (n,) of measurements y (n,); with `widths` (n,), also inside each of them.

    Raises:
        ValueError: shapes that differ, fewer than 2 rows, or numbers that are not finite.
    """
    y, predicted = np.asarray(y, float), np.asarray(predicted, float)
    if y.shape != predicted.shape or y.ndim != 1 or len(y) < 2:
        raise ValueError(f"y has shape {y.shape}, predictions {predicted.shape}: give the same (n,), n at least 2")
    if not (np.isfinite(y).all() and np.isfinite(predicted).all()):
        raise ValueError("measurements or predictions hold numbers that are not finite: leave those rows out")
    inside: list[Scores] = []
    if widths is not None:
        values, counts = np.unique(widths, return_counts=True)
        for width in values[counts >= _LEAST_IN_WIDTH]:
            rows = widths == width
            inside.append(replace(scores(y[rows], predicted[rows]), width=float(width)))
    tau, rho = rank_correlations(y, predicted)
    error = np.abs(predicted / y - 1) if (y != 0).all() else np.full(len(y), np.nan)
    spread = ((y - y.mean()) ** 2).sum()
    return Scores(
        n=len(y),
        r2=float(1 - ((y - predicted) ** 2).sum() / spread) if spread > 0 else float("nan"),
        kendall=tau,
        spearman=rho,
        mape=float(100 * error.mean()),
        within_5=_share(error, 0.05),
        within_10=_share(error, 0.10),
        within_width=tuple(inside),
    )


def score_target(
    y: np.ndarray, median: np.ndarray, levels: Sequence[float] | np.ndarray, quantiles: np.ndarray, *,
    widths: np.ndarray | None = None,
) -> Scores:  # fmt: skip
    """Score predicted medians and quantiles of measurements, whole and (with `widths`) inside each width.

    Args:
        y: (n,) measurements, positive.
        median: (n,) point predictions.
        levels: (q,) of the quantiles, ascending; a dense grid, e.g. 0.005 to 0.995, for the CRPS.
        quantiles: (n, q), ascending along the last axis; other levels of `COVERAGES` are interpolated between them.
        widths: (n,) network widths.

    Raises:
        ValueError: shapes that differ, levels that do not ascend between 0 and 1, or numbers that are not finite.
    """
    whole = scores(y, median, widths=widths)
    grid, quantiles = np.asarray(levels, float), np.asarray(quantiles, float)
    if quantiles.shape != (len(y), len(grid)) or not np.isfinite(quantiles).all():
        raise ValueError(f"quantiles have shape {quantiles.shape}: give finite numbers ({len(y)}, {len(grid)})")
    relative = 100 * crps(y, grid, quantiles) / np.asarray(y, float)
    reach = 1 - 2 * max(grid[0], 1 - grid[-1]) + 1e-9
    bounds = {c: central_interval(grid, quantiles, c) for c in COVERAGES if c <= reach}

    def scored(known: Scores, rows: np.ndarray) -> Scores:
        intervals = tuple(
            interval_score(y[rows], median[rows], low[rows], high[rows], nominal=c) for c, (low, high) in bounds.items()
        )
        return replace(known, crps=float(relative[rows].mean()), intervals=intervals)

    inside = tuple(scored(s, np.asarray(widths) == s.width) for s in whole.within_width)
    return replace(scored(whole, np.ones(len(y), bool)), within_width=inside)


def crps(y: np.ndarray, levels: Sequence[float] | np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """Return the continuous ranked probability score of predicted quantiles, (n,), in the unit of y.

    It is twice the integral over the level of the pinball loss (Gneiting and Ranjan 2011), by the trapezoidal rule; the
    probability beyond the outermost levels is taken to sit at the outermost quantiles.

    Args:
        y: (n,) measurements.
        levels: (q,) ascending, between 0 and 1, both excluded.
        quantiles: (n, q).

    Raises:
        ValueError: levels that do not ascend, or lie outside.
    """
    grid, error = np.asarray(levels, float), np.asarray(y, float)[:, None] - quantiles
    if grid.ndim != 1 or not len(grid) or not (np.diff([0.0, *grid, 1.0]) > 0).all():
        raise ValueError(f"{grid.size} levels: give ascending numbers between 0 and 1, both excluded")
    loss = np.maximum(grid * error, (grid - 1) * error)
    inner = (np.diff(grid) * (loss[:, 1:] + loss[:, :-1]) / 2).sum(axis=1)
    ends = _end(error[:, 0], grid[0]) + _end(-error[:, -1], 1 - grid[-1])
    return np.asarray(2 * (inner + ends))


def _end(error: np.ndarray, level: float) -> np.ndarray:
    """Return the integral of the pinball loss from 0 to a level, where the quantile stays the same."""
    return np.where(error > 0, error * level**2 / 2, -error * (level - level**2 / 2))


def rank_correlations(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Return Kendall's tau-b and Spearman's rho; NaN where one of them is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return kendall(a, b), float(stats.spearmanr(a, b).statistic)


def kendall(a: np.ndarray, b: np.ndarray) -> float:
    """Return Kendall's tau-b; NaN where one of them is constant."""
    return float(stats.kendalltau(a, b).statistic)


def cross_validate(
    make_model: Callable[[], Surrogate],
    X: np.ndarray,
    y: np.ndarray,
    *,
    folds: int = 5,
    seed: int = 0,
    widths: np.ndarray | None = None,
) -> CrossValidation:
    """Predict every row with a model fitted to the other folds, and score that.

    Intervals are honest too: those of a fold are made from the residuals of the other folds.

    Args:
        make_model: gives a new, unfitted surrogate.
        X: (n, d) features.
        y: (n,) measurements; one row for each architecture, or a fold knows the answers of another.
        folds: their number.
        seed: of the folds: the same seed gives every candidate the same ones.
        widths: (n,) network widths, for scores inside each.

    Raises:
        ValueError: fewer than 2 folds or fewer than 2 rows a fold; says how many are needed.
    """
    if folds < 2 or len(y) < 2 * folds:
        raise ValueError(
            f"{folds}-fold cross-validation of {len(y)} rows: give at least 2 folds, and {2 * max(folds, 2)} rows "
            "(2 a fold)"
        )
    predicted, fold = np.empty(len(y)), np.empty(len(y), int)
    for i, (train, test) in enumerate(KFold(folds, shuffle=True, random_state=seed).split(X)):
        predicted[test] = make_model().fit(X[train], y[train]).predict(X[test]).mean
        fold[test] = i
    result = replace(scores(y, predicted, widths=widths), intervals=interval_scores(y, predicted, fold))
    return CrossValidation(predicted, fold, result)


def interval_scores(
    y: np.ndarray, predicted: np.ndarray, fold: np.ndarray, *, X: np.ndarray | None = None,
    make: Callable[[np.ndarray, np.ndarray, np.ndarray], Intervals] | None = None,
) -> tuple[IntervalScore, ...]:  # fmt: skip
    """Score intervals at `COVERAGES`; those that need more rows than there are are left out.

    Args:
        y: (n,) measurements.
        predicted: (n,) out-of-fold predictions.
        fold: (n,) folds; an interval of a row comes from residuals of other folds.
        X: (n, d) features of the rows, for `make`.
        make: gives intervals from features, measurements and predictions; None for conformal ones.
    """
    X = np.empty((len(y), 0)) if X is None else X
    make = make or (lambda _, *known: ResidualQuantiles.of(*known))
    least = min(int((fold != i).sum()) for i in np.unique(fold))
    pairs = {c: ((1 - c) / 2, (1 + c) / 2) for c in COVERAGES if least >= rows_needed([(1 - c) / 2, (1 + c) / 2])}
    levels = tuple(sorted(level for pair in pairs.values() for level in pair))
    quantiles = np.empty((len(y), len(levels)))
    for i in np.unique(fold) if levels else ():
        known, held = fold != i, fold == i
        intervals = make(X[known], y[known], predicted[known])
        quantiles[held] = intervals.predict_rows(X[held], predicted[held], levels).quantiles
    return tuple(
        interval_score(y, predicted, quantiles[:, levels.index(low)], quantiles[:, levels.index(high)], nominal=c)
        for c, (low, high) in pairs.items()
    )


def interval_score(
    y: np.ndarray, predicted: np.ndarray, low: np.ndarray, high: np.ndarray, *, nominal: float
) -> IntervalScore:  # fmt: skip
    """Return the coverage of intervals [low, high] (n,) of measurements y (n,), and their median relative width."""
    held = (low <= y) & (y <= high)
    return IntervalScore(nominal, float(held.mean()), float(np.median((high - low) / np.abs(predicted))))


def central_interval(levels: np.ndarray, quantiles: np.ndarray, nominal: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds (n,) of the central interval from quantiles (n, q), interpolated between levels (q,)."""

    def at(level: float) -> np.ndarray:
        j = int(np.clip(np.searchsorted(levels, level - 1e-9), 1, max(len(levels) - 1, 1)))
        i = min(j, len(levels) - 1)
        share = (level - levels[j - 1]) / (levels[i] - levels[j - 1]) if i != j - 1 else 0.0
        share = float(np.clip(share, 0.0, 1.0))
        return quantiles[:, j - 1] * (1 - share) + quantiles[:, i] * share

    return at((1 - nominal) / 2), at((1 + nominal) / 2)


def parameter_count_scores(y: np.ndarray, parameters: np.ndarray, *, widths: np.ndarray | None = None) -> Scores:
    """Score the ranking by parameter count (n,), which predicts no values: errors and R2 are NaN.

    The direction (do more parameters mean more, as for latency, or less, as for perplexity) is taken from the sign of
    the correlation over all rows, so the whole correlations are never negative; those inside a width can be.
    """
    y, parameters = np.asarray(y, float), np.asarray(parameters, float)
    direction = -1.0 if rank_correlations(y, parameters)[0] < 0 else 1.0
    ranked = scores(y, direction * parameters, widths=widths)
    inside = tuple(_ranks_only(s) for s in ranked.within_width)
    return replace(_ranks_only(ranked), within_width=inside)


def better(a: Scores, b: Scores, criterion: str) -> bool:
    """Return whether `a` beats `b`; a NaN never beats anything.

    Raises:
        ValueError: there is no such criterion.
    """
    if criterion not in CRITERIA:
        raise ValueError(f"criterion = {criterion!r}; allowed: {', '.join(CRITERIA)}")
    x, y = getattr(a, criterion), getattr(b, criterion)
    if np.isnan(x) or np.isnan(y):
        return not np.isnan(x)
    return bool(x < y) if criterion == "mape" else bool(x > y)


def _ranks_only(ranked: Scores) -> Scores:
    nan = float("nan")
    return replace(ranked, r2=nan, mape=nan, within_5=nan, within_10=nan)


def _share(error: np.ndarray, limit: float) -> float:
    return float("nan") if np.isnan(error).any() else float((error < limit).mean())


def _weighted(known: list[tuple[float, int]]) -> float:
    rows = sum(n for _, n in known)
    return sum(value * n for value, n in known) / rows if rows else float("nan")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
