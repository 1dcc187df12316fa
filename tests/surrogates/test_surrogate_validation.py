import json
from typing import Any, Self

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_absolute_percentage_error, r2_score

from surrogates.models import LinearSurrogate
from surrogates.prediction import Prediction
from surrogates.validation import (
    Scores,
    better,
    cross_validate,
    crps,
    parameter_count_scores,
    score_target,
    scores,
)


def kendall_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Tau-b by its definition, over all pairs."""
    i, j = np.triu_indices(len(a), 1)
    x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
    return float((x * y).sum() / np.sqrt((x != 0).sum() * (y != 0).sum()))


class Memory:
    """Knows the answers of the rows it was fitted to, and says -1 about all others."""

    def fit(self, X: np.ndarray, Y: np.ndarray) -> Self:
        self.known = {tuple(x): y for x, y in zip(X.tolist(), Y.tolist(), strict=True)}
        return self

    def predict(self, X: np.ndarray) -> Prediction:
        return Prediction(np.array([self.known.get(tuple(x), -1.0) for x in X.tolist()]))


def test_scores_are_those_of_scikit_learn_and_scipy() -> None:
    rng = np.random.default_rng(0)
    y = rng.uniform(1, 5, 60).round(1)  # with ties
    predicted = (y * np.exp(0.07 * rng.standard_normal(60))).round(1)
    found = scores(y, predicted)
    assert found.n == 60
    assert found.r2 == pytest.approx(r2_score(y, predicted))
    assert found.mape == pytest.approx(100 * mean_absolute_percentage_error(y, predicted))
    assert found.kendall == pytest.approx(kendall_by_hand(y, predicted))
    assert found.spearman == pytest.approx(stats.spearmanr(y, predicted).statistic)
    assert found.within_5 == np.mean(np.abs(predicted - y) < 0.05 * y)
    assert found.within_5 < found.within_10 == np.mean(np.abs(predicted - y) < 0.10 * y)


def test_scores_within_a_width_are_scores_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    y, widths = rng.uniform(1, 5, 50), rng.choice([32.0, 64.0], 50)
    widths[:2] = 128  # too few rows to score
    predicted = y + 0.1 * rng.standard_normal(50)
    found = scores(y, predicted, widths=widths)
    assert [inside.width for inside in found.within_width] == [32.0, 64.0]
    for inside in found.within_width:
        alone = scores(y[widths == inside.width], predicted[widths == inside.width])
        assert (inside.n, inside.kendall, inside.r2, inside.mape) == (alone.n, alone.kendall, alone.r2, alone.mape)
    a, b = found.within_width
    assert found.kendall_within_width == pytest.approx((a.kendall * a.n + b.kendall * b.n) / (a.n + b.n))


def test_knowing_the_width_alone_shows_in_whole_scores_and_not_within_widths() -> None:
    rng = np.random.default_rng(0)
    widths = np.repeat([1.0, 2.0, 3.0], 40)
    y = widths + 0.2 * rng.uniform(size=120)
    found = scores(y, widths + 0.001 * rng.standard_normal(120), widths=widths)
    assert found.kendall > 0.6  # two thirds of all pairs differ in width
    assert abs(found.kendall_within_width) < 0.25


def test_scores_of_constants_are_nan_and_survive_json() -> None:
    found = scores(np.ones(5), np.arange(1.0, 6.0), widths=np.array([1.0, 1.0, 1.0, 2.0, 2.0]))
    assert np.isnan(found.kendall) and np.isnan(found.r2)
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = Scores.from_dict(json.loads(text))
    assert json.dumps(again.to_dict()) == text
    assert np.isnan(again.kendall) and np.isnan(again.within_width[0].kendall)


def test_relative_errors_at_zero_are_nan() -> None:
    found = scores(np.array([0.0, 1.0, 2.0]), np.array([0.1, 1.0, 2.0]))
    assert np.isnan([found.mape, found.within_5, found.within_10]).all()
    assert found.kendall == 1.0


def test_cross_validation_never_shows_a_model_the_row_it_predicts() -> None:
    X = np.arange(50.0)[:, None]
    result = cross_validate(Memory, X, np.arange(1.0, 51.0), folds=5)
    np.testing.assert_array_equal(result.predicted, -1.0)
    assert sorted(np.bincount(result.fold)) == [10] * 5


def test_the_same_seed_gives_the_same_folds_and_another_seed_others() -> None:
    X = np.random.default_rng(0).standard_normal((40, 3))
    y = np.exp(X[:, 0])
    first, again, other = (cross_validate(LinearSurrogate, X, y, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.predicted, again.predicted)
    assert (first.fold != other.fold).any()


def test_cross_validated_intervals_hold_about_their_share() -> None:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((400, 2))
    y = np.exp(X @ [0.5, 0.2] + 0.1 * rng.standard_normal(400))
    found = cross_validate(lambda: LinearSurrogate(loss="log"), X, y).scores.intervals
    assert [interval.nominal for interval in found] == [0.5, 0.8, 0.9]
    for interval in found:
        low, high = stats.binom.interval(0.999, 400, interval.nominal)
        assert low / 400 <= interval.coverage <= high / 400
        expected = 2 * 0.1 * stats.norm.ppf(0.5 + interval.nominal / 2)  # width in logarithms
        assert interval.width == pytest.approx(expected, rel=0.25)


def test_intervals_are_left_out_when_rows_are_too_few() -> None:
    X = np.random.default_rng(0).standard_normal((14, 2))
    found = cross_validate(lambda: LinearSurrogate(loss="log"), X, np.exp(X[:, 0]), folds=5).scores.intervals
    assert [interval.nominal for interval in found] == [0.5, 0.8]  # 11 rows outside a fold: 90 % needs 19


@pytest.mark.parametrize("exponent", [1.0, -0.3])
def test_parameter_count_is_scored_as_a_ranking_in_either_direction(exponent: float) -> None:
    rng = np.random.default_rng(0)
    parameters = rng.integers(1000, 9000, 80).astype(float)
    y = parameters**exponent * np.exp(0.1 * rng.standard_normal(80))
    found = parameter_count_scores(y, parameters, widths=np.repeat([1.0, 2.0], 40))
    assert found.kendall == pytest.approx(abs(stats.kendalltau(parameters, y).statistic))
    assert np.isnan([found.mape, found.r2, found.within_5, found.within_width[0].mape]).all()
    assert found.kendall_within_width > 0


@pytest.mark.parametrize(("criterion", "wins"), [("mape", "a"), ("kendall", "b"), ("r2", "b")])
def test_better_knows_the_direction_of_each_criterion(criterion: str, wins: str) -> None:
    known: dict[str, Any] = {"n": 9, "spearman": 0.0, "within_5": 0.0, "within_10": 0.0}
    a, b = Scores(r2=0.1, kendall=0.1, mape=1.0, **known), Scores(r2=0.2, kendall=0.2, mape=2.0, **known)
    assert better(a, b, criterion) == (wins == "a")
    assert better(b, a, criterion) == (wins == "b")


def test_nan_never_beats_and_unknown_criteria_are_refused() -> None:
    good = scores(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    bad = scores(np.array([1.0, 1.0]), np.array([1.0, 2.0]))
    assert better(good, bad, "kendall") and not better(bad, good, "kendall") and not better(bad, bad, "kendall")
    with pytest.raises(ValueError, match="criterion = 'rmse'; allowed: mape, kendall, r2"):
        better(good, bad, "rmse")


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="5-fold cross-validation of 9 rows: give at least 2 folds, and 10 rows"):
        cross_validate(LinearSurrogate, np.ones((9, 1)), np.ones(9), folds=5)
    with pytest.raises(ValueError, match="numbers that are not finite"):
        scores(np.array([1.0, np.nan]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"y has shape \(2,\), predictions \(3,\)"):
        scores(np.ones(2), np.ones(3))


# --- predicted quantiles ------------------------------------------------------------------------------------------

DENSE = np.arange(1, 400) / 400


def gaussian_crps(y: np.ndarray, mean: np.ndarray, std: float) -> np.ndarray:
    """Closed form: Gneiting and Raftery 2007, equation 21."""
    z = (y - mean) / std
    return std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))


@pytest.mark.parametrize(("levels", "tolerance"), [(DENSE, 0.003), (np.arange(1, 200) / 200, 0.006)])
def test_crps_of_gaussian_quantiles_is_the_closed_form(levels: np.ndarray, tolerance: float) -> None:
    mean = np.array([0.0, 1.0, -2.0, 5.0])
    y = mean + 1.5 * np.array([0.0, 0.7, -1.9, 2.6])
    quantiles = mean[:, None] + 1.5 * stats.norm.ppf(levels)
    np.testing.assert_allclose(crps(y, levels, quantiles), gaussian_crps(y, mean, 1.5), rtol=tolerance, atol=2e-3)


def test_crps_of_a_point_prediction_is_the_absolute_error() -> None:
    y, predicted = np.array([1.0, 4.0]), np.array([3.0, 3.5])
    found = crps(y, DENSE, np.repeat(predicted[:, None], len(DENSE), axis=1))
    np.testing.assert_allclose(found, np.abs(y - predicted))


def test_crps_of_three_quantiles_is_that_of_a_calculation_by_hand() -> None:
    # pinball losses of y = 2 at (0.25, 0.5, 0.75) with quantiles (1, 2, 4): 0.25, 0, 0.5
    # trapezoids 0.25 * 0.125 + 0.25 * 0.25, end triangles 0.25 * 0.25 / 2 + 0.25 * 0.5 / 2; twice the sum
    by_hand = 2 * (0.03125 + 0.0625 + 0.03125 + 0.0625)
    assert crps(np.array([2.0]), [0.25, 0.5, 0.75], np.array([[1.0, 2.0, 4.0]]))[0] == pytest.approx(by_hand)


def test_scores_of_a_target_have_intervals_and_crps_whole_and_within_widths() -> None:
    rng = np.random.default_rng(0)
    n, widths = 4000, np.repeat([32.0, 64.0], 2000)
    spread = np.where(widths == 32, 0.02, 0.05)
    median = widths * rng.uniform(1, 2, n)
    y = median * np.exp(spread * rng.standard_normal(n))
    quantiles = median[:, None] * np.exp(spread[:, None] * stats.norm.ppf(DENSE))
    found = score_target(y, median, DENSE, quantiles, widths=widths)
    plain = scores(y, median, widths=widths)
    assert (found.kendall, found.mape, found.within_5) == (plain.kendall, plain.mape, plain.within_5)
    assert np.isnan(plain.crps) and plain.intervals == ()
    for part, sigma in zip(found.within_width, (0.02, 0.05), strict=True):
        assert part.crps == pytest.approx(100 * sigma / np.sqrt(np.pi), rel=0.05)  # of a calibrated normal prediction
        for interval in part.intervals:
            low, high = stats.binom.interval(0.9999, part.n, interval.nominal)
            assert low / part.n <= interval.coverage <= high / part.n
            assert interval.width == pytest.approx(2 * sigma * stats.norm.ppf(0.5 + interval.nominal / 2), rel=0.02)
    assert found.crps == pytest.approx(np.mean([part.crps for part in found.within_width]))
    assert [interval.nominal for interval in found.intervals] == [0.5, 0.8, 0.9]
    again = Scores.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found


def test_intervals_between_the_levels_of_a_prediction_are_interpolated_and_those_outside_left_out() -> None:
    y = np.array([1.0, 2.0, 3.0])
    levels, offsets = np.array([0.2, 0.3, 0.7, 0.8]), np.array([-0.3, -0.1, 0.1, 0.3])
    found = score_target(y, y, levels, y[:, None] * (1 + offsets))
    assert [interval.nominal for interval in found.intervals] == [0.5]
    assert found.intervals[0].width == pytest.approx(0.4)  # halfway between 0.2 and 0.6


def test_scores_saved_before_there_was_a_crps_can_be_read() -> None:
    old = scores(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0])).to_dict()
    del old["crps"]
    assert np.isnan(Scores.from_dict(old).crps)


def test_quantiles_that_do_not_fit_are_refused() -> None:
    y = np.array([1.0, 2.0])
    with pytest.raises(ValueError, match=r"quantiles have shape \(2, 2\): give finite numbers \(2, 3\)"):
        score_target(y, y, [0.1, 0.5, 0.9], np.ones((2, 2)))
    with pytest.raises(ValueError, match="3 levels: give ascending numbers between 0 and 1"):
        crps(y, [0.5, 0.1, 0.9], np.ones((2, 3)))
