"""Local search: one gene at a time, from the front, sweeps, HW-GPT-Bench's genome with silent genes."""

import numpy as np
import pytest
from optimizer_checks import drive, values
from search_fakes import large_space, small_space

from search.algorithms.front_archive import FrontArchive
from search.algorithms.local_search import LocalSearch
from supernet.encoding import to_genes


def test_it_starts_with_one_architecture_and_changes_one_gene_of_a_member_of_the_front():
    space = large_space()
    optimizer = LocalSearch(space, rng=np.random.default_rng(0))
    (start,) = optimizer.ask(20)
    optimizer.tell([start], values([start]))
    for _ in range(50):
        front = to_genes(space, [optimizer.space.validate(a) for a in optimizer._front.archs])
        (child,) = optimizer.ask(1)
        genes = to_genes(space, [child])
        changed = (front != genes).sum(axis=1)
        same_depth = front[:, 2] == genes[0, 2]
        assert (changed[same_depth] == 1).any() or (~same_depth).any()
        optimizer.tell([child], values([child]))


def test_weakly_dominated_and_equal_results_leave_the_front():
    archs = large_space().sample_unique(6, np.random.default_rng(0))
    archive = FrontArchive()
    archive.add(archs[:3], np.array([[1.0, 5.0], [2.0, 5.0], [1.0, 5.0]]), np.zeros(3))
    assert archive.archs == archs[:1]
    archive.add(archs[3:5], np.array([[0.0, 9.0], [1.0, 4.0]]), np.zeros(2))
    assert archive.archs == archs[3:5]
    archive.add(archs[5:], np.array([[np.nan, 0.0]]), np.zeros(1))
    assert archive.archs == archs[3:5]


def test_the_archive_holds_the_least_infeasible_until_something_is_feasible():
    archs = large_space().sample_unique(4, np.random.default_rng(0))
    archive = FrontArchive()
    archive.add(archs[:2], np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0.5, 0.2]))
    assert archive.archs == [archs[1]]
    archive.add(archs[2:], np.array([[9.0, 9.0], [0.0, 0.0]]), np.array([0.0, 0.1]))
    assert archive.archs == [archs[2]]


def started(space, **settings):
    """A search whose front is the smallest architecture, which nothing will beat: 8 of 12 layers are kept."""
    optimizer = LocalSearch(space, rng=np.random.default_rng(0), **settings)
    optimizer.tell([space.smallest()], [[0.0, 0.0]])
    return optimizer


def test_a_change_of_a_silent_gene_counts_as_a_duplicate_and_is_redrawn():
    redrawn = {}
    for which in ("any", "active"):
        optimizer = started(large_space(), genes=which)
        asked = optimizer.ask(20)
        assert len(set(asked) - {large_space().smallest()}) == 20
        redrawn[which] = optimizer.n_redrawn
    assert redrawn["any"] > redrawn["active"]  # 8 of 27 genes are silent; both meet neighbours already asked


def test_layers_that_come_back_have_the_genes_of_the_ancestors_with_any_gene():
    """The smallest network has two deeper neighbours; with one genome behind them their new layers are the same."""
    children = [arch for arch in started(large_space(), genes="any").ask(36) if arch.n_layer > 8]
    assert sorted(arch.n_layer for arch in children) == [10, 12]
    assert len({arch.n_head[8:10] + arch.intermediate_size[8:10] for arch in children}) == 1


def test_a_sweep_tries_every_neighbour_of_a_member_before_the_next():
    space = large_space()
    optimizer = LocalSearch(space, rng=np.random.default_rng(0), sweep=True)
    (start,) = optimizer.ask(1)
    optimizer.tell([start], [[0.0, 0.0]])
    around = set(space.neighbours(start))
    asked = drive(optimizer, len(around), evaluate=lambda archs: np.ones((len(archs), 2)))
    assert set(asked) == around
    assert not set(optimizer.ask(5)) & around  # a restart


@pytest.mark.parametrize("sweep", [False, True])
def test_a_local_optimum_is_left_by_a_random_restart(sweep):
    space = small_space()
    optimizer = LocalSearch(space, rng=np.random.default_rng(0), sweep=sweep)
    drive(optimizer, 1, evaluate=lambda archs: np.zeros((len(archs), 2)))
    archs = drive(optimizer, 100, evaluate=lambda archs: np.ones((len(archs), 2)))
    assert len(archs) == 100


def test_a_warm_start_is_evaluated_first_and_is_a_setting():
    space = large_space()
    initial = [space.largest(), space.smallest()]
    optimizer = LocalSearch(space, rng=np.random.default_rng(0), initial=initial)
    assert optimizer.ask(20) == initial
    with pytest.raises(ValueError, match="settings"):
        LocalSearch(space, rng=np.random.default_rng(0)).load_state(optimizer.state())


def test_settings_that_contradict_are_refused():
    for settings in ({"genes": "all"}, {"genes": "any", "sweep": True}):
        with pytest.raises(ValueError, match="allowed are 'active', 'any' without sweep"):
            LocalSearch(large_space(), rng=np.random.default_rng(0), **settings)
