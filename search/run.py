"""The search loop: ask, evaluate, tell, save; killed at any moment it goes on exactly where it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.algorithms.free_problem import with_free_problem
from search.algorithms.optimizer import Optimizer, OptimizerFactory
from search.budget import Budget, Constraint, check_reachable, constrain
from search.fidelity import MultiFidelityOptimizer
from search.objectives import Objective
from search.pareto import Floats
from search.result import EVALUATIONS, STATE, ObjectiveInfo, SearchResult, read_parquet, write_parquet
from supernet.architecture import Architecture
from supernet.artifacts import read_json, write_json
from supernet.space import SearchSpace

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_SWITCH = "Give another run_dir, or the settings of that run; nothing was changed."


@dataclass(frozen=True)
class Problem:
    """A space, what is minimised in it, and what must hold.

    Raises:
        ValueError: no objectives, or two of the same name.
    """

    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        names = [o.name for o in self.objectives]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"objectives = {names}: give at least one, each name once")

    def evaluate(self, archs: Sequence[Architecture]) -> pd.DataFrame:
        """Return one row an architecture: architecture, objectives, further constrained metrics, violation."""
        import pandas as pd

        columns = {o.name: _call(o, archs) for o in self.objectives}
        violation = np.zeros(len(archs))
        for constraint in self.constraints:
            name = constraint.objective.name
            if name not in columns:
                columns[name] = _call(constraint.objective, archs)
            violation += constraint.violation(columns[name])
        return pd.DataFrame({"architecture": [a.id for a in archs], **columns, "violation": violation})

    def info(self) -> tuple[ObjectiveInfo, ...]:
        """Return what results keep of the objectives."""
        return tuple(ObjectiveInfo(o.name, o.unit, o.identity, o.is_free) for o in self.objectives)

    def identity(self) -> dict[str, Any]:
        """Return what a resumed search must share, in plain JSON types."""
        return {
            "space": self.space.to_dict(),
            "objectives": [o.identity for o in self.objectives],
            "budgets": [f"{c.budget} by {c.objective.identity}" for c in self.constraints],
        }


def _call(objective: Objective, archs: Sequence[Architecture]) -> Floats:
    values = np.asarray(objective(archs), dtype=np.float64)
    if values.shape != (len(archs),):
        raise ValueError(f"objective {objective.name} gave shape {values.shape} for {len(archs)} architectures")
    return values


def run_search(
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    algorithm: OptimizerFactory,
    n_evaluations: int,
    batch: int = 20,
    seed: int = 0,
    run_dir: str | Path | None = None,
    budgets: Sequence[Budget | Constraint] = (),
    progress: bool = False,
) -> SearchResult:
    """Search `space` for the Pareto front of `objectives`.

    Args:
        space: where to search.
        objectives: what to minimise.
        algorithm: builds the optimizer, e.g. NSGA2 or functools.partial(NSGA2, population=100).
        n_evaluations: architectures to evaluate, those of a resumed run included; of an algorithm with fidelities, so
            many full evaluations' worth of tokens (see fidelity_run.py).
        batch: architectures evaluated together.
        seed: of everything random; same seed, same result.
        run_dir: folder of evaluations.parquet, front.parquet, state.json and summary.json, saved after every batch
            and resumed when it holds a state; None keeps everything in memory.
        budgets: hard limits on objectives or closed-form costs; a Constraint brings what measures it.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a budget nobody reaches; a run_dir with the state of another space, objective, algorithm or seed;
            an algorithm with fidelities and an objective without.
    """
    if n_evaluations < 1 or batch < 1:
        raise ValueError(f"n_evaluations = {n_evaluations}, batch = {batch}: both must be at least 1")
    constraints = constrain(budgets, objectives, space)
    problem = Problem(space, tuple(objectives), tuple(constraints))
    builder = with_free_problem(algorithm, space, objectives, budgets=constraints)
    optimizer = builder(space, rng=np.random.default_rng(seed))
    search = _loop(problem, optimizer, seed, Path(run_dir) if run_dir else None)
    if not search.resume():
        check_reachable(constraints, space, np.random.default_rng([seed, 1]))
    search.run(n_evaluations, batch, progress)
    return search.finish()


def _loop(problem: Problem, optimizer: Any, seed: int, run_dir: Path | None) -> SearchLoop:
    if isinstance(optimizer, MultiFidelityOptimizer):
        from search.fidelity_run import FidelitySearch  # which imports this file

        return FidelitySearch(problem, optimizer, seed, run_dir)
    return SearchLoop(problem, optimizer, seed, run_dir)


class SearchLoop:
    """One running search: its evaluations so far and where they are saved.

    Attributes:
        table: the file of evaluations, saved with the state.
    """

    table = EVALUATIONS

    def __init__(self, problem: Problem, optimizer: Optimizer, seed: int, run_dir: Path | None) -> None:
        self.problem = problem
        self.optimizer = optimizer
        self.seed = seed
        self.run_dir = run_dir
        self.frames: list[pd.DataFrame] = []
        self.seconds = 0.0

    @property
    def algorithm(self) -> str:
        """Name of the optimizer."""
        return str(getattr(self.optimizer, "name", type(self.optimizer).__name__))

    @property
    def n_done(self) -> int:
        """Rows of the table so far."""
        return sum(len(frame) for frame in self.frames)

    def identity(self) -> dict[str, Any]:
        """Return what a resumed search must share."""
        return {**self.problem.identity(), "seed": self.seed}

    def resume(self) -> bool:
        """Load the state that the run's folder holds; False when there is none."""
        if self.run_dir is None or not (self.run_dir / STATE).is_file():
            return False
        state = read_json(self.run_dir / STATE)
        own = self.identity()
        different = [key for key in own if state["search"].get(key) != own[key]]
        if different:
            shown = "; ".join(f"{k}: saved {_short(state['search'].get(k))}, given {_short(own[k])}" for k in different)
            raise ValueError(f"{self.run_dir} holds a search of another {', '.join(different)} ({shown}). {_SWITCH}")
        try:
            self.optimizer.load_state(state["optimizer"])
        except ValueError as error:
            raise ValueError(f"{self.run_dir}: {error}. {_SWITCH}") from error
        done = read_parquet(self.run_dir / self.table)
        if len(done) < state["n_evaluations"]:
            raise ValueError(
                f"{self.run_dir / self.table} has {len(done)} rows, {STATE} counts {state['n_evaluations']}: "
                "restore the file or delete the folder"
            )
        self.frames = [done.iloc[: state["n_evaluations"]]]  # a kill between the two writes leaves later rows
        self.seconds = state["seconds"]
        _log.info("resumed %s after %d evaluations", self.run_dir, self.n_done)
        return True

    def run(self, n_evaluations: int, batch: int, progress: bool) -> None:
        """Evaluate until `n_evaluations` are done or the space is exhausted."""
        from tqdm import tqdm

        with tqdm(total=n_evaluations, initial=self.n_done, desc="search", unit="net", disable=not progress) as bar:
            while self.n_done < n_evaluations:
                started = time.perf_counter()
                archs = self.optimizer.ask(min(batch, n_evaluations - self.n_done))
                if not archs:
                    _log.warning("space %r is exhausted after %d evaluations", self.problem.space.name, self.n_done)
                    break
                self._step(archs)
                self.seconds += time.perf_counter() - started
                self._save()
                bar.update(len(archs))

    def _step(self, archs: list[Architecture]) -> None:
        frame = self.problem.evaluate(archs)
        names = [o.name for o in self.problem.objectives]
        self.optimizer.tell(archs, frame[names].to_numpy(dtype=np.float64), frame["violation"].to_numpy())
        frame.insert(0, "order", np.arange(self.n_done, self.n_done + len(archs)))
        self.frames.append(frame)

    def _save(self) -> None:
        """Write the evaluations, then the state that counts them: a kill in between costs nothing."""
        if self.run_dir is None:
            return
        write_parquet(self.run_dir / self.table, self._evaluations())
        state = {
            "search": self.identity(),
            "n_evaluations": self.n_done,
            "seconds": self.seconds,
            "optimizer": self.optimizer.state(),
        }
        write_json(self.run_dir / STATE, state)

    def _evaluations(self) -> pd.DataFrame:
        import pandas as pd

        self.frames = [pd.concat(self.frames, ignore_index=True)]
        return self.frames[0]

    def finish(self) -> SearchResult:
        """Return the result, saved where there is a folder; warn of architectures without one."""
        result = self.result()
        if result.n_without_result:
            _log.warning("%d of %d evaluations gave no number and are left out", result.n_without_result, self.n_done)
        return replace(result, run_dir=result.save(self.run_dir)) if self.run_dir else result

    def result(self) -> SearchResult:
        """Return the evaluations so far as a result."""
        return SearchResult(
            evaluations=self._evaluations(),
            objectives=self.problem.info(),
            algorithm=self.algorithm,
            seed=self.seed,
            seconds=self.seconds,
            details={"space": self.problem.space.name, "budgets": [str(c.budget) for c in self.problem.constraints]},
        )


def _short(value: Any, limit: int = 160) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
