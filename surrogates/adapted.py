"""A device that a user added: its metrics predicted from those of the shipped devices. No torch, no scikit-learn.

Shapes: n architectures, g genes, T targets of the space's model, S sources, K terms, q levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from supernet.architecture import Architecture
from supernet.encoding import to_genes
from supernet.space import SearchSpace
from surrogates.adaptation_terms import DeviceFeatures, Terms, costs
from surrogates.campaign import TargetKey
from surrogates.levels import check_levels, rank

_CHECKED = 16  # architectures whose predictions tell another version of the shipped surrogates
_SAME = 1e-3  # relative difference of the sources' predictions that is taken for another model


class SourceModel(Protocol):
    """The surrogate of a space whose targets are the sources (`surrogates.space_model.SpaceModel`)."""

    space: SearchSpace
    targets: tuple[TargetKey, ...]

    def predict(self, genes: np.ndarray) -> np.ndarray:
        """Return medians (n, T) of canonical genes (n, g)."""


@dataclass(frozen=True)
class Blend:
    """A weighted mean of models that are linear in `Terms`, and of one that is an affine map of a source's logarithm.

    Attributes:
        terms: of the space.
        coef: (K,) sum of share x coefficients.
        log_source: index of the source of the other model.
        log_affine: (3,) its intercept, its slope and its share.
        floor: the least value.
    """

    terms: Terms
    coef: np.ndarray
    log_source: int
    log_affine: np.ndarray
    floor: float

    def predict(self, sources: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Return medians (n,) from source predictions (n, S) and `DeviceFeatures` (n, 5)."""
        table = np.concatenate([np.ones((len(features), 1)), costs(features), sources], axis=1)
        values = (table * self._by_width[np.searchsorted(self.terms.widths, features[:, 0])]).sum(axis=1)
        intercept, slope, share = self.log_affine
        if share:
            values = values + share * np.exp(intercept + slope * np.log(sources[:, self.log_source]))
        return np.maximum(values, self.floor)

    @cached_property
    def _by_width(self) -> np.ndarray:
        """Coefficients of [1 | costs | sources] for each width, (W, k): `terms @ coef` without the wide table."""
        terms, coef = self.terms, self.coef
        own = np.column_stack([
            coef[terms.width],
            coef[terms.width_costs].reshape(len(terms.widths), -1),
            coef[terms.width_sources].reshape(len(terms.widths), -1),
        ])  # fmt: skip
        return np.concatenate([coef[:1], coef[terms.costs], coef[terms.sources]]) + own


@dataclass(frozen=True)
class AdaptationReport:
    """How good each way to predict is on rows that it had not seen.

    Attributes:
        architectures: (n,) ids of the measured rows.
        measured: (n,) their medians.
        sources: (n, S) what the sources' models predict for them.
        loo: (n,) leave-one-out predictions by candidate; of the blend at fixed shares.
        scores: of those, by candidate ("blend" is what is used), as `surrogates.validation.Scores.to_dict` gives them.
        shares: of each candidate in the blend.
        best_source: what "source" maps.
    """

    architectures: tuple[str, ...]
    measured: np.ndarray
    sources: np.ndarray
    loo: Mapping[str, np.ndarray]
    scores: Mapping[str, Mapping[str, Any]]
    shares: Mapping[str, float]
    best_source: TargetKey


