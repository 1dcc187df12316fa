"""Dominance, crowding, hypervolume: against brute force, moocore and pymoo."""

import moocore
import numpy as np
import pytest

from search.pareto import (
    REFERENCE,
    Normalisation,
    constrained_ranks,
    convex_front,
    crowding_distance,
    hypervolume,
    knee,
    nondominated,
    normalised_hypervolume,
    ranks,
)


def brute_nondominated(points):
    return np.array([not any((q <= p).all() and (q < p).any() for q in points) for p in points])


def brute_ranks(points):
    out, left, rank = np.full(len(points), -1), np.arange(len(points)), 0
    while len(left):
        front = left[brute_nondominated(points[left])]
        out[front] = rank
        left, rank = np.setdiff1d(left, front), rank + 1
    return out


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_front_and_ranks_equal_brute_force(m, ties):
    rng = np.random.default_rng(m)
    points = rng.integers(0, 5, (60, m)).astype(float) if ties else rng.random((60, m))
    np.testing.assert_array_equal(nondominated(points), brute_nondominated(points))
    np.testing.assert_array_equal(ranks(points), brute_ranks(points))


def test_ranks_are_per_point_scores_and_not_the_sorted_index_list():
    assert ranks([[3, 3], [1, 1], [2, 2]]).tolist() == [2, 0, 1]  # syne-tune returns [1, 2, 0]


def test_strict_dominance_keeps_ties_that_pareto_dominance_drops():
    points = np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    assert nondominated(points).tolist() == [True, True, False, False]
    assert nondominated(points, dominance="strict").tolist() == [True, True, True, False]


def test_only_the_first_duplicate_stays_when_duplicates_are_not_wanted():
    points = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert nondominated(points).tolist() == [True, True, True]
    assert nondominated(points, duplicates=False).tolist() == [True, True, False]
    np.testing.assert_array_equal(nondominated(points, duplicates=False), moocore.is_nondominated(points))


def test_rows_without_a_result_are_never_on_the_front_and_rank_last():
    points = [[np.nan, 0.0], [1.0, 1.0], [2.0, 2.0], [-np.inf, 0.0]]
    assert nondominated(points).tolist() == [False, True, False, False]
    assert ranks(points).tolist() == [2, 0, 1, 2]
    assert nondominated([[np.nan, 1.0]]).tolist() == [False]
    assert nondominated(np.empty((0, 2))).tolist() == []


def test_values_that_are_not_a_matrix_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        nondominated([1.0, 2.0, 3.0])


def test_any_feasible_point_ranks_before_any_infeasible_one():
    values = [[9.0, 9.0], [8.0, 8.0], [0.0, 0.0], [0.0, 0.0], [np.nan, 0.0]]
    assert constrained_ranks(values, [0.0, 0.0, 0.5, 0.1, 0.0]).tolist() == [1, 0, 3, 2, 4]
    np.testing.assert_array_equal(constrained_ranks(values), ranks(values))


def test_crowding_distance_equals_pymoos():
    pymoo = pytest.importorskip("pymoo.operators.survival.rank_and_crowding.metrics")
    for m in (2, 3):
        points = np.random.default_rng(m).random((30, m))
        front = points / np.linalg.norm(points, axis=1, keepdims=True)  # on a sphere none dominates another
        assert nondominated(front).all()
        np.testing.assert_allclose(crowding_distance(front), pymoo.calc_crowding_distance(front), rtol=1e-12)


def test_copies_of_a_point_get_no_crowding_distance():
    distance = crowding_distance([[0.0, 1.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    assert distance.tolist() == [np.inf, 0.0, 1.0, np.inf]
    assert np.isfinite(crowding_distance([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]])[1])


def test_hypervolume_equals_hand_count_and_moocore():
    assert hypervolume([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]], 3.0) == pytest.approx(3 + 2 + 1)
    points = np.random.default_rng(0).random((50, 3))
    assert hypervolume(points, 1.0) == pytest.approx(moocore.hypervolume(points, ref=[1.0] * 3), rel=1e-12)


def test_hypervolume_ignores_invalid_points_and_points_beyond_the_reference():
    assert hypervolume([[0.0, 0.0], [np.nan, -5.0], [-9.0, 2.0]], 1.0) == pytest.approx(1.0)
    assert hypervolume([[2.0, 2.0]], 1.0) == 0.0


def test_normalisation_sends_ideal_to_zero_and_nadir_to_one():
    values = np.array([[10.0, 300.0], [20.0, 100.0], [99.0, 999.0]])
    normalisation = Normalisation.of(values)
    np.testing.assert_allclose(normalisation(values)[:2], [[0.0, 1.0], [1.0, 0.0]])
    assert normalised_hypervolume(values, normalisation) == pytest.approx(REFERENCE**2 - 1.0)


def test_normalisation_of_a_single_point_front_is_finite():
    assert np.isfinite(Normalisation.of([[1.0, 1.0]])([[1.0, 1.0]])).all()
    assert Normalisation.of([[1.0, 1.0], [3.0, 5.0]]).nadir == (3.0, 5.0)
    with pytest.raises(ValueError, match="no point has finite values"):
        Normalisation.of([[np.nan, 1.0]])


@pytest.mark.parametrize("m", [2, 3])
def test_convex_front_holds_exactly_the_points_some_weighting_prefers(m):
    rng = np.random.default_rng(m)
    points = rng.random((25, m))
    weights = rng.dirichlet(np.ones(m) * 0.5, size=20_000)
    preferred = set(np.argmin(weights @ points.T, axis=1))
    hull = convex_front(points)
    assert preferred == set(np.flatnonzero(hull))
    assert convex_front([[0.0, 1.0], [0.6, 0.6], [1.0, 0.0]]).tolist() == [True, False, True]


def test_knee_is_the_point_furthest_below_the_line_of_the_ends():
    assert knee([[0.0, 100.0], [1.0, 20.0], [9.0, 10.0], [10.0, 0.0], [0.5, 500.0]]) == 1
