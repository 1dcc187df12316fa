"""All that a benchmark can answer from genes: the space's surrogate, devices added to it, exact costs. No torch.

Shapes: n architectures, g genes, A targets: those of the space's model, then of added devices, then exact ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from supernet.space import SearchSpace
from surrogates.campaign import TargetKey
from surrogates.exact_costs import EXACT_METRICS, ExactCosts


class Predictor(Protocol):
    """The surrogate of a space (`surrogates.compiled_model.CompiledModel`)."""

    space: SearchSpace
    targets: tuple[TargetKey, ...]

    def predict(self, genes: np.ndarray) -> np.ndarray:
        """Return medians (n, T)."""

    def of_targets(self, targets: Sequence[TargetKey]) -> Predictor:
        """Return a model of some of the targets, with the same numbers."""

    def log_quantiles(self, genes: np.ndarray, levels: Sequence[float], *, drift: bool = False) -> np.ndarray:
        """Return log(quantile / median), (n, T, q)."""

    def noise_std(self, genes: np.ndarray) -> np.ndarray:
        """Return the standard deviation of the logarithm of repeats, (n, T); NaN where nothing was repeated."""


class AddedDevice(Protocol):
    """One target that was adapted from those of the space's model."""

    @property
    def target(self) -> TargetKey:
        """Metric and device."""

    def predict(self, genes: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """Return medians (n,), given those of the space's model (n, T)."""

    def log_quantiles(self, genes: np.ndarray, levels: Sequence[float], *, drift: bool = False) -> np.ndarray:
        """Return log(quantile / median), (n, q)."""

    def noise_std(self, genes: np.ndarray) -> np.ndarray:
        """Return the standard deviation of the logarithm of repeats, (n,)."""


class BenchmarkModel:
    """Answers of a benchmark, as arrays.

    Args:
        model: of the space.
        added: further devices' targets.

    Raises:
        ValueError: a target twice.
    """

    def __init__(self, model: Predictor, added: Sequence[AddedDevice] = ()) -> None:
        self.model = model
        self.added = tuple(added)
        self.exact = ExactCosts(model.space)
        names = [TargetKey(name) for name in EXACT_METRICS]
        self.targets = (*model.targets, *(device.target for device in added), *names)
        if twice := {str(target) for target in self.targets if self.targets.count(target) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))} is there twice: give every extra device a name of its own")
        self.n_model = len(model.targets)
        self.n_surrogate = self.n_model + len(added)
        self._part = lru_cache(maxsize=64)(self._model_of)

    def predict(self, genes: np.ndarray) -> np.ndarray:
        """Return noise-free medians (n, A) of canonical genes (n, g)."""
        values = np.empty((len(genes), len(self.targets)))
        sources = self.model.predict(genes)
        values[:, : self.n_model] = sources
        for i, device in enumerate(self.added, start=self.n_model):
            values[:, i] = device.predict(genes, sources)
        values[:, self.n_surrogate :] = self.exact(genes)
        return values

    def predict_some(self, genes: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return noise-free medians of the targets `indices` (k,), (n, k), computing no others where that helps."""
        surrogates = tuple(i for i in sorted(set(indices.tolist())) if i < self.n_surrogate)
        if any(i >= self.n_model for i in surrogates):  # added devices need their sources
            return self.predict(genes)[:, indices]
        values = np.empty((len(genes), len(self.targets)))
        if surrogates:
            values[:, surrogates] = self._part(surrogates).predict(genes)
        if (indices >= self.n_surrogate).any():
            values[:, self.n_surrogate :] = self.exact(genes)
        return values[:, indices]

    def _model_of(self, indices: tuple[int, ...]) -> Predictor:
        if len(indices) == self.n_model:
            return self.model
        return self.model.of_targets([self.targets[i] for i in indices])

    def log_quantiles(
        self, genes: np.ndarray, levels: Sequence[float], indices: np.ndarray, *, drift: bool
    ) -> np.ndarray:  # fmt: skip
        """Return log(quantile / median) of the targets `indices` (k,), (n, k, q); 0 for exact targets.

        Raises:
            ValueError: a level that a target cannot give.
        """
        logs = np.zeros((len(genes), len(indices), len(levels)))
        shipped = indices < self.n_model
        if shipped.any():
            logs[:, shipped] = self.model.log_quantiles(genes, levels, drift=drift)[:, indices[shipped]]
        for place, i in enumerate(indices.tolist()):
            if self.n_model <= i < self.n_surrogate:
                logs[:, place] = self.added[i - self.n_model].log_quantiles(genes, levels, drift=drift)
        return logs

    def noise_std(self, genes: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the standard deviation of the logarithm of repeats of some targets, (n, k); NaN without repeats."""
        std = np.full((len(genes), len(self.targets)), np.nan)
        std[:, : self.n_model] = self.model.noise_std(genes)
        for i, device in enumerate(self.added, start=self.n_model):
            std[:, i] = device.noise_std(genes)
        return std[:, indices]
