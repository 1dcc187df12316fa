"""LSBO: Bayesian optimization of the sum of the objectives by expected improvement, as in HW-GPT-Bench.

One Gaussian process of sum_i w_i f_i. With equal weights it seeks one point of the front. In raw units the sum would
be that of the objective with the largest numbers, so each is first scaled from the smallest to the largest value told.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from search.algorithms.bayesian import BayesianOptimizer
from search.algorithms.hypervolume_improvement import log_h
from search.algorithms.known_results import Known
from search.pareto import Floats
from supernet.space import SearchSpace


class LSBO(BayesianOptimizer):
    """Linear scalarisation and expected improvement.

    The best of random candidates is improved by single genes as long as its expected improvement grows: on networks,
    what L-BFGS is on vectors.

    Args:
        space: where to search.
        rng: the only source of randomness.
        random_weights: draw the weights anew at every step, uniform on the simplex (LSBO-R), so that the whole front
            is sought; False is LSBO, all weights 1.
        n_initial: random networks before the first process.
        n_random: random candidates of a step.
    """

    name = "lsbo"
    local_steps = 20

    def __init__(
        self,
        space: SearchSpace,
        *,
        rng: np.random.Generator,
        random_weights: bool = False,
        n_initial: int = 5,
        n_random: int = 250,
    ) -> None:
        super().__init__(space, rng=rng, n_initial=n_initial, n_random=n_random, n_mutations=0)
        self.random_weights = random_weights

    def settings(self) -> dict[str, Any]:
        """Return the kind of weights and the numbers of random networks."""
        return super().settings() | {"random_weights": self.random_weights}

    def _draw_weights(self, m: int) -> Floats:
        return m * self._rng.dirichlet(np.ones(m)) if self.random_weights else np.ones(m)

    def _functions(self, values: Floats, weights: Floats) -> Floats:
        low, span = values.min(axis=0), np.ptp(values, axis=0)
        return np.asarray(((values - low) / np.where(span > 0, span, 1.0)) @ weights)[:, None]

    def _score(self, known: Known, X: Floats) -> Floats:
        """Return the logarithm of the expected improvement over the best sum that meets the budgets."""
        told = known.processes[0].y[: len(known.values)]
        best = np.concatenate([told[known.is_feasible], known.believed[:, 0]]).min()
        mean, std = (columns[:, 0] for columns in known.predict(X))
        return np.asarray(np.log(std) + log_h((best - mean) / std))
