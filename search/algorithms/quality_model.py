"""A costly objective learned from what was evaluated so far: a Bayesian ridge on `GeneBasis`, with draws. No torch.

z = sum of groups of coefficients + noise, on a log scale where all values are positive. Each group has a scale; the
scales maximise the marginal likelihood times a wide log-normal prior (as in `surrogates.evidence_ridge`; Rasmussen and
Williams 2006, section 2.7), started where the last fit ended. Posterior draws are whole functions (Matheron's rule),
so that thousands of networks are judged by one product of matrices.

Shapes: n networks, q columns of the basis, W widths, D draws, K groups.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from search.algorithms.gene_arrays import Genes
from search.algorithms.gene_basis import GeneBasis
from search.pareto import Floats

_EXPECTED_NOISE = 0.02
_LOG_SPREAD = 2.0  # of the log-normal prior of each scale
_BOUNDS = (1e-4, 30.0)
_ROWS = 200  # at most, to choose the scales on
_STEPS = (20, 5)  # of L-BFGS in the first fit, and in one that goes on from an earlier one's scales
_FAR = 30.0  # no draw is further away, in spreads of what was seen: exp stays finite


@dataclass(frozen=True)
class TargetScale:
    """An affine map of values, or of their logarithms, to spread 1."""

    centre: float
    spread: float
    log: bool

    @classmethod
    def of(cls, values: Floats, *, log: bool = True) -> TargetScale:
        """Return the scale of values (n,); with `log` of their logarithms where all are positive."""
        log = log and bool((values > 0).all())
        table = np.log(values) if log else values
        return cls(float(table.mean()), float(table.std()) or 1.0, log)

    def forward(self, values: Floats) -> Floats:
        """Return scaled values."""
        return ((np.log(values) if self.log else values) - self.centre) / self.spread

    def inverse(self, scaled: Floats) -> Floats:
        """Return values of scaled ones."""
        values = np.clip(scaled, -_FAR, _FAR) * self.spread + self.centre
        return np.exp(values) if self.log else values


@dataclass(frozen=True)
class QualityModel:
    """What was fitted.

    Attributes:
        basis: its columns.
        target: scale of the values.
        scales: (K + 1,) of the groups, then of the noise, in spreads of the values.
        rows: (n, q) columns of what it was fitted to.
        widths: (n,) which width each row has.
        scaled: (n,) scaled values.
    """

    basis: GeneBasis
    target: TargetScale
    scales: Floats
    rows: Floats = field(repr=False)
    widths: NDArray[np.int64] = field(repr=False)
    scaled: Floats = field(repr=False)

    def __post_init__(self) -> None:
        kernels = _kernels(self.basis, self.rows, self.widths)
        object.__setattr__(self, "_factor", cho_factor(_covariance(kernels, self.scales), lower=True))

    def mean(self) -> Floats:
        """Return the coefficients (1, W, q) of the posterior mean."""
        return self._given(np.zeros((1, self.basis.n_widths, self.basis.n_columns)), np.zeros((len(self.rows), 1)))

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        """Return coefficients (n, W, q) of functions drawn from the posterior."""
        W, q = self.basis.n_widths, self.basis.n_columns
        prior = np.zeros((n, W, q))
        for group, scale in zip(self.basis.groups, self.scales[:-1], strict=True):
            size = (n, W if group.by_width else 1, group.directions.shape[1])
            prior += scale * (rng.standard_normal(size) @ group.directions.T)
        return self._given(prior, self.scales[-1] * rng.standard_normal((len(self.rows), n)))

    def predict(self, coefficients: Floats, rows: Floats, widths: NDArray[np.int64]) -> Floats:
        """Return values (D, n), in the objective's own unit, of columns (n, q) and widths (n,)."""
        return self.target.inverse(_apply(coefficients, rows, widths))

    def _given(self, prior: Floats, noise: Floats) -> Floats:
        """Return draws of the prior (D, W, q) and of the noise (n, D), corrected by what was seen."""
        missing = self.scaled[:, None] - _apply(prior, self.rows, self.widths).T - noise
        dual = cho_solve(self._factor, missing)  # type: ignore[attr-defined]
        posterior = prior.copy()
        for width in range(self.basis.n_widths):
            own = self.rows[self.widths == width].T @ dual[self.widths == width]  # (q, D)
            posterior[:, width] += (self._spread(by_width=True) @ own).T
        posterior += (self._spread(by_width=False) @ (self.rows.T @ dual)).T[:, None]
        return posterior

    def _spread(self, *, by_width: bool) -> Floats:
        """Return the prior covariance (q, q) of coefficients shared by all widths, or of what a width has alone."""
        total = np.zeros((self.basis.n_columns, self.basis.n_columns))
        for group, scale in zip(self.basis.groups, self.scales[:-1], strict=True):
            if group.by_width == by_width:
                total += scale**2 * (group.directions @ group.directions.T)
        return total


