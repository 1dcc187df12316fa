"""NSGA-II: elitist non-dominated sorting genetic algorithm (Deb et al. 2002, doi:10.1109/4235.996017).

On architectures: binary tournament on (rank, crowding), uniform crossover of the global genes and of every layer's
genes, mutation of each active gene with probability 1/active (at least one), (mu + lambda) survival. Constraints by
Deb's constraint domination.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from search.algorithms.optimizer import BaseOptimizer
from search.operators import mutate, tournament
from search.pareto import Floats, constrained_ranks, crowding_distance, is_valid
from supernet.architecture import Architecture
from supernet.space import SearchSpace

_TRIES = 100  # attempts at an unseen child before a random architecture takes its place


class NSGA2(BaseOptimizer):
    """NSGA-II over a search space.

    A generation is `population` architectures. `ask` never looks past its end, so the batch size changes how many
    are evaluated together and not which.

    Args:
        space: where to search.
        rng: the only source of randomness.
        population: size of the population and of a generation; 20 suits up to about 1,000 evaluations, 100 more.
        crossover: probability that a child has two parents.
        initial: architectures of the first generation; random ones fill it up (a warm start).
    """

    name = "nsga2"

    def __init__(
        self,
        space: SearchSpace,
        *,
        rng: np.random.Generator,
        population: int = 20,
        crossover: float = 0.9,
        initial: Sequence[Architecture] = (),
    ) -> None:
        super().__init__(space, rng=rng)
        if population < 2 or not 0 <= crossover <= 1:
            raise ValueError(f"population = {population}, crossover = {crossover}: need >= 2 and a probability")
        self.population = population
        self.crossover = crossover
        self.initial = [space.validate(arch) for arch in dict.fromkeys(initial)][:population]
        self._parents: list[Architecture] = []
        self._values: Floats = np.empty((0, 0))  # of the parents
        self._violation: Floats = np.empty(0)
        self._rank = np.empty(0, dtype=np.int64)
        self._crowding: Floats = np.empty(0)
        self._told: list[tuple[Architecture, list[float], float]] = []  # this generation's results so far

    def settings(self) -> dict[str, Any]:
        """Return the sizes, probabilities and the warm start."""
        return {
            "population": self.population,
            "crossover": self.crossover,
            "initial": [arch.id for arch in self.initial],
        }

    # --- ask ----------------------------------------------------------------------------------------------------------

    def _propose(self, n: int) -> list[Architecture]:
        """Return up to `n` new architectures, at most to the end of the generation while it can still be filled."""
        room = self.population - len(self._told) - len(self._pending)
        wanted = min(n, self.n_left, room if room > 0 else n)  # a full generation in flight: workers go on
        return [self._give_out(self._child()) for _ in range(wanted)]

    def _child(self) -> Architecture:
        for arch in self.initial:
            if arch not in self._seen:
                return arch
        for _ in range(_TRIES if self._parents else 0):
            child = self._offspring()
            if child not in self._seen:
                return child
        return self._random_new()

    def _offspring(self) -> Architecture:
        child = self._select()
        if self._rng.random() < self.crossover:
            child = self.space.crossover(child, self._select(), self._rng)
        return mutate(self.space, child, self._rng)

    def _select(self) -> Architecture:
        return self._parents[tournament(self._rank, self._crowding, self._rng)]

    # --- tell ---------------------------------------------------------------------------------------------------------

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Collect results; when a generation is complete the best of parents and children survive."""
        points, missed = self._receive(archs, values, violation)
        self._told += zip(archs, points.tolist(), missed.tolist(), strict=True)
        if len(self._told) >= self.population:
            self._survive()

    def _survive(self) -> None:
        archs = self._parents + [arch for arch, _, _ in self._told]
        children = np.array([v for _, v, _ in self._told], dtype=np.float64)
        values = np.concatenate([self._values, children]) if self._parents else children
        violation = np.concatenate([self._violation, [missed for _, _, missed in self._told]])
        self._told = []
        valid = np.flatnonzero(is_valid(values) & np.isfinite(violation))
        rank = constrained_ranks(values[valid], violation[valid])
        crowding = _crowding_by_front(values[valid], rank)
        best = np.lexsort((-crowding, rank))[: self.population]
        self._set_parents([archs[i] for i in valid[best]], values[valid[best]], violation[valid[best]])

    def _set_parents(self, parents: list[Architecture], values: Floats, violation: Floats) -> None:
        """Take a population; ranks and crowding for the tournament are those within it."""
        self._parents, self._values, self._violation = parents, values, violation
        self._rank = constrained_ranks(values, violation) if parents else np.empty(0, dtype=np.int64)
        self._crowding = _crowding_by_front(values, self._rank)

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the population, the open generation and the generator."""
        return super().state() | {
            "parents": [arch.id for arch in self._parents],
            "values": self._values.tolist(),
            "violation": self._violation.tolist(),
            "told": [[arch.id, [_to_json(v) for v in values], _to_json(m)] for arch, values, m in self._told],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        parents = [Architecture.from_id(i) for i in state["parents"]]
        values = np.array(state["values"], dtype=np.float64).reshape(len(parents), -1) if parents else np.empty((0, 0))
        self._set_parents(parents, values, np.array(state["violation"], dtype=np.float64))
        self._told = [
            (Architecture.from_id(i), [_from_json(v) for v in values], _from_json(m)) for i, values, m in state["told"]
        ]


def _crowding_by_front(values: Floats, rank: np.ndarray) -> Floats:
    crowding = np.zeros(len(values))
    for front in np.unique(rank):
        members = rank == front
        crowding[members] = crowding_distance(values[members])
    return crowding


def _to_json(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _from_json(value: float | None) -> float:
    return float("nan") if value is None else float(value)
