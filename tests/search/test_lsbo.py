"""LSBO: the best sum of objectives, whatever their units; with random weights the whole front."""

from functools import partial

import numpy as np
import pytest
from optimizer_checks import drive, values
from search_fakes import large_space, latency, small_space

from search.algorithms.lsbo import LSBO
from search.pareto import nondominated


def sums(table):
    return ((table - table.min(axis=0)) / np.ptp(table, axis=0)).sum(axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_smallest_sum_of_an_enumerable_space(seed):
    space = small_space()
    archs = list(space.enumerate())
    best = archs[int(np.argmin(sums(values(archs))))]
    ends = [space.smallest(), space.largest()]  # told first, so that the scale is that of the whole space
    optimizer = LSBO(space, rng=np.random.default_rng(seed))
    optimizer.tell(ends, values(ends))
    assert best in drive(optimizer, 50, batch=1)


def test_units_do_not_matter():
    runs = [
        drive(LSBO(large_space(), rng=np.random.default_rng(0)), 30, evaluate=evaluate)
        for evaluate in (values, lambda archs: values(archs) * [1024.0, 0.25])
    ]
    assert runs[0] == runs[1]


def test_random_weights_find_more_of_the_front():
    space = small_space(n_layer=(1, 2, 3), bias=(False,))
    table = values(list(space.enumerate()))
    truth = {tuple(v) for v in table[nondominated(table)]}
    found = [
        len(truth & {tuple(v) for v in values(drive(kind(space, rng=np.random.default_rng(0)), 60, batch=1))})
        for kind in (partial(LSBO, random_weights=True), LSBO)
    ]
    assert found[0] > found[1]


def test_a_budget_moves_the_search_to_its_limit():
    """Both objectives want small networks, the budget wants large ones: what is asked is close to the limit."""

    def limited(archs):
        table = np.column_stack([latency(archs), latency(archs)])
        return table, np.maximum(1.5 - latency(archs), 0)

    archs = drive(LSBO(large_space(), rng=np.random.default_rng(0)), 40, batch=1, evaluate=limited)
    late = latency(archs)
    assert np.mean(np.abs(late[20:] - 1.5) < 0.15) > 0.6
    assert late[late >= 1.5].min() < 1.52


def test_no_network_that_differs_in_one_gene_has_a_larger_improvement():
    """Local steps end where no neighbour is better (blocks that a deeper one adds are drawn at random)."""
    from search.algorithms.gene_candidates import neighbours
    from supernet.encoding import to_genes

    optimizer = LSBO(large_space(), rng=np.random.default_rng(0))
    drive(optimizer, 20)
    known, arch = optimizer._known(), optimizer._next()
    row = to_genes(large_space(), [arch])
    around = neighbours(optimizer._arrays, row[0], np.random.default_rng(0))
    around = around[around[:, 2] == row[0, 2]]
    scores = optimizer._score(known, optimizer._features(np.concatenate([row, around])))
    assert scores[0] >= scores[1:].max() - 1e-9


def test_settings_are_checked_and_part_of_the_state():
    space, rng = large_space(), np.random.default_rng(0)
    with pytest.raises(ValueError, match="n_random = 0"):
        LSBO(space, rng=rng, n_random=0)
    with pytest.raises(ValueError, match="settings"):
        LSBO(space, rng=rng, random_weights=True).load_state(LSBO(space, rng=rng).state())
