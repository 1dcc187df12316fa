"""Gaussian-process regression: a Matern-5/2 kernel with a length for each feature, and noise. numpy and scipy only.

Rasmussen and Williams 2006, chapters 2 and 5. Hyper-parameters are the maximum of the posterior under the priors that
BoTorch has by default (Hvarfner et al. 2024, arXiv:2402.02229: the typical length grows with the square root of the
number of features). Ours because of time: a search fits two of them at every step; `fit` takes milliseconds, since
gradients are closed-form and need no array of n x n x d numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize

from search.pareto import Floats

_LENGTH, _SIGNAL, _NOISE = (np.sqrt(2), np.sqrt(3)), (0.0, 1.0), (-4.0, 1.0)  # mean, std of log; length: at d = 1
_BOUNDS = (np.log(0.005), np.log(1e3)), (np.log(1e-3), np.log(1e3)), (np.log(1e-6), np.log(1.0))
_ROOT_5 = np.sqrt(5.0)
_FAILED = 1e10  # minus the log posterior where a matrix is singular


def default_hyperparameters(n_features: int) -> Floats:
    """Return the medians of the priors: logarithms of d lengths, of the signal's and of the noise's variance."""
    return np.array([_LENGTH[0] + 0.5 * np.log(n_features)] * n_features + [_SIGNAL[0], _NOISE[0]])


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """The posterior of one function given points.

    Attributes:
        X: features of the points, (n, d); of the order of 1.
        y: their values (n,), in any unit.
        hyperparameters: logarithms (d + 2,) of the lengths, and of the variances of signal and noise of standardised
            values.
        scale: mean and standard deviation that standardise the values; None for theirs (1 when all are equal).
    """

    X: Floats
    y: Floats
    hyperparameters: Floats
    scale: tuple[float, float] | None = None
    _factor: Floats = field(init=False, repr=False)  # lower Cholesky factor of the covariance of the points
    _weights: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.scale is None:
            object.__setattr__(self, "scale", _scale(self.y))
        signal, noise = np.exp(self.hyperparameters[-2:])
        K = signal * _matern(_scaled_distances(self.X, self.X, self.hyperparameters))
        K[np.diag_indices_from(K)] += noise + 1e-9 * signal
        factor = cholesky(K, lower=True, check_finite=False)
        object.__setattr__(self, "_factor", factor)
        object.__setattr__(self, "_weights", cho_solve((factor, True), self.standardised(self.y), check_finite=False))

    def standardised(self, values: Floats) -> Floats:
        """Return values (n,) in the units of the hyper-parameters."""
        assert self.scale is not None
        return (values - self.scale[0]) / self.scale[1]

    def predict(self, X: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation (n,) of the function, without the noise of measuring it."""
        signal = np.exp(self.hyperparameters[-2])
        cross = signal * _matern(_scaled_distances(X, self.X, self.hyperparameters))
        half = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = np.maximum(signal - np.einsum("ij,ij->j", half, half), 1e-12 * signal)
        assert self.scale is not None
        mean, std = self.scale
        return mean + std * (cross @ self._weights), std * np.sqrt(variance)

    def believing(self, X: Floats) -> GaussianProcess:
        """Return the process with points (k, d) added at their predicted means: they are being evaluated."""
        y = np.concatenate([self.y, self.predict(X)[0]])
        return GaussianProcess(np.concatenate([self.X, X]), y, self.hyperparameters, self.scale)


def fit_hyperparameters(X: Floats, y: Floats, *, start: Floats | None = None, max_steps: int = 50) -> Floats:
    """Return the most probable hyper-parameters (d + 2,), by L-BFGS.

    Args:
        X: features (n, d).
        y: values (n,).
        start: hyper-parameters of about the same points; the priors' medians where they, or None, are less likely.
        max_steps: of L-BFGS.
    """
    d = X.shape[1]
    mean, std = _scale(y)
    values = (y - mean) / std

    def loss(theta: Floats) -> tuple[float, Floats]:
        likelihood, gradient = log_likelihood(X, values, theta)
        prior, slope = _log_prior(theta)
        return (_FAILED, np.zeros(d + 2)) if np.isinf(likelihood) else (-likelihood - prior, -gradient - slope)

    first = default_hyperparameters(d)
    if start is not None and loss(start)[0] < loss(first)[0]:
        first = start
    bounds = [_BOUNDS[0]] * d + [*_BOUNDS[1:]]
    best = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": max_steps})
    return np.asarray(best.x, dtype=np.float64)


def log_likelihood(X: Floats, y: Floats, hyperparameters: Floats) -> tuple[float, Floats]:
    """Return the log marginal likelihood of values with mean 0, and its gradient (d + 2,); -inf where singular."""
    signal, noise = np.exp(hyperparameters[-2:])
    Z = X / np.exp(hyperparameters[:-2])
    r = _scaled_distances(X, X, hyperparameters)
    K = signal * _matern(r)
    covariance = K + np.diag(np.full(len(X), noise + 1e-9 * signal))
    factor, failed = lapack.dpotrf(covariance, lower=True)
    if failed:
        return -np.inf, np.zeros(len(hyperparameters))
    alpha = cho_solve((factor, True), y, check_finite=False)
    value = -0.5 * y @ alpha - np.log(np.diag(factor)).sum() - 0.5 * len(y) * np.log(2 * np.pi)
    inverse = lapack.dpotri(factor, lower=True)[0]  # its lower triangle
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    A = np.outer(alpha, alpha) - inverse  # d value / dK = A / 2
    G = A * (-5 / 6 * signal * (1 + _ROOT_5 * r) * np.exp(-_ROOT_5 * r))  # dK / d(r^2)
    lengths = -2 * (G.sum(axis=1) @ Z**2 - np.einsum("ik,ik->k", Z, G @ Z))  # r^2 falls as lengths grow
    trace = np.trace(A)
    return float(value), np.concatenate([lengths, [0.5 * (A * K).sum() + 0.5e-9 * signal * trace, 0.5 * noise * trace]])


def _log_prior(theta: Floats) -> tuple[float, Floats]:
    """Return the log density of normal priors of the logarithms, without its constant, and the gradient."""
    center = default_hyperparameters(len(theta) - 2)
    spread = np.array([_LENGTH[1]] * (len(theta) - 2) + [_SIGNAL[1], _NOISE[1]])
    z = (theta - center) / spread
    return float(-0.5 * z @ z), -z / spread


def _scale(y: Floats) -> tuple[float, float]:
    std = float(y.std())
    return float(y.mean()), std if std > 1e-12 * max(1.0, float(np.abs(y).max())) else 1.0


def _scaled_distances(A: Floats, B: Floats, hyperparameters: Floats) -> Floats:
    """Return Euclidean distances (n, k) in units of the lengths."""
    lengths = np.exp(hyperparameters[:-2])
    P, Q = A / lengths, B / lengths
    squares = (P**2).sum(axis=1)[:, None] + (Q**2).sum(axis=1) - 2 * P @ Q.T
    return np.sqrt(np.maximum(squares, 0.0))


def _matern(r: Floats) -> Floats:
    return (1 + _ROOT_5 * r + 5 / 3 * r**2) * np.exp(-_ROOT_5 * r)
