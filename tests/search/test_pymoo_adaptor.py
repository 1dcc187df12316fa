"""NSGA-III and SMS-EMOA: pymoo's survivors, no result and missed budgets, and a clear error without pymoo."""

import sys

import numpy as np
import pytest
from optimizer_checks import drive
from search_fakes import large_space

from search.algorithms.pymoo_adaptor import NSGA3, SMSEMOA

pytest.importorskip("pymoo")


def survivors(optimizer):
    return {individual.get("arch") for individual in optimizer._algorithm.pop}


@pytest.mark.parametrize("algorithm", [NSGA3, SMSEMOA])
def test_survival_prefers_the_feasible_then_the_front_and_drops_what_has_no_result(algorithm):
    optimizer = algorithm(large_space(), rng=np.random.default_rng(0), population=4)
    first = optimizer.ask(9)
    assert len(first) == 4
    optimizer.tell(first, [[0, 3], [1, 1], [3, 0], [9, 9]], [0, 0, 0, 0])
    second = optimizer.ask(4)
    optimizer.tell(second, [[-5, -5], [1.2, 1.2], [np.nan, 0], [2, 0.5]], [1.0, 0, 0, 0])
    kept = survivors(optimizer)
    assert len(kept) == 4
    assert not {first[3], second[0], second[2]} & kept
    assert {first[0], first[2]} <= kept  # the ends


def test_sms_emoa_drops_what_adds_least_to_the_hypervolume():
    optimizer = SMSEMOA(large_space(), rng=np.random.default_rng(0), population=3)
    first = optimizer.ask(3)
    optimizer.tell(first, [[0, 10], [5, 5], [10, 0]])
    second = optimizer.ask(3)
    optimizer.tell(second, [[4.9, 5.3], [99, 99], [98, 98]])
    assert survivors(optimizer) == set(first)


def test_nsga3_spreads_over_the_directions():
    """Five points close together and five along the whole front: both ends stay, and most of the crowd goes."""
    optimizer = NSGA3(large_space(), rng=np.random.default_rng(0), population=5)
    spread, crowd = np.linspace(0, np.pi / 2, 5), np.linspace(0.6, 0.7, 5)
    first = optimizer.ask(5)
    optimizer.tell(first, np.column_stack([1 - np.cos(crowd), 1 - np.sin(crowd)]))
    second = optimizer.ask(5)
    optimizer.tell(second, np.column_stack([1 - np.cos(spread), 1 - np.sin(spread)]))
    assert {second[0], second[-1]} <= survivors(optimizer)
    assert len(set(first) & survivors(optimizer)) <= 2


def test_a_setting_that_is_not_possible_is_refused_and_settings_are_part_of_the_state():
    with pytest.raises(ValueError, match="population = 1"):
        NSGA3(large_space(), rng=np.random.default_rng(0), population=1)
    state = SMSEMOA(large_space(), rng=np.random.default_rng(0)).state()
    with pytest.raises(ValueError, match="settings"):
        SMSEMOA(large_space(), rng=np.random.default_rng(0), population=30).load_state(state)


@pytest.mark.parametrize("algorithm", [NSGA3, SMSEMOA])
def test_the_seed_of_the_state_counts_and_not_the_new_one(algorithm):
    first = algorithm(large_space(), rng=np.random.default_rng(0))
    drive(first, 60)
    second = algorithm(large_space(), rng=np.random.default_rng(7))
    second.load_state(first.state())
    assert drive(second, 100) == drive(first, 100)
    assert survivors(second) == survivors(first)


def test_without_pymoo_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymoo", None)
    with pytest.raises(ImportError, match=r"algorithm 'nsga3' is pymoo's.*pip install pymoo"):
        NSGA3(large_space(), rng=np.random.default_rng(0))
