"""Fits linear trends by width: sums of block costs (robust, relative), or logs with shrunken positions. No torch.

Shapes: n rows, K features, W widths.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV

_ROUNDS = 4  # of reweighting
_HUBER = 2.5  # robust standard deviations
_PENALTY = 1e-3  # in standardised features: only against features that repeat each other
_ALPHAS = np.logspace(-3, 4, 22)


def fit_sums(X: np.ndarray, widths: np.ndarray, y: np.ndarray, *, n_widths: int) -> np.ndarray:
    """Fit y as a sum of costs for each width, (n_widths, 1 + K): intercept and coefficients.

    Relative least squares, reweighted (Huber, 1964) so that a few outliers among the measurements do not count. A width
    without rows gets the coefficients of all rows.

    Args:
        X: (n, K) features, without a constant.
        widths: (n,) index of each row's width.
        y: (n,) positive targets.
        n_widths: W.
    """
    coef = np.empty((n_widths, X.shape[1] + 1))
    for width in range(n_widths):
        rows = widths == width
        rows = rows if rows.sum() > 1 else np.ones(len(y), bool)
        coef[width] = _robust_relative(X[rows], y[rows])
    return coef


def _robust_relative(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    mean, spread = X.mean(axis=0), X.std(axis=0)
    spread[spread == 0] = 1.0
    Z = np.column_stack([np.ones(len(y)), (X - mean) / spread])
    penalty = _PENALTY * np.diag([0.0, *np.ones(X.shape[1])])
    weight = 1 / y
    for _ in range(_ROUNDS):
        A = Z * weight[:, None]
        beta = np.linalg.solve(A.T @ A + penalty * (weight**2).sum() / len(y), A.T @ (weight * y))
        error = 1 - Z @ beta / y
        scale = 1.4826 * np.median(np.abs(error - np.median(error))) + 1e-9
        weight = np.sqrt(np.minimum(1.0, _HUBER * scale / np.maximum(np.abs(error), 1e-12))) / y
    return np.concatenate([[beta[0] - (beta[1:] * mean / spread).sum()], beta[1:] / spread])


def fit_logs(X: np.ndarray, widths: np.ndarray, log_y: np.ndarray, *, n_widths: int) -> np.ndarray:
    """Fit log y linearly for each width, coefficients shrunk towards those that all widths share, (n_widths, 1 + K).

    The penalty is chosen by leave-one-out error, the same for what is shared and for what is a width's own; levels of
    the widths are not penalised. With few rows the widths borrow from each other, with many they do not.
    """
    at = (widths[:, None] == np.arange(n_widths)).astype(float)
    level = at.T @ log_y / np.maximum(at.sum(axis=0), 1)
    level = np.where(at.sum(axis=0) > 0, level, log_y.mean())
    mean = X.mean(axis=0)
    Z = X - mean
    design = np.hstack([Z, *(Z * at[:, [w]] for w in range(n_widths)), at])
    ridge = RidgeCV(alphas=_ALPHAS, fit_intercept=False).fit(design, log_y - level[widths])
    K = X.shape[1]
    own = ridge.coef_[K : K + n_widths * K].reshape(n_widths, K) + ridge.coef_[:K]
    intercept = level + ridge.coef_[K + n_widths * K :] - own @ mean
    return np.column_stack([intercept, own])


def predict_linear(coef: np.ndarray, X: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Return what coefficients (W, 1 + K) give for rows X (n, K), (n,)."""
    return np.asarray(coef[widths, 0] + np.einsum("nk,nk->n", X, coef[widths, 1:]))
