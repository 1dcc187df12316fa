"""Searches are judged by what their picks measured."""

import dataclasses

import pytest
from search_fakes import large_space, objectives

from search.algorithms import NSGA2, RandomSearch
from search.final import equal_picks, final_choices, measured_standings
from search.picks import Pick
from search.run import run_search
from supernet.architecture import Architecture
from supernet.cost import ParameterCount

PARTS = ParameterCount(embedding=1, attention=1, mlp=1, norm=1, head=1)


def pick(name, search, perplexity, latency_ms):
    arch = Architecture.uniform(n_embd=8, n_layer=1, n_head=1, intermediate_size=8)
    return Pick(
        name=name, search=search, architecture=arch, parameters=PARTS, latency_ms=latency_ms, latency_iqr_ms=0.1,
        n_repeats=3, perplexity=perplexity, perplexity_stderr=0.1,
    )  # fmt: skip


def test_the_search_whose_picks_measured_better_comes_first():
    picks = [
        pick("a 1", "a", 10, 1), pick("a 2", "a", 5, 2), pick("b 1", "b", 11, 1.5), pick("b 2", "b", 5.5, 3),
        pick("largest", "", 1, 0.1),
    ]  # fmt: skip
    standings = measured_standings(picks)
    assert [(s.name, s.n_picks, s.n_on_front) for s in standings] == [("a", 2, 2), ("b", 2, 0)]
    assert standings[0].hypervolume > standings[1].hypervolume


def test_a_network_of_two_searches_counts_for_both():
    both = [pick("a 1", "a", 5, 2), pick("a 2", "a", 6, 3), pick("b 1", "b", 5, 2), pick("b 2", "b", 4, 4)]
    assert {s.name: s.n_on_front for s in measured_standings(both)} == {"a": 1, "b": 2}


def test_searches_are_judged_by_equally_many_picks_spread_by_latency():
    many = [pick(f"a {i}", "a", 10 - i, 1 + i) for i in range(5)]
    few = [pick("b 1", "b", 9.5, 1.5), pick("b 2", "b", 5.5, 5.5)]
    assert [p.name for p in equal_picks([*many, *few])["a"]] == ["a 0", "a 4"]
    assert {s.n_picks for s in measured_standings([*many, *few])} == {2}


def test_noise_is_that_of_the_latencies():
    quiet, loud = (
        [dataclasses.replace(p, latency_iqr_ms=iqr) for p in (pick("a 1", "a", 5, 2), pick("a 2", "a", 4, 4))]
        for iqr in (0.0, 1.0)
    )
    assert measured_standings(quiet)[0].noise == 0
    assert measured_standings(loud)[0].noise > 0


def test_without_picks_of_a_search_there_is_no_standing():
    assert measured_standings([pick("largest", "", 1, 1)]) == []


@pytest.mark.parametrize("n", [1, 4])
def test_choices_are_of_every_search_and_the_largest_network(n):
    space = large_space()
    results = {
        name: run_search(space, objectives(), algorithm=kind, n_evaluations=60, seed=1)
        for name, kind in (("nsga2", NSGA2), ("random", RandomSearch))
    }
    choices = final_choices(results, space, n)
    for name, result in results.items():
        own = [c for c in choices if c.search == name]
        assert n <= len(own) <= n + 1
        assert {c.architecture.id for c in own} <= set(result.front["architecture"])
    assert choices[-1].architecture == space.largest()
    assert choices[-1].search == ""