def fit_quality_model(
    basis: GeneBasis, genes: Genes, extra: Floats, values: Floats, *, scales: Floats | None = None, log: bool = True
) -> QualityModel:
    """Fit values (n,) of canonical genes (n, g).

    Args:
        basis: columns.
        genes: what was evaluated.
        extra: (n, basis.n_extra) extra columns, of spread about 1.
        values: finite.
        scales: of the groups and the noise in an earlier fit, to start from; None for what is expected.
        log: learn the logarithm where all values are positive.
    """
    rows, widths = basis(genes, extra), genes[:, 0]
    target = TargetScale.of(values, log=log)
    scaled = target.forward(values)
    expected = np.array([*(group.expected for group in basis.groups), _EXPECTED_NOISE])
    some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _ROWS)).astype(int))
    kernels = _kernels(basis, rows[some], widths[some])
    likely = _most_likely(kernels, scaled[some], expected, scales)
    return QualityModel(basis, target, likely, rows, widths, scaled)


def fit_excess_model(
    basis: GeneBasis, genes: Genes, extra: Floats, violation: Floats, *, scales: Floats | None = None
) -> QualityModel:
    """Fit by how much budgets are missed, negative where they are met, of which only max(0, .) (n,) was seen.

    Where a budget is met the model's own prediction, if negative, stands for what was not seen: a few rounds of
    imputation, as for censored (Tobit) regression.
    """
    met = violation <= 0
    guess = np.where(met, -0.5 * violation[~met].mean() if (~met).any() else -1.0, violation)
    for _ in range(4):
        model = fit_quality_model(basis, genes, extra, guess, scales=scales, log=False)
        scales = model.scales
        found = model.predict(model.mean(), model.rows, model.widths)[0]
        guess = np.where(met, np.minimum(found, 0), violation)
    return model


# --- algebra ----------------------------------------------------------------------------------------------------------


def _apply(coefficients: Floats, rows: Floats, widths: NDArray[np.int64]) -> Floats:
    """Return scaled values (D, n) of coefficients (D, W, q)."""
    out = np.empty((len(coefficients), len(rows)))
    for width in range(coefficients.shape[1]):
        own = widths == width
        out[:, own] = coefficients[:, width] @ rows[own].T
    return out


def _kernels(basis: GeneBasis, rows: Floats, widths: NDArray[np.int64]) -> Floats:
    """Return the covariance (K, n, n) that each group of scale 1 gives, and that of the noise last."""
    same = widths[:, None] == widths
    kernels = np.empty((len(basis.groups) + 1, len(rows), len(rows)))
    for k, group in enumerate(basis.groups):
        parts = rows @ group.directions
        kernels[k] = parts @ parts.T
        if group.by_width:
            kernels[k] *= same
    kernels[-1] = np.eye(len(rows))
    return kernels


def _covariance(kernels: Floats, scales: Floats) -> Floats:
    return np.asarray(np.tensordot(scales**2, kernels, 1))


def _most_likely(kernels: Floats, z: Floats, expected: Floats, earlier: Floats | None) -> Floats:
    """Return the scales that maximise the posterior, or what some steps from those of an earlier fit give."""
    start, steps = (expected, _STEPS[0]) if earlier is None else (earlier, _STEPS[1])
    limits = [(np.log(_BOUNDS[0]), np.log(_BOUNDS[1]))] * len(expected)
    found = minimize(
        minus_log_posterior, np.log(start), args=(kernels, z, expected), jac=True, method="L-BFGS-B", bounds=limits,
        options={"maxiter": steps},
    )  # fmt: skip
    return np.exp(found.x)


def minus_log_posterior(log_scales: Floats, kernels: Floats, z: Floats, expected: Floats) -> tuple[float, Floats]:
    """Return minus the logarithm of (likelihood of z x prior of the scales), but for a constant, and its gradient.

    Args:
        log_scales: (K + 1,).
        kernels: (K + 1, n, n) covariance of z at scale 1.
        z: (n,).
        expected: (K + 1,) medians of the priors.
    """
    scales = np.exp(log_scales)
    factor = cho_factor(_covariance(kernels, scales), lower=True)
    dual = cho_solve(factor, z)
    away = (log_scales - np.log(expected)) / _LOG_SPREAD
    value = 0.5 * (z @ dual + away @ away) + np.log(np.diagonal(factor[0])).sum()
    weight = cho_solve(factor, np.eye(len(z))) - np.outer(dual, dual)
    return float(value), scales**2 * np.tensordot(kernels, weight, 2) + away / _LOG_SPREAD
