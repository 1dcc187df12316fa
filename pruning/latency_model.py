"""LatencyModel: the table corrected by whole measured networks, with an upper bound. Torch is needed to measure only.

Before that the measured table takes over a share of the analytic one (`share_of_prior`), whatever fits the networks.

The correction is chosen among a few by cross-validation. The bound is cross-conformal (Barber et al. 2021, CV+): what
the models of the folds predict, times how far each held-out network was above its prediction; of these products the
95 % quantile. It asks only that the network comes from a distribution like that of the measured ones (proven is a
coverage of 90 %; 95 % is usual).

Shapes: n networks, d features, K folds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.latency_correction import CANDIDATES, Correction, correction_from_dict, features, share_of_prior
from pruning.latency_table import LatencyTable
from pruning.lattice import Lattice
from pruning.random_subnets import random_subnets
from supernet.architecture import Architecture
from supernet.artifacts import atomic_folder, read_json, write_json

if TYPE_CHECKING:
    from litgpt.config import Config

    from pruning.shape_latency import Timing

_CARD, _ARRAYS = "latency_model.json", "latency_model.npz"
_FOLDS = 8
_CHOICE_FOLDS = 5
_LEAST_NETWORKS = 8


@dataclass(frozen=True)
class LatencyModel:
    """Predicts the latency of sub-networks over the dense model's.

    Attributes:
        table: costs of the parts.
        correction: of the table, fitted on all measured networks.
        folds: the same correction fitted without one fold each, (K).
        fold: which fold each measured network was held out in, (n,).
        excess: log(measured / predicted while held out) of each, (n,).
        level: share of networks that `upper` is to hold for.
        mape: mean absolute error of held-out networks, relative, with the choice of the correction held out too (not
            the share of the analytic table, one number).
        choice: name of the correction.
        scores: name of each candidate -> its cross-validated mean absolute relative error.
        architectures: ids of the measured networks.
        ratios: what they measured, (n,).
    """

    table: LatencyTable
    correction: Correction
    folds: tuple[Correction, ...]
    fold: np.ndarray
    excess: np.ndarray
    level: float
    mape: float
    choice: str
    scores: Mapping[str, float]
    architectures: tuple[str, ...]
    ratios: np.ndarray

    def predict(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Return the median latency ratio of each network, (n,)."""
        return self.correction.predict(features(self.table, archs)) if len(archs) else np.empty(0)

    def upper(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Return a bound (n,) that holds for `level` of such networks: their measured ratio is at most this.

        With n measured networks no bound can hold for more than n / (n + 1); there the largest is given.
        """
        if not len(archs):
            return np.empty(0)
        X = features(self.table, archs)
        by_fold = np.stack([model.predict(X) for model in self.folds])  # (K, m)
        candidates = np.sort(by_fold[self.fold] * np.exp(self.excess)[:, None], axis=0)  # (n, m)
        n = len(self.excess)
        rank = min(math.ceil((n + 1) * self.level), n)
        return np.maximum(candidates[rank - 1], self.correction.predict(X))

    # --- files ------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write it to a folder of its own, atomically."""
        card = {
            "table": self.table.to_dict(), "correction": self.correction.to_dict(),
            "folds": [model.to_dict() for model in self.folds], "level": self.level, "mape": self.mape,
            "choice": self.choice, "scores": dict(self.scores), "architectures": list(self.architectures),
        }  # fmt: skip
        with atomic_folder(folder, names=(_CARD, _ARRAYS)) as temporary:
            write_json(temporary / _CARD, card)
            np.savez(temporary / _ARRAYS, fold=self.fold, excess=self.excess, ratios=self.ratios)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> LatencyModel:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: nothing is there.
            ValueError: it is damaged.
        """
        card = read_json(Path(folder) / _CARD)
        try:
            with np.load(Path(folder) / _ARRAYS, allow_pickle=False) as arrays:
                return cls(
                    table=LatencyTable.from_dict(card["table"]),
                    correction=correction_from_dict(card["correction"]),
                    folds=tuple(map(correction_from_dict, card["folds"])),
                    architectures=tuple(card["architectures"]),
                    **{name: arrays[name] for name in ("fold", "excess", "ratios")},
                    **{name: card[name] for name in ("level", "mape", "choice", "scores")},
                )
        except (KeyError, TypeError, OSError) as error:
            raise ValueError(f"{folder} holds no latency model that can be read ({error!r}): delete it") from error


# --- fitting --------------------------------------------------------------------------------------------------------


def fit_latency_model(
    table: LatencyTable, archs: Sequence[Architecture], ratios: Sequence[float], *, level: float = 0.95
) -> LatencyModel:
    """Choose and fit a correction of the table on measured networks.

    Args:
        table: costs of the parts.
        archs: measured networks, at least 8; 40 make a bound of level 0.95 worth having.
        ratios: their latencies over the dense model's, (n,).
        level: share of networks that the upper bound is to hold for.

    Raises:
        ValueError: too few networks, or ratios that are not positive.
    """
    y = np.asarray(ratios, float)
    if len(archs) != len(y) or len(y) < _LEAST_NETWORKS or not np.isfinite(y).all() or (y <= 0).any():
        raise ValueError(
            f"{len(archs)} networks and {len(y)} ratios: give at least {_LEAST_NETWORKS} networks and a positive, "
            "finite latency ratio of each"
        )
    X = features(table, archs)
    choice, scores = _choose(X, y)
    folds = _folds(len(y))
    models = tuple(CANDIDATES[choice](X[folds != k], y[folds != k]) for k in range(folds.max() + 1))
    held_out = _held_out(models, X, folds)
    return LatencyModel(
        table=table,
        correction=CANDIDATES[choice](X, y),
        folds=models,
        fold=folds,
        excess=np.log(y / held_out),
        level=level,
        mape=_nested_error(X, y),
        choice=choice,
        scores=scores,
        architectures=tuple(arch.id for arch in archs),
        ratios=y,
    )


def _choose(X: np.ndarray, y: np.ndarray) -> tuple[str, dict[str, float]]:
    """Return the candidate with the least cross-validated error, and the error of each; simple ones win ties."""
    folds = _folds(len(y), _CHOICE_FOLDS)
    scores = {}
    for name, fit in CANDIDATES.items():
        models = tuple(fit(X[folds != k], y[folds != k]) for k in range(folds.max() + 1))
        scores[name] = float(np.mean(np.abs(_held_out(models, X, folds) / y - 1)))
    return min(scores, key=scores.__getitem__), scores


def _nested_error(X: np.ndarray, y: np.ndarray) -> float:
    """Return the error of held-out networks when they have no part in the choice either."""
    folds = _folds(len(y))
    errors = np.empty(len(y))
    for k in range(folds.max() + 1):
        inside, outside = folds != k, folds == k
        choice, _ = _choose(X[inside], y[inside])
        errors[outside] = np.abs(CANDIDATES[choice](X[inside], y[inside]).predict(X[outside]) / y[outside] - 1)
    return float(errors.mean())


def _folds(n: int, n_folds: int = _FOLDS) -> np.ndarray:
    """Return the fold of each of n networks, (n,): the same for the same n, all folds about equally large."""
    folds = np.arange(n) % min(n_folds, n)
    return np.random.default_rng(n).permutation(folds)


def _held_out(models: Sequence[Correction], X: np.ndarray, folds: np.ndarray) -> np.ndarray:
    predicted = np.empty(len(X))
    for k, model in enumerate(models):
        predicted[folds == k] = model.predict(X[folds == k])
    return predicted


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_and_fit(
    config: Config,
    table: LatencyTable,
    lattice: Lattice,
    *,
    n: int = 40,
    timing: Timing | None = None,
    tied: bool = False,
    level: float = 0.95,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = False,
) -> LatencyModel:
    """Measure random sub-networks in turn with the dense model and fit the latency model on them.

    Args:
        config: litgpt's Config of the dense network.
        table: costs of the parts; says the workload.
        lattice: the levels.
        n: networks to measure.
        timing: device, threads and repeats.
        tied: whether embedding and head share one matrix.
        level: of the upper bound.
        seed: of the networks.
        folder: where each measurement is kept as soon as it is done, so that a killed run goes on; None for memory.
        progress: show a progress bar.

    Raises:
        ValueError: too few networks, or a folder with measurements of another network, workload or device.
    """
    from pruning.random_networks import like_layers
    from pruning.shape_latency import Shape, Timing, measure_shapes

    archs = random_subnets(lattice, table, n, rng=np.random.default_rng(seed), bias=config.bias)
    measured = measure_shapes(
        {arch.id: Shape(arch) for arch in archs}, Shape(like_layers(config, config.n_layer)), config, table.workload,
        timing=timing or Timing(repeats=6), tied=tied,
        log=None if folder is None else Path(folder) / "subnets.jsonl", progress=progress,
    )  # fmt: skip
    ratios = np.array([measured[arch.id].ratio for arch in archs])
    analytic = LatencyTable.analytic(config, replace(lattice, **table.levels), table.workload)
    share = share_of_prior(table.predict(archs), analytic.predict(archs), ratios)
    return fit_latency_model(table.blended(analytic, share), archs, ratios, level=level)


def describe(model: LatencyModel) -> dict[str, Any]:
    """Return what a report says about the model."""
    return {
        "networks": len(model.ratios), "choice": model.choice, "mape": model.mape, "candidates": dict(model.scores),
        "level": model.level, "excess_largest": float(np.exp(model.excess.max()) - 1),
    }  # fmt: skip
