"""Every algorithm: no repeats, same seed same search, resumed at any tell, any objectives, missed budgets."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optimizer_checks import ALGORITHMS, drive, values
from search_fakes import CONFIG, large_space, latency, objectives, small_space

from search.algorithms.free_problem import with_free_problem
from supernet.space import SearchSpace


def spaces():
    subset = small_space(name="subset", n_layer=(1, 3, 4), layer_choice="subset")
    alike = small_space(name="alike", n_layer=(2, 4, 6), mlp_ratio=(1, 2, 3, 4), per_layer=False)
    grouped = SearchSpace(
        name="grouped", n_embd=(32, 64), n_layer=(2, 4), n_head=(2, 4), n_query_groups=(1, 2), mlp_ratio=(1, 2),
        config=CONFIG,
    )  # fmt: skip
    return [large_space(), subset, alike, grouped]


def fresh(algorithm, seed=0, space=None):
    return algorithm(space or large_space(), rng=np.random.default_rng(seed))


@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.name)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_architecture_is_asked_twice_and_all_are_legal(algorithm, space):
    n = min(130, space.num_architectures)
    archs = drive(fresh(algorithm, space=space), n)
    assert len(set(archs)) == n
    assert all(arch in space for arch in archs)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_seed_same_search_and_another_seed_another(algorithm):
    runs = [drive(fresh(algorithm, seed), 120) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_cut_after_any_tell_goes_on_as_if_uncut(algorithm):
    told = []
    whole = drive(fresh(algorithm, 3), 190, batch=19, evaluate=noisy, told=told)
    for n, state in told[:-1]:
        resumed = fresh(algorithm, 99)
        resumed.load_state(json.loads(state))
        assert drive(resumed, 190 - n, batch=19, evaluate=noisy) == whole[n:]


def noisy(archs):
    """Values and violation, some without a result; a function of the architecture."""
    table = values(archs)
    table[[arch.n_head[0] == 8 and arch.n_head[1] == 4 for arch in archs], 0] = np.nan
    return table, np.maximum(latency(archs) - 1.3, 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_was_asked_and_never_told_comes_again_after_a_restart(algorithm):
    first = fresh(algorithm)
    drive(first, 30)
    asked = first.ask(8) + first.ask(3)
    second = fresh(algorithm, 1)
    second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    again = second.ask(5)
    while len(again) < len(asked):
        again += second.ask(5)
    assert again == asked
    assert not set(second.ask(5)) & set(asked)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_exhausted_space_gives_every_architecture_once_and_then_none(algorithm):
    space = small_space(n_embd=(32, 48))
    optimizer = fresh(algorithm, space=space)
    assert set(drive(optimizer, space.num_architectures)) == set(space.enumerate())
    assert optimizer.ask(5) == []


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_results_may_come_late_and_in_any_order(algorithm):
    """Four workers, each told when the next architecture is asked."""
    optimizer, flying, archs = fresh(algorithm), [], []
    for i in range(160):
        flying += optimizer.ask(1)
        archs.append(flying[-1])
        if len(flying) == 4:
            done = flying.pop(i % 4)
            optimizer.tell([done], values([done]))
    assert len(set(archs)) == 160


@pytest.mark.parametrize("m", [1, 3, 4])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_number_of_objectives(algorithm, m):
    optimizer = fresh(algorithm)
    assert len(drive(optimizer, 130, evaluate=lambda archs: values(archs, m))) == 130
    with pytest.raises(ValueError, match=rf"values of 2 objectives, before of {m}|dimension"):  # NSGA2: numpy's words
        drive(optimizer, 200, evaluate=values)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_without_any_result_goes_on(algorithm):
    optimizer = fresh(algorithm)
    archs = drive(optimizer, 130, evaluate=lambda archs: np.full((len(archs), 2), np.nan))
    assert len(set(archs)) == 130
    json.dumps(optimizer.state(), allow_nan=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_budget_draws_the_search_to_what_meets_it(algorithm):
    """Of the last 100, far more are feasible than at random, though both objectives now want large networks."""
    limit, space = 1.8, large_space()
    random = np.mean(latency(space.sample_unique(500, np.random.default_rng(0))) <= limit)
    archs = drive(fresh(algorithm), 300, evaluate=lambda archs: (-values(archs), np.maximum(latency(archs) - limit, 0)))
    assert random < 0.3
    assert np.mean(latency(archs[-100:]) <= limit) > random + 0.2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_state_of_another_space_or_algorithm_is_refused_and_bad_asks_too(algorithm):
    state = fresh(algorithm).state()
    with pytest.raises(ValueError, match="space = 'large', this search has 'small'"):
        fresh(algorithm, space=small_space()).load_state(state)
    with pytest.raises(ValueError, match="algorithm = 'other'"):
        fresh(algorithm).load_state(state | {"algorithm": "other"})
    with pytest.raises(ValueError, match=r"ask\(0\)"):
        fresh(algorithm).ask(0)


CONFIGURATIONS = sorted((Path(__file__).parents[2] / "conf" / "algorithm").glob("*.yaml"))
NEEDS = {"nsga3": "pymoo", "sms-emoa": "pymoo", "tpe": "optuna"}


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_every_configuration_builds_an_optimizer_that_asks(path):
    if find_spec(NEEDS.get(path.stem, "numpy")) is None:
        pytest.skip(f"{NEEDS[path.stem]} is not installed")
    space = large_space()
    algorithm = with_free_problem(instantiate(OmegaConf.load(path)), space, objectives())
    optimizer = algorithm(space, rng=np.random.default_rng(0))
    assert getattr(optimizer, "ask_jobs", optimizer.ask)(1)
