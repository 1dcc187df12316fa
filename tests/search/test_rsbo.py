"""RSBO: the best point of a small space, units that do not matter, weights that change from step to step."""

from functools import partial

import numpy as np
import pytest
from optimizer_checks import drive, values
from search_fakes import large_space, small_space

from search.algorithms.random_search import RandomSearch
from search.algorithms.rsbo import RSBO
from search.pareto import Normalisation, nondominated, normalised_hypervolume


@pytest.mark.parametrize("seed", range(3))
def test_of_one_objective_it_finds_the_best_network_of_an_enumerable_space(seed):
    space = small_space()
    archs = list(space.enumerate())
    best = archs[int(np.argmin(np.abs(values(archs)[:, 1] - 0.6)))]  # neither the smallest nor the largest
    found = drive(
        RSBO(space, rng=np.random.default_rng(seed)), 60, batch=1,
        evaluate=lambda archs: np.abs(values(archs)[:, 1:] - 0.6),
    )  # fmt: skip
    assert best in found


def test_it_finds_much_of_the_front_of_an_enumerable_space():
    space = small_space(bias=(False,))
    table = values(list(space.enumerate()))
    truth = {tuple(v) for v in table[nondominated(table)]}
    found = values(drive(RSBO(space, rng=np.random.default_rng(0)), 60, batch=1))
    assert len(truth & {tuple(v) for v in found}) >= 0.7 * len(truth)


def test_scaled_to_the_range_it_beats_random_search_and_the_ranks():
    """Ranks of objectives that conflict draw the search to the ends of the front."""
    quick = partial(RSBO, n_random=100, n_mutations=100)
    kinds = (partial(quick, scale="range"), quick, RandomSearch)
    runs = [
        [values(drive(kind(large_space(), rng=np.random.default_rng(seed)), 60, batch=1)) for seed in range(2)]
        for kind in kinds
    ]
    bounds = Normalisation.of(np.concatenate([v for found in runs for v in found]))
    ours, ranks, random = ([normalised_hypervolume(v, bounds) for v in found] for found in runs)
    assert min(ours) > max(random)
    assert np.mean(ours) > np.mean(ranks)


def test_units_do_not_matter():
    runs = [
        drive(RSBO(large_space(), rng=np.random.default_rng(0)), 30, evaluate=evaluate)
        for evaluate in (values, lambda archs: values(archs) * [1024.0, 0.25])
    ]
    assert runs[0] == runs[1]


def test_the_score_is_the_weighted_rank_of_optimistic_values():
    optimizer = RSBO(large_space(), rng=np.random.default_rng(0))
    drive(optimizer, 20)
    known = optimizer._known()
    X = np.random.default_rng(0).random((5, known.X.shape[1]))
    mean, std = known.predict(X)
    bound = mean - 0.5 * std
    rank = (bound[:, None] >= bound[None]).sum(axis=1) / 5
    np.testing.assert_allclose(optimizer._score(known, X), -(rank @ known.weights))
    assert not np.array_equal(known.weights, optimizer._known().weights)
    assert ((known.weights > 0) & (known.weights < 1)).all()


def test_settings_are_checked_and_part_of_the_state():
    space, rng = large_space(), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"scale = 'log'.*'rank', 'range'"):
        RSBO(space, rng=rng, scale="log")
    with pytest.raises(ValueError, match="settings"):
        RSBO(space, rng=rng, scale="range").load_state(RSBO(space, rng=rng).state())
