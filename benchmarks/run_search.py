"""How long searches take: NSGA-II on closed forms and on the shipped surrogates, Bayesian methods, LTS's inner search.

python benchmarks/run_search.py --output benchmarks/results/<date>_search.json

Seconds of the whole search, evaluations by the surrogate included; median over rounds with seeds 0, 1, ...
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from result_file import write_result

from search.algorithms import NSGA2, free_problem, training_free_front
from search.algorithms.optimizer import OptimizerFactory
from search.benchmark_objectives import benchmark_targets
from search.objectives import CostObjective, NegatedObjective, Objective
from search.run import run_search
from supernet.space import SearchSpace
from supernet.spaces import load_space
from surrogates import Benchmark

BENCHMARKS = ("gpt-s", "gpt-m", "gpt-l")
_Problem = tuple[SearchSpace, list[Objective]]


def closed_form(name: str) -> _Problem:
    space = load_space(name)
    size = NegatedObjective(CostObjective("n_params_decoder", space.model_config))
    return space, [size, CostObjective("flops", space.model_config, seq_len=64)]


def shipped(name: str) -> _Problem:
    benchmark = Benchmark(name)
    return benchmark.space, list(benchmark_targets(benchmark, ("perplexity", ("latency", "a100"))))


def search(problem: _Problem, algorithm: OptimizerFactory, n: int, *, batch: int, saved: bool, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_search(
            *problem, algorithm=algorithm, n_evaluations=n, batch=batch, seed=seed,
            run_dir=Path(folder) if saved else None,
        )  # fmt: skip


def inner_search(problem: _Problem, n: int, seed: int) -> None:
    space, objectives = problem
    training_free_front(space, free_problem(space, objectives), n_evaluations=n, rng=np.random.default_rng(seed))


def timed(what: dict[str, Any], run: Callable[[int], None], rounds: int) -> dict[str, Any]:
    seconds = []
    for seed in range(rounds):
        started = time.perf_counter()
        run(seed)
        seconds.append(time.perf_counter() - started)
    row = what | {"median_s": statistics.median(seconds), "runs_s": seconds}
    shown = ", ".join(f"{key} {value}" for key, value in what.items())
    print(f"{row['median_s']:7.2f} s   {shown}", flush=True)
    return row


def evolution(rounds: int, n: int) -> list[dict[str, Any]]:
    """NSGA-II, in memory and saved after every batch."""
    rows = []
    problems = {f"{name}, closed forms": closed_form(name) for name in ("tiny", "gpt-s", "gpt-l")}
    problems |= {f"{name}, shipped surrogates": shipped(name) for name in BENCHMARKS}
    for label, problem in problems.items():
        for population in (20, 100):
            for saved in (False, True):
                what = {"algorithm": f"NSGA-II {population}", "problem": label, "evaluations": n, "saved": saved}
                run = partial(_evolve, problem, population, n, saved)
                rows.append(timed(what, run, rounds))
    return rows


def _evolve(problem: _Problem, population: int, n: int, saved: bool, seed: int) -> None:
    search(problem, partial(NSGA2, population=population), n, batch=20, saved=saved, seed=seed)


def bayesian(rounds: int, n: int) -> list[dict[str, Any]]:
    """One network at a time, as these methods are meant."""
    from search.algorithms import EHVI, LSBO, RSBO, TPE

    rows = []
    for name in BENCHMARKS:
        problem = shipped(name)
        for algorithm in (EHVI, LSBO, RSBO, TPE):
            what = {"algorithm": algorithm.name, "problem": f"{name}, shipped surrogates", "evaluations": n}
            rows.append(timed(what, partial(_one_by_one, problem, algorithm, n), rounds))
    return rows


def _one_by_one(problem: _Problem, algorithm: OptimizerFactory, n: int, seed: int) -> None:
    search(problem, algorithm, n, batch=1, saved=False, seed=seed)


def training_free(rounds: int, n: int) -> list[dict[str, Any]]:
    """LTS's inner search: decoder parameters against latency."""
    return [
        timed(
            {"algorithm": "LTS inner search", "problem": f"{name}, shipped surrogates", "evaluations": n},
            partial(inner_search, shipped(name), n), rounds,
        )
        for name in BENCHMARKS
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--bayesian-rounds", type=int, default=2)
    parser.add_argument("--output", default=None)
    options = parser.parse_args()
    rows = evolution(options.rounds, options.evaluations)
    rows += bayesian(options.bayesian_rounds, 100)
    rows += training_free(options.rounds, 20_000)
    if options.output:
        write_result(options.output, rows=rows)


if __name__ == "__main__":
    main()
