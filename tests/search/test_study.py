"""A search with its baselines: equal budgets, one normalisation, everything on disk."""

import json

import pandas as pd
import pytest
from search_fakes import large_space, objectives

from search.algorithms import NSGA2, RandomSearch
from search.baseline import parameter_count_front
from search.budget import Budget
from search.objectives import FunctionObjective
from search.result import SearchResult
from search.study import run_study


def study(run_dir=None, **changes):
    arguments = {"algorithm": NSGA2, "n_evaluations": 80, "n_free_evaluations": 300, "run_dir": run_dir}
    return run_study(large_space(), objectives(), **(arguments | changes))


def test_all_searches_use_at_most_the_same_number_of_quality_evaluations():
    counted = []
    perplexity, latency = objectives()

    def counting(archs):
        counted.extend(archs)
        return perplexity.function(archs)

    result = run_study(
        large_space(), [FunctionObjective("perplexity", counting, is_free=False), latency],
        algorithm=NSGA2, n_evaluations=30, baselines=("parameter_count", "random", "warm_start"),
        n_free_evaluations=300,
    )  # fmt: skip
    sizes = {s.name: s.n_evaluations for s in result.standings}
    assert set(sizes) == {"nsga2", "parameter_count", "random", "warm_start"}
    assert max(sizes.values()) == 30
    assert len(counted) == sum(sizes.values())
    assert len({s.n_common for s in result.standings}) == 1


def test_everything_is_on_disk_and_a_second_run_gives_the_same(tmp_path):
    first = study(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [s["name"] for s in summary["standings"]] == [s.name for s in first.standings]
    assert summary["parameter_count_ranks"][0]["group"] == "all"
    assert summary["parameter_count_ranks"][0]["n"] == 80
    for name in ("parameter_count", "random"):
        saved = SearchResult.load(tmp_path / "baselines" / name)
        pd.testing.assert_frame_equal(saved.evaluations, first.baselines[name].evaluations)
    second = study(tmp_path)
    assert second.standings == first.standings
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_the_warm_start_begins_with_the_parameter_count_front():
    result = study(baselines=("warm_start",))
    front = parameter_count_front(large_space(), objectives(), n_free_evaluations=300).front
    assert set(result.baselines["warm_start"].evaluations["architecture"][:20]) <= set(front["architecture"])


def test_budgets_hold_in_every_search():
    result = study(budgets=[Budget("n_params_decoder", 2e6)])
    for each in (result.main, *result.baselines.values()):
        assert each.front["n_params_decoder"].max() <= 2e6


def test_random_search_as_the_search_is_told_from_the_baseline():
    assert {s.name for s in study(algorithm=RandomSearch).standings} == {
        "random", "random baseline", "parameter_count",
    }  # fmt: skip


def test_without_baselines_nothing_is_compared():
    result = study(baselines=())
    assert (result.standings, result.ranks) == ((), ())
    assert "80 evaluated, hypervolume" in result.sentence()


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match=r"unknown \['flops'\]; allowed: parameter_count"):
        study(baselines=("flops",))
