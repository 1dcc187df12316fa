import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone

from surrogates.calibration import ConformalSurrogate, ResidualQuantiles
from surrogates.levels import LEVELS, levels_possible, rows_needed
from surrogates.models import LinearSurrogate, XGBoostSurrogate


def binomial_limits(n: int, share: float) -> tuple[float, float]:
    low, high = stats.binom.interval(0.999, n, share)
    return low / n, high / n


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positive targets with noise that is skewed and not normal."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(0, 1, (n, 3))
    return X, np.exp(X @ [1.0, 0.5, 0.0]) * (1 + 0.1 * rng.gamma(1.0, 1.0, n))


@pytest.mark.parametrize(("n", "level"), [(19, 0.95), (19, 0.05), (30, 0.9), (40, 0.25), (7, 0.5)])
def test_quantiles_bound_the_next_residual_with_the_stated_probability(n: int, level: float) -> None:
    rng = np.random.default_rng(0)
    repeats, below = 4000, 0
    for _ in range(repeats):
        draws = rng.standard_normal(n + 1)
        quantile = ResidualQuantiles(np.sort(draws[:n])[:, None], np.array([False])).quantiles([level])[0, 0]
        below += draws[n] <= quantile
    rank = np.ceil(level * (n + 1) - 1e-9) if level >= 0.5 else np.floor(level * (n + 1) + 1e-9)
    low, high = binomial_limits(repeats, rank / (n + 1))  # exact for exchangeable draws
    assert low <= below / repeats <= high
    assert (rank / (n + 1) >= level - 1e-12) if level >= 0.5 else (rank / (n + 1) <= level + 1e-12)


