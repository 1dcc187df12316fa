"""What a Bayesian optimizer knows at one step: results, the processes that explain them, and the chance of a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from search.algorithms.gaussian_process import GaussianProcess
from search.pareto import Floats


@dataclass(frozen=True)
class Known:
    """What an acquisition function sees of the results, and the processes that explain them.

    Attributes:
        values: of evaluated networks, (n, m).
        is_feasible: which of them meet the budgets, (n,).
        X: features of evaluated networks, then of pending ones, (n + p, d).
        processes: one a function, given all of these.
        violation: process of how far budgets are missed; None when all were met.
        weights: of the objectives at this step, (m,).
    """

    values: Floats
    is_feasible: NDArray[np.bool_]
    X: Floats
    processes: Sequence[GaussianProcess]
    violation: GaussianProcess | None
    weights: Floats

    def predict(self, X: Floats) -> tuple[Floats, Floats]:
        """Return means and standard deviations (n, t) of the functions."""
        predicted = [process.predict(X) for process in self.processes]
        return np.column_stack([mean for mean, _ in predicted]), np.column_stack([std for _, std in predicted])

    @property
    def believed(self) -> Floats:
        """Values (p, t) of the functions that pending networks are taken to have."""
        return np.column_stack([process.y[len(self.values) :] for process in self.processes])

    def log_feasible(self, X: Floats) -> Floats:
        """Return the logarithm (n,) of the probability to meet the budgets."""
        if self.violation is None:
            return np.zeros(len(X))
        mean, std = self.violation.predict(X)
        return np.asarray(log_ndtr(-mean / std))


def latent_violation(X: Floats, violation: Floats, hyperparameters: Floats) -> Floats:
    """Return violations (n,) with a guess below 0 in place of 0: the mean there of a process that knows the others.

    Args:
        X: features (n, d).
        violation: (n,), 0 where budgets are met; not 0 everywhere.
        hyperparameters: of the process.
    """
    met = violation <= 0
    targets = violation.astype(np.float64)
    if met.any():
        mean, std = GaussianProcess(X[~met], violation[~met], hyperparameters).predict(X[met])
        z = -mean / std
        targets[met] = mean - std * np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_ndtr(z))
    return targets
