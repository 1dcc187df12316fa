import numpy as np
import pytest

from pruning.error_curve import ErrorCurve, slope_between, spread


def test_the_curve_goes_through_rising_points_and_is_straight_in_logarithms():
    curve = ErrorCurve([0.01, 0.1, 1.0], [0.002, 0.05, 0.5])
    np.testing.assert_allclose(curve([0.01, 0.1, 1.0]), [0.002, 0.05, 0.5])
    assert curve([np.sqrt(0.01 * 0.1)])[0] == pytest.approx(np.sqrt(0.002 * 0.05))


def test_below_the_first_point_damage_is_proportional_to_the_error():
    curve = ErrorCurve([0.1, 1.0], [0.05, 5.0])
    np.testing.assert_allclose(curve([0.05, 0.01, 0.0]), [0.025, 0.005, 0.0])


def test_a_slope_may_be_given_for_errors_below_the_first_point():
    curve = ErrorCurve([0.1, 1.0], [0.05, 5.0], slope=slope_between([0.01, 0.1], [0.01, 0.1**0.5]))
    np.testing.assert_allclose(curve([0.001, 0.1, 0.0]), [0.05 * 0.01**1.5, 0.05, 0.0])
    with pytest.raises(ValueError, match="two different"):
        slope_between([0.1, 0.1], [1.0, 2.0])


def test_the_curve_never_falls():
    rng = np.random.default_rng(0)
    for _ in range(20):
        curve = ErrorCurve(rng.uniform(0, 1, 6), rng.uniform(0, 3, 6))
        assert (np.diff(curve(np.linspace(0, 1, 50))) >= -1e-12).all()


def test_violators_are_pooled_by_their_mean():
    curve = ErrorCurve([0.1, 0.2, 1.0], [4.0, 1.0, 8.0])
    np.testing.assert_allclose(curve([0.1, 0.2, 1.0]), [2.0, 2.0, 8.0])


def test_spread_levels_hold_the_smallest_error_and_are_even_in_logarithms():
    errors = {i: 10.0**-i for i in range(1, 9)}
    assert spread(errors, 2) == [8, 4]
    assert spread(errors, 4) == [8, 6, 4, 2]
    assert sorted(spread(errors, 20)) == list(range(1, 9)) and spread({}, 2) == [] and spread(errors, 0) == []
