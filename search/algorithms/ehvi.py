"""EHVI: Bayesian optimization by expected hypervolume improvement (Emmerich et al. 2006; Daulton et al. 2020, 2021).

One Gaussian process an objective. syne-tune and HW-GPT-Bench negate the objectives but keep the reference point at +2,
which no point dominates, so that their acquisition is 0 everywhere and the search random. Here the reference point is
worse than every point told, by a tenth of the range, in every objective.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from search.algorithms.bayesian import BayesianOptimizer
from search.algorithms.botorch_acquisition import log_ehvi_by_sampling, log_nehvi_by_sampling, require_botorch
from search.algorithms.hypervolume_improvement import log_ehvi, nondominated_boxes
from search.algorithms.known_results import Known
from search.pareto import Floats, nondominated
from supernet.space import SearchSpace

Acquisition = Literal["exact", "botorch"]
_BEYOND = 0.1  # of the range of an objective, from the worst point to the reference point
_LIKELY = 2.0  # standard deviations


class EHVI(BayesianOptimizer):
    """Expected hypervolume improvement, for any number of objectives (of one it is expected improvement).

    Candidates are random networks and one- and two-gene mutations of the front.

    Args:
        space: where to search.
        rng: the only source of randomness.
        noise: values are noisy: BoTorch's qLogNEHVI, which improves on the front of the functions behind them.
        acquisition: without noise, "exact" for the closed form, or "botorch" for qLogEHVI, which estimates the same.
        n_initial: random networks before the first process.
        n_random: random candidates of a step.
        n_mutations: mutations of the front among the candidates of a step.
        n_samples: Sobol samples of BoTorch's forms.
        n_sampled: candidates that BoTorch's forms score: the best by the closed form on predicted means.

    Raises:
        ImportError: BoTorch is needed and not installed.
    """

    name = "ehvi"

    def __init__(
        self,
        space: SearchSpace,
        *,
        rng: np.random.Generator,
        noise: bool = False,
        acquisition: Acquisition = "exact",
        n_initial: int = 10,
        n_random: int = 500,
        n_mutations: int = 400,
        n_samples: int = 128,
        n_sampled: int = 32,
    ) -> None:
        super().__init__(space, rng=rng, n_initial=n_initial, n_random=n_random, n_mutations=n_mutations)
        if acquisition not in get_args(Acquisition) or n_samples < 1 or n_sampled < 1:
            raise ValueError(
                f"acquisition = {acquisition!r}, n_samples = {n_samples}, n_sampled = {n_sampled}: allowed are "
                f"{', '.join(map(repr, get_args(Acquisition)))}, and at least 1"
            )
        if noise or acquisition == "botorch":
            require_botorch()
        self.noise = noise
        self.acquisition = acquisition
        self.n_samples = n_samples
        self.n_sampled = n_sampled

    def settings(self) -> dict[str, Any]:
        """Return how candidates are drawn and scored."""
        own = {"noise": self.noise, "acquisition": self.acquisition}
        return super().settings() | own | {"n_samples": self.n_samples, "n_sampled": self.n_sampled}

    def _score(self, known: Known, X: Floats) -> Floats:
        reference = reference_point(known.values[known.is_feasible])
        front = self._front(known)
        exact = log_ehvi(*known.predict(X), nondominated_boxes(front, reference))
        if not self.noise and self.acquisition == "exact":
            return exact
        keep = np.argsort(-exact, kind="stable")[: self.n_sampled]
        score = np.full(len(X), -np.inf)
        seed = int(self._rng.integers(2**31))
        score[keep] = (
            log_nehvi_by_sampling(
                known.processes, X[keep], baseline=self._baseline(known), reference=reference,
                n_samples=self.n_samples, seed=seed,
            )
            if self.noise
            else log_ehvi_by_sampling(
                known.processes, X[keep], front=front, reference=reference, n_samples=self.n_samples, seed=seed
            )
        )  # fmt: skip
        return score

    def _front(self, known: Known) -> Floats:
        """Return the feasible front (k, m): values as told (with noise: as predicted), and those believed."""
        told = known.values[known.is_feasible]
        if self.noise:
            told = known.predict(known.X[: len(known.values)][known.is_feasible])[0]
        points = np.concatenate([told, known.believed])
        return points[nondominated(points, duplicates=False)]

    def _baseline(self, known: Known) -> Floats:
        """Return features of feasible and of pending networks that may be on the front, by two standard deviations."""
        pending = np.ones(len(known.X) - len(known.values), dtype=bool)
        X = known.X[np.concatenate([known.is_feasible, pending])]
        mean, std = known.predict(X)
        best, worst = mean - _LIKELY * std, mean + _LIKELY * std
        return X[[not (worst <= point).all(axis=1).any() for point in best]]


def reference_point(values: Floats) -> Floats:
    """Return a point (m,) that every one of `values` (n, m) strictly dominates: the worst and a tenth of the range."""
    worst, span = values.max(axis=0), np.ptp(values, axis=0)
    return np.asarray(worst + np.where(span > 0, _BEYOND * span, np.maximum(1e-3 * np.abs(worst), 1e-9)))
