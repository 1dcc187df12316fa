"""NSGA-II is pymoo's within noise: the same operators on the same space, 20 seeds; and the test sees what is broken."""

import numpy as np
import pytest
from optimizer_checks import drive, values
from search_fakes import large_space

from search.algorithms.nsga2 import NSGA2
from search.algorithms.random_search import RandomSearch
from search.operators import mutate
from search.pareto import Normalisation, normalised_hypervolume

pytest.importorskip("pymoo")

N_EVALUATIONS, SEEDS, POPULATION, CROSSOVER = 300, range(20), 20, 0.9
TOLERANCE = 3.0  # standard errors of a difference of two means


@pytest.fixture(scope="module")
def runs():
    """Values of all evaluations of each algorithm, one array a seed."""
    return {
        "ours": [run(NSGA2, seed) for seed in SEEDS],
        "pymoo": [pymoo_run(seed) for seed in SEEDS],
        "random": [run(RandomSearch, seed) for seed in SEEDS],
    }


def run(algorithm, seed):
    return values(drive(algorithm(large_space(), rng=np.random.default_rng(seed)), N_EVALUATIONS, batch=POPULATION))


def hypervolumes(runs):
    bounds = Normalisation.of(np.concatenate([v for found in runs.values() for v in found]))
    return {name: np.array([normalised_hypervolume(v, bounds) for v in found]) for name, found in runs.items()}


def distance(a, b):
    """Return the difference of two means in its standard errors."""
    return (a.mean() - b.mean()) / np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))


def test_hypervolume_is_pymoos_within_noise(runs):
    found = hypervolumes(runs)
    for name, hv in found.items():
        print(f"{name}: {hv.mean():.4f} +- {hv.std(ddof=1):.4f}")
    assert abs(distance(found["ours"], found["pymoo"])) < TOLERANCE
    assert found["pymoo"].std() > 0


def test_the_tolerance_tells_random_search_apart(runs):
    found = hypervolumes(runs)
    assert distance(found["ours"], found["random"]) > 2 * TOLERANCE
    assert distance(found["pymoo"], found["random"]) > 2 * TOLERANCE


def test_the_tolerance_tells_survival_without_ranks_apart(runs, monkeypatch):
    """With all ranks equal, only crowding selects: the defect that using indices for ranks amounts to."""
    monkeypatch.setattr(
        "search.algorithms.nsga2.constrained_ranks", lambda values, violation: np.zeros(len(values), dtype=np.int64)
    )
    found = hypervolumes(runs | {"broken": [run(NSGA2, seed) for seed in SEEDS]})
    assert distance(found["broken"], found["pymoo"]) < -TOLERANCE


def pymoo_run(seed):
    """Values of every evaluation of pymoo's NSGA-II with our crossover, mutation, and no network twice."""
    from pymoo.algorithms.moo import nsga2
    from pymoo.core.crossover import Crossover
    from pymoo.core.duplicate import DuplicateElimination
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem
    from pymoo.core.sampling import Sampling
    from pymoo.optimize import minimize

    space, evaluated, rng = large_space(), [], np.random.default_rng([seed, 1])

    def column(archs):
        table = np.empty((len(archs), 1), dtype=object)
        table[:, 0] = archs
        return table

    class Nets(Problem):
        def _evaluate(self, x, out, *args, **kwargs):
            evaluated.extend(x[:, 0])
            out["F"] = values(list(x[:, 0]))

    class Draw(Sampling):
        def _do(self, problem, n_samples, **kwargs):
            return column(space.sample_unique(n_samples, rng))

    class Cross(Crossover):
        def _do(self, problem, X, **kwargs):
            return column([space.crossover(a, b, rng) for a, b in zip(X[0, :, 0], X[1, :, 0], strict=True)])[None]

    class Change(Mutation):
        def _do(self, problem, X, **kwargs):
            return column([mutate(space, arch, rng) for arch in X[:, 0]])

    class New(DuplicateElimination):
        def _do(self, pop, other, is_duplicate):
            known = set(evaluated) | {individual.X[0] for individual in (other if other is not None else ())}
            for i, individual in enumerate(pop):
                is_duplicate[i] = individual.X[0] in known
                if other is None:
                    known.add(individual.X[0])
            return is_duplicate

    algorithm = nsga2.NSGA2(
        pop_size=POPULATION, sampling=Draw(), crossover=Cross(2, 1, prob=CROSSOVER), mutation=Change(),
        eliminate_duplicates=New(),
    )  # fmt: skip
    minimize(Nets(n_var=1, n_obj=2, vtype=object), algorithm, ("n_eval", N_EVALUATIONS), seed=seed)
    assert len(evaluated) == len(set(evaluated)) == N_EVALUATIONS
    return values(evaluated)
