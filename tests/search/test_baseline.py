"""The parameter-count baseline and the comparison of searches."""

import numpy as np
import pytest
from scipy.stats import kendalltau
from search_fakes import large_space, loss, objectives, small_space

from search.algorithms import NSGA2, RandomSearch
from search.baseline import evaluate_front, parameter_count_front, rank_scores
from search.budget import Budget
from search.compare import compare, shared_normalisation
from search.objectives import CostObjective, FunctionObjective, NegatedObjective
from search.pareto import nondominated
from search.run import run_search
from supernet.architecture import Architecture


def test_the_free_front_is_the_exact_one_and_needs_no_quality():
    space = small_space()

    def forbidden(archs):
        raise AssertionError("perplexity was evaluated")

    latency = objectives()[1]
    free = parameter_count_front(
        space, [FunctionObjective("perplexity", forbidden, is_free=False), latency], n_free_evaluations=1000
    )
    everything = list(space.enumerate())
    size = NegatedObjective(CostObjective("n_params_decoder", space.model_config))
    truth = np.column_stack([size(everything), latency(everything)])
    truth = {tuple(v) for v in truth[nondominated(truth)]}
    assert {tuple(v) for v in free.front[free.names].to_numpy()} == truth


def test_the_front_is_evaluated_on_the_true_objectives_within_the_limit():
    space = large_space()
    free = parameter_count_front(space, objectives(), n_free_evaluations=600)
    result = evaluate_front(free, space, objectives(), n_evaluations=12)
    assert len(result.evaluations) == 12
    assert set(result.evaluations["architecture"]) <= set(free.front["architecture"])
    archs = [Architecture.from_id(i) for i in result.evaluations["architecture"]]
    np.testing.assert_array_equal(result.evaluations["perplexity"], loss(archs))
    assert result.details["n_free_evaluations"] == 600
    latencies = result.evaluations["latency_ms"]
    assert latencies.min() == free.front["latency_ms"].min()
    assert latencies.max() == free.front["latency_ms"].max()
    half = latencies[:6].sort_values().to_numpy()  # the beginning is spread too
    assert np.ptp(half) > 0.6 * np.ptp(latencies)
    assert half[0] == latencies.min()


def test_budgets_hold_in_the_baseline_too():
    space = large_space()
    limit = float(objectives()[1]([space.smallest()])[0] * 1.5)
    budgets = [Budget("latency_ms", limit)]
    free = parameter_count_front(space, objectives(), n_free_evaluations=400, budgets=budgets)
    result = evaluate_front(free, space, objectives(), n_evaluations=50, budgets=budgets)
    assert result.evaluations["latency_ms"].max() <= limit
    assert result.n_infeasible == 0


def test_objectives_without_a_quality_or_without_a_free_one_are_refused():
    perplexity, latency = objectives()
    for given in ([latency], [perplexity]):
        with pytest.raises(ValueError, match="stands in for a measured quality"):
            parameter_count_front(large_space(), given)


def test_rank_scores_are_scipys_over_all_and_within_each_width():
    space, rng = large_space(), np.random.default_rng(0)
    archs = space.sample_unique(200, rng)
    size = CostObjective("n_params_decoder", space.model_config)(archs)
    scores = rank_scores(archs, size, loss(archs))
    assert [s.group for s in scores] == ["all", "n_embd 64", "n_embd 128", "n_embd 192"]
    assert scores[0].n == 200 == sum(s.n for s in scores[1:])
    wide = np.array([a.n_embd == 192 for a in archs])
    assert scores[0].kendall == pytest.approx(kendalltau(size, -loss(archs)).statistic)
    assert scores[3].kendall == pytest.approx(kendalltau(size[wide], -loss(archs)[wide]).statistic)
    assert scores[0].kendall > scores[3].kendall > 0


def test_rank_scores_of_too_few_networks_are_nan_and_missing_ones_are_left_out():
    space = small_space()
    archs = [space.largest(), space.smallest()]
    assert np.isnan(rank_scores(archs, [2.0, 1.0], [1.0, 2.0])[0].kendall)
    assert rank_scores(archs, [2.0, np.nan], [1.0, 2.0])[0].n == 1


def test_searches_are_compared_at_the_same_number_of_evaluations_on_one_normalisation():
    space = large_space()
    results = {
        "nsga2": run_search(space, objectives(), algorithm=NSGA2, n_evaluations=300),
        "random": run_search(space, objectives(), algorithm=RandomSearch, n_evaluations=100),
    }
    standings = {s.name: s for s in compare(results)}
    bounds = shared_normalisation(results)
    assert {s.n_common for s in standings.values()} == {100}
    assert standings["random"].hypervolume == standings["random"].hypervolume_at_common
    assert standings["nsga2"].hypervolume == results["nsga2"].hypervolume(bounds)
    assert standings["nsga2"].hypervolume_at_common == results["nsga2"].hypervolume(bounds, n=100)
    assert standings["nsga2"].hypervolume > standings["nsga2"].hypervolume_at_common
    both = np.concatenate([r.values for r in results.values()])
    np.testing.assert_array_equal(bounds.ideal, both.min(axis=0))


def test_searches_of_different_objectives_cannot_be_compared():
    space = large_space()
    one = run_search(space, objectives(), algorithm=RandomSearch, n_evaluations=10)
    other = run_search(space, objectives()[::-1], algorithm=RandomSearch, n_evaluations=10)
    with pytest.raises(ValueError, match="different objectives"):
        compare({"one": one, "other": other})
