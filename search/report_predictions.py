"""Out-of-fold predictions of fitted surrogates, as `paretolm fit` keeps them beside each model. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from supernet.architecture import Architecture
from surrogates.candidates import BASELINE
from surrogates.fitted import FittedSurrogate
from surrogates.store import RUN_SUBFOLDER, load_set


@dataclass(frozen=True)
class Predictions:
    """What one model said about networks that it was not fitted to, and what was measured.

    Attributes:
        metric: name in `hw_profiles.table.METRICS`.
        unit: of that metric.
        model: name of the candidate.
        is_winner: whether it is the candidate that was taken.
        is_baseline: whether it is the linear model that stands beside every surrogate.
        architectures: the networks, n.
        measured: (n,).
        predicted: (n,).
    """

    metric: str
    unit: str
    model: str
    is_winner: bool
    is_baseline: bool
    architectures: tuple[Architecture, ...]
    measured: np.ndarray
    predicted: np.ndarray

    @property
    def label(self) -> str:
        """What tables and legends call the model."""
        name = {"xgboost": "XGBoost"}.get(self.model, self.model.replace("_", " "))
        role = " + ".join(r for r, holds in (("surrogate", self.is_winner), ("baseline", self.is_baseline)) if holds)
        return f"{name} ({role})" if role else name

    @property
    def error_percent(self) -> float:
        """Mean absolute relative error; NaN where a measurement is 0."""
        if not (self.measured != 0).all():
            return float("nan")
        return 100 * float(np.mean(np.abs(self.predicted / self.measured - 1)))


def load_predictions(run_dir: Path) -> tuple[Predictions, ...]:
    """Read the surrogates in `surrogates/` or `*/surrogates/` of a run folder; of each, the winner comes first.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is damaged; names it.
    """
    for folder in (run_dir / RUN_SUBFOLDER, *sorted(run_dir.glob(f"*/{RUN_SUBFOLDER}"))):
        if any(folder.glob("*/card.json")):
            return tuple(p for fitted in load_set(folder).surrogates.values() for p in _of(fitted))
    raise FileNotFoundError(f"{run_dir / RUN_SUBFOLDER} holds no surrogates")


def _of(fitted: FittedSurrogate) -> list[Predictions]:
    report = fitted.report
    archs = tuple(Architecture.from_id(text) for text in report.architectures)
    found = [
        Predictions(
            metric=fitted.metric, unit=fitted.unit, model=name, is_winner=name == report.winner,
            is_baseline=name == BASELINE, architectures=archs, measured=np.asarray(report.measured),
            predicted=np.asarray(predicted),
        )
        for name, predicted in report.predictions.items()
    ]  # fmt: skip
    return sorted(found, key=lambda p: (not p.is_winner, not p.is_baseline))
