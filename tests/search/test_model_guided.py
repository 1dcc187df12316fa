"""Model-guided search: where it starts, what it learns, budgets, exact fronts, and rivals beaten."""

import json
from functools import partial

import numpy as np
import pytest
from optimizer_checks import drive, values
from search_fakes import large_space, latency, loss, objectives, small_space

from search.algorithms import model_guided, smoothing
from search.algorithms.free_laws import free_laws
from search.algorithms.free_problem import free_problem, with_free_problem
from search.algorithms.gene_basis import GeneBasis
from search.algorithms.lts import LTSWarmStart, training_free_front
from search.algorithms.model_guided import ModelGuided
from search.algorithms.nsga2 import NSGA2
from search.algorithms.opinions import Opinions, Told
from search.budget import Budget
from search.objectives import CostObjective, FunctionObjective
from search.pareto import Normalisation, nondominated, normalised_hypervolume
from search.run import run_search
from supernet.encoding import to_genes

SMALL = {"n_free": 1000, "n_initial": 20, "generations": 4, "children": 200}


def guided(space, seed=0, free=None, **settings):
    free = free or free_problem(space, objectives())
    return ModelGuided(space, rng=np.random.default_rng(seed), free=free, **(SMALL | settings))


# --- start ------------------------------------------------------------------------------------------------------------


def test_it_starts_with_a_spread_of_the_training_free_front():
    """Each beginning reaches nearly from end to end; LTS's evolution with as many evaluations finds no better front."""
    space = large_space()
    free = free_problem(space, objectives())
    archs = drive(guided(space), 20, batch=7)
    ours = free.evaluate(to_genes(space, archs))[0]
    theirs = training_free_front(space, free, rng=np.random.default_rng(0), n_evaluations=1000).values
    assert nondominated(ours).all()
    assert (np.ptp(ours[:10], axis=0) > 0.8 * np.ptp(theirs, axis=0)).all()
    bounds = Normalisation.of(np.concatenate([ours, theirs]))
    assert normalised_hypervolume(ours, bounds) > normalised_hypervolume(theirs, bounds) - 0.02


def test_without_free_objectives_or_with_impossible_sizes_it_says_what_to_do():
    with pytest.raises(ValueError, match=r"needs the free objectives.*use NSGA2"):
        ModelGuided(large_space(), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"'n_initial': 0.*at least 1"):
        guided(large_space(), n_initial=0)
    for kinds in (objectives()[:1], objectives()[1:]):
        with pytest.raises(ValueError, match="at least one of each kind"):
            with_free_problem(ModelGuided, large_space(), kinds)
    state = guided(large_space()).state()
    with pytest.raises(ValueError, match="settings"):
        guided(large_space(), n_initial=21).load_state(state)


def test_a_resumed_search_does_not_search_for_the_training_free_front_again():
    space = large_space()
    first = guided(space)
    drive(first, 5)
    second = guided(space, 1)
    second._training_free = lambda: pytest.fail("searched again")
    second.load_state(first.state())
    assert second.ask(3) == first.ask(3)


# --- learning ---------------------------------------------------------------------------------------------------------


def told(space, archs, table):
    genes = to_genes(space, archs)
    free, missed = free_problem(space, objectives()).evaluate(genes)
    return Told(genes, free, missed, table, missed)


def judge(space, known, n, **settings):
    free = free_problem(space, objectives())
    return Opinions(known, free, GeneBasis(space, 1), n=n, rng=np.random.default_rng(0), scales={}, **settings)


def test_free_objectives_are_recognised_in_any_order_and_exact_in_every_opinion():
    space, rng = large_space(), np.random.default_rng(0)
    archs, unseen = space.sample_unique(80, rng), space.sample_unique(50, rng)
    table = np.column_stack([latency(archs), loss(archs), -parameters(space, archs)])
    opinions = judge(space, told(space, archs, table), 4)
    assert opinions.free_columns == [1, None, 0]
    found, missed = opinions(to_genes(space, unseen))
    assert found.shape == (4, 50, 3)
    assert not missed.any()
    np.testing.assert_array_equal(found[:, :, 0], np.tile(latency(unseen), (4, 1)))
    assert np.ptp(found[:, :, 1], axis=0).min() > 0
    assert np.corrcoef(found[0, :, 1], loss(unseen))[0, 1] > 0.97


