"""A benchmark's metrics as one function to minimise, with frozen bounds, for optimizers. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hw_profiles.table import METRICS
from surrogates.campaign import TargetKey
from surrogates.queries import Architectures
from surrogates.reference_fronts import ReferenceFront, ReferenceFronts, objective_label

if TYPE_CHECKING:
    from surrogates.benchmark import Benchmark

_BEYOND_NADIR = 0.1  # the reference point is (1.1, ..., 1.1) in units of ideal -> nadir, as in search.pareto


@dataclass(frozen=True)
class BenchmarkObjective:
    """Values to minimise of architectures in any form; `accuracy` is negated, since more is better.

    Attributes:
        targets: m metrics and devices.
        units: their units.
        benchmark: what answers.
        known: frozen fronts and extremes of the space.

    Example:
        >>> from surrogates import Benchmark
        >>> b = Benchmark("gpt-s")
        >>> objective = b.objective(("perplexity", ("latency", "a100")))
        >>> objective(b.space.largest()).shape
        (1, 2)
    """

    targets: tuple[TargetKey, ...]
    units: tuple[str, ...]
    benchmark: Benchmark = field(repr=False)
    known: ReferenceFronts = field(repr=False)

    def __call__(self, archs: Architectures) -> np.ndarray:
        """Return values (n, m), minimised, of genes (n, g) or architectures in any other form."""
        return self.benchmark.medians(archs, self.targets) * self._signs

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objectives, such as "perplexity", "latency_ms@a100", "-accuracy"."""
        return tuple(
            ("-" if METRICS[target.metric].higher_is_better else "") + objective_label(target)
            for target in self.targets
        )

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Frozen ideal and nadir, both (m,): of the reference front, or without one the extremes over the space.

        Raises:
            ValueError: an objective without shipped extremes, such as one of an added device.
        """
        front = self._front
        if front is not None:
            return front.ideal.copy(), front.nadir.copy()
        labels = [objective_label(target) for target in self.targets]
        if missing := [label for label in labels if label not in self.known.extremes]:
            known = ", ".join(self.known.extremes) or "none"
            raise ValueError(f"there are no frozen bounds of {', '.join(missing)}; there are of {known}")
        low, high = zip(*(self.known.extremes[label] for label in labels), strict=True)
        return np.array(low), np.array(high)

    @property
    def reference_point(self) -> np.ndarray:
        """Frozen reference point of the hypervolume (m,): the nadir and a tenth of the way from the ideal more."""
        ideal, nadir = self.bounds
        return np.asarray(nadir + _BEYOND_NADIR * (nadir - ideal))

    @property
    def reference_front(self) -> np.ndarray | None:
        """Frozen reference front (k, m), ascending in the first objective; None where none is shipped."""
        return None if self._front is None else self._front.front.copy()

    @property
    def reference_genes(self) -> np.ndarray | None:
        """Genes (k, g) of the architectures of the reference front."""
        return None if self._front is None else self._front.genes.copy()

    @property
    def _front(self) -> ReferenceFront | None:
        return self.known.front([objective_label(target) for target in self.targets])

    @property
    def _signs(self) -> np.ndarray:
        return np.array([-1.0 if METRICS[target.metric].higher_is_better else 1.0 for target in self.targets])
