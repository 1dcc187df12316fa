"""MO-REA: the rank is a rank (not the list of sorted indices), the queue is a queue."""

import numpy as np
import pytest
from optimizer_checks import drive, values
from search_fakes import large_space

from search.algorithms.mo_rea import MOREA, epsilon_net, priority
from search.pareto import nondominated, ranks


def test_priority_is_the_inverse_permutation_of_the_sorted_list():
    assert priority([[3, 3], [1, 1], [2, 2]]).tolist() == [2, 0, 1]  # the sorted list is [1, 2, 0]


@pytest.mark.parametrize("seed", range(20))
def test_the_ten_best_of_thirty_random_points_contain_the_front(seed):
    points = np.random.default_rng(seed).random((30, 2))
    front = np.flatnonzero(nondominated(points))
    assert len(front) <= 10
    assert set(front) <= set(np.flatnonzero(priority(points) < 10))


@pytest.mark.parametrize("m", [1, 2, 3])
def test_priority_orders_by_front_and_no_two_are_alike(m):
    points = np.random.default_rng(m).integers(0, 6, (40, m)).astype(float)
    rank = priority(points)
    assert sorted(rank) == list(range(40))
    assert (np.diff(ranks(points)[np.argsort(rank)]) >= 0).all()


def test_feasible_comes_before_infeasible_and_no_result_last():
    rank = priority([[5, 5], [0, 0], [np.nan, 0], [6, 6], [1, 1]], [0, 0.3, 0, 0, 0.1])
    assert rank.tolist() == [0, 3, 4, 1, 2]


def test_within_a_front_the_order_spreads_from_the_end_of_objective_zero():
    front = np.array([[0.4, 0.6], [0.0, 1.0], [1.0, 0.0], [0.1, 0.9], [0.7, 0.3]])
    assert np.argsort(priority(front * [1, 1000])).tolist() == [1, 2, 0, 4, 3]  # units do not matter


def test_epsilon_net_takes_the_furthest_point_each_time():
    points = np.random.default_rng(0).random((25, 3))
    order = epsilon_net(points)
    assert order[0] == np.argmin(points[:, 0])
    assert sorted(order) == list(range(25))
    for k in range(1, 25):
        gaps = [min(np.linalg.norm(points[i] - points[j]) for j in order[:k]) for i in order[k:]]
        assert gaps[0] == pytest.approx(max(gaps))


def test_epsilon_net_of_nothing_is_nothing_and_points_that_are_not_finite_come_last():
    assert epsilon_net(np.empty((0, 2))).tolist() == []
    assert epsilon_net(np.array([[np.nan, 0.0], [1.0, 1.0], [0.0, 0.0]])).tolist() == [2, 1, 0]


def test_the_oldest_leave_and_architectures_without_a_result_never_enter():
    optimizer = MOREA(large_space(), rng=np.random.default_rng(0), population=4, sample=2)
    first = optimizer.ask(10)
    assert len(first) == 4
    optimizer.tell(first, [[0, 0], [1, 1], [np.nan, 1], [3, 3]])
    (more,) = optimizer.ask(10)  # one is lacking
    optimizer.tell([more], [[9, 9]])
    child = optimizer.ask(1)
    optimizer.tell(child, [[8, 8]])
    assert optimizer.state()["queue"] == [first[1].id, first[3].id, more.id, child[0].id]  # the best left by age


def test_the_parent_is_the_best_of_the_sample():
    """With a sample of the whole population every child differs in one gene from the first in priority."""
    space = large_space()
    optimizer = MOREA(space, rng=np.random.default_rng(0), population=8, sample=8)
    archs = drive(optimizer, 8)
    best = archs[int(np.argmin(priority(values(archs))))]
    for child in optimizer.ask(10):
        changed = [child.n_embd != best.n_embd, child.bias != best.bias, child.n_layer != best.n_layer]
        changed += [a != b for a, b in zip(child.n_head, best.n_head, strict=False)]
        mlp = [f / child.n_embd for f in child.intermediate_size], [f / best.n_embd for f in best.intermediate_size]
        changed += [a != b for a, b in zip(*mlp, strict=False)]
        assert sum(changed) == 1


def test_sizes_that_are_not_possible_are_refused():
    with pytest.raises(ValueError, match="population = 5, sample = 6"):
        MOREA(large_space(), rng=np.random.default_rng(0), population=5, sample=6)
