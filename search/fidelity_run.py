"""The search loop of algorithms with fidelities: budgets in tokens, every job saved, full evaluations for a result."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.fidelity import AtFidelities, FidelityCosts, FidelityJob, MultiFidelityOptimizer
from search.result import SearchResult
from search.run import Problem, SearchLoop

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


class FidelitySearch(SearchLoop):
    """One running search with fidelities.

    `jobs.parquet` has one row a job, with its fidelity and the tokens it added. The result has the networks that were
    evaluated in full, and in `cost` the full evaluations' worth of tokens that had been spent when each was done.

    Attributes:
        costs: tokens at each fidelity.
        tokens_spent: of all jobs so far; a job adds those of its fidelity less those of the one below.

    Raises:
        ValueError: an objective without a fidelity, see `FidelityCosts.of`.
    """

    table = "jobs.parquet"

    def __init__(self, problem: Problem, optimizer: Any, seed: int, run_dir: Path | None) -> None:
        super().__init__(problem, optimizer, seed, run_dir)
        self.fidelity_optimizer: MultiFidelityOptimizer = optimizer
        self.costs = FidelityCosts.of(problem.objectives, optimizer.fidelities, algorithm=self.algorithm)
        self.tokens_spent = 0

    def resume(self) -> bool:
        """Load the state that the run's folder holds; False when there is none."""
        resumed = super().resume()
        self.tokens_spent = sum(int(frame["tokens"].sum()) for frame in self.frames)
        return resumed

    def run(self, n_evaluations: int, batch: int, progress: bool) -> None:
        """Evaluate until no job fits in `n_evaluations` full evaluations' worth of tokens, or nothing is left to do."""
        from tqdm import tqdm

        budget, full = n_evaluations * self.costs.full, self.costs.full
        shape = "{l_bar}{bar}| {n:.1f}/{total} evaluations' worth [{elapsed}<{remaining}{postfix}]"
        with tqdm(
            total=n_evaluations, initial=self.tokens_spent / full, desc="search", bar_format=shape, disable=not progress
        ) as bar:
            while True:
                started, before = time.perf_counter(), self.tokens_spent
                jobs = self.fidelity_optimizer.ask_jobs(batch)
                if not jobs:
                    _log.warning("space %r is exhausted after %d jobs", self.problem.space.name, self.n_done)
                    break
                fitting = self._fitting(jobs, budget - before)
                if fitting:
                    self._run_jobs(fitting)
                    self.seconds += time.perf_counter() - started
                    self._save()
                    bar.update((self.tokens_spent - before) / full)
                if len(fitting) < len(jobs):
                    break

    def _fitting(self, jobs: list[FidelityJob], tokens: int) -> list[FidelityJob]:
        """Return the jobs, in order, that what is left of the budget pays for."""
        fitting = []
        for job in jobs:
            cost = self.costs.step(job.fidelity)
            if cost <= tokens:
                fitting.append(job)
                tokens -= cost
        return fitting

    def _run_jobs(self, jobs: list[FidelityJob]) -> None:
        fidelities = tuple(job.fidelity for job in jobs)
        archs = [job.architecture for job in jobs]
        frame = _at(self.problem, fidelities).evaluate(archs)
        values = frame[[o.name for o in self.problem.objectives]].to_numpy(dtype=np.float64)
        self.fidelity_optimizer.tell_jobs(jobs, values, frame["violation"].to_numpy())
        frame.insert(0, "order", np.arange(self.n_done, self.n_done + len(jobs)))
        frame.insert(2, "fidelity", fidelities)
        frame.insert(3, "tokens", [self.costs.step(fidelity) for fidelity in fidelities])
        self.frames.append(frame)
        self.tokens_spent += int(frame["tokens"].sum())

    def result(self) -> SearchResult:
        """Return the full evaluations, and what was spent on all."""
        base = super().result()
        jobs = base.evaluations
        return replace(base, evaluations=self._in_full(jobs), details=base.details | {"spent": self._spent(jobs)})

    def _in_full(self, jobs: pd.DataFrame) -> pd.DataFrame:
        jobs = jobs.assign(cost=jobs["tokens"].cumsum() / self.costs.full)
        full = jobs[jobs["fidelity"] == self.costs.fidelities[-1]].drop(columns=["fidelity", "tokens"])
        return full.assign(order=np.arange(len(full))).reset_index(drop=True)

    def _spent(self, jobs: pd.DataFrame) -> dict[str, Any]:
        return {
            "evaluations": self.tokens_spent / self.costs.full,
            "tokens": self.tokens_spent,
            "tokens_per_evaluation": self.costs.full,
            "n_networks": int(jobs["architecture"].nunique()),
            "rungs": [
                {"fidelity": fidelity, "tokens": tokens, "n_networks": int((jobs["fidelity"] == fidelity).sum())}
                for fidelity, tokens in zip(self.costs.fidelities, self.costs.tokens, strict=True)
            ],
        }


def _at(problem: Problem, fidelities: tuple[float, ...]) -> Problem:
    """Return the problem with every objective and budget at the given fidelities."""
    return replace(
        problem,
        objectives=tuple(AtFidelities(o, fidelities) for o in problem.objectives),
        constraints=tuple(replace(c, objective=AtFidelities(c.objective, fidelities)) for c in problem.constraints),
    )
