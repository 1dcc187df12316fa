"""Ways to predict a new device from a handful of measurements, each with leave-one-out predictions. No torch.

All but one are linear in `Terms` with a relative loss, because a time is a sum and its relative error counts: best
source with an affine map, nonnegative combination of the sources, all sources with penalties, the same with exact
costs, and the costs alone (from scratch). The other is the best source with an affine map of the logarithm.

Shapes: n rows, S sources, K terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from surrogates.adaptation_terms import Terms
from surrogates.evidence_ridge import fit_evidence_ridge

FLOOR = 0.1  # of the least measurement: no prediction is below it
_CEILING = 1000.0  # of the largest: leave-one-out predictions that have run away are cut there


@dataclass(frozen=True)
class Candidate:
    """A fitted model.

    Attributes:
        name: what it is.
        coef: (K,) of the terms, in the unit of the measurements.
        log_affine: (intercept, slope) of the logarithm of source `source`, which replaces `coef`; None without.
        source: index of the only source; None for several or none.
        loo: (n,) predictions of the measured rows, each by the model fitted to the others.
    """

    name: str
    coef: np.ndarray
    loo: np.ndarray
    source: int | None = None
    log_affine: tuple[float, float] | None = None

    def loo_error(self, y: np.ndarray) -> float:
        """Return the mean relative leave-one-out error, a share."""
        return float(np.abs(self.loo / y - 1).mean())


def fit_candidates(terms: Terms, sources: np.ndarray, features: np.ndarray, y: np.ndarray) -> tuple[Candidate, ...]:
    """Fit every way to measurements.

    Args:
        terms: of the space.
        sources: (n, S) positive predictions of the sources.
        features: (n, 5) `DeviceFeatures`.
        y: (n,) positive measurements, n >= 3.
    """
    problem = _Problem(terms, terms(sources, features), sources, y)
    return (
        _best([_source_log(problem, j) for j in range(terms.n_sources)], y),
        _best([_source_unit(problem, j) for j in range(terms.n_sources)], y),
        _nonnegative(problem),
        _sources(problem, "sources"),
        _sources(problem, "sources_and_costs", costs=True),
        _scratch(problem),
    )


@dataclass(frozen=True)
class _Problem:
    terms: Terms
    table: np.ndarray  # (n, K)
    sources: np.ndarray  # (n, S)
    y: np.ndarray  # (n,)

    @property
    def typical(self) -> float:
        return float(np.median(self.y))


def _best(candidates: Sequence[Candidate], y: np.ndarray) -> Candidate:
    return min(candidates, key=lambda candidate: candidate.loo_error(y))


# --- one source ---------------------------------------------------------------------------------------------------


def _source_log(problem: _Problem, j: int) -> Candidate:
    """log y = a + b log s."""
    logs = np.log(problem.sources[:, j])
    centre = float(logs.mean())
    fit = fit_evidence_ridge(np.column_stack([np.ones(len(logs)), logs - centre]), [], np.log(problem.y))
    loo = _bounded(np.exp(np.minimum(np.log(problem.y) - fit.loo_residuals, 700)), problem.y)
    intercept, slope = float(fit.fixed[0] - centre * fit.fixed[1]), float(fit.fixed[1])
    return Candidate("source", np.zeros(problem.terms.size), loo, j, (intercept, slope))


def _source_unit(problem: _Problem, j: int) -> Candidate:
    """y = a s + b."""
    terms = problem.terms
    return _relative(problem, "source_unit", terms.select(0, terms.sources.start + j), [], [], source=j)


# --- several sources ----------------------------------------------------------------------------------------------


def _nonnegative(problem: _Problem) -> Candidate:
    """y = sum of w_j s_j + w n_embd + b, no coefficient below 0: it cannot run away from the sources."""
    terms, y = problem.terms, problem.y
    picked = terms.select(terms.sources, 0, terms.costs.start)
    scale = np.median(problem.table @ picked, axis=0) / problem.typical
    A = picked / scale
    X, one = problem.table @ A / y[:, None], np.ones(len(y))
    rows = np.arange(len(y))
    loo = np.array([X[i] @ nnls(X[rows != i], one[rows != i])[0] for i in rows]) * y
    return Candidate("nonnegative", A @ nnls(X, one)[0], _bounded(loo, y))


def _sources(problem: _Problem, name: str, *, costs: bool = False) -> Candidate:
    """The mean of the sources, and penalised: their deviations from it, also by width; with `costs`, those too.

    Sources are first brought to the level of the measurements.
    """
    terms, S = problem.terms, problem.terms.n_sources
    level = np.exp(np.median(np.log(problem.sources / problem.y[:, None]), axis=0))
    apart = (np.eye(S) - 1 / S) / np.sqrt(S)
    fixed = [terms.select(terms.sources) / level @ np.full((S, 1), 1 / S), terms.select(0) * problem.typical]
    by_width = terms.select(terms.width_sources) / np.tile(level, len(terms.widths))
    parts = [terms.select(terms.sources) / level @ apart, by_width @ np.kron(np.eye(len(terms.widths)), apart)]
    scales = [0.3, 0.1]
    if costs:
        parts += [_costs(problem), _costs_by_width(problem)]
        scales += [0.03, 0.03]
    return _relative(problem, name, np.hstack(fixed), parts, scales)


# --- no source ----------------------------------------------------------------------------------------------------


def _scratch(problem: _Problem) -> Candidate:
    """Exact costs, for all widths together and for each."""
    parts = [_costs(problem), _costs_by_width(problem)]
    return _relative(problem, "scratch", problem.terms.select(0) * problem.typical, parts, [0.3, 0.1], noise=0.03)


def _costs(problem: _Problem) -> np.ndarray:
    """Return the map from terms to standardised costs, in units of the typical measurement."""
    return _standardised(problem, problem.terms.select(problem.terms.costs))


def _costs_by_width(problem: _Problem) -> np.ndarray:
    terms = problem.terms
    return _standardised(problem, terms.select(terms.width, terms.width_costs))


def _standardised(problem: _Problem, picked: np.ndarray) -> np.ndarray:
    values = problem.table @ picked
    centre, spread = values.mean(axis=0), values.std(axis=0)
    constant = spread <= 1e-9 * np.maximum(1.0, np.abs(centre))
    spread = np.where(constant, np.inf, spread)
    standard = picked / spread
    standard[0] -= centre / spread
    return standard * problem.typical


# --- the fit ------------------------------------------------------------------------------------------------------


def _relative(
    problem: _Problem, name: str, fixed: np.ndarray, parts: Sequence[np.ndarray], scales: Sequence[float],
    *, noise: float = 0.02, source: int | None = None,
) -> Candidate:  # fmt: skip
    """Minimise relative errors over maps from terms to regressors: `fixed` (K, p), `parts` (K, k) each."""
    y = problem.y
    weighted = problem.table / y[:, None]
    fit = fit_evidence_ridge(
        weighted @ fixed, [weighted @ A for A in parts], np.ones(len(y)), expected_scales=scales, expected_noise=noise
    )
    coef = fixed @ fit.fixed + sum((A @ g for A, g in zip(parts, fit.parts, strict=True)), np.zeros(len(fixed)))
    return Candidate(name, coef, _bounded(y * (1 - fit.loo_residuals), y), source)


def _bounded(loo: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.clip(loo, FLOOR * y.min(), _CEILING * y.max())
