import numpy as np
import pytest
import xgboost
from scipy.stats import kendalltau
from sklearn.base import clone
from surrogate_data import latency_ms, noisy, sampled, small_space

from surrogates.calibration import ConformalSurrogate
from surrogates.candidates import CANDIDATES, candidate_models
from surrogates.features import columns_of, features
from surrogates.models import LinearSurrogate, ResidualSurrogate, XGBoostSurrogate, out_of_fold
from surrogates.prediction import Surrogate

SPACE = small_space()
ARCHS = sampled(SPACE, 120)
X = features(SPACE, ARCHS)
Y = noisy(latency_ms(SPACE, ARCHS), 0.02)
FEW_TREES = XGBoostSurrogate(n_estimators=60)
MODELS: dict[str, Surrogate] = candidate_models(SPACE, trees=FEW_TREES) | {
    "conformal": ConformalSurrogate(FEW_TREES, folds=3),
    "one booster": XGBoostSurrogate(n_estimators=60, multi_output_tree=True),
}


def mape(y: np.ndarray, predicted: np.ndarray) -> float:
    return float(100 * np.mean(np.abs(predicted / y - 1)))


@pytest.mark.parametrize("name", MODELS)
def test_models_follow_scikit_learns_contract(name: str) -> None:
    model = clone(MODELS[name])
    assert model.get_params(deep=False).keys() == MODELS[name].get_params(deep=False).keys()
    assert model.fit(X, Y) is model
    assert model.predict(X[:7]).mean.shape == (7,)
    assert model.predict(X[:0]).mean.shape == (0,)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_predictions(name: str) -> None:
    first, second = (clone(MODELS[name]).fit(X, Y).predict(X).mean for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("targets", [Y, np.c_[Y, 1000 / Y, Y - Y.mean()]], ids=["one", "three"])
def test_a_restored_model_predicts_the_same(name: str, targets: np.ndarray) -> None:
    model = clone(MODELS[name]).fit(X, targets)
    restored = clone(MODELS[name]).restore(model.state())
    np.testing.assert_array_equal(restored.predict(X).mean, model.predict(X).mean)
    assert restored.predict(X).mean.shape == targets.shape


@pytest.mark.parametrize("name", CANDIDATES)
def test_models_rank_networks_they_have_not_seen(name: str) -> None:
    predicted = clone(MODELS[name]).fit(X[:80], Y[:80]).predict(X[80:]).mean
    assert kendalltau(predicted, Y[80:]).statistic > 0.75
    assert mape(Y[80:], predicted) < 12


@pytest.mark.parametrize("name", CANDIDATES)
def test_positive_targets_get_positive_predictions(name: str) -> None:
    order = np.argsort(Y)
    model = clone(MODELS[name]).fit(X[order[60:]], Y[order[60:]])  # extrapolates to smaller networks
    assert (model.predict(X[order[:60]]).mean > 0).all()


def test_xgboost_surrogate_is_xgboost_on_the_standardised_logarithm() -> None:
    surrogate = XGBoostSurrogate(n_estimators=50, seed=3).fit(X, Y)
    z = np.log(Y)
    reference = xgboost.XGBRegressor(
        n_estimators=50, max_depth=3, learning_rate=0.05, subsample=0.8, colsample_bytree=1.0, reg_lambda=1.0,
        min_child_weight=1.0, random_state=3, n_jobs=1, tree_method="hist", base_score=0.0,
    ).fit(X, (z - z.mean()) / z.std())  # fmt: skip
    expected = np.exp(reference.predict(X) * z.std() + z.mean())
    np.testing.assert_allclose(surrogate.predict(X).mean, expected, rtol=1e-5)


def test_targets_that_are_not_positive_are_modelled_as_they_are() -> None:
    targets = Y - np.median(Y)
    for model in (XGBoostSurrogate(), LinearSurrogate(columns=columns_of(SPACE, "costs")), MODELS["blend"]):
        predicted = clone(model).fit(X, targets).predict(X).mean
        assert np.corrcoef(predicted, targets)[0, 1] > 0.95
        assert predicted.min() < 0


def test_several_targets_are_fitted_like_each_alone() -> None:
    both = np.c_[Y, 1000 / Y]
    for model in (FEW_TREES, MODELS["linear"], MODELS["blend"]):
        together = clone(model).fit(X, both).predict(X).mean
        alone = [clone(model).fit(X, y).predict(X).mean for y in both.T]
        np.testing.assert_allclose(together, np.column_stack(alone), rtol=1e-9)


def test_one_booster_for_all_targets_is_as_good() -> None:
    both = np.c_[Y, 1000 / Y]
    model = XGBoostSurrogate(multi_output_tree=True).fit(X[:80], both[:80])
    assert len(model.state().boosters) == 1
    predicted = model.predict(X[80:]).mean
    assert max(mape(both[80:, 0], predicted[:, 0]), mape(both[80:, 1], predicted[:, 1])) < 12


def test_linear_surrogate_finds_a_time_that_is_a_sum_of_costs() -> None:
    exact = latency_ms(SPACE, ARCHS)
    model = LinearSurrogate(columns=columns_of(SPACE, "costs")).fit(X[:60], exact[:60])
    assert mape(exact[60:], model.predict(X[60:]).mean) < 0.1


def test_relative_loss_is_least_squares_of_relative_errors() -> None:
    rng = np.random.default_rng(0)
    F = rng.uniform(1, 2, (200, 3))
    y = (5 + F @ [1.0, 2.0, 30.0]) * np.exp(0.1 * rng.standard_normal(200))
    model = LinearSurrogate().fit(F, y)
    A = np.c_[np.ones(200), F] / y[:, None]
    solution = np.linalg.lstsq(A, np.ones(200), rcond=None)[0]
    np.testing.assert_allclose(model.predict(F).mean, np.c_[np.ones(200), F] @ solution, rtol=5e-3)


def test_coefficients_by_width_fit_what_one_set_cannot() -> None:
    rng = np.random.default_rng(0)
    F = np.c_[rng.choice([1.0, 2.0, 3.0], 150), rng.uniform(1, 2, 150)]
    slope = np.select([F[:, 0] == 1, F[:, 0] == 2], [1.0, 9.0], 4.0)
    y = 1 + slope * F[:, 1]
    together = LinearSurrogate().fit(F[:100], y[:100]).predict(F[100:]).mean
    by_width = LinearSurrogate(by=0).fit(F[:100], y[:100]).predict(F[100:]).mean
    assert mape(y[100:], by_width) < 0.1 < 5 < mape(y[100:], together)


def test_a_width_that_was_not_measured_still_gets_a_finite_prediction() -> None:
    seen = X[:, 0] != 48
    model = clone(MODELS["linear_by_width"]).fit(X[seen], Y[seen])
    assert np.isfinite(model.predict(X[~seen]).mean).all()


def test_features_that_do_not_vary_are_ignored() -> None:
    constant = np.c_[X, np.full(len(X), 7.0)]
    costs = columns_of(SPACE, "costs")
    plain = LinearSurrogate(columns=costs).fit(X, Y).predict(X).mean
    with_constant = LinearSurrogate(columns=(*costs, X.shape[1])).fit(constant, Y).predict(constant).mean
    np.testing.assert_allclose(with_constant, plain, rtol=1e-9)


def test_blend_learns_steps_that_the_linear_part_leaves() -> None:
    many = sampled(SPACE, 600, seed=2)
    F = features(SPACE, many)
    steps = np.where([sum(arch.n_head) > 7 for arch in many], 1.3, 1.0)
    y = latency_ms(SPACE, many) * steps
    blend, linear = MODELS["blend"], MODELS["log_linear_by_width"]
    error = [mape(y[400:], clone(m).fit(F[:400], y[:400]).predict(F[400:]).mean) for m in (blend, linear)]
    assert error[0] < 0.6 * error[1]


def test_blend_leaves_the_trees_out_when_they_only_learn_noise() -> None:
    rng = np.random.default_rng(0)
    F = rng.standard_normal((200, 5))
    y = np.exp(F @ [0.3, 0.2, 0.1, 0.0, 0.0] + 0.1 * rng.standard_normal(200))
    linear = LinearSurrogate(loss="log")
    blend = ResidualSurrogate(linear=linear).fit(F, y)
    assert blend.share_[0] < 0.2
    np.testing.assert_allclose(blend.predict(F).mean, linear.fit(F, y).predict(F).mean, rtol=0.05)


def test_out_of_fold_predictions_come_from_models_that_did_not_see_the_row() -> None:
    noise = np.random.default_rng(0).uniform(1, 2, len(X))
    predicted = out_of_fold(XGBoostSurrogate(), X, noise, folds=5, seed=0)
    memorised = XGBoostSurrogate().fit(X, noise).predict(X).mean
    assert np.corrcoef(memorised, noise)[0, 1] > 0.8
    assert abs(np.corrcoef(predicted, noise)[0, 1]) < 0.3


@pytest.mark.parametrize("name", ["linear", "xgboost", "blend", "conformal"])
def test_rows_that_do_not_match_or_are_not_finite_are_refused(name: str) -> None:
    model = clone(MODELS[name])
    with pytest.raises(ValueError, match=r"Y has shape \(119,\) for X of shape \(120,"):
        model.fit(X, Y[:-1])
    with pytest.raises(ValueError, match="Y has 1 values that are not finite"):
        model.fit(X, np.where(np.arange(len(Y)) == 3, np.nan, Y))
    with pytest.raises(ValueError, match="X has values that are not finite"):
        model.fit(np.where(np.arange(len(Y))[:, None] == 3, np.inf, X), Y)
    with pytest.raises(ValueError, match="1 rows are too few"):
        model.fit(X[:1], Y[:1])
    with pytest.raises(ValueError, match=r"X has shape \(120, 3\); expected \(n, "):
        model.fit(X, Y).predict(X[:, :3])


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="loss = 'mae'; allowed: 'log', 'relative'"):
        LinearSurrogate(loss="mae").fit(X, Y)


def test_unknown_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"candidates \['forest'\]: give at least one of linear"):
        candidate_models(SPACE, ["forest"])
