import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone

from surrogates.intervals import INTERVALS, RatioQuantiles, intervals_from, kind_of, make_intervals
from surrogates.quantile_regression import Correction, QuantileRegression

FAST = QuantileRegression(n_estimators=60, method="split", calibration_share=0.4)


def uneven(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, positive targets, and the spread of their logarithm."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 1, (n, 3))
    spread = 0.02 + 0.2 * X[:, 1]
    return X, np.exp(X[:, 0] + spread * rng.standard_normal(n)), spread


def test_the_correction_is_that_of_a_calculation_by_hand() -> None:
    # nine rows whose base quantiles are 1 (at 0.1) and 2 (at 0.9)
    y = np.array([0.5, 0.8, 1.2, 1.4, 1.5, 1.7, 1.9, 2.3, 2.6])
    base = np.tile([1.0, 2.0], (9, 1, 1))
    correction = Correction(np.array([0.1, 0.9]), base, y[:, None])
    # lower: rank floor(0.1 * 10) = 1 of y - 1 is -0.5; upper: rank ceil(0.9 * 10) = 9 of y - 2 is 0.6
    np.testing.assert_allclose(correction.shifts((0.1, 0.9)), [[-0.5, 0.6]])
    np.testing.assert_allclose(correction.apply(np.array([[[3.0, 4.0]]]), (0.1, 0.9)), [[[2.5, 4.6]]])
    # the median is interpolated, 1.5; rank ceil(0.5 * 10) = 5 of y - 1.5 is 0
    np.testing.assert_allclose(correction.apply(np.array([[[3.0, 4.0]]]), (0.5,)), [[[3.5]]])
    with pytest.raises(ValueError, match="need at least 19 rows, there are 9: measure 10 more"):
        correction.shifts((0.05, 0.95))


def test_two_sided_score_of_the_paper_gives_the_same_interval_where_errors_are_symmetric() -> None:
    rng = np.random.default_rng(0)
    half = np.abs(rng.standard_normal(99))
    y, base = np.concatenate([half, -half]), np.tile([-1.0, 1.0], (198, 1, 1))
    found = Correction(np.array([0.05, 0.95]), base, y[:, None]).apply(np.array([[[-1.0, 1.0]]]), (0.05, 0.95))[0, 0]
    scores = np.sort(np.maximum(-1.0 - y, y - 1.0))  # E of equation 6
    widened = 1.0 + scores[int(np.ceil(0.9 * 199)) - 1]
    np.testing.assert_allclose(found, [-widened, widened], atol=0.05)


@pytest.mark.parametrize("nominal", [0.5, 0.8, 0.9])
def test_split_quantiles_hold_their_share_of_new_rows(nominal: float) -> None:
    levels, held = ((1 - nominal) / 2, (1 + nominal) / 2), []
    for seed in range(12):  # the guarantee is over calibration sets too
        X, y, _ = uneven(500, seed)
        quantiles = clone(FAST).set_params(seed=seed).fit(X[:300], y[:300]).predict(X[300:], levels=levels).quantiles
        held.append(np.mean((quantiles[:, 0] <= y[300:]) & (y[300:] <= quantiles[:, 1])))
    spread = 4 * np.sqrt(nominal * (1 - nominal) * (1 / 122 + 1 / 200) / 12)
    assert nominal - spread <= np.mean(held) <= nominal + 2 / 121 + spread


def test_intervals_are_wide_where_errors_are() -> None:
    X, y, _ = uneven(1500, 0)
    new, _, spread = uneven(500, 1)
    prediction = QuantileRegression(n_estimators=100).fit(X, y).predict(new)
    width = np.log(prediction.quantile(0.95) / prediction.quantile(0.05))
    assert stats.spearmanr(width, spread).statistic > 0.85
    assert np.median(width / (2 * stats.norm.ppf(0.95) * spread)) == pytest.approx(1, abs=0.2)
    assert np.median(prediction.std / (prediction.mean * spread)) == pytest.approx(1, abs=0.25)
    assert np.mean(np.abs(np.log(prediction.mean) - new[:, 0])) < 0.05


def test_quantiles_never_cross_and_any_level_can_be_asked_for() -> None:
    X, y, _ = uneven(200, 0)
    model = clone(FAST).fit(X, y)
    prediction = model.predict(X, levels=(0.97, 0.33, 0.02, 0.5))
    assert prediction.levels == (0.02, 0.33, 0.5, 0.97)
    assert (np.diff(prediction.quantiles, axis=1) >= 0).all() and (prediction.quantiles > 0).all()
    with pytest.raises(ValueError, match="need at least 999 rows, there are 80"):
        model.predict(X, levels=(0.999,))


def test_several_targets_have_quantiles_of_their_own_and_targets_may_be_negative() -> None:
    X, y, _ = uneven(120, 0)
    both = clone(FAST).fit(X, np.c_[y, y - 5]).predict(X[:4])
    alone = clone(FAST).fit(X, y).predict(X[:4])
    assert both.mean.shape == both.std.shape == (4, 2)
    np.testing.assert_allclose(both.quantiles[:, 0], alone.quantiles)
    assert (both.quantiles[:, 1] < 0).any()
    assert clone(FAST).fit(X, y).predict(X[:0]).quantiles.shape == (0, len(alone.levels))


def test_a_restored_model_predicts_exactly_the_same_and_seeds_decide() -> None:
    X, y, _ = uneven(150, 0)
    fitted = clone(FAST).fit(X, y)
    again = clone(FAST).restore(fitted.state())
    np.testing.assert_array_equal(again.predict(X).quantiles, fitted.predict(X).quantiles)
    same, other = (clone(FAST).set_params(seed=s).fit(X, y).predict(X).quantiles for s in (0, 1))
    np.testing.assert_array_equal(same, fitted.predict(X).quantiles)
    assert (other != same).any()


def test_bad_settings_are_refused() -> None:
    X, y, _ = uneven(30, 0)
    with pytest.raises(ValueError, match=r"base_levels = \(0.5, 1.0\): give numbers between 0 and 1"):
        QuantileRegression(base_levels=(0.5, 1.0)).fit(X, y)
    with pytest.raises(ValueError, match="method = 'bayes'; allowed: 'cross', 'split'"):
        QuantileRegression(method="bayes").fit(X, y)
    with pytest.raises(ValueError, match="5 folds of 4 rows"):
        QuantileRegression().fit(X[:4], y[:4])


# --- around another model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", INTERVALS)
def test_intervals_of_every_kind_surround_predictions_and_survive_saving(kind: str) -> None:
    X, y, _ = uneven(160, 0)
    X[:, 2] = np.random.default_rng(0).choice([32.0, 64.0], 160)
    predicted = np.exp(X[:, 0])
    made = make_intervals(kind, X, y, predicted, by=2, columns=(0, 1))
    assert kind_of(made) == kind
    prediction = made.predict_rows(X[:30], predicted[:30], (0.05, 0.5, 0.95))
    np.testing.assert_array_equal(prediction.mean, predicted[:30])
    held = (prediction.quantile(0.05) <= y[:30]) & (y[:30] <= prediction.quantile(0.95))
    assert held.mean() > 0.7 and (prediction.std > 0).all()
    again = intervals_from(kind, made.state()).predict_rows(X[:30], predicted[:30], (0.05, 0.5, 0.95))
    np.testing.assert_array_equal(again.quantiles, prediction.quantiles)
    np.testing.assert_array_equal(again.std, prediction.std)


def test_unknown_intervals_and_ratios_of_negative_targets_are_refused() -> None:
    X, y, _ = uneven(30, 0)
    with pytest.raises(ValueError, match="intervals = 'bayes'; allowed: conformal, normalised, quantile_regression"):
        make_intervals("bayes", X, y, y, by=0)
    with pytest.raises(ValueError, match="needs positive measurements: choose intervals=conformal"):
        RatioQuantiles.of(X, y - 5, y, QuantileRegression())
