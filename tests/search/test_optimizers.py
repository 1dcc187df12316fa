"""NSGA-II and random search: no repeats, same seed same search, state, exact fronts, and pymoo as an equal."""

import json

import numpy as np
import pytest
from search_fakes import large_space, latency, loss, objectives, small_space

from search.algorithms import NSGA2, RandomSearch
from search.operators import mutate, n_active_genes, tournament
from search.pareto import Normalisation, nondominated, normalised_hypervolume
from search.run import run_search

ALGORITHMS = [NSGA2, RandomSearch]


def values(archs):
    return np.column_stack([loss(archs), latency(archs)])


def drive(optimizer, n, batch=20):
    archs = []
    while len(archs) < n:
        asked = optimizer.ask(min(batch, n - len(archs)))
        optimizer.tell(asked, values(asked))
        archs += asked
    return archs


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_architecture_is_evaluated_twice_and_all_are_legal(algorithm):
    space = large_space()
    archs = drive(algorithm(space, rng=np.random.default_rng(0)), 300)
    assert len(set(archs)) == 300
    assert all(arch in space for arch in archs)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_seed_same_search_and_another_seed_another(algorithm):
    runs = [drive(algorithm(large_space(), rng=np.random.default_rng(seed)), 100) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_batch_size_does_not_change_which_architectures_are_chosen(algorithm):
    runs = [drive(algorithm(large_space(), rng=np.random.default_rng(0)), 105, batch) for batch in (1, 7, 50)]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("cut", [33, 60])
def test_state_through_json_continues_exactly(algorithm, cut):
    space = large_space()
    whole = drive(algorithm(space, rng=np.random.default_rng(3)), 120)
    first = algorithm(space, rng=np.random.default_rng(3))
    start = drive(first, cut)
    second = algorithm(space, rng=np.random.default_rng(99))
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert start + drive(second, 120 - cut) == whole


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_architectures_asked_but_never_told_come_again_after_a_restart(algorithm):
    first = algorithm(large_space(), rng=np.random.default_rng(0))
    asked = first.ask(8)
    second = algorithm(large_space(), rng=np.random.default_rng(1))
    second.load_state(first.state())
    assert second.ask(5) + second.ask(5) == asked
    assert not set(second.ask(5)) & set(asked)


def test_a_state_of_another_algorithm_or_setting_is_refused():
    state = NSGA2(large_space(), rng=np.random.default_rng(0)).state()
    with pytest.raises(ValueError, match="algorithm = 'nsga2', this search has 'random'"):
        RandomSearch(large_space(), rng=np.random.default_rng(0)).load_state(state)
    with pytest.raises(ValueError, match="settings"):
        NSGA2(large_space(), rng=np.random.default_rng(0), population=100).load_state(state)
    with pytest.raises(ValueError, match="space = 'large'"):
        NSGA2(small_space(), rng=np.random.default_rng(0)).load_state(state)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_exhausted_space_gives_every_architecture_once_and_then_none(algorithm):
    space = small_space()
    optimizer = algorithm(space, rng=np.random.default_rng(0))
    archs = drive(optimizer, space.num_architectures)
    assert set(archs) == set(space.enumerate())
    assert optimizer.ask(5) == []


@pytest.mark.parametrize("seed", range(3))
def test_nsga2_finds_the_exact_front_of_a_small_space_without_exhausting_it(seed):
    space = small_space(n_layer=(1, 2, 3))
    everything = list(space.enumerate())
    truth = {tuple(v) for v in values(everything)[nondominated(values(everything))]}
    archs = drive(NSGA2(space, rng=np.random.default_rng(seed)), int(0.7 * len(everything)))
    found = values(archs)
    assert {tuple(v) for v in found[nondominated(found)]} == truth


def test_survival_prefers_feasible_then_front_then_crowding():
    space = large_space()
    optimizer = NSGA2(space, rng=np.random.default_rng(0), population=4)
    first = optimizer.ask(4)
    optimizer.tell(first, [[0, 3], [1, 1], [3, 0], [9, 9]], [0, 0, 0, 0])
    second = optimizer.ask(4)
    optimizer.tell(second, [[-5, -5], [1.1, 0.9], [np.nan, 0], [2, 0.5]], [1.0, 0, 0, 0])
    kept = set(optimizer.state()["parents"])
    assert second[0].id not in kept  # infeasible, however good
    assert second[2].id not in kept  # no result
    assert {first[0].id, first[2].id} <= kept  # the ends
    assert len(kept) == 4


def test_a_generation_without_any_result_is_followed_by_random_architectures():
    optimizer = NSGA2(large_space(), rng=np.random.default_rng(0), population=4)
    archs = optimizer.ask(4)
    optimizer.tell(archs, np.full((4, 2), np.nan))
    json.dumps(optimizer.state(), allow_nan=False)
    assert len(optimizer.ask(4)) == 4


def test_a_warm_start_is_evaluated_first():
    space = large_space()
    initial = [space.largest(), space.smallest()]
    optimizer = NSGA2(space, rng=np.random.default_rng(0), initial=initial)
    assert optimizer.ask(20)[:2] == initial


def test_mutation_always_changes_something_and_stays_in_the_space():
    space, rng = large_space(), np.random.default_rng(0)
    arch = space.sample(rng)
    children = [mutate(space, arch, rng) for _ in range(200)]
    assert all(child != arch and child in space for child in children)
    assert len(set(children)) > 20


def test_active_genes_count_what_a_mutation_can_change():
    space = large_space()
    assert n_active_genes(space, space.smallest()) == 3 + 2 * 8
    assert n_active_genes(space, space.largest()) == 3 + 2 * 12
    assert n_active_genes(small_space(bias=(True,), n_head=(2,)), small_space().smallest()) == 2 + 1


def test_tournament_prefers_rank_then_crowding():
    rng = np.random.default_rng(0)
    rank, crowding = np.array([1, 0, 0]), np.array([np.inf, 1.0, 2.0])
    wins = [tournament(rank, crowding, rng) for _ in range(300)]
    assert 0 not in wins  # always meets a better one
    assert wins.count(2) > wins.count(1) > 0


def test_wrong_shapes_are_refused():
    optimizer = RandomSearch(large_space(), rng=np.random.default_rng(0))
    archs = optimizer.ask(2)
    with pytest.raises(ValueError, match=r"told 2 architectures .* \(3, 2\)"):
        optimizer.tell(archs, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"ask\(0\)"):
        optimizer.ask(0)
    with pytest.raises(ValueError, match="population = 1"):
        NSGA2(large_space(), rng=np.random.default_rng(0), population=1)


def test_nsga2_beats_random_search_on_every_seed():
    bounds = Normalisation.of(run_search(large_space(), objectives(), algorithm=NSGA2, n_evaluations=2000).values)
    for seed in range(3):
        hv = [
            run_search(large_space(), objectives(), algorithm=a, n_evaluations=300, seed=seed).hypervolume(bounds)
            for a in (NSGA2, RandomSearch)
        ]
        assert hv[0] > hv[1]


@pytest.mark.slow
def test_nsga2_is_as_good_as_pymoos_on_the_same_space():
    """Mean hypervolume over 8 seeds within two standard errors below pymoo's, or above it."""
    pytest.importorskip("pymoo")
    n, seeds = 600, range(8)
    ours = [values(drive(NSGA2(large_space(), rng=np.random.default_rng(s)), n)) for s in seeds]
    theirs = [pymoo_values(n, s) for s in seeds]
    bounds = Normalisation.of(np.concatenate(ours + theirs))
    a = np.array([normalised_hypervolume(v, bounds) for v in ours])
    b = np.array([normalised_hypervolume(v, bounds) for v in theirs])
    error = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(seeds))
    print(f"hypervolume ours {a.mean():.4f} +- {a.std(ddof=1):.4f}, pymoo {b.mean():.4f} +- {b.std(ddof=1):.4f}")
    assert a.mean() > b.mean() - 2 * error


