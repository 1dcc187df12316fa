"""A search with its baselines: random search and the parameter count at the same number of quality evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from search.algorithms import NSGA2, OptimizerFactory, RandomSearch
from search.baseline import RankScore, evaluate_front, parameter_count_front, rank_scores
from search.budget import Budget, constrain
from search.compare import Standing, compare, shared_normalisation
from search.objectives import CostObjective, Objective
from search.result import SearchResult
from search.run import run_search
from supernet.architecture import Architecture
from supernet.space import SearchSpace

BASELINES = ("parameter_count", "random", "warm_start")


@dataclass(frozen=True)
class Study:
    """A search among its baselines.

    Attributes:
        main: the search.
        baselines: results by name.
        standings: all of them on one normalisation, the best first; empty without baselines.
        ranks: how decoder parameters rank the networks of the random baseline by quality; empty without it.
    """

    main: SearchResult
    baselines: Mapping[str, SearchResult]
    standings: tuple[Standing, ...]
    ranks: tuple[RankScore, ...]

    def sentence(self) -> str:
        """Return the result in one line."""
        line = f"{len(self.main.front)} networks on the front of {len(self.main.evaluations)} evaluated"
        if not self.standings:
            return f"{line}, hypervolume {self.main.hypervolume():.4f}"
        shares = (f"{s.name} {s.hypervolume_at_common:.4f}" for s in self.standings)
        return f"{line}; hypervolume after {self.standings[0].n_common} evaluations: {', '.join(shares)}"


def run_study(
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    algorithm: OptimizerFactory,
    n_evaluations: int,
    baselines: Sequence[str] = ("parameter_count", "random"),
    n_free_evaluations: int = 20_000,
    batch: int = 20,
    seed: int = 0,
    run_dir: str | Path | None = None,
    budgets: Sequence[Budget] = (),
    extra_objectives: Sequence[Objective] = (),
    progress: bool = False,
) -> Study:
    """Search, run the baselines, and compare them at equal numbers of quality evaluations.

    Args:
        space: where to search.
        objectives: what to minimise.
        algorithm: builds the optimizer.
        n_evaluations: evaluations of the search, and at most of each baseline.
        baselines: "parameter_count" (see baseline.py), "random", and "warm_start" (NSGA-II from the
            parameter-count front).
        n_free_evaluations: evaluations of parameters and free objectives in the inner search of the parameter count.
        batch: architectures evaluated together.
        seed: of everything random.
        run_dir: folder of the search; baselines are below it in baselines/<name>. Resumed when it holds a state.
        budgets: hard limits, the same for all.
        extra_objectives: objectives that only measure budgets.
        progress: whether to show progress bars.

    Raises:
        ValueError: an unknown baseline, and what `run_search` and `parameter_count_front` refuse.
    """
    unknown = set(baselines) - set(BASELINES)
    if unknown:
        raise ValueError(f"baselines = {list(baselines)}: unknown {sorted(unknown)}; allowed: {', '.join(BASELINES)}")
    folder = Path(run_dir) if run_dir else None
    constraints = constrain(budgets, objectives, space, extra=extra_objectives)
    search = partial(
        run_search, space, objectives, n_evaluations=n_evaluations, batch=batch, seed=seed, budgets=constraints,
        progress=progress,
    )  # fmt: skip
    main = search(algorithm=algorithm, run_dir=folder)

    def count() -> SearchResult:
        free = parameter_count_front(
            space, objectives, n_free_evaluations=n_free_evaluations, seed=seed, budgets=constraints
        )
        return evaluate_front(free, space, objectives, n_evaluations=n_evaluations, budgets=constraints)

    return _compared(main, _run_baselines(baselines, search, count, folder), space, folder)


def _run_baselines(
    names: Sequence[str], search: Callable[..., SearchResult], count: Callable[[], SearchResult], folder: Path | None
) -> dict[str, SearchResult]:
    found: dict[str, SearchResult] = {}
    if {"parameter_count", "warm_start"} & set(names):
        found["parameter_count"] = _saved(count(), folder, "parameter_count")
    if "warm_start" in names:
        initial = [Architecture.from_id(i) for i in found["parameter_count"].evaluations["architecture"][:20]]
        warm = search(algorithm=partial(NSGA2, initial=initial), run_dir=_below(folder, "warm_start"))
        found["warm_start"] = _saved(replace(warm, algorithm="warm_start"), folder, "warm_start")
    if "random" in names:
        found["random"] = search(algorithm=RandomSearch, run_dir=_below(folder, "random"))
    return {name: found[name] for name in names}


def _compared(main: SearchResult, baselines: dict[str, SearchResult], space: SearchSpace, folder: Path | None) -> Study:
    everything = {main.algorithm: main} | {
        f"{name} baseline" if name == main.algorithm else name: result for name, result in baselines.items()
    }
    has_result = any(len(result.front) for result in everything.values())
    standings = tuple(compare(everything)) if baselines and has_result else ()
    ranks = tuple(_ranks(baselines["random"], space)) if "random" in baselines else ()
    shared = asdict(shared_normalisation(everything)) if standings else None
    details = {
        "standings": [asdict(s) for s in standings],
        "shared_normalisation": shared,
        "parameter_count_ranks": [_plain(asdict(r)) for r in ranks],
    }
    main = replace(main, details=main.details | details)
    if folder:
        main.save(folder)
    return Study(main, baselines, standings, ranks)


def _ranks(result: SearchResult, space: SearchSpace) -> list[RankScore]:
    quality = [o.name for o in result.objectives if not o.is_free]
    if not quality:
        return []
    archs = [Architecture.from_id(i) for i in result.evaluations["architecture"]]
    return rank_scores(
        archs, CostObjective("n_params_decoder", space.model_config)(archs), result.evaluations[quality[0]]
    )


def _below(folder: Path | None, name: str) -> Path | None:
    return folder / "baselines" / name if folder else None


def _saved(result: SearchResult, folder: Path | None, name: str) -> SearchResult:
    below = _below(folder, name)
    return replace(result, run_dir=result.save(below)) if below else result


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}
