"""Fitted surrogates of named metrics, and the set of them that a search asks. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from supernet.architecture import Architecture
from supernet.space import SearchSpace
from surrogates.features import features
from surrogates.intervals import Intervals
from surrogates.prediction import Prediction, Surrogate
from surrogates.validation import Scores


@dataclass(frozen=True)
class FitReport:
    """How a surrogate was chosen, and how good it is on rows it has not seen.

    Attributes:
        winner: name of the candidate that was taken.
        criterion: what decided: "mape", "kendall" or "r2".
        folds: of the cross-validation.
        seed: of the folds and the models.
        candidates: cross-validated scores of every candidate and of the linear baseline ("linear").
        parameter_count: scores of ranking by decoder parameters alone.
        architectures: (n,) ids of the rows.
        measured: (n,) their measurements.
        predictions: (n,) out-of-fold predictions of every candidate and of the linear baseline.
    """

    winner: str
    criterion: str
    folds: int
    seed: int
    candidates: Mapping[str, Scores]
    parameter_count: Scores
    architectures: tuple[str, ...]
    measured: np.ndarray
    predictions: Mapping[str, np.ndarray]

    @property
    def predicted(self) -> np.ndarray:
        """The winner's out-of-fold predictions, (n,)."""
        return self.predictions[self.winner]

    @property
    def scores(self) -> Scores:
        """Cross-validated scores of the winner."""
        return self.candidates[self.winner]

    @property
    def linear(self) -> Scores:
        """Cross-validated scores of the linear baseline."""
        return self.candidates["linear"]


@dataclass(frozen=True)
class FittedSurrogate:
    """A surrogate of one metric for the architectures of a space.

    Attributes:
        metric: what it predicts.
        unit: of predictions.
        device: where it was measured.
        workload: id of the input.
        space: the search space.
        model: the fitted model.
        calibration: gives the intervals, from residuals of rows the model had not seen.
        report: scores and rows.
    """

    metric: str
    unit: str
    device: str
    workload: str
    space: SearchSpace
    model: Surrogate
    calibration: Intervals
    report: FitReport

    def predict(self, archs: Sequence[Architecture], *, levels: Sequence[float] | None = None) -> Prediction:
        """Predict n architectures, with standard deviations and quantiles.

        Args:
            archs: members of the space.
            levels: probabilities of the quantiles; None for the usual ones that the measured rows allow.

        Raises:
            ValueError: an architecture outside the space (names the gene), or too few rows for a level.
        """
        return self.predict_features(features(self.space, archs), levels=levels)

    def predict_features(self, X: np.ndarray, *, levels: Sequence[float] | None = None) -> Prediction:
        """Predict rows of `surrogates.features.features`, (n, d)."""
        return self.calibration.predict_rows(X, self.model.predict(X).mean, levels)


class SurrogateSet:
    """Surrogates of several metrics of one space.

    Args:
        surrogates: at least one, each of another metric, all of the same space.

    Raises:
        ValueError: none, a metric twice, or different spaces.
    """

    def __init__(self, surrogates: Sequence[FittedSurrogate]) -> None:
        names = [surrogate.metric for surrogate in surrogates]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"surrogates of {names}: give at least one, each of another metric")
        spaces = [surrogate.space.to_dict() for surrogate in surrogates]
        if any(space != spaces[0] for space in spaces):
            raise ValueError(f"surrogates of different spaces {sorted({str(s['name']) for s in spaces})} are no set")
        self.surrogates: Mapping[str, FittedSurrogate] = MappingProxyType(dict(zip(names, surrogates, strict=True)))
        self.space = surrogates[0].space

    @classmethod
    def load(cls, folder: str | Path) -> SurrogateSet:
        """Read the set that `paretolm fit` wrote; see `surrogates.store.load_set`."""
        from surrogates.store import load_set

        return load_set(folder)

    def __repr__(self) -> str:
        return f"SurrogateSet({self.space.name!r}: {', '.join(self.metrics)})"

    def __getitem__(self, metric: str) -> FittedSurrogate:
        if metric not in self.surrogates:
            raise KeyError(f"no surrogate of {metric!r}; this set has: {', '.join(self.metrics)}")
        return self.surrogates[metric]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return tuple(self.surrogates)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each metric."""
        return {name: surrogate.unit for name, surrogate in self.surrogates.items()}

    def predict(
        self, archs: Sequence[Architecture], metric: str, *, levels: Sequence[float] | None = None
    ) -> Prediction:
        """Predict one metric; see `FittedSurrogate.predict`.

        Raises:
            KeyError: the set has no such metric.
        """
        return self[metric].predict(archs, levels=levels)

    def predict_all(self, archs: Sequence[Architecture], metrics: Sequence[str] | None = None) -> dict[str, Prediction]:
        """Predict several metrics (None: all), computing the features once."""
        wanted = [self[name] for name in (self.metrics if metrics is None else metrics)]
        X = features(self.space, archs)
        return {surrogate.metric: surrogate.predict_features(X) for surrogate in wanted}
