"""Ridge regression whose penalties are chosen by their evidence, with exact leave-one-out residuals. No torch.

z = U beta + sum_k F_k g_k + noise, with g_k ~ N(0, theta_k^2), noise ~ N(0, theta^2), and no prior on beta: a Gaussian
process with an explicit basis (Rasmussen and Williams 2006, section 2.7). The scales theta maximise the marginal
likelihood times a wide log-normal prior. With a dozen rows this is steadier than a penalty chosen by leave-one-out
error, which sometimes takes next to none. Leave-one-out residuals need no refit (Dubrule 1983).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

_LOG_SPREAD = 2.0  # of the log-normal prior of each scale: a factor of 7 either way is nothing special
_BOUNDS = (1e-4, 30.0)


@dataclass(frozen=True)
class EvidenceRidge:
    """What was fitted.

    Attributes:
        fixed: (p,) coefficients beta.
        parts: (k_1,), (k_2,), ... coefficients g of each part.
        scales: theta of each part, then of the noise.
        loo_residuals: (n,) z minus its prediction by the other rows, at the same scales; infinite where the other rows
            do not determine it.
    """

    fixed: np.ndarray
    parts: tuple[np.ndarray, ...]
    scales: np.ndarray
    loo_residuals: np.ndarray


def fit_evidence_ridge(
    U: np.ndarray, parts: Sequence[np.ndarray], z: np.ndarray, *, expected_scales: Sequence[float] = (),
    expected_noise: float = 0.02,
) -> EvidenceRidge:  # fmt: skip
    """Fit z (n,).

    Args:
        U: (n, p) regressors without a penalty.
        parts: (n, k) regressors that share a penalty, one array for each penalty; none is ordinary least squares.
        z: what is predicted.
        expected_scales: medians of the prior of each part's scale.
        expected_noise: median of the prior of the noise's scale.
    """
    if not parts:
        return _least_squares(U, z, expected_noise)
    kernels = np.array([F @ F.T for F in parts] + [np.eye(len(z))])
    centre = np.log([*expected_scales, expected_noise])

    def objective(log_scales: np.ndarray) -> tuple[float, np.ndarray]:
        """Return minus the log posterior of the scales, but for a constant, and its gradient."""
        variances = np.exp(2 * log_scales)
        state = _solve(U, kernels, variances, z)
        away = (log_scales - centre) / _LOG_SPREAD
        value = 0.5 * (state.log_determinants + state.dual @ z + away @ away)
        traces = np.einsum("ij,kij->k", state.projector, kernels)
        quadratic = np.einsum("i,kij,j->k", state.dual, kernels, state.dual)
        return float(value), (traces - quadratic) * variances + away / _LOG_SPREAD

    limits = [(np.log(_BOUNDS[0]), np.log(_BOUNDS[1]))] * len(centre)
    found = minimize(objective, centre, jac=True, method="L-BFGS-B", bounds=limits).x
    variances = np.exp(2 * found)
    state = _solve(U, kernels, variances, z)
    coefficients = tuple(variance * (F.T @ state.dual) for variance, F in zip(variances[:-1], parts, strict=True))
    return EvidenceRidge(state.beta, coefficients, np.exp(found), _left_out(state.dual, state.projector.diagonal()))


@dataclass(frozen=True)
class _Solution:
    beta: np.ndarray
    dual: np.ndarray  # (n,): coefficients of a part are its variance x F' dual
    projector: np.ndarray  # (n, n): dual = projector @ z
    log_determinants: float


def _solve(U: np.ndarray, kernels: np.ndarray, variances: np.ndarray, z: np.ndarray) -> _Solution:
    covariance = np.tensordot(variances, kernels, 1)
    inverse = np.linalg.inv(covariance)
    weighted = inverse @ U
    information = U.T @ weighted
    back = np.linalg.pinv(information, hermitian=True) @ weighted.T  # (p, n)
    projector = inverse - weighted @ back
    determinants = np.linalg.slogdet(covariance)[1] + np.linalg.slogdet(information)[1]
    return _Solution(back @ z, projector @ z, projector, float(determinants))


def _least_squares(U: np.ndarray, z: np.ndarray, noise: float) -> EvidenceRidge:
    back = np.linalg.pinv(U)
    left = 1 - np.einsum("ij,ji->i", U, back)
    beta = back @ z
    return EvidenceRidge(beta, (), np.array([noise]), _left_out(z - U @ beta, left))


def _left_out(residuals: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return residuals / share, infinite where a row alone determines a coefficient."""
    alone = share < 1e-9 * share.max()
    return np.where(alone, np.inf, residuals / np.where(alone, 1.0, share))
