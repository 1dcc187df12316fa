"""NSGA-III (Deb and Jain 2014) and SMS-EMOA (Beume et al. 2007) with pymoo's survival; pymoo is optional.

pymoo keeps the population. Children come from the crossover and mutation of the search space, so none leaves the space
or is evaluated twice. Parents win binary tournaments as in pymoo: fewer missed budgets, then (SMS-EMOA) dominance,
then chance.

pymoo's objects have no state that JSON holds, so a state has the seed of pymoo's generator and everything told, and
`load_state` tells it again, which takes a moment for long searches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from search.algorithms.front_archive import check_same_objectives
from search.algorithms.optimizer import BaseOptimizer
from search.operators import mutate
from search.pareto import Floats
from supernet.architecture import Architecture
from supernet.encoding import gene_sizes, to_genes
from supernet.space import SearchSpace

if TYPE_CHECKING:
    from pymoo.core.algorithm import Algorithm
    from pymoo.core.individual import Individual
    from pymoo.core.population import Population

_TRIES = 100  # attempts at an unseen child before a random architecture takes its place
_NO_RESULT = 1e9  # violation of an architecture without a result, larger than any real one (a share of a limit)
_Result = tuple[Architecture, list[float], float]


class _PymooOptimizer(BaseOptimizer):
    """A generational algorithm whose survival is pymoo's.

    Args:
        space: where to search.
        rng: the only source of randomness.
        population: size of the population and of a generation.
        crossover: probability that a child has two parents.

    Raises:
        ImportError: pymoo is not installed.
    """

    def __init__(
        self, space: SearchSpace, *, rng: np.random.Generator, population: int = 20, crossover: float = 0.9
    ) -> None:
        super().__init__(space, rng=rng)
        if population < 2 or not 0 <= crossover <= 1:
            raise ValueError(f"population = {population}, crossover = {crossover}: need >= 2 and a probability")
        _require_pymoo(self.name)
        self.population = population
        self.crossover = crossover
        self._seed = int(rng.integers(2**31))
        self._algorithm: Algorithm | None = None  # from the first complete generation on
        self._generations: list[list[_Result]] = []  # all that pymoo was told
        self._told: list[_Result] = []  # this generation's results so far
        self._queue: list[Architecture] = []  # this generation's, not asked yet
        self._open: dict[Architecture, None] = {}  # this generation's, not told yet

    def settings(self) -> dict[str, Any]:
        """Return the sizes and probabilities."""
        return {"population": self.population, "crossover": self.crossover}

    def _new_algorithm(self, n_objectives: int, first: Population) -> Algorithm:
        raise NotImplementedError

    # --- ask ----------------------------------------------------------------------------------------------------------

    def _propose(self, n: int) -> list[Architecture]:
        """Return up to `n` new architectures, at most to the end of the generation."""
        if not self._open:
            self._queue = self._breed()
            self._open = dict.fromkeys(self._queue)
        self._queue = [arch for arch in self._queue if arch not in self._seen]  # told by someone else meanwhile
        if not self._queue:  # a full generation in flight: workers go on
            return [self._give_out(self._random_new()) for _ in range(min(n, self.n_left))]
        asked, self._queue = self._queue[:n], self._queue[n:]
        return [self._give_out(arch) for arch in asked]

    def _breed(self) -> list[Architecture]:
        bred: dict[Architecture, None] = {}
        for _ in range(min(self.population, self.n_left)):
            bred[self._child(bred)] = None
        return list(bred)

    def _child(self, bred: dict[Architecture, None]) -> Architecture:
        for _ in range(_TRIES if self._algorithm is not None else 0):
            child = self._select()
            if self._rng.random() < self.crossover:
                child = self.space.crossover(child, self._select(), self._rng)
            child = mutate(self.space, child, self._rng)
            if child not in self._seen and child not in bred:
                return child
        return self.space.sample_unique(1, self._rng, exclude=[*self._seen, *bred])[0]

    def _select(self) -> Architecture:
        """Return the winner of a binary tournament."""
        assert self._algorithm is not None
        members = self._algorithm.pop
        first, second = members[self._rng.integers(len(members), size=2)]
        order = self._compare(first, second)
        winner: Architecture = (first if order < 0 or (order == 0 and self._rng.random() < 0.5) else second).get("arch")
        return winner

    def _compare(self, first: Individual, second: Individual) -> int:
        """Return -1 when the first is better, 1 when the second is, 0 when neither."""
        return int(np.sign(first.CV[0] - second.CV[0]))

    # --- tell ---------------------------------------------------------------------------------------------------------

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Collect results; when a generation is complete pymoo selects the survivors."""
        points, missed = self._receive(archs, values, violation)
        self._told += zip(archs, points.tolist(), missed.tolist(), strict=True)
        was_open = bool(self._open)
        for arch in archs:
            self._open.pop(arch, None)
        if was_open and not self._open:
            self._survive(self._told)
            self._told = []

    def _survive(self, results: list[_Result]) -> None:
        values = np.array([v for _, v, _ in results], dtype=np.float64)
        if self._generations:
            check_same_objectives(np.array([v for _, v, _ in self._generations[0]]), values)
        children = self._individuals(results, values)
        if self._algorithm is None:
            self._algorithm = self._new_algorithm(values.shape[1], children)
            self._algorithm.setup(_problem(self.space, values.shape[1]), seed=self._seed)
            self._algorithm.ask()  # gives the children back, as the first population
        self._algorithm.tell(infills=children)
        self._generations.append(results)

    def _individuals(self, results: list[_Result], values: Floats) -> Population:
        """Return pymoo's form of the results; what has none counts as missing its budgets by far."""
        from pymoo.core.population import Population

        archs, missed = [arch for arch, _, _ in results], np.array([v for _, _, v in results], dtype=np.float64)
        bad = ~np.isfinite(values).all(axis=1) | ~np.isfinite(missed)
        worst = values[~bad].max(axis=0) if not bad.all() else np.zeros(values.shape[1])
        made = Population.new("X", to_genes(self.space, archs), "F", np.where(bad[:, None], worst, values))
        made.set("G", np.where(bad, _NO_RESULT, missed)[:, None])
        for individual, arch in zip(made, archs, strict=True):
            individual.set("arch", arch)
        return made

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return pymoo's seed, all that it was told, the open generation and the generator."""
        return super().state() | {
            "seed": self._seed,
            "generations": [[_to_json(result) for result in results] for results in self._generations],
            "told": [_to_json(result) for result in self._told],
            "queue": [arch.id for arch in self._queue],
            "open": [arch.id for arch in self._open],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`: pymoo is told everything again; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        self._seed = state["seed"]
        self._algorithm, self._generations = None, []
        for results in state["generations"]:
            self._survive([_from_json(result) for result in results])
        self._told = [_from_json(result) for result in state["told"]]
        self._queue = [Architecture.from_id(i) for i in state["queue"]]
        self._open = {Architecture.from_id(i): None for i in state["open"]}


class NSGA3(_PymooOptimizer):
    """NSGA-III: survival by reference directions (Das-Dennis, as many as the population holds)."""

    name = "nsga3"

    def _new_algorithm(self, n_objectives: int, first: Population) -> Algorithm:
        from pymoo.algorithms.moo.nsga3 import NSGA3 as PymooNSGA3  # noqa: N811
        from pymoo.util.ref_dirs import get_reference_directions

        partitions = 1
        while n_objectives > 1 and _n_directions(n_objectives, partitions + 1) <= self.population:
            partitions += 1
        directions = get_reference_directions("das-dennis", n_objectives, n_partitions=partitions)
        return PymooNSGA3(directions, pop_size=max(self.population, len(directions)), sampling=first)


class SMSEMOA(_PymooOptimizer):
    """SMS-EMOA: survival by contribution to the hypervolume; slow above about four objectives."""

    name = "sms_emoa"

    def _new_algorithm(self, n_objectives: int, first: Population) -> Algorithm:
        from pymoo.algorithms.moo.sms import SMSEMOA as PymooSMSEMOA  # noqa: N811

        return PymooSMSEMOA(pop_size=self.population, sampling=first)

    def _compare(self, first: Individual, second: Individual) -> int:
        if (order := super()._compare(first, second)) or first.CV[0] > 0:
            return order
        return int((second.F < first.F).any()) - int((first.F < second.F).any())


def _n_directions(n_objectives: int, partitions: int) -> int:
    from math import comb

    return comb(n_objectives + partitions - 1, partitions)


def _problem(space: SearchSpace, n_objectives: int) -> Any:
    from pymoo.core.problem import Problem

    upper = gene_sizes(space) - 1
    return Problem(n_var=len(upper), n_obj=n_objectives, n_ieq_constr=1, xl=0, xu=upper, vtype=int)


def _require_pymoo(name: str) -> None:
    try:
        import pymoo  # noqa: F401
    except ImportError as error:
        raise ImportError(f"algorithm {name!r} is pymoo's, which is not installed: pip install pymoo") from error


def _to_json(result: _Result) -> list[Any]:
    arch, values, missed = result
    return [arch.id, *([v if np.isfinite(v) else None for v in row] for row in (values, [missed]))]


def _from_json(result: Sequence[Any]) -> _Result:
    values, missed = ([float("nan") if v is None else float(v) for v in row] for row in result[1:])
    return Architecture.from_id(result[0]), values, missed[0]
