"""LTS: its two fronts, its weights of parents, its generations; the inner search on arrays; the warm start."""

import numpy as np
import pytest
from optimizer_checks import drive, values, warm_start
from search_fakes import large_space, latency, objectives, small_space

from search.algorithms.free_problem import free_problem
from search.algorithms.gene_arrays import GeneArrays
from search.algorithms.lts import LTS, LTSWarmStart, training_free_front
from search.algorithms.lts_population import LTSPopulation, LTSSettings, lower_convex_hull, strict_front
from search.pareto import convex_front, nondominated
from supernet.cost import parameter_counts
from supernet.encoding import to_genes

# --- fronts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_strict_front_drops_only_what_another_is_better_than_in_all_objectives(m, ties):
    rng = np.random.default_rng(m)
    points = rng.integers(0, 5, (60, m)).astype(float) if ties else rng.random((60, m))
    points[7, 0] = np.nan
    expected = [np.isfinite(p).all() and not any((q < p).all() for q in points) for p in points]
    assert strict_front(points).tolist() == expected
    np.testing.assert_array_equal(strict_front(points), nondominated(points, dominance="strict"))


@pytest.mark.parametrize("m", [2, 3])
def test_strict_front_grows_in_steps_to_the_front_of_everything(m):
    points = np.random.default_rng(0).integers(0, 9, (90, m)).astype(float)
    known = points[:30][strict_front(points[:30])]
    for start in (30, 60):
        both = np.concatenate([known, points[start : start + 30]])
        known = both[strict_front(both, n_known=len(known))]
    np.testing.assert_array_equal(known, points[strict_front(points)])


def test_strict_front_keeps_the_weakly_dominated_and_the_hull_only_the_supported():
    points = [[0.0, 2.0], [0.0, 3.0], [1.0, 1.5], [2.0, 0.0], [3.0, 3.0], [1.0, 1.0]]
    assert strict_front(points).tolist() == [True, True, True, True, False, True]
    assert lower_convex_hull(points).tolist() == [True, False, False, True, False, True]  # (1, 1) is on the line


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("ties", [False, True])
def test_lower_convex_hull_is_what_linear_programs_find(m, ties):
    rng = np.random.default_rng(m)
    points = rng.integers(0, 12, (60, m)).astype(float) if ties else rng.random((60, m)) * [1, 50, 3][:m]
    np.testing.assert_array_equal(lower_convex_hull(points), convex_front(points))
    assert lower_convex_hull(np.full((2, 2), np.nan)).tolist() == [False, False]


# --- evolution ------------------------------------------------------------------------------------------------------


def population(space, **settings):
    return LTSPopulation(GeneArrays(space), LTSSettings(**settings), np.random.default_rng(0))


def test_generations_are_100_random_ones_then_40_mutants_and_40_crossovers_all_new():
    evolution = population(large_space())
    first = evolution.breed()
    assert len(first) == 100
    evolution.tell(first, values(evolution.arrays.architectures(first)), np.zeros(100))
    second = evolution.breed()
    assert len(second) == 80
    assert len(set(evolution.arrays.keys(np.concatenate([first, second])))) == 180


def test_a_crossover_takes_every_gene_from_one_of_two_members_of_the_front():
    evolution = population(large_space(), mutants=0, crossovers=80)
    genes = evolution.breed()
    evolution.tell(genes, np.column_stack([np.arange(100), -np.arange(100)]), np.zeros(100))
    assert len(evolution.genes) == 100
    evolution.genes = evolution.genes[[0, 1]]
    evolution.values, evolution._violation = evolution.values[:2], evolution._violation[:2]
    evolution._counts = evolution._counts[:2]
    child = evolution.breed()
    bred = child[: (child[:, None] == evolution.genes[None]).any(axis=1).all(axis=1).sum()]
    assert len(bred) > 60
    assert ((bred == evolution.genes[0]) | (bred == evolution.genes[1])).all()
    assert (bred == evolution.genes[0]).mean() > 0.3


def test_a_mutant_redraws_three_genes_in_ten():
    evolution = population(large_space())
    parents = np.zeros((1, 27), dtype=np.int64)
    changed = (evolution._mutants(parents, 2000) != 0).mean(axis=0)
    sizes = evolution.arrays.sizes
    np.testing.assert_allclose(changed, 0.3 * (1 - 1 / sizes), atol=0.04)  # a redrawn gene may be the same


def test_parents_that_were_seldom_in_a_working_population_are_drawn_more_often():
    evolution = population(large_space())
    genes = evolution.breed()[:3]
    evolution.tell(genes, np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]), np.zeros(3))
    drawn = np.zeros(3)
    for _ in range(400):
        evolution._counts = np.array([1, 11, 21])  # scaled 0, 1/2, 1: weights 1, 2/3, 1/2
        evolution._parents()
        drawn += evolution._counts - np.array([1, 11, 21])
    np.testing.assert_allclose(drawn / drawn.sum(), np.array([6, 4, 3]) / 13, atol=0.03)


