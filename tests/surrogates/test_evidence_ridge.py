import numpy as np
import pytest

from surrogates.evidence_ridge import fit_evidence_ridge


def data(n: int = 14, seed: int = 0) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    U, parts = np.column_stack([np.ones(n), rng.normal(size=n)]), [rng.normal(size=(n, 3)), rng.normal(size=(n, 20))]
    z = U @ [2.0, -1.0] + parts[0] @ [0.3, 0.0, -0.5] + 0.05 * rng.normal(size=n)
    return U, parts, z


def penalised(U: np.ndarray, parts: list[np.ndarray], z: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Ridge regression as a stacked least-squares problem: an independent way to the same coefficients."""
    X = np.hstack([U, *parts])
    widths = [part.shape[1] for part in parts]
    penalty = np.repeat(scales[-1] / scales[:-1], widths)
    below = np.hstack([np.zeros((len(penalty), U.shape[1])), np.diag(penalty)])
    stacked = np.vstack([X, below]), np.concatenate([z, np.zeros(len(penalty))])
    return np.linalg.lstsq(*stacked, rcond=None)[0]


def test_coefficients_are_those_of_the_ridge_problem_with_the_chosen_penalties() -> None:
    U, parts, z = data()
    fit = fit_evidence_ridge(U, parts, z, expected_scales=(0.3, 0.1))
    expected = penalised(U, parts, z, fit.scales)
    np.testing.assert_allclose(np.concatenate([fit.fixed, *fit.parts]), expected, atol=1e-7)


def test_leave_one_out_residuals_are_those_of_refits() -> None:
    U, parts, z = data()
    fit = fit_evidence_ridge(U, parts, z, expected_scales=(0.3, 0.1))
    X = np.hstack([U, *parts])
    for i in range(len(z)):
        rest = np.arange(len(z)) != i
        coef = penalised(U[rest], [part[rest] for part in parts], z[rest], fit.scales)
        assert fit.loo_residuals[i] == pytest.approx(z[i] - X[i] @ coef, abs=1e-7)


def test_without_parts_it_is_least_squares() -> None:
    U, _, z = data()
    fit = fit_evidence_ridge(U, [], z)
    np.testing.assert_allclose(fit.fixed, np.linalg.lstsq(U, z, rcond=None)[0])
    for i in range(len(z)):
        rest = np.arange(len(z)) != i
        assert fit.loo_residuals[i] == pytest.approx(z[i] - U[i] @ np.linalg.lstsq(U[rest], z[rest], rcond=None)[0])


def test_the_scales_have_more_evidence_than_their_neighbours() -> None:
    U, parts, z = data(n=40)
    fit = fit_evidence_ridge(U, parts, z, expected_scales=(0.3, 0.1), expected_noise=0.02)

    def log_posterior(scales: np.ndarray) -> float:
        covariance = sum((s**2 * F @ F.T for s, F in zip(scales, parts, strict=False)), scales[-1] ** 2 * np.eye(40))
        basis = np.linalg.svd(U)[0][:, 2:]  # restricted likelihood: what is orthogonal to U
        inner, contrast = basis.T @ covariance @ basis, basis.T @ z
        away = np.log(scales / [0.3, 0.1, 0.02]) / 2.0
        return -0.5 * (np.linalg.slogdet(inner)[1] + contrast @ np.linalg.solve(inner, contrast) + away @ away)

    best = log_posterior(fit.scales)
    for k in range(3):
        for factor in (0.8, 1.25):
            changed = fit.scales.copy()
            changed[k] *= factor
            assert log_posterior(changed) < best


def test_noise_and_an_idle_part_are_told_apart() -> None:
    U, parts, z = data(n=200)
    fit = fit_evidence_ridge(U, parts, z, expected_scales=(0.3, 0.1))
    assert fit.scales[2] == pytest.approx(0.05, rel=0.15)
    assert fit.scales[1] < 0.02 < 0.2 < fit.scales[0]


def test_a_row_that_alone_determines_a_coefficient_has_no_leave_one_out_prediction() -> None:
    U = np.column_stack([np.ones(6), [0, 0, 0, 0, 0, 1]])
    fit = fit_evidence_ridge(U, [], np.arange(6.0))
    assert np.isinf(fit.loo_residuals[5]) and np.isfinite(fit.loo_residuals[:5]).all()
