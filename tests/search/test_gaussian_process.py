"""Our Gaussian process: scikit-learn's numbers, gradients by differences, what it learns, pending points."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from search.algorithms.gaussian_process import (
    GaussianProcess,
    default_hyperparameters,
    fit_hyperparameters,
    log_likelihood,
)


def data(n=40, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.random((n, d))
    return X, 5 + 30 * np.sin(4 * X[:, 0]) + 10 * X[:, 1] ** 2


def hyperparameters(seed, d=3):
    return np.random.default_rng(seed).uniform(-1, 1, d + 2) - 5 * np.eye(d + 2)[-1]


def sklearn_process(X, y, theta):
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    *lengths, signal, noise = np.exp(theta)
    kernel = ConstantKernel(signal) * Matern(lengths, nu=2.5)
    return GaussianProcessRegressor(kernel, alpha=noise + 1e-9 * signal, optimizer=None).fit(X, y)


@pytest.mark.parametrize("seed", range(4))
def test_predictions_are_scikit_learns(seed):
    X, y = data(seed=seed)
    theta = hyperparameters(seed)
    new = np.random.default_rng(seed).random((50, 3))
    mean, std = GaussianProcess(X, y, theta).predict(new)
    reference = sklearn_process(X, (y - y.mean()) / y.std(), theta)
    expected_mean, expected_std = reference.predict(new, return_std=True)
    assert_allclose(mean, y.mean() + y.std() * expected_mean, rtol=1e-6)
    assert_allclose(std, y.std() * expected_std, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_likelihood_is_scikit_learns_and_its_gradient_that_of_differences(seed):
    X, y = data(seed=seed)
    y, theta = (y - y.mean()) / y.std(), hyperparameters(seed)
    value, gradient = log_likelihood(X, y, theta)
    assert value == pytest.approx(sklearn_process(X, y, theta).log_marginal_likelihood_value_, rel=1e-9)
    steps = 1e-5 * np.eye(len(theta))
    differences = [(log_likelihood(X, y, theta + s)[0] - log_likelihood(X, y, theta - s)[0]) / 2e-5 for s in steps]
    assert_allclose(gradient, differences, rtol=1e-5, atol=1e-5)


def test_the_fit_tells_which_features_matter_and_predicts():
    X, y = data(60)
    theta = fit_hyperparameters(X, y)
    lengths = np.exp(theta[:3])
    assert lengths[2] > 5 * lengths[0]  # the third is not in y
    new, truth = data(200, seed=1)
    mean, std = GaussianProcess(X, y, theta).predict(new)
    assert np.abs(mean - truth).mean() < 0.05 * truth.std()
    assert np.mean(np.abs(mean - truth) < 3 * std) > 0.95


def test_a_fit_from_the_last_one_is_at_least_as_likely_as_it():
    X, y = data(30)
    values = (y - y.mean()) / y.std()
    first = fit_hyperparameters(X, y, max_steps=3)
    again = fit_hyperparameters(X, y, start=first, max_steps=8)
    long = fit_hyperparameters(X, y, max_steps=200)
    likelihood = [log_likelihood(X, values, theta)[0] for theta in (default_hyperparameters(3), first, again, long)]
    assert likelihood[0] < likelihood[1] <= likelihood[2] <= likelihood[3] + 0.5  # the prior's share of a maximum


def test_points_that_are_believed_leave_the_mean_and_take_the_uncertainty():
    X, y = data(20)
    process = GaussianProcess(X, y, np.array([0.0, 0.0, 1.0, 0.0, -12.0]))
    pending, far = np.array([[0.5, 0.5, 0.5]]), np.random.default_rng(3).random((30, 3))
    believing = process.believing(pending)
    assert_allclose(believing.predict(pending)[0], process.predict(pending)[0], rtol=1e-6)
    assert believing.predict(pending)[1] < 0.1 * process.predict(pending)[1]
    assert_allclose(believing.predict(far)[0], process.predict(far)[0], rtol=1e-3)
    assert (believing.predict(far)[1] <= process.predict(far)[1] * (1 + 1e-9)).all()


def test_equal_values_and_repeated_points_do_no_harm():
    X = np.repeat(np.random.default_rng(0).random((5, 2)), 3, axis=0)
    for y in (np.full(15, 7.0), np.arange(15.0)):
        mean, std = GaussianProcess(X, y, fit_hyperparameters(X, y)).predict(X[:3])
        assert np.isfinite(mean).all() and (std > 0).all()
    assert_allclose(GaussianProcess(X, np.full(15, 7.0), default_hyperparameters(2)).predict(X)[0], 7.0)