@pytest.mark.parametrize("nominal", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("model", [LinearSurrogate(loss="log"), XGBoostSurrogate(n_estimators=40)])
def test_split_conformal_intervals_hold_their_share_of_new_rows(
    nominal: float, model: LinearSurrogate | XGBoostSurrogate
) -> None:
    levels = ((1 - nominal) / 2, (1 + nominal) / 2)
    held = []
    for seed in range(30):  # the guarantee is over calibration sets too
        X, y = rows(140, seed)
        surrogate = ConformalSurrogate(clone(model), method="split", calibration_share=0.5, seed=seed)
        quantiles = surrogate.fit(X[:100], y[:100]).predict(X[100:], levels=levels).quantiles
        held.append(np.mean((quantiles[:, 0] <= y[100:]) & (y[100:] <= quantiles[:, 1])))
    # 30 calibration sets of 50: the standard deviation of coverage given one is sqrt(c (1 - c) / 52)
    spread = 4 * np.sqrt(nominal * (1 - nominal) * (1 / 52 + 1 / 40) / 30)
    assert nominal - spread <= np.mean(held) <= nominal + 2 / 51 + spread


def test_cross_intervals_of_a_model_that_memorises_still_hold_new_rows() -> None:
    held, memorised = [], []
    for seed in range(10):
        X, y = rows(260, seed)
        trees = XGBoostSurrogate(n_estimators=100, max_depth=8, learning_rate=0.2, subsample=1.0)
        surrogate = ConformalSurrogate(trees, seed=seed).fit(X[:60], y[:60])
        quantiles = surrogate.predict(X[60:], levels=(0.05, 0.95)).quantiles
        held.append(np.mean((quantiles[:, 0] <= y[60:]) & (y[60:] <= quantiles[:, 1])))
        training = ResidualQuantiles.of(y[:60], surrogate.model_.predict(X[:60]).mean)
        naive = training.predict(surrogate.model_.predict(X[60:]).mean, (0.05, 0.95)).quantiles
        memorised.append(np.mean((naive[:, 0] <= y[60:]) & (y[60:] <= naive[:, 1])))
    assert 0.84 <= np.mean(held) <= 0.97
    assert np.mean(memorised) < 0.5  # what out-of-fold residuals are for


@pytest.mark.parametrize("log", [True, False])
def test_quantiles_rise_with_the_level_and_surround_the_prediction(log: bool) -> None:
    rng = np.random.default_rng(0)
    y = rng.uniform(1, 2, 200) if log else rng.standard_normal(200)
    predicted = y * np.exp(0.1 * rng.standard_normal(200)) if log else y + rng.standard_normal(200)
    calibration = ResidualQuantiles.of(y, predicted)
    prediction = calibration.predict(predicted, (0.9, 0.01, 0.5, 0.99, 0.1))
    assert prediction.levels == (0.01, 0.1, 0.5, 0.9, 0.99)
    assert prediction.quantiles.shape == (200, 5)
    assert (np.diff(prediction.quantiles, axis=1) >= 0).all()
    assert (prediction.quantile(0.01) < predicted).all()
    assert (predicted < prediction.quantile(0.99)).all()
    assert calibration.log[0] == log


def test_intervals_of_positive_targets_are_relative() -> None:
    y = np.exp(np.random.default_rng(0).standard_normal(100))
    prediction = ResidualQuantiles.of(y, np.ones(100)).predict(np.array([1.0, 10.0]), (0.1, 0.9))
    np.testing.assert_allclose(prediction.quantiles[1], 10 * prediction.quantiles[0])
    np.testing.assert_allclose(prediction.std[1], 10 * prediction.std[0])


def test_std_is_that_of_the_errors() -> None:
    rng = np.random.default_rng(0)
    y = 5 * np.exp(0.2 * rng.standard_normal(20_000))
    relative = ResidualQuantiles.of(y, np.full(len(y), 5.0)).predict(np.array([5.0])).std[0]
    assert relative == pytest.approx(np.sqrt(np.mean((y - 5) ** 2)), rel=0.05)
    shifted = ResidualQuantiles.of(y - 100, np.full(len(y), -95.0)).predict(np.array([0.0])).std[0]
    assert shifted == pytest.approx(np.sqrt(np.mean((y - 5) ** 2)), rel=1e-6)


def test_several_targets_have_quantiles_of_their_own() -> None:
    X, y = rows(80, 0)
    targets = np.c_[y, y - 2]
    both = ConformalSurrogate(LinearSurrogate(loss="log")).fit(X, targets).predict(X[:5])
    assert both.quantiles.shape == (5, 2, len(LEVELS))
    assert both.std.shape == both.mean.shape == (5, 2)
    alone = ConformalSurrogate(LinearSurrogate(loss="log")).fit(X, y).predict(X[:5])
    np.testing.assert_allclose(both.quantiles[:, 0], alone.quantiles, rtol=1e-9)


@pytest.mark.parametrize(("level", "n"), [(0.5, 1), (0.75, 3), (0.9, 9), (0.95, 19), (0.05, 19), (0.99, 99)])
def test_rows_needed_is_the_least_number_that_works(level: float, n: int) -> None:
    assert rows_needed([level]) == n
    calibration = ResidualQuantiles(np.zeros((n, 1)), np.array([True]))
    assert calibration.quantiles([level]).shape == (1, 1)
    if n > 1:
        few = ResidualQuantiles(np.zeros((n - 1, 1)), np.array([True]))
        with pytest.raises(ValueError, match=f"need at least {n} rows, there are {n - 1}: measure 1 more"):
            few.quantiles([level])


def test_few_rows_give_the_quantiles_that_they_can() -> None:
    assert levels_possible(12) == (0.1, 0.25, 0.5, 0.75, 0.9)
    prediction = ResidualQuantiles.of(np.arange(1.0, 13.0), np.arange(1.0, 13.0) + 1).predict(np.ones(3))
    assert prediction.levels == levels_possible(12)
    with pytest.raises(KeyError, match=r"no quantile 0.95 in this prediction; it has \(0.1, "):
        prediction.quantile(0.95)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 2.0])
def test_levels_outside_0_and_1_are_refused(level: float) -> None:
    with pytest.raises(ValueError, match="give numbers between 0 and 1"):
        rows_needed([level])


def test_bad_calibration_settings_are_refused() -> None:
    X, y = rows(20, 0)
    with pytest.raises(ValueError, match="method = 'bayes'; allowed: 'cross', 'split'"):
        ConformalSurrogate(LinearSurrogate(), method="bayes").fit(X, y)
    with pytest.raises(ValueError, match=r"calibration_share = 0.99 of 20 rows leaves 0 to fit and 20 to calibrate"):
        ConformalSurrogate(LinearSurrogate(), method="split", calibration_share=0.99).fit(X, y)
    with pytest.raises(ValueError, match="5 folds of 4 rows"):
        ConformalSurrogate(LinearSurrogate()).fit(X[:4], y[:4])
    with pytest.raises(ValueError, match=r"Y has shape \(20,\), predictions \(19,\)"):
        ResidualQuantiles.of(y, y[1:])