def pymoo_values(n, seed):
    """Values of every evaluation of pymoo's NSGA-II with integer genes (embd, depth, bias, heads, mlp)."""
    from pymoo.algorithms.moo import nsga2 as pymoo_nsga2
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.pm import PolynomialMutation
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    from supernet.space import Genome

    space, seen = large_space(), []

    class Nets(Problem):
        def __init__(self):
            upper = np.array([2, 2, 1] + [2] * 24)
            super().__init__(n_var=27, n_obj=2, xl=np.zeros(27, dtype=int), xu=upper, vtype=int)

        def _evaluate(self, x, out, *args, **kwargs):
            archs = []
            for g in x.astype(int).tolist():
                depth = space.n_layer[g[1]]
                genome = Genome(g[0], tuple(range(depth)), g[2], tuple(g[3 : 3 + depth]), tuple(g[15 : 15 + depth]))
                archs.append(space.architecture(genome))
            out["F"] = values(archs)
            seen.append(out["F"])

    reference = pymoo_nsga2.NSGA2(
        pop_size=20,
        sampling=IntegerRandomSampling(),
        crossover=UniformCrossover(prob=0.9, repair=RoundingRepair()),
        mutation=PolynomialMutation(prob=1.0, prob_var=1 / 27, eta=3, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    minimize(Nets(), reference, ("n_eval", n), seed=seed, verbose=False)
    return np.concatenate(seen)[:n]
