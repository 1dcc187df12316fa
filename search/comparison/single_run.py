"""One run of a comparison: one method on one case with one seed, in memory, on arrays of genes. No torch.

A lean form of `search.run`: no files, no tables, one question to the benchmark for each batch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from search.algorithms.free_problem import with_free_problem
from search.algorithms.gene_arrays import Genes
from search.comparison.cases import Case, benchmark_of
from search.comparison.methods import Method
from search.comparison.training_free import training_free_genes
from search.pareto import Floats
from surrogates.benchmark import Benchmark


@dataclass(frozen=True)
class RunPlan:
    """What a run is.

    Attributes:
        case: what is searched for.
        method: by what.
        seed: of everything random, the noise of measurements too.
        n_evaluations: of perplexity, at most; a point method takes as many as its front has members.
        n_free: evaluations of free objectives, of methods that have an inner search.
        devices: folders of adapted devices.
    """

    case: Case
    method: Method
    seed: int
    n_evaluations: int
    n_free: int
    devices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.case.name}, {self.method.name}, seed {self.seed}"

    @property
    def benchmark(self) -> Benchmark:
        """What answers."""
        return benchmark_of(self.case.benchmark, self.devices)

    @property
    def identity(self) -> dict[str, Any]:
        """What its results depend on, in plain JSON types."""
        return {
            "case": self.case.name,
            "method": self.method.name,
            "seed": self.seed,
            "n_evaluations": None if self.method.is_point else self.n_evaluations,
            "n_free": self.n_free,
            "sources": list(_sources(self.case, self.devices)),
            "is_told_of_noise": self.case.is_noisy and self.method.is_told_of_noise,
            **self.method.identity,
        }


@dataclass(frozen=True)
class FoundNetworks:
    """What a run evaluated, in order.

    Attributes:
        genes: canonical, (n, g).
        values: noise-free, minimised, (n, m).
        violation: by how much budgets are missed, (n,); 0 where they hold.
        seconds: of one core, for the method and what it asked.
    """

    genes: Genes
    values: Floats
    violation: Floats
    seconds: float


@lru_cache(maxsize=256)
def _sources(case: Case, devices: tuple[str, ...]) -> tuple[str, ...]:
    """Return what the numbers of a case come from."""
    benchmark = benchmark_of(case.benchmark, devices)
    clean = replace(case, is_noisy=False)
    limits = [constraint.objective for constraint in clean.constraints(benchmark, 0)]
    return tuple(objective.identity for objective in (*clean.objectives(benchmark, 0), *limits))


def execute(plan: RunPlan) -> FoundNetworks:
    """Do a run; the same plan gives the same networks."""
    benchmark = plan.benchmark
    started = time.process_time()
    genes = _point_front(plan, benchmark) if plan.method.is_point else _search(plan, benchmark)
    seconds = time.process_time() - started
    values, violation = plan.case.measure(benchmark, genes)
    return FoundNetworks(genes, values, violation, seconds)


def _point_front(plan: RunPlan, benchmark: Benchmark) -> Genes:
    method = plan.method
    assert method.proxy is not None
    return training_free_genes(
        benchmark.space, plan.case.objectives(benchmark, plan.seed), plan.case.constraints(benchmark, plan.seed),
        proxy=method.proxy, n_free=min(plan.n_free, method.settings.get("n_free", plan.n_free)),
        rng=np.random.default_rng(plan.seed), front=method.settings["front"],
    )  # fmt: skip


def _search(plan: RunPlan, benchmark: Benchmark) -> Genes:
    space, method = benchmark.space, plan.method
    objectives = plan.case.objectives(benchmark, plan.seed)
    constraints = plan.case.constraints(benchmark, plan.seed)
    factory = method.factory(n_free=plan.n_free, is_noisy=plan.case.is_noisy)
    builder = with_free_problem(factory, space, objectives, budgets=constraints)
    optimizer = builder(space, rng=np.random.default_rng(plan.seed))
    found: list[Genes] = []
    left = plan.n_evaluations
    while left > 0 and (archs := optimizer.ask(min(method.batch, left))):
        genes = benchmark.genes(archs)
        violation = np.zeros(len(archs))
        for constraint in constraints:
            violation += constraint.violation(constraint.objective.of_genes(genes))  # type: ignore[attr-defined]
        optimizer.tell(archs, np.column_stack([o.of_genes(genes) for o in objectives]), violation)
        found.append(genes)
        left -= len(archs)
    return np.concatenate(found)
