"""Cases of a comparison: a shipped benchmark, what is minimised in it, and what must hold. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hw_profiles.table import ANY_DEVICE, METRICS
from search.benchmark_objectives import BenchmarkTarget
from search.budget import Budget, Constraint
from search.pareto import Floats
from surrogates.benchmark import Benchmark
from surrogates.benchmark_targets import ALIASES
from surrogates.campaign import TargetKey
from surrogates.reference_fronts import objective_label

NOISY = " noisy"  # suffix of the names of cases whose optimizers see measurements with noise


@lru_cache(maxsize=8)
def benchmark_of(name: str, devices: tuple[str, ...] = ()) -> Benchmark:
    """Return a shipped benchmark, read once a process.

    Args:
        name: of its space.
        devices: folders of adapted devices to add.

    Raises:
        ValueError: no benchmark of that name (near matches are given), or a damaged file.
    """
    return Benchmark(name, extra_devices=devices)


@dataclass(frozen=True)
class Case:
    """What is searched for.

    Attributes:
        benchmark: name of a shipped benchmark.
        targets: metrics and devices of the m objectives.
        budgets: hard limits on metrics that are better when lower, each with its device.
        is_noisy: whether optimizers see one noisy measurement of each network; they are scored without the noise.
    """

    benchmark: str
    targets: tuple[TargetKey, ...]
    budgets: tuple[Budget, ...] = ()
    is_noisy: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objectives, such as "perplexity", "latency_ms@a100", "-accuracy"."""
        signs = ["-" if METRICS[target.metric].higher_is_better else "" for target in self.targets]
        return tuple(sign + objective_label(target) for sign, target in zip(signs, self.targets, strict=True))

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the objectives."""
        return tuple(METRICS[target.metric].unit for target in self.targets)

    @property
    def clean_name(self) -> str:
        """Name without the suffix of noisy cases: cases of equal clean name have the same reference fronts."""
        limits = ", ".join(f"{objective_label(_target(b))}<={b.limit:.10g}" for b in self.budgets)
        return " ".join([self.benchmark, *self.names]) + (f" | {limits}" if limits else "")

    @property
    def name(self) -> str:
        """Name in files and reports."""
        return self.clean_name + (NOISY if self.is_noisy else "")

    @property
    def slug(self) -> str:
        """Name of a folder."""
        return re.sub(r"[^A-Za-z0-9_.@=-]+", "-", self.name.replace("<=", "-max-"))

    def objectives(self, benchmark: Benchmark, seed: int) -> tuple[BenchmarkTarget, ...]:
        """Return what an optimizer with this seed sees of the objectives."""
        noise_seed = seed if self.is_noisy else None
        return tuple(BenchmarkTarget(benchmark, target, noise_seed=noise_seed) for target in self.targets)

    def constraints(self, benchmark: Benchmark, seed: int) -> tuple[Constraint, ...]:
        """Return what an optimizer with this seed sees of the budgets."""
        noise_seed = seed if self.is_noisy else None
        return tuple(
            Constraint(budget, BenchmarkTarget(benchmark, _target(budget), noise_seed=noise_seed))
            for budget in self.budgets
        )

    def measure(self, benchmark: Benchmark, genes: np.ndarray) -> tuple[Floats, Floats]:
        """Return noise-free values (n, m), minimised, and by how much (n,) budgets are missed, of canonical genes."""
        limits = [_target(budget) for budget in self.budgets]
        targets = list(dict.fromkeys([*self.targets, *limits]))
        medians = benchmark.medians(genes, targets)
        signs = np.array([-1.0 if name.startswith("-") else 1.0 for name in self.names])
        violation = np.zeros(len(genes))
        for constraint, target in zip(self.constraints(benchmark, 0), limits, strict=True):
            violation += constraint.violation(medians[:, targets.index(target)])
        return medians[:, : len(self.targets)] * signs, violation

    def scored_values(self, benchmark: Benchmark, genes: np.ndarray) -> Floats:
        """Return noise-free values (n, m), rows that miss a budget NaN."""
        values, violation = self.measure(benchmark, genes)
        values[violation > 0] = np.nan
        return values


def find_case(
    benchmark: Benchmark, *, objectives: Sequence[str], device: str | None = None,
    budgets: Mapping[str, float] | None = None, is_noisy: bool = False,
) -> Case:  # fmt: skip
    """Return a case from names as people give them.

    Args:
        benchmark: what answers.
        objectives: metrics, short names too; those of hardware are of `device` unless they name one: "latency@h100".
        device: where hardware is measured.
        budgets: largest value by metric, likewise.
        is_noisy: see `Case`.

    Raises:
        KeyError: an unknown metric or device; near matches and all names are given.
        ValueError: a device is missing or lacks the metric, an objective twice, fewer than two objectives, or a
            budget on a metric that is better when higher.
    """
    if len(objectives) < 2:
        raise ValueError(f"objectives = {list(objectives)}: a comparison needs at least two that conflict")
    targets = benchmark.objective([_request(text, device) for text in objectives]).targets
    limits = tuple(_budget(benchmark, text, float(limit), device) for text, limit in (budgets or {}).items())
    return Case(benchmark.space.name, targets, limits, is_noisy)


def _budget(benchmark: Benchmark, text: str, limit: float, device: str | None) -> Budget:
    target = benchmark.objective([_request(text, device)]).targets[0]
    if METRICS[target.metric].higher_is_better:
        raise ValueError(f"budget {target.metric}: limits are on metrics that are better when lower, e.g. perplexity")
    return Budget(target.metric, limit, None if target.device == ANY_DEVICE else target.device)


def _request(text: str, device: str | None) -> str | tuple[str, str]:
    """Return a metric as `Benchmark.objective` takes it: with the device where it depends on one."""
    metric, _, own = text.partition("@")
    known = METRICS.get(ALIASES.get(metric, metric))
    place = own or (device if known and known.per_device else None)
    return (metric, place) if place else metric


def _target(budget: Budget) -> TargetKey:
    return TargetKey(budget.metric, budget.device or ANY_DEVICE)