@dataclass(frozen=True)
class AdaptedMetric:
    """One metric of an added device.

    Attributes:
        target: metric and device.
        unit: of predictions.
        workload: id of the input it was measured with; it may differ from the sources'.
        measured_on: the name of the device in the measurements.
        sources: targets of the space's model that it is predicted from.
        blend: the fitted model.
        residuals: (n,) log(measured / leave-one-out prediction) of the blend, ascending.
        noise: standard deviation of the logarithm of repeats; NaN where nothing was repeated.
        report: how it was chosen.
    """

    target: TargetKey
    unit: str
    workload: str
    measured_on: str
    sources: tuple[TargetKey, ...]
    blend: Blend
    residuals: np.ndarray
    noise: float
    report: AdaptationReport

    @property
    def n(self) -> int:
        """Architectures it was fitted to."""
        return len(self.report.measured)

    def predict(self, sources: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Return noise-free medians (n,) from the sources' medians (n, S) and `DeviceFeatures` (n, 5)."""
        return self.blend.predict(sources, features)

    def log_quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Return log(quantile / median), (q,): the same for every architecture.

        They are the conformal order statistics of `surrogates.calibration`, which takes a second to import.

        Raises:
            ValueError: fewer rows than a level needs; says how many are needed.
        """
        n = len(self.residuals)
        ranks = [rank(level, n) for level in levels]
        if not all(1 <= place <= n for place in ranks):
            self._refuse(levels)
        return self.residuals[np.array(ranks, int) - 1]

    def _refuse(self, levels: Sequence[float]) -> None:
        try:
            check_levels(levels, len(self.residuals))
        except ValueError as error:
            raise ValueError(f"{self.target}: {error}") from error
        raise AssertionError(levels)

    def columns(self, targets: Sequence[TargetKey]) -> np.ndarray:
        """Return where the sources are among a model's targets, (S,).

        Raises:
            ValueError: the model lacks a source.
        """
        places = {tuple(target): i for i, target in enumerate(targets)}
        missing = [str(source) for source in self.sources if tuple(source) not in places]
        if missing:
            raise ValueError(
                f"{self.target} was adapted from {', '.join(missing)}, which this benchmark lacks: adapt it again"
            )
        return np.array([places[tuple(source)] for source in self.sources])


@dataclass(frozen=True)
class AdaptedDevice:
    """An added device.

    Attributes:
        name: of the device.
        space: of the architectures.
        metrics: by name.
        hardware: what it is, in words; may be empty.
        command: how it was made.
        created: ISO date and time.
        versions: of the packages.
    """

    name: str
    space: SearchSpace
    metrics: Mapping[str, AdaptedMetric]
    hardware: str = ""
    command: str = ""
    created: str = ""
    versions: Mapping[str, str] | None = None

    def bind(self, model: SourceModel) -> tuple[BoundTarget, ...]:
        """Return its metrics as targets that are predicted from a model's.

        Raises:
            ValueError: another space, or not the model that the device was adapted from.
        """
        if model.space != self.space:
            raise ValueError(
                f"device {self.name!r} was adapted for space {self.space.name!r}, "
                f"not for this {model.space.name!r}: adapt it again"
            )
        return tuple(
            BoundTarget(metric, self._checked_columns(metric, model), self.space) for metric in self.metrics.values()
        )

    def _checked_columns(self, metric: AdaptedMetric, model: SourceModel) -> np.ndarray:
        columns = metric.columns(model.targets)
        archs = [Architecture.from_id(text) for text in metric.report.architectures[:_CHECKED]]
        now = model.predict(to_genes(self.space, archs))[:, columns]
        if not np.allclose(now, metric.report.sources[:_CHECKED], rtol=_SAME, atol=0):
            raise ValueError(
                f"{metric.target} was adapted from another version of the shipped surrogates: adapt it again "
                "from its measurements"
            )
        return columns


@dataclass(frozen=True)
class BoundTarget:
    """A metric of an added device, beside the targets of the model that it was adapted from.

    Attributes:
        metric: the metric.
        columns: (S,) where its sources are among the model's targets.
        space: of the genes.
    """

    metric: AdaptedMetric
    columns: np.ndarray
    space: SearchSpace

    @property
    def target(self) -> TargetKey:
        """Metric and device."""
        return self.metric.target

    @cached_property
    def _features(self) -> DeviceFeatures:
        return DeviceFeatures(self.space)

    def predict(self, genes: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """Return medians (n,) of canonical genes (n, g), given all medians of the model, (n, T)."""
        return self.metric.predict(sources[:, self.columns], self._features(genes))

    def log_quantiles(self, genes: np.ndarray, levels: Sequence[float], *, drift: bool = False) -> np.ndarray:
        """Return log(quantile / median), (n, q); `drift` makes no difference: residuals are of values as measured."""
        return np.tile(self.metric.log_quantiles(levels), (len(genes), 1))

    def noise_std(self, genes: np.ndarray) -> np.ndarray:
        """Return the standard deviation of the logarithm of repeats, (n,); NaN where nothing was repeated."""
        return np.full(len(genes), self.metric.noise)
