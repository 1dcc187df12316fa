"""Objectives as conf/objectives/*.yaml names them: each function takes what the command knows, then the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.benchmark_objectives import BenchmarkTarget, benchmark_targets, budget_targets
from search.live import LivePerplexityObjective, Quality
from search.objectives import CostObjective, NegatedObjective, Objective, SurrogateObjective
from supernet.artifacts import read_json
from supernet.space import SearchSpace
from supernet.spaces import load_space

if TYPE_CHECKING:
    from search.engines import EngineSettings
    from supernet.tokens import TokenBlocks
    from surrogates.benchmark import Benchmark
    from surrogates.fitted import SurrogateSet


@dataclass(frozen=True)
class Context:
    """What a search command knows before its objectives are made.

    Attributes:
        space: where to search.
        validation: returns the first so many (None: all) blocks of validation text; None without text.
    """

    space: SearchSpace
    validation: Callable[[int | None], TokenBlocks] | None = None


@lru_cache(maxsize=4)
def load_surrogates(folder: str | Path) -> SurrogateSet:
    """Return the surrogates of a folder, loaded once."""
    from surrogates.store import load_set

    return load_set(folder)


def find_space(
    given: Mapping[str, Any] | str | None, *, surrogates: str | Path | None = None, supernet: str | Path | None = None
) -> SearchSpace:
    """Return the space that was given, else that of the surrogates, else that of the supernet.

    Raises:
        ValueError: none of the three says which.
    """
    if given:
        return load_space(given)
    if surrogates:
        return load_surrogates(str(surrogates)).space
    if supernet and (Path(supernet) / "space.json").is_file():
        return SearchSpace.from_dict(read_json(Path(supernet) / "space.json"))
    raise ValueError(
        "no search space: give surrogates=<folder that paretolm fit wrote>, or supernet=<folder that paretolm train "
        "wrote>, or space=<name>"
    )


def budget_objectives(folder: str | Path | None, objectives: Sequence[Objective] = ()) -> list[Objective]:
    """Return what budgets can be measured by: all metrics of a folder of surrogates, and of the objectives' benchmark.

    Args:
        folder: that `paretolm fit` wrote; None for none.
        objectives: of the search.
    """
    found: list[Objective] = []
    if folder:
        found += [SurrogateObjective(s) for s in load_surrogates(str(folder)).surrogates.values()]
    benchmarks = [o.benchmark for o in objectives if isinstance(o, BenchmarkTarget)]
    return found + (budget_targets(benchmarks[0]) if benchmarks else [])


def surrogate_objective(
    context: Context, *, folder: str | Path | None, metric: str, quantile: float | None = None
) -> SurrogateObjective:
    """Return the prediction of a metric by the surrogates that `paretolm fit` wrote.

    Raises:
        ValueError: no folder given, or surrogates of another space.
        KeyError: the folder has no surrogate of the metric.
    """
    if not folder:
        raise ValueError(f"{metric} is to be predicted: give surrogates=<folder that paretolm fit wrote>")
    surrogates = load_surrogates(str(folder))
    if surrogates.space.to_dict() != context.space.to_dict():
        raise ValueError(
            f"{folder} holds surrogates of space {surrogates.space.name!r}, the search is in {context.space.name!r} "
            "(or the two differ in their choices): leave space out to take that of the surrogates"
        )
    return SurrogateObjective(surrogates[metric], quantile)


def live_objective(
    context: Context,
    *,
    folder: str | Path | None,
    metric: Quality = "perplexity",
    cache_dir: str | Path | None = None,
    n_blocks: int | None = None,
    batch_size: int = 32,
    device: str = "cpu",
    precision: str = "32",
    engine: EngineSettings | None = None,
) -> LivePerplexityObjective:
    """Return the quality of a saved supernet on the validation part of the given text.

    Raises:
        ValueError: no supernet or no text given.
    """
    if not folder or context.validation is None:
        raise ValueError(
            f"{metric} is to be evaluated: give supernet=<folder that paretolm train wrote> and data=<its text>"
        )
    blocks = context.validation(n_blocks)
    return LivePerplexityObjective.from_supernet(
        folder, blocks.rows(np.arange(len(blocks))), n_bytes=blocks.n_target_bytes, metric=metric,
        cache_dir=cache_dir, batch_size=batch_size, device=device, precision=precision, engine=engine,
    )  # fmt: skip


@lru_cache(maxsize=4)
def load_benchmark(name: str) -> Benchmark:
    """Return the shipped benchmark of a space, loaded once.

    Raises:
        ValueError: there is none of that name; near matches are given.
    """
    from surrogates.benchmark import Benchmark

    return Benchmark(name)


def benchmark_objective(
    context: Context, *, metric: str, device: str | None = None, quantile: float | None = None,
    noise_seed: int | None = None,
) -> BenchmarkTarget:  # fmt: skip
    """Return a metric of the shipped benchmark of the space, on a device where it has several.

    Raises:
        ValueError: no benchmark of the space, or of one with other choices; a missing device.
        KeyError: an unknown metric or device; near matches are given.
    """
    benchmark = load_benchmark(context.space.name)
    if benchmark.space != context.space:
        raise ValueError(
            f"the search is in a space {context.space.name!r} whose choices differ from those of the shipped benchmark "
            "of that name: give space=" + context.space.name + " without changes"
        )
    (found,) = benchmark_targets(benchmark, [metric if device is None else (metric, device)])
    return replace(found, quantile=quantile, noise_seed=noise_seed)


def cost_objective(
    context: Context, *, metric: str, maximise: bool = False, seq_len: int | None = None, batch_size: int = 1
) -> Objective:
    """Return a closed-form cost, or with `maximise` its negation."""
    cost = CostObjective(metric, context.space.model_config, seq_len=seq_len, batch_size=batch_size)
    return NegatedObjective(cost) if maximise else cost