def parameters(space, archs):
    return CostObjective("n_params_decoder", space.model_config)(archs)


def test_measurements_of_a_free_objective_are_learned_or_with_noise_recognised():
    space, rng = large_space(), np.random.default_rng(0)
    archs, unseen = space.sample_unique(100, rng), space.sample_unique(100, rng)
    known = told(space, archs, np.column_stack([loss(archs), latency(archs) * np.exp(0.03 * rng.standard_normal(100))]))
    learned, noisy = judge(space, known, 2), judge(space, known, 2, noise=True)
    assert learned.free_columns == [None, None]
    assert noisy.free_columns == [None, 1]
    found = learned(to_genes(space, unseen))[0]
    assert np.abs(np.log(found[0, :, 1] / latency(unseen))).mean() < 0.05
    np.testing.assert_array_equal(noisy(to_genes(space, unseen))[0][1, :, 1], latency(unseen))


def test_laws_say_how_much_opinions_change_with_a_block_on_average():
    """Mean difference of logarithms, in spreads of what was told, that two steps of the MLP of block 6 make."""
    space, rng = large_space(), np.random.default_rng(0)
    archs = space.sample_unique(150, rng)
    known = told(space, archs, values(archs))
    opinions = judge(space, known, 1)
    laws = opinions.laws(free_laws(space, free_problem(space, objectives())))
    small = to_genes(space, space.sample_unique(200, rng))
    gene = 3 + 12 + 6
    small[:, gene] = 0
    large = small.copy()
    large[:, gene] = 2
    change = (np.log(opinions(large)[0][0]) - np.log(opinions(small)[0][0])) / np.log(known.values).std(axis=0)
    steps = 1 + 2 + 2 * 12 + 2 * 6  # columns before: bias, depth, attention of 12 blocks, MLP of 6
    for width in range(3):
        own = small[:, 0] == width
        np.testing.assert_allclose(laws[0, :, width, steps : steps + 2].sum(axis=1), change[own].mean(axis=0), rtol=0.3)


def test_told_results_survive_json_with_numbers_that_are_missing():
    space = large_space()
    archs = space.sample_unique(5, np.random.default_rng(0))
    one = told(space, archs, values(archs))
    one.free[2, 1] = np.nan
    two = Told.from_dict(one.to_dict())
    for name in ("genes", "free", "free_violation", "values", "violation"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name))


def noisy_latency(archs):
    """5 % noise, a function of the network."""
    draws = [np.random.default_rng(list(arch.id.encode())).standard_normal() for arch in archs]
    return latency(archs) * np.exp(0.05 * np.array(draws))


def noisy_problem():
    return [objectives()[0], FunctionObjective("latency_ms", noisy_latency)]


def test_smoothed_free_values_are_nearer_the_truth_than_the_noisy_ones():
    space = large_space()
    problem = free_problem(space, noisy_problem(), budgets=[Budget("latency_ms", 2.0)])
    archs = space.sample_unique(300, np.random.default_rng(0))
    genes = to_genes(space, archs)
    raw, fits = problem.evaluate(genes), smoothing.smoothed(space, problem).evaluate(genes)
    errors = [np.log(values[:, 1] / latency(archs)).std() for values in (raw[0], fits[0])]
    assert errors[1] < 0.6 * errors[0]
    np.testing.assert_array_equal(fits[0][:, 0], raw[0][:, 0])  # the proxy
    np.testing.assert_array_equal(fits[1], raw[1])


