"""Metrics of a shipped benchmark as objectives of a search. No torch.

from search.benchmark_objectives import benchmark_targets
from surrogates import Benchmark

objectives = benchmark_targets(Benchmark("gpt-s"), ("perplexity", ("latency", "a100")))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hw_profiles.table import ANY_DEVICE, METRICS
from search.objectives import QUALITY_METRICS
from search.pareto import Floats
from supernet.architecture import Architecture
from surrogates.campaign import TargetKey
from surrogates.exact_costs import EXACT_METRICS
from surrogates.reference_fronts import objective_label

if TYPE_CHECKING:
    from surrogates.benchmark import Benchmark

_QUALITY = (*QUALITY_METRICS, "accuracy")


@dataclass(frozen=True)
class BenchmarkTarget:
    """One metric of a shipped benchmark, on one device where it has one; accuracy is negated, since more is better.

    Attributes:
        benchmark: what answers.
        target: metric and device.
        quantile: None for the median, else a conformal quantile of the model's error.
        noise_seed: None for the noise-free value, else one measurement of each network, drawn by seed and network.

    Raises:
        ValueError: a quantile and noise together, or a quantile outside (0, 1).
    """

    benchmark: Benchmark = field(repr=False)
    target: TargetKey
    quantile: float | None = None
    noise_seed: int | None = None

    def __post_init__(self) -> None:
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ValueError(f"quantile = {self.quantile}: give a probability between 0 and 1, or None for the median")
        if self.quantile is not None and self.noise_seed is not None:
            raise ValueError("quantile and noise_seed together: a drawn measurement has no quantile; give one of them")

    @property
    def metric(self) -> str:
        """Name of the metric, as budgets call it."""
        return self.target.metric

    @property
    def device(self) -> str | None:
        """Where it was measured; None for metrics without a device."""
        return None if self.target.device == ANY_DEVICE else self.target.device

    @property
    def name(self) -> str:
        """Column name: perplexity, latency_ms@a100, -accuracy."""
        return ("-" if METRICS[self.metric].higher_is_better else "") + objective_label(self.target)

    @property
    def unit(self) -> str:
        """Unit of the metric."""
        return METRICS[self.metric].unit

    @property
    def is_free(self) -> bool:
        """Whether it is not one of quality."""
        return self.metric not in _QUALITY

    @property
    def identity(self) -> str:
        """The benchmark, its fitted models, the target and what of it."""
        what = "median" if self.quantile is None else f"quantile {self.quantile:g}"
        if self.noise_seed is not None:
            what = f"measurement drawn with seed {self.noise_seed}"
        source = f"benchmark {self.benchmark.space.name} {self.benchmark.digest}"
        return f"{source}: {what} of {objective_label(self.target)}, {self._probe}"

    @cached_property
    def _probe(self) -> str:
        """The values of two networks: they tell apart added devices, which the digest does not know."""
        space = self.benchmark.space
        values = self.benchmark.medians([space.smallest(), space.largest()], [self.target])[:, 0]
        return " to ".join(f"{value:.6g}" for value in values)

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return values (n,)."""
        return self.of_genes(self.benchmark.genes(archs)) if len(archs) else np.empty(0)

    def of_genes(self, genes: np.ndarray) -> Floats:
        """Return values (n,) of canonical genes (n, g)."""
        sign = -1.0 if METRICS[self.metric].higher_is_better else 1.0
        if self.quantile is None and self.noise_seed is None:
            return np.asarray(sign * self.benchmark.medians(genes, [self.target])[:, 0])
        levels = () if self.quantile is None else (self.quantile if sign > 0 else 1 - self.quantile,)
        values = self.benchmark.query(
            genes, metrics=self.metric, devices=self.device, quantiles=levels or None,
            noise=self.noise_seed is not None, seed=self.noise_seed, out="numpy",
        )  # fmt: skip
        return np.asarray(sign * values[:, -1], dtype=np.float64)


def benchmark_targets(
    benchmark: Benchmark, metrics: Sequence[str | tuple[str, str]], *, noise_seed: int | None = None
) -> tuple[BenchmarkTarget, ...]:
    """Return objectives of a benchmark.

    Args:
        benchmark: what answers.
        metrics: names, with a device where there are several: ("perplexity", ("latency", "a100")).
        noise_seed: None for noise-free values, else the seed of the measurements that are drawn.

    Raises:
        KeyError: an unknown metric or device.
        ValueError: a device is missing, or lacks the metric; none, or one twice.
    """
    targets = benchmark.objective(metrics).targets
    # exact costs and qualities that were not repeated have no noise: a draw of them is their value
    return tuple(BenchmarkTarget(benchmark, target, noise_seed=noise_seed) for target in targets)


def budget_targets(benchmark: Benchmark) -> list[BenchmarkTarget]:
    """Return every hardware metric on every device, for budgets; exact costs, which need no benchmark, are left out."""
    targets = benchmark.columns().targets
    return [BenchmarkTarget(benchmark, t) for t in targets if t.metric not in (*EXACT_METRICS, *_QUALITY)]
