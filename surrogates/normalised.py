"""Conformal intervals whose width depends on the network, in a compact form that can be shipped. No torch.

Residuals are divided by a scale (`surrogates.scale`) before their quantiles are taken, and intervals are multiplied by
it: locally weighted split conformal (Papadopoulos et al. 2008; Lei et al. 2018, section 5.2). How rich the scale is, is
chosen for each target by the continuous ranked probability score of held-out rows. The scale of a row never comes from
its own residual, so calibration rows look like new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted

from surrogates.calibration import around, fitted_and_held, signed_residuals
from surrogates.prediction import FittedState, Prediction, Surrogate, checked_rows, shaped
from surrogates.quantile_grid import POINTS, QuantileGrid
from surrogates.scale import KINDS, ScaleModel

_CHOICE_LEVELS = np.arange(1, 40) / 40  # where held-out scores are integrated
_SURE = 1.0  # standard errors by which a richer scale must be better


@dataclass(frozen=True)
class NormalisedQuantiles:
    """Quantiles of residuals / scale, and the scale.

    Attributes:
        grid: of the normalised residuals of t targets.
        scale: of the residuals.
        log: (t,) whether residuals are log(y / mean), else y - mean.
        kinds: (t,) index into `surrogates.scale.KINDS` of what was chosen.
    """

    grid: QuantileGrid
    scale: ScaleModel
    log: np.ndarray
    kinds: np.ndarray

    @classmethod
    def of(
        cls, Y: np.ndarray, predicted: np.ndarray, *, widths: np.ndarray, features: np.ndarray | None = None,
        kinds: Sequence[str] = KINDS, folds: int = 5, seed: int = 0, points: int = POINTS,
    ) -> NormalisedQuantiles:  # fmt: skip
        """Calibrate on targets and predictions by models that had not seen them.

        Args:
            Y: (n,) or (n, t) measurements, NaN where there is none.
            predicted: predictions, shaped like Y.
            widths: (n,) network widths.
            features: (n, k) what else the size of errors may depend on (logarithm of parameters, depth); None: nothing.
            kinds: scales to choose from, simple ones first; see `ScaleModel.fit`.
            folds: of rows, for the choice and for the scale of calibration rows.
            seed: of the folds.
            points: of the grid.

        Raises:
            ValueError: shapes that do not match, numbers that are not finite, fewer than 2 rows.
        """
        residuals, log = signed_residuals(Y, predicted)
        F = np.empty((len(residuals), 0)) if features is None else np.asarray(features, float)
        folds = min(folds, len(residuals))
        if folds < 2 or not kinds:
            raise ValueError(f"{len(residuals)} rows, {folds} folds, kinds {list(kinds)}: give at least 2, 2 and 1")
        fold = np.empty(len(residuals), int)
        for i, (_, held) in enumerate(KFold(folds, shuffle=True, random_state=seed).split(residuals)):
            fold[held] = i
        scales = {kind: _held_out_scale(residuals, widths, F, fold, kind) for kind in kinds}
        losses = np.stack([_held_out_loss(residuals, scales[kind], fold) for kind in kinds])  # (kinds, n, t)
        best = [_choice(losses[:, :, i]) for i in range(losses.shape[2])]
        chosen = [kinds[i] for i in best]
        own = np.column_stack([scales[kind][:, i] for i, kind in enumerate(chosen)])
        scale = ScaleModel.fit(np.abs(residuals), widths, F, kinds=chosen)
        index = np.array([KINDS.index(kind) for kind in chosen])
        return cls(QuantileGrid.of(residuals / own, points=points), scale, log, index)

    def offsets(
        self, levels: Sequence[float], widths: np.ndarray, features: np.ndarray | None = None
    ) -> np.ndarray:  # fmt: skip
        """Return quantiles of the residuals of rows of widths (n,) and features (n, k), (n, t, q)."""
        return self.scale.predict(widths, features)[:, :, None] * self.grid.quantiles(levels)

    def predict(
        self, mean: np.ndarray, levels: Sequence[float] | None = None, *, widths: np.ndarray,
        features: np.ndarray | None = None,
    ) -> Prediction:  # fmt: skip
        """Return a prediction with standard deviation and quantiles around point predictions (n,) or (n, t).

        `levels` defaults to those of `LEVELS` that the rows allow.
        """
        chosen = self.grid.possible() if levels is None else tuple(sorted(levels))
        scale = self.scale.predict(widths, features)
        offsets = scale[:, :, None] * self.grid.quantiles(chosen)
        return around(mean, offsets, scale * np.sqrt(self.grid.mean_square), self.log, chosen)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays."""
        own = {
            "values": self.grid.values, "counts": self.grid.counts, "mean_square": self.grid.mean_square,
            "log": self.log, "kinds": self.kinds,
        }  # fmt: skip
        return own | {f"scale.{name}": value for name, value in self.scale.arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> NormalisedQuantiles:
        """Read what `arrays` gave."""
        scale = {k.removeprefix("scale."): v for k, v in arrays.items() if k.startswith("scale.")}
        grid = QuantileGrid(*(np.asarray(arrays[name]) for name in ("values", "counts", "mean_square")))
        return cls(grid, ScaleModel.from_arrays(scale), np.asarray(arrays["log"]), np.asarray(arrays["kinds"]))


@dataclass(frozen=True)
class NormalisedRows:
    """`NormalisedQuantiles` that find widths and features in the columns of a feature matrix.

    Attributes:
        quantiles: the intervals.
        by: index of the column of the width.
        columns: indices of the columns of the features.
    """

    quantiles: NormalisedQuantiles
    by: int
    columns: tuple[int, ...] = ()

    def predict_rows(self, X: np.ndarray, mean: np.ndarray, levels: Sequence[float] | None = None) -> Prediction:
        """Return a prediction for rows X (n, d) around point predictions (n,) or (n, t)."""
        return self.quantiles.predict(mean, levels, widths=X[:, self.by], features=X[:, list(self.columns)])

    def state(self) -> FittedState:
        """Return everything as arrays."""
        own = {"by": np.array(self.by), "columns": np.array(self.columns, np.int64)}
        return FittedState(self.quantiles.arrays() | own)

    @classmethod
    def from_state(cls, state: FittedState) -> NormalisedRows:
        """Read what `state` gave."""
        columns = tuple(state.arrays["columns"].tolist())
        return cls(NormalisedQuantiles.from_arrays(state.arrays), int(state.arrays["by"]), columns)


class NormalisedSurrogate(BaseEstimator):
    """A surrogate with intervals whose width depends on the row; see `ConformalSurrogate` for one width for all.

    Args:
        model: what predicts.
        by: index of the column of the network width.
        columns: indices of columns that the size of errors may depend on within a width.
        method: "cross" or "split", as in `ConformalSurrogate`.
        folds: of "cross", and of the choice of the scale.
        calibration_share: share of the rows that "split" keeps apart.
        seed: of the folds and of the split.
    """

    def __init__(
        self, model: Surrogate, *, by: int, columns: Sequence[int] = (), method: str = "cross", folds: int = 5,
        calibration_share: float = 0.3, seed: int = 0,
    ) -> None:  # fmt: skip
        self.model = model
        self.by = by
        self.columns = columns
        self.method = method
        self.folds = folds
        self.calibration_share = calibration_share
        self.seed = seed

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        """Fit the model, the scale and the quantiles to X (n, d) and Y (n,) or (n, t).

        Raises:
            ValueError: an unknown method, or too few rows.
        """
        X, targets, single = checked_rows(X, Y)
        Y = shaped(targets, single)
        self.model_, held, predicted = fitted_and_held(
            self.model, X, Y, method=self.method, folds=self.folds, share=self.calibration_share, seed=self.seed
        )
        columns = tuple(self.columns)
        quantiles = NormalisedQuantiles.of(
            Y[held], predicted, widths=X[held, self.by], features=X[held][:, list(columns)], folds=self.folds,
            seed=self.seed,
        )  # fmt: skip
        self.calibration_ = NormalisedRows(quantiles, self.by, columns)
        return self

    def predict(self, X: np.ndarray, *, levels: Sequence[float] | None = None) -> Prediction:
        """Predict X (n, d) with quantiles at `levels` (default: those of `LEVELS` that the rows allow)."""
        check_is_fitted(self)
        X = np.asarray(X, float)
        return self.calibration_.predict_rows(X, self.model_.predict(X).mean, levels)

    def state(self) -> FittedState:
        """Return the model and the intervals."""
        check_is_fitted(self)
        inner = self.model_.state()
        arrays = {f"model.{name}": value for name, value in inner.arrays.items()}
        arrays |= {f"intervals.{name}": value for name, value in self.calibration_.state().arrays.items()}
        return FittedState(arrays, inner.boosters)

    def restore(self, state: FittedState) -> Self:
        """Take what `state` gave."""

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {k.removeprefix(prefix): v for k, v in state.arrays.items() if k.startswith(prefix)}

        self.model_ = clone(self.model).restore(FittedState(part("model."), state.boosters))
        self.calibration_ = NormalisedRows.from_state(FittedState(part("intervals.")))
        return self


def _held_out_scale(
    residuals: np.ndarray, widths: np.ndarray, F: np.ndarray, fold: np.ndarray, kind: str
) -> np.ndarray:  # fmt: skip
    """Return the scale (n, t) of every row by a model that has not seen its residuals."""
    scale = np.empty(residuals.shape)
    for i in np.unique(fold):
        held, sizes = fold == i, np.abs(residuals[fold != i])
        known = ~np.isnan(sizes).all(axis=0)  # a target with rows in one fold only has no other scale than 1
        scale[held] = 1.0
        model = ScaleModel.fit(sizes[:, known], widths[~held], F[~held], kinds=kind)
        scale[np.ix_(held, known)] = model.predict(widths[held], F[held])
    return scale


def _held_out_loss(residuals: np.ndarray, scale: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return the mean pinball loss (n, t) of scale x quantiles of the normalised residuals of other folds, or NaN."""
    loss = np.full(residuals.shape, np.nan)
    normalised = residuals / scale
    for i in np.unique(fold):
        held = np.flatnonzero(fold == i)
        for t in range(residuals.shape[1]):
            others = normalised[fold != i, t]
            others = others[~np.isnan(others)]
            if len(others):
                error = residuals[held, t, None] - np.quantile(others, _CHOICE_LEVELS) * scale[held, t, None]
                loss[held, t] = np.maximum(_CHOICE_LEVELS * error, (_CHOICE_LEVELS - 1) * error).mean(axis=1)
    return loss


def _choice(losses: np.ndarray) -> int:
    """Return the first of losses (kinds, n), simple kinds first, that no later one is better than for sure."""
    best, rows = 0, ~np.isnan(losses).any(axis=0)
    for i in range(1, len(losses)):
        gain = losses[best, rows] - losses[i, rows]
        if len(gain) > 1 and gain.mean() > _SURE * gain.std(ddof=1) / np.sqrt(len(gain)):
            best = i
    return best
