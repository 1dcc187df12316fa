"""Indicators equal brute force and moocore at every prefix; NaN rows cost budget and add nothing."""

import moocore
import numpy as np
import pytest
from comparison_fakes import curved_front, reference_of

from search.comparison.indicators import (
    FLOOR,
    FrontScale,
    evaluations_to_reach,
    hypervolume_curve,
    mean_log_regret,
)
from search.pareto import REFERENCE, hypervolume
from surrogates.reference_fronts import ReferenceFront


@pytest.mark.parametrize("m", [2, 3, 4])
def test_hypervolume_of_every_prefix_is_moocores(m):
    rng = np.random.default_rng(m)
    for _ in range(5):
        points = rng.uniform(0, 1.4, (60, m))  # some beyond the reference
        curve = hypervolume_curve(points)
        assert curve == pytest.approx([hypervolume(points[: i + 1], REFERENCE) for i in range(60)], abs=1e-12)


def test_hypervolume_counts_ties_and_copies_once():
    rng = np.random.default_rng(0)
    points = rng.integers(0, 6, (300, 2)) / 5  # many equal coordinates
    curve = hypervolume_curve(points)
    assert curve == pytest.approx([hypervolume(points[: i + 1], REFERENCE) for i in range(300)], abs=1e-12)


def test_hypervolume_is_the_share_of_a_grid_that_is_dominated():
    points = np.random.default_rng(1).uniform(0, 1, (12, 2))
    cells = (np.stack(np.meshgrid(*[np.arange(600)] * 2), -1).reshape(-1, 2) + 0.5) * REFERENCE / 600
    share = (points[:, None] <= cells).all(-1).any(0).mean()
    assert hypervolume_curve(points)[-1] == pytest.approx(share * REFERENCE**2, abs=2e-3)


@pytest.mark.parametrize("m", [2, 3])
def test_rows_without_a_result_add_nothing(m):
    points = np.random.default_rng(2).uniform(0, 1, (30, m))
    holes = np.repeat(points, 2, axis=0)
    holes[::2, 0] = np.nan
    holes[0] = np.inf
    curve = hypervolume_curve(holes)
    assert curve[0] == 0.0
    assert curve[1::2] == pytest.approx(hypervolume_curve(points))
    assert curve[2::2] == pytest.approx(curve[1:-1:2])


def test_regret_is_one_without_points_zero_on_the_front_and_negative_beyond_it():
    front = curved_front()
    scale = FrontScale.of(reference_of(front))
    assert scale.regret_curve(front[-1:] + 10)[0] == 1.0
    assert scale.regret_curve(front)[-1] == pytest.approx(0.0, abs=1e-12)
    assert scale.regret_curve(front - 0.1)[-1] < 0
    assert (np.diff(scale.regret_curve(front)) <= 1e-15).all()


@pytest.mark.parametrize("m", [2, 3])
def test_igd_plus_and_epsilon_are_those_of_their_definitions(m):
    rng = np.random.default_rng(m)
    reference = reference_of(curved_front(m=m))
    scale = FrontScale.of(reference)
    values = np.concatenate([curved_front(15, 0.2, m=m), rng.uniform(2, 5, (40, m))])
    span = reference.nadir - reference.ideal
    points, front = (values - reference.ideal) / span, (reference.front - reference.ideal) / span
    worse = points[None] - front[:, None]
    igd = np.sqrt((np.maximum(worse, 0) ** 2).sum(-1)).min(1).mean()
    epsilon = worse.max(-1).min(1).max()
    found = scale.distances(values)
    assert found == pytest.approx((igd, epsilon))
    assert found == pytest.approx((moocore.igd_plus(points, ref=front), moocore.epsilon_additive(points, ref=front)))


def test_nothing_found_is_infinitely_far():
    scale = FrontScale.of(reference_of(curved_front()))
    nothing = np.full((3, 2), np.nan)
    assert scale.distances(nothing) == (np.inf, np.inf)
    assert scale.regret_curve(nothing).tolist() == [1.0, 1.0, 1.0]


def test_a_front_of_one_point_can_be_scored_against():
    one = np.array([[2.0, 3.0]])
    scale = FrontScale.of(reference_of(one))
    assert scale.regret_curve(np.array([[2.0, 3.0], [1.5, 3.0]]))[0] == pytest.approx(0.0)
    empty = np.empty((0, 2))
    with pytest.raises(ValueError, match="empty"):
        FrontScale.of(ReferenceFront(empty, np.zeros(2), np.ones(2), empty))


def test_area_is_the_mean_of_logarithms_with_a_floor():
    regrets = np.array([1.0, 0.5, -0.2])
    expected = [0.0, np.log10(0.5) / 2, (np.log10(0.5) + np.log10(FLOOR)) / 3]
    assert mean_log_regret(regrets) == pytest.approx(expected)


def test_first_time_at_a_regret():
    assert evaluations_to_reach([0.9, 0.2, 0.1], 0.2) == 2
    assert evaluations_to_reach([np.nan, np.nan, 0.1], 0.2) == 3
    assert evaluations_to_reach([0.9], 0.2) == np.inf