def test_only_the_feasible_are_parents_once_there_is_one():
    evolution = population(large_space())
    genes = evolution.breed()
    evolution.tell(genes[:3], np.array([[0.0, 0.0], [1.0, 1.0], [2.0, np.nan]]), np.array([0.3, 0.2, 0.0]))
    np.testing.assert_array_equal(evolution.genes, genes[[1]])
    evolution.tell(genes[3:5], np.array([[9.0, 9.0], [0.0, 0.0]]), np.array([0.0, 0.1]))
    np.testing.assert_array_equal(evolution.genes, genes[[3]])


def test_settings_that_are_not_possible_are_refused():
    with pytest.raises(ValueError, match="front = 'convex'; allowed: strict, hull"):
        LTS(large_space(), rng=np.random.default_rng(0), front="convex")
    with pytest.raises(ValueError, match="at least 2 parents"):
        LTSSettings(parents=1)


# --- inner search ---------------------------------------------------------------------------------------------------


def proxy_values(archs):
    return np.column_stack([-parameter_counts(large_space().model_config, archs).decoder, latency(archs)])


@pytest.mark.parametrize("front", ["strict", "hull"])
def test_the_search_on_arrays_evaluates_what_the_optimizer_asks(front):
    space = large_space()
    free = free_problem(space, objectives())
    found = training_free_front(
        space, free, rng=np.random.default_rng(5), n_evaluations=580, settings=LTSSettings(front=front)
    )
    archs = drive(LTS(space, rng=np.random.default_rng(5), front=front), 580, batch=33, evaluate=proxy_values)
    table = proxy_values(archs)
    keep = nondominated(table, duplicates=False)
    assert found.n_evaluations == 580
    np.testing.assert_array_equal(found.genes, to_genes(space, [a for a, k in zip(archs, keep, strict=True) if k]))
    np.testing.assert_allclose(found.values, table[keep], rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_inner_search_finds_the_exact_front_of_a_small_space(seed):
    space = small_space(n_layer=(1, 2, 3))
    archs = list(space.enumerate())
    table = np.column_stack([-parameter_counts(space.model_config, archs).decoder, latency(archs)])
    truth = {tuple(v) for v in table[nondominated(table)]}
    found = training_free_front(
        space, free_problem(space, objectives()), rng=np.random.default_rng(seed), n_evaluations=len(archs) * 6 // 10
    )
    assert {tuple(v) for v in found.values} == truth


def test_a_space_smaller_than_the_budget_is_exhausted():
    space = small_space()
    found = training_free_front(space, free_problem(space, objectives()), rng=np.random.default_rng(0))
    assert found.n_evaluations <= space.num_architectures
    assert found.n_evaluations > 0.9 * space.num_architectures


# --- warm start -----------------------------------------------------------------------------------------------------


def test_the_warm_start_asks_the_training_free_front_first_then_neighbours_of_the_best():
    space = large_space()
    optimizer = warm_start(space, rng=np.random.default_rng(0), n_free=1000, n_front=None)
    found = training_free_front(
        space, free_problem(space, objectives()), rng=np.random.default_rng(0), n_evaluations=1000
    )
    archs = drive(optimizer, len(found.genes))
    assert set(archs) == set(GeneArrays(space).architectures(found.genes))
    (child,) = optimizer.ask(1)
    assert child not in archs
    one = [arch for arch in archs if child in set(space.neighbours(arch)) or arch.n_layer != child.n_layer]
    assert one


def test_every_beginning_of_the_front_spans_it():
    space = large_space()
    archs = drive(warm_start(space, rng=np.random.default_rng(0), n_free=2000, n_front=None), 10)
    whole = drive(warm_start(space, rng=np.random.default_rng(0), n_free=2000, n_front=None), 40)
    assert whole[:10] == archs
    assert np.ptp(latency(archs)) > 0.95 * np.ptp(latency(whole))


def test_fewer_members_of_the_front_can_be_asked():
    optimizer = warm_start(large_space(), rng=np.random.default_rng(0), n_front=8)
    assert len(optimizer.ask(100)) == 8


def test_a_resumed_warm_start_does_not_search_again():
    space = large_space()
    first = warm_start(space, rng=np.random.default_rng(0))
    asked = drive(first, 12)

    def explode(genes):
        raise AssertionError("searched again")

    free = free_problem(space, objectives())
    second = LTSWarmStart(
        space, rng=np.random.default_rng(1), free=type(free)(free.identity, explode), n_free=400, n_front=15
    )
    second.load_state(first.state())
    assert not set(second.ask(10)) & set(asked)


def test_a_state_of_other_free_objectives_is_refused():
    space = large_space()
    state = warm_start(space, rng=np.random.default_rng(0)).state()
    with pytest.raises(ValueError, match="settings"):
        warm_start(space, rng=np.random.default_rng(0), n_free=401).load_state(state)
    with pytest.raises(ValueError, match="n_free = 0"):
        warm_start(space, rng=np.random.default_rng(0), n_free=0)
    with pytest.raises(ValueError, match="needs the free objectives"):
        LTSWarmStart(space, rng=np.random.default_rng(0))
