"""Model-guided search: a training-free front first, then whatever a model of the costly objectives expects most of.

1. The front of decoder parameters against the free objectives, found with free evaluations only (LTS's idea;
   `guided_start`); some of its members are evaluated, spread evenly.
2. A Bayesian ridge learns each costly objective from everything told, with coefficients of its own for each width and
   block (`quality_model`), and by how much budgets on costly objectives are missed.
3. An evolution inside the model (`guided_population`): exact free objectives, predicted costly ones.
4. The candidates that add most predicted hypervolume are evaluated (`batch_choice`). Go to 2.

Settings were chosen on gpt-s/h100 and gpt-l/rtx2080 of the shipped benchmarks with seeds from 100 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from search.algorithms.batch_choice import choose_batch
from search.algorithms.free_laws import LinearLaw, free_laws
from search.algorithms.free_problem import FreeProblem
from search.algorithms.front_archive import check_same_objectives
from search.algorithms.gene_arrays import GeneArrays, Genes
from search.algorithms.gene_basis import GeneBasis
from search.algorithms.guided_population import Breeding, Candidates, evolve
from search.algorithms.guided_start import free_front, spread_first
from search.algorithms.opinions import Opinions, Told
from search.algorithms.optimizer import BaseOptimizer
from search.algorithms.weighted_best import WeightedBest
from search.pareto import constrained_ranks, is_valid
from supernet.architecture import Architecture
from supernet.encoding import to_genes
from supernet.space import SearchSpace

_LISTED = 5_000  # spaces up to this size are candidates as a whole
_LEAST = 8  # results before a model is fitted


class ModelGuided(BaseOptimizer):
    """Learns the costly objectives on the way and evaluates where most hypervolume is expected.

    Objectives that cost nothing are recognised by their numbers: what `free` computes for a network is what `tell`
    says of it. All others are learned. Some of both are needed; where all objectives are costly, use NSGA2.

    Args:
        space: where to search.
        rng: the only source of randomness.
        free: objectives that need no evaluation of quality, the proxy first: `free_problem(space, objectives)`.
        noise: whether values are measurements with noise. Free ones are then replaced by a fit to some thousand
            (`smoothing`), so that the search does not collect the luckiest, and the front told by what the model says.
            With 1.7 % noise of a latency this took the regret after 300 evaluations from 0.7 to 0.3 %; with 0.1 % it
            cost 0.1 (shipped benchmarks, 2 seeds).
        n_free: evaluations of free objectives in the first, training-free search, which runs at the first `ask`.
        n_initial: members of its front to evaluate before the model is asked.
        batch: networks that are chosen together at least; all are given out before the model is asked again.
        n_opinions: 1 trusts the posterior mean, more add draws from the posterior (Thompson sampling): more
            exploration, which did not pay on the shipped benchmarks.
        generations: of the evolution inside the model, each time it is asked.
        children: of a generation.

    Raises:
        ValueError: no free objectives, or sizes that are not possible.
    """

    name = "model_guided"
    needs_free_problem = True  # see free_problem.with_free_problem

    def __init__(
        self,
        space: SearchSpace,
        *,
        rng: np.random.Generator,
        free: FreeProblem | None = None,
        noise: bool = False,
        n_free: int = 20_000,
        n_initial: int = 20,
        batch: int = 5,
        n_opinions: int = 1,
        generations: int = 4,
        children: int = 500,
    ) -> None:
        super().__init__(space, rng=rng)
        if free is None:
            raise ValueError(
                "ModelGuided needs the free objectives: functools.partial(ModelGuided, free=free_problem(space, "
                "objectives)), or with_free_problem(ModelGuided, space, objectives). Where none is free, use NSGA2"
            )
        sizes = {"n_free": n_free, "n_initial": n_initial, "n_opinions": n_opinions, "batch": batch}
        sizes |= {"generations": generations, "children": children}
        if min(sizes.values()) < 1:
            raise ValueError(f"{sizes}: all must be at least 1")
        self.free = free
        self.noise = noise
        self._sizes = sizes
        self._breeding = Breeding(generations, children)
        self._arrays = GeneArrays(space)
        self._front: list[Architecture] | None = None  # of the training-free search, spread first
        self._queue: list[Architecture] = []  # chosen, not asked yet
        self._population: Genes = np.empty((0, len(self._arrays.sizes)), dtype=np.int64)
        self._scales: dict[str, list[float]] = {}
        self._told: Told | None = None
        self._known: set[bytes] = set()  # keys of everything given out or told

    def settings(self) -> dict[str, Any]:
        """Return the free objectives, whether values have noise, and the sizes."""
        return {"free": self.free.identity, "noise": self.noise, **self._sizes}

    # --- ask ----------------------------------------------------------------------------------------------------------

    def _propose(self, n: int) -> list[Architecture]:
        if self._front is None:
            self._front = self._training_free()
        first = [arch for arch in self._front[: self._sizes["n_initial"]] if arch not in self._seen]
        if first:
            return [self._give(arch) for arch in first[:n]]
        n = min(n, self.n_left)
        self._queue = [arch for arch in self._queue if arch not in self._seen]  # told by someone else meanwhile
        if not self._queue and n:
            self._queue = self._chosen(max(n, self._sizes["batch"]))
        asked, self._queue = self._queue[:n], self._queue[n:]
        return [self._give(arch) for arch in asked]

    def _give(self, arch: Architecture) -> Architecture:
        self._known.add(to_genes(self.space, [arch])[0].tobytes())
        return self._give_out(arch)

    def _training_free(self) -> list[Architecture]:
        front = free_front(
            self._arrays, self._judged, self._free_laws, n_evaluations=self._sizes["n_free"],
            children=self._sizes["children"], rng=self._rng,
        )  # fmt: skip
        self._population = front.genes
        order = spread_first(front, self._free_laws[0], self._sizes["n_initial"])
        return self._arrays.architectures(front.genes[order])

    def _chosen(self, n: int) -> list[Architecture]:
        """Return 1 to n networks that are not known: by the model, else from the front, else at random."""
        if self._told is not None and len(self._told) >= _LEAST:
            archs = self._by_model(self._told, n)
        else:
            archs = [arch for arch in self._front or [] if arch not in self._seen][:n]
        return archs or [self._random_new()]

    def _by_model(self, told: Told, n: int) -> list[Architecture]:
        opinions = Opinions(
            told, self._judged, GeneBasis(self.space, n_extra=1), n=self._sizes["n_opinions"], rng=self._rng,
            scales=self._scales, noise=self.noise,
        )  # fmt: skip
        self._scales = opinions.scales
        candidates = self._candidates(told, opinions)
        self._population = candidates.genes
        expected, missed = opinions(to_genes(self.space, list(self._pending)))
        known = opinions(told.genes)[0][0] if self.noise else told.values
        met = told.violation <= 0
        rows = choose_batch(n, candidates, told=known[met], expected=expected, expected_violation=missed)
        return self._arrays.architectures(candidates.genes[rows])

    @cached_property
    def _judged(self) -> FreeProblem:
        """What the search believes of free values."""
        if not self.noise:
            return self.free
        from search.algorithms.smoothing import smoothed  # XGBoost and scikit-learn take a second to import

        return smoothed(self.space, self.free)

    @cached_property
    def _free_laws(self) -> list[LinearLaw]:
        return free_laws(self.space, self._judged)

    def _candidates(self, told: Told, opinions: Opinions) -> Candidates:
        if self.space.num_architectures <= _LISTED:
            genes = to_genes(self.space, [arch for arch in self.space.enumerate() if arch not in self._seen])
            return Candidates(genes, *opinions(genes))
        best = constrained_ranks(told.values, told.violation) == 0
        improve = WeightedBest(self._arrays, opinions.laws(self._free_laws))
        return evolve(
            np.concatenate([self._population, told.genes[best]]), told.genes[best], judge=opinions, arrays=self._arrays,
            known=self._known, breeding=self._breeding, rng=self._rng, improve=improve,
        )  # fmt: skip

    # --- tell ---------------------------------------------------------------------------------------------------------

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Note results; networks without one are not learned from."""
        points, missed = self._receive(archs, values, violation)
        genes = to_genes(self.space, archs)
        self._known.update(row.tobytes() for row in genes)
        good = is_valid(points) & np.isfinite(missed) if len(archs) else np.empty(0, dtype=bool)
        if not good.any():
            return
        if self._told is not None:
            check_same_objectives(self._told.values, points)
        free, free_violation = self._judged.evaluate(genes[good])
        new = Told(genes[good], free, free_violation, points[good], missed[good])
        self._told = new if self._told is None else self._told.joined(new)

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what was told, the candidates kept and the generator."""
        return super().state() | {
            "front": None if self._front is None else [arch.id for arch in self._front],
            "queue": [arch.id for arch in self._queue],
            "population": self._population.tolist(),
            "scales": self._scales,
            "told": None if self._told is None else self._told.to_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        self._front = None if state["front"] is None else [Architecture.from_id(i) for i in state["front"]]
        self._queue = [Architecture.from_id(i) for i in state["queue"]]
        self._population = np.array(state["population"], dtype=np.int64).reshape(-1, len(self._arrays.sizes))
        self._scales = state["scales"]
        self._told = None if state["told"] is None else Told.from_dict(state["told"])
        self._known = {row.tobytes() for row in to_genes(self.space, list(self._seen))} if self._seen else set()
