"""Choosing from a front, and measuring the choice with the real profiler."""

import math

import numpy as np
import pytest
from search_fakes import large_space, loss, objectives

from hw_profiles.device import Workload
from hw_profiles.table import MeasurementTable
from search.algorithms import NSGA2
from search.live import LivePerplexityObjective, QualityRecord
from search.pareto import knee
from search.picks import load_picks, save_picks
from search.remeasure import Choice, choose, remeasure
from search.run import run_search
from supernet.cost import parameter_count
from supernet.space import SearchSpace


@pytest.fixture(scope="module")
def result():
    return run_search(large_space(), objectives(), algorithm=NSGA2, n_evaluations=300)


def quality():
    def evaluator(archs):
        return [QualityRecord(x, math.exp(x), x / 2, 0.1, 1000) for x in loss(archs)]

    return LivePerplexityObjective(evaluator, source="test")


def test_choices_hold_both_ends_and_the_knee_in_order_of_latency(result):
    choices = choose(result, 4)
    archs = [c.architecture.id for c in choices]
    front = result.front
    assert {front["architecture"].iloc[0], front["architecture"].iloc[-1]} <= set(archs)
    assert front["architecture"][knee(front[result.names].to_numpy())] in archs
    latencies = [front.set_index("architecture")["latency_ms"][i] for i in archs]
    assert latencies == sorted(latencies)
    assert len(set(archs)) == len(archs) in (4, 5)
    assert [c.name for c in choices][:2] == ["nsga2 1", "nsga2 2"]


def test_values_that_were_not_predicted_are_not_called_predictions(result):
    assert all(c.predicted == {} for c in choose(result, 3))


def test_a_front_without_networks_is_refused(result):
    empty = result.evaluations.assign(violation=1.0)
    with pytest.raises(ValueError, match="from a front of 0"):
        choose(type(result)(empty, result.objectives, "nsga2", 0), 3)


def test_chosen_networks_are_measured_on_this_machine_with_their_spread(tmp_path):
    space = SearchSpace(
        name="mini", n_embd=(16, 32), n_layer=(1, 2), n_head=(1, 2), mlp_ratio=(1, 2),
        config={"head_size": 16, "vocab_size": 64, "padded_vocab_size": 64, "block_size": 16},
    )  # fmt: skip
    choices = [
        Choice("a 1", "a", space.smallest(), {"latency_ms": 0.5, "perplexity": 9.0}),
        Choice("a 2", "a", space.largest()),
        Choice("b 1", "b", space.largest()),  # chosen twice, measured once
    ]
    workload = Workload(1, 8)
    picks = remeasure(
        choices, space=space, quality=quality(), workload=workload, table=tmp_path / "again", repeats=4, threads=1
    )
    rows = MeasurementTable(tmp_path / "again").read().set_index("architecture")
    assert len(rows) == 2
    assert [p.name for p in picks] == ["a 1", "a 2", "b 1"]
    for choice, pick in zip(choices, picks, strict=True):
        row = rows.loc[choice.architecture.id]
        ratios = row["repeats"] / row["reference_repeats"] * rows["reference_median"].median()
        assert pick.latency_ms == pytest.approx(np.median(ratios))
        assert pick.latency_iqr_ms == pytest.approx(np.subtract(*np.percentile(ratios, [75, 25])))
        assert pick.n_repeats == len(row["repeats"]) == 4
        assert pick.perplexity == pytest.approx(math.exp(loss([choice.architecture])[0]))
        assert pick.perplexity_stderr == pytest.approx(0.1 * pick.perplexity)
        assert pick.parameters == parameter_count(space.model_config, choice.architecture)
    assert picks[0].predicted_latency_ms == 0.5
    assert math.isnan(picks[1].predicted_latency_ms)
    save_picks(tmp_path / "picks.parquet", picks)
    assert [p.name for p in load_picks(tmp_path / "picks.parquet")] == ["a 1", "a 2", "b 1"]
