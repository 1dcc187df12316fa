"""What Bayesian optimizers share: Gaussian processes of what was told, candidates, pending networks, and a state.

At every step each function (an objective, or a sum of them) gets a Gaussian process; an acquisition function scores
candidates that have not been asked, and the best is asked. Hyper-parameters are fitted after every result up to 100,
then after every fifth, from those before. A process knows at most 500 networks: the front and the newest.

Several at once (`ask(n)`, or workers that are not back): one after the other, each pending network taken as evaluated
at its predicted mean (Kriging believer, Ginsbourger et al. 2010), so that the next ones go elsewhere.

Missed budgets: a network that misses one is never part of the front or the incumbent; its objectives still teach the
processes. One more process learns the violation, and the logarithm of the probability that it is below 0 is added to
the (logarithmic) score; where budgets are met, and only that is known, the violation is taken to be what it is expected
to be below 0 given those that are known (Tobit). Until some network meets the budgets, the probability is the score.
Networks without a result are left out and not asked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.algorithms.front_archive import check_same_objectives
from search.algorithms.gaussian_process import GaussianProcess, default_hyperparameters, fit_hyperparameters
from search.algorithms.gene_arrays import GeneArrays, Genes
from search.algorithms.gene_candidates import candidates, neighbours, unseen
from search.algorithms.known_results import Known, latent_violation
from search.algorithms.network_features import NetworkFeatures
from search.algorithms.optimizer import BaseOptimizer
from search.pareto import Floats, constrained_ranks, is_valid
from supernet.architecture import Architecture
from supernet.encoding import to_genes
from supernet.space import SearchSpace

_EVERY_RESULT, _THEN_EVERY, _MOST = 100, 5, 500  # refits; networks that a process knows
_FIRST_STEPS, _STEPS, _LATE_STEPS = 50, 8, 3  # of L-BFGS: from the priors, from the last ones, and of many results


class BayesianOptimizer(BaseOptimizer):
    """Bayesian optimization on the features of networks; see the top of this file.

    Args:
        space: where to search.
        rng: the only source of randomness.
        n_initial: random networks with a result before the first process.
        n_random: random candidates of a step.
        n_mutations: candidates of a step that differ from a member of the front in one or two genes.
    """

    local_steps = 0  # most moves from the best candidate to a better network that differs in one gene

    def __init__(
        self, space: SearchSpace, *, rng: np.random.Generator, n_initial: int, n_random: int, n_mutations: int
    ) -> None:
        super().__init__(space, rng=rng)
        if n_initial < 2 or n_random < 1 or n_mutations < 0:
            raise ValueError(
                f"n_initial = {n_initial}, n_random = {n_random}, n_mutations = {n_mutations}: need at least 2, 1 and 0"
            )
        self.n_initial = n_initial
        self.n_random = n_random
        self.n_mutations = n_mutations
        self._arrays = GeneArrays(space)
        self._features = NetworkFeatures(space)
        self._told: list[Architecture] = []  # those with a result
        self._genes: Genes = np.empty((0, len(self._arrays.sizes)), dtype=np.int64)  # of told
        self._values: Floats = np.empty((0, 0))
        self._violation: Floats = np.empty(0)
        self._hyperparameters: list[Floats] = []  # of each function, then of the violation
        self._n_fitted = 0  # results that they were fitted to
        self._keys: set[bytes] = set()  # genes of what was given out

    def settings(self) -> dict[str, Any]:
        """Return the numbers of random networks and candidates."""
        return {"n_initial": self.n_initial, "n_random": self.n_random, "n_mutations": self.n_mutations}

    def _draw_weights(self, m: int) -> Floats:
        """Return weights (m,) of the objectives for one step."""
        return np.ones(m)

    def _functions(self, values: Floats, weights: Floats) -> Floats:
        """Return what processes model (n, t) of values (n, m)."""
        return values

    def _score(self, known: Known, X: Floats) -> Floats:
        """Return the acquisition (n,) of candidates, on a logarithmic scale; larger is better."""
        raise NotImplementedError

    # --- ask ----------------------------------------------------------------------------------------------------------

    def _propose(self, n: int) -> list[Architecture]:
        """Return up to `n` new architectures, at most to the end of the random ones."""
        lacking = self.n_initial - len(self._told)
        room = lacking - len(self._pending) if lacking > 0 else n
        wanted = min(n, self.n_left, room if room > 0 else n)  # all in flight: workers go on
        return [self._give_out(self._random_new() if lacking > 0 else self._next()) for _ in range(wanted)]

    def _next(self) -> Architecture:
        """Return the candidate of the largest acquisition."""
        known = self._known()
        parents = self._genes[constrained_ranks(self._values, self._violation) == 0]
        row, best = self._best(known, candidates(
            self._arrays, parents, n_random=self.n_random, n_mutations=self.n_mutations, rng=self._rng
        ))  # fmt: skip
        if row is None:
            return self._random_new()
        for _ in range(self.local_steps):
            other, value = self._best(known, neighbours(self._arrays, row, self._rng))
            if other is None or value <= best:
                break
            row, best = other, value
        return self._arrays.architectures(row[None])[0]

    def _best(self, known: Known, genes: Genes) -> tuple[Genes | None, float]:
        """Return the unseen row of the largest acquisition, and that; None when all are seen."""
        if new := list(islice(self._seen, len(self._keys), None)):
            self._keys |= set(self._arrays.keys(to_genes(self.space, new)))
        pool = genes[unseen(genes, self._keys)]
        if not len(pool):
            return None, -np.inf
        X = self._features(pool)
        score = known.log_feasible(X)
        if known.is_feasible.any():
            score = score + self._score(known, X)
        best = int(np.argmax(score))
        return pool[best], float(score[best])

    # --- processes ----------------------------------------------------------------------------------------------------

    def _known(self) -> Known:
        """Return what is known, with hyper-parameters fitted when that is due, and pending networks believed."""
        weights = self._draw_weights(self._values.shape[1])
        rows = self._rows()
        values, violation = self._values[rows], self._violation[rows]
        X, targets = self._features(self._genes[rows]), self._functions(values, weights)
        if (violation > 0).any():
            is_known = len(self._hyperparameters) > targets.shape[1]
            theta = self._hyperparameters[-1] if is_known else default_hyperparameters(X.shape[1])
            targets = np.column_stack([targets, latent_violation(X, violation, theta)])
        self._fit(X, targets)
        processes = [GaussianProcess(X, y, theta) for y, theta in zip(targets.T, self._hyperparameters, strict=True)]
        if self._pending:
            pending = self._features(to_genes(self.space, list(self._pending)))
            processes = [process.believing(pending) for process in processes]
        limit = processes.pop() if (violation > 0).any() else None
        return Known(values, violation <= 0, processes[0].X, processes, limit, weights)

    def _rows(self) -> NDArray[np.int64]:
        """Return which results the processes know: all, or of many the front and the newest."""
        n = len(self._told)
        if n <= _MOST:
            return np.arange(n)
        front = np.flatnonzero(constrained_ranks(self._values, self._violation) == 0)[-_MOST // 2 :]
        others = np.setdiff1d(np.arange(n), front)
        return np.sort(np.concatenate([front, others[-(_MOST - len(front)) :]]))

    def _fit(self, X: Floats, targets: Floats) -> None:
        new = len(self._told) - self._n_fitted
        if targets.shape[1] == len(self._hyperparameters):
            if new < (1 if len(self._told) <= _EVERY_RESULT else _THEN_EVERY):
                return
            starts: list[Floats | None] = [*self._hyperparameters]
        else:
            starts = [None] * targets.shape[1]
        steps = _STEPS if len(self._told) <= _EVERY_RESULT else _LATE_STEPS
        self._hyperparameters = [
            fit_hyperparameters(X, y, start=start, max_steps=_FIRST_STEPS if start is None else steps)
            for y, start in zip(targets.T, starts, strict=True)
        ]
        self._n_fitted = len(self._told)

    # --- tell ---------------------------------------------------------------------------------------------------------

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Keep the results; networks without one are left out."""
        points, missed = self._receive(archs, values, violation)
        valid = np.flatnonzero(is_valid(points) & np.isfinite(missed))
        if not len(valid):
            return
        if self._told:
            check_same_objectives(self._values, points)
        else:
            self._values = np.empty((0, points.shape[1]))
        told = [archs[int(i)] for i in valid]
        self._told += told
        self._genes = np.concatenate([self._genes, to_genes(self.space, told)])
        self._values = np.concatenate([self._values, points[valid]])
        self._violation = np.concatenate([self._violation, missed[valid]])

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the results, the hyper-parameters and the generator."""
        return super().state() | {
            "told": [arch.id for arch in self._told],
            "values": self._values.tolist(),
            "violation": self._violation.tolist(),
            "hyperparameters": [theta.tolist() for theta in self._hyperparameters],
            "n_fitted": self._n_fitted,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        self._told = [Architecture.from_id(i) for i in state["told"]]
        n = len(self._told)
        self._genes = to_genes(self.space, self._told) if n else self._genes[:0]
        self._values = np.array(state["values"], dtype=np.float64) if n else np.empty((0, 0))
        self._violation = np.array(state["violation"], dtype=np.float64)
        self._hyperparameters = [np.array(theta, dtype=np.float64) for theta in state["hyperparameters"]]
        self._n_fitted = state["n_fitted"]
        self._keys = set()