def test_a_search_among_noise_trusts_the_fit_and_goes_on_after_a_restart(monkeypatch):
    monkeypatch.setattr(smoothing, "_NETWORKS", 1000)
    space = large_space()
    free = free_problem(space, noisy_problem())

    def measured(archs):
        return np.column_stack([loss(archs), noisy_latency(archs)])

    saved = []
    whole = drive(guided(space, free=free, noise=True), 60, batch=20, evaluate=measured, told=saved)
    resumed = guided(space, 1, free=free, noise=True)
    resumed.load_state(json.loads(saved[1][1]))
    assert drive(resumed, 20, batch=20, evaluate=measured) == whole[40:]
    luck = np.log(noisy_latency(whole[20:]) / latency(whole[20:]))
    assert luck.mean() > -0.03  # of the luckiest of a thousand it is below -0.1
    with pytest.raises(ValueError, match="settings"):
        guided(space, free=free).load_state(json.loads(saved[1][1]))


# --- fronts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "bred"])
@pytest.mark.parametrize("seed", range(2))
def test_the_front_is_that_of_exhaustive_enumeration(listed, seed, monkeypatch):
    space = small_space(n_layer=(1, 2, 3), mlp_ratio=(1, 2, 3), bias=(True,))
    if not listed:
        monkeypatch.setattr(model_guided, "_LISTED", 0)
    table = values(list(space.enumerate()))
    found = values(drive(guided(space, seed), len(table) * 4 // 10, batch=20))
    assert {tuple(v) for v in found[nondominated(found)]} == {tuple(v) for v in table[nondominated(table)]}


def test_it_beats_the_warm_start_and_nsga2_in_median():
    space = large_space()
    free = free_problem(space, objectives())
    rivals = {
        "model": partial(ModelGuided, free=free, **SMALL),
        "warm start": partial(LTSWarmStart, free=free, n_free=1000),
        "nsga2": NSGA2,
    }
    found = {
        name: [values(drive(make(space, rng=np.random.default_rng(seed)), 80, batch=20)) for seed in range(5)]
        for name, make in rivals.items()
    }
    bounds = Normalisation.of(np.concatenate([v for runs in found.values() for v in runs]))
    score = {name: np.median([normalised_hypervolume(v, bounds) for v in runs]) for name, runs in found.items()}
    assert score["model"] > score["warm start"] > score["nsga2"]


def test_three_objectives_two_of_them_free():
    space = large_space()
    problem = [*objectives(), CostObjective("n_params", space.model_config)]
    result = run_search(space, problem, algorithm=partial(ModelGuided, **SMALL), n_evaluations=60)
    rival = run_search(space, problem, algorithm=NSGA2, n_evaluations=60)
    tables = [r.evaluations[[o.name for o in problem]].to_numpy() for r in (result, rival)]
    bounds = Normalisation.of(np.concatenate(tables))
    assert normalised_hypervolume(tables[0], bounds) > normalised_hypervolume(tables[1], bounds)


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_free_budgets_are_always_met():
    space = large_space()
    found = run_search(space, objectives(), algorithm=partial(ModelGuided, **SMALL), n_evaluations=60,
                       budgets=[Budget("latency_ms", 2.0)])  # fmt: skip
    assert found.evaluations["latency_ms"].max() <= 2.0


def test_a_budget_on_quality_is_learned():
    space = large_space()
    limit = float(np.quantile(loss(space.sample_unique(500, np.random.default_rng(0))), 0.2))
    found = run_search(space, objectives(), algorithm=partial(ModelGuided, **SMALL), n_evaluations=80,
                       budgets=[Budget("perplexity", limit)])  # fmt: skip
    met = found.evaluations["perplexity"].to_numpy() <= limit
    assert np.mean(met[-40:]) > 0.8
    assert np.mean(met[-40:]) > np.mean(met[:20]) + 0.2


def test_a_network_without_a_result_is_left_out():
    space = large_space()

    def fails_often(archs):
        return np.where([a.bias for a in archs], np.nan, loss(archs))

    problem = [FunctionObjective("perplexity", fails_often, is_free=False), objectives()[1]]
    found = run_search(space, problem, algorithm=partial(ModelGuided, **SMALL), n_evaluations=60)
    assert found.n_without_result > 0
    assert len(found.evaluations) == 60
