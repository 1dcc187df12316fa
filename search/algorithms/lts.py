"""LTS: training-free evolutionary search (Javaheripi et al. 2022, arXiv:2203.02094), and what starts from its front.

The number of decoder parameters stands for quality, so its search against hardware costs needs no network evaluated.
`LTS` is that evolution as an optimizer of whatever it is told. `LTSWarmStart` runs it inside, on objectives that cost
nothing (`free_problem.py`), then asks for the members of the front it found, then goes on with local search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from search.algorithms.free_problem import FreeProblem
from search.algorithms.gene_arrays import GeneArrays, Genes
from search.algorithms.local_search import LocalSearch
from search.algorithms.lts_population import FrontKind, LTSPopulation, LTSSettings
from search.algorithms.mo_rea import epsilon_net
from search.algorithms.optimizer import BaseOptimizer
from search.pareto import Floats, Normalisation, nondominated
from supernet.architecture import Architecture
from supernet.encoding import to_genes
from supernet.space import SearchSpace

_Told = tuple[Architecture, list[float], float]


class LTS(BaseOptimizer):
    """LTS's evolution; with objectives (-decoder parameters, latency, memory) it is the paper's search.

    A generation is 100 random architectures, then 80 children. `ask` never looks past its end. Networks that miss a
    budget count as evaluated and are no parents, where LTS redraws them.

    Args:
        space: where to search.
        rng: the only source of randomness.
        front: whom parents are drawn from: "strict" (LTS's code) or "hull" (LTS's slides).
    """

    name = "lts"

    def __init__(self, space: SearchSpace, *, rng: np.random.Generator, front: FrontKind = "strict") -> None:
        super().__init__(space, rng=rng)
        self.evolution = LTSSettings(front=front)
        self._arrays = GeneArrays(space)
        self._population = LTSPopulation(self._arrays, self.evolution, rng)
        self._rows: dict[Architecture, Genes] = {}  # this generation's genomes that have not been told
        self._queue: list[Architecture] = []  # this generation's, not asked yet
        self._told: list[_Told] = []

    def settings(self) -> dict[str, Any]:
        """Return sizes, probabilities and the kind of front."""
        return self.evolution.to_dict()

    def _propose(self, n: int) -> list[Architecture]:
        """Return up to `n` new architectures, at most to the end of the generation."""
        if not self._queue and not self._rows and self.n_left:
            self._breed()
        self._queue = [arch for arch in self._queue if arch not in self._seen]  # told by someone else meanwhile
        if not self._queue:  # a full generation in flight: workers go on
            return self._random(min(n, self.n_left))
        asked, self._queue = self._queue[:n], self._queue[n:]
        return [self._give_out(arch) for arch in asked]

    def _random(self, n: int) -> list[Architecture]:
        archs = [self._give_out(self._random_new()) for _ in range(n)]
        if archs:
            self._population.seen.update(self._arrays.keys(to_genes(self.space, archs)))
        return archs

    def _breed(self) -> None:
        genes = self._population.breed()
        if len(genes):
            self._rows = dict(zip(self._arrays.architectures(genes), genes, strict=True))
            self._queue = list(self._rows)

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Collect results; when a generation is complete the front is updated."""
        points, missed = self._receive(archs, values, violation)
        self._told += zip(archs, points.tolist(), missed.tolist(), strict=True)
        told = [arch for arch, _, _ in self._told]
        if self._told and not self._rows.keys() - set(told):
            genes = np.array([self._genome(arch) for arch in told], dtype=np.int64)
            values = np.array([v for _, v, _ in self._told], dtype=np.float64)
            self._population.tell(genes, values, np.array([missed for _, _, missed in self._told]))
            self._rows, self._told = {}, []

    def _genome(self, arch: Architecture) -> Genes:
        """Return the whole genome; architectures that the evolution did not breed have silent genes 0."""
        return self._rows[arch] if arch in self._rows else np.asarray(to_genes(self.space, [arch])[0])

    def state(self) -> dict[str, Any]:
        """Return the front, the open generation and the generator."""
        return super().state() | {
            "population": self._population.state(),
            "rows": {arch.id: row.tolist() for arch, row in self._rows.items()},
            "queue": [arch.id for arch in self._queue],
            "told": [[arch.id, _to_json(values), _to_json([missed])[0]] for arch, values, missed in self._told],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        self._population = LTSPopulation(self._arrays, self.evolution, self._rng)
        self._population.load_state(state["population"])
        self._rows = {Architecture.from_id(i): np.array(row, dtype=np.int64) for i, row in state["rows"].items()}
        self._queue = [Architecture.from_id(i) for i in state["queue"]]
        self._told = [
            (Architecture.from_id(i), _from_json(values), _from_json([missed])[0])
            for i, values, missed in state["told"]
        ]
        known = [*self._seen, *self._rows]
        self._population.seen = set(self._arrays.keys(to_genes(self.space, known))) if known else set()


# --- the inner search -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingFreeFront:
    """What the evolution found on free objectives.

    Attributes:
        genes: canonical genes of its Pareto front, one of equal values, (f, g).
        values: theirs, (f, m): the proxy first.
        n_evaluations: networks evaluated.
    """

    genes: Genes
    values: Floats
    n_evaluations: int


def training_free_front(
    space: SearchSpace,
    free: FreeProblem,
    *,
    rng: np.random.Generator,
    n_evaluations: int = 20_000,
    settings: LTSSettings | None = None,
) -> TrainingFreeFront:
    """Run LTS's evolution on free objectives, in arrays of genes.

    The front returned drops weakly dominated members and equals, whatever front the parents came from.

    Args:
        space: where to search.
        free: the objectives and budgets.
        rng: the only source of randomness.
        n_evaluations: of the free objectives; fewer in a space that has no more.
        settings: of the evolution; None for LTS's.

    Raises:
        ValueError: no network has a result and meets the budgets.
    """
    arrays = GeneArrays(space)
    population = LTSPopulation(arrays, settings or LTSSettings(), rng)
    found: list[tuple[Genes, Floats]] = []
    left = n_evaluations
    while left > 0 and len(genes := population.breed()[:left]):
        values, violation = free.evaluate(arrays.canonical(genes))
        population.tell(genes, values, violation)
        left -= len(genes)
        good = violation <= 0
        found.append(_pareto(arrays.canonical(genes)[good], values[good]))
    genes, values = _pareto(np.concatenate([g for g, _ in found]), np.concatenate([v for _, v in found]))
    if not len(genes):
        raise ValueError(
            f"none of {n_evaluations - left} networks of space {space.name!r} has a result and meets the budgets: "
            f"relax them or widen the space ({free.identity})"
        )
    return TrainingFreeFront(genes, values, n_evaluations - left)


def _pareto(genes: Genes, values: Floats) -> tuple[Genes, Floats]:
    keep = nondominated(values, duplicates=False)
    return genes[keep], values[keep]


# --- warm start -------------------------------------------------------------------------------------------------------


class LTSWarmStart(LocalSearch):
    """The front of a training-free search, evaluated, then local search on active genes from everything evaluated.

    The front is asked in an order of which every beginning is spread evenly over it, so a budget smaller than the
    front covers all of it.

    Args:
        space: where to search.
        rng: the only source of randomness.
        free: objectives that need no evaluation of quality, the proxy first: `free_problem(space, objectives)`.
        n_free: evaluations of them in the inner search, which runs at the first `ask`.
        n_front: members of the front to evaluate at most; None for all. On the shipped benchmarks of gpt-s, m, l 60
            had the regret of the whole front (100 to 360 members) after 50 and 100 evaluations and less after 300.
        front: whom parents of the inner search are drawn from: "strict" or "hull". Of three or more free objectives
            "hull" takes minutes.

    Raises:
        ValueError: no free objectives, or sizes that are not possible.
    """

    name = "lts_warm_start"
    needs_free_problem = True  # see free_problem.with_free_problem

    def __init__(
        self,
        space: SearchSpace,
        *,
        rng: np.random.Generator,
        free: FreeProblem | None = None,
        n_free: int = 20_000,
        n_front: int | None = 60,
        front: FrontKind = "strict",
    ) -> None:
        super().__init__(space, rng=rng)
        if free is None:
            raise ValueError(
                "LTSWarmStart needs the free objectives: functools.partial(LTSWarmStart, free=free_problem(space, "
                "objectives)), or with_free_problem(LTSWarmStart, space, objectives)"
            )
        if n_free < 1 or (n_front is not None and n_front < 1):
            raise ValueError(f"n_free = {n_free}, n_front = {n_front}: both must be at least 1")
        self.free = free
        self.n_free = n_free
        self.n_front = n_front
        self.evolution = LTSSettings(front=front)
        self._is_started = False

    def settings(self) -> dict[str, Any]:
        """Return the free objectives and the sizes; the front itself is part of the state."""
        return {"free": self.free.identity, "n_free": self.n_free, "n_front": self.n_front, **self.evolution.to_dict()}

    def _propose(self, n: int) -> list[Architecture]:
        if not self._is_started:
            self.initial = self._front_members()
            self._is_started = True
        return super()._propose(n)

    def _front_members(self) -> list[Architecture]:
        found = training_free_front(
            self.space, self.free, rng=self._rng, n_evaluations=self.n_free, settings=self.evolution
        )
        order = epsilon_net(Normalisation.of(found.values)(found.values))[: self.n_front]
        return self._arrays.architectures(found.genes[order])

    def state(self) -> dict[str, Any]:
        """Return the front to evaluate and what local search returns."""
        initial = [arch.id for arch in self.initial] if self._is_started else None
        return super().state() | {"initial": initial}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        self._is_started = state["initial"] is not None
        self.initial = [Architecture.from_id(i) for i in state["initial"] or []]


def _to_json(values: Sequence[float]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values]


def _from_json(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else float(value) for value in values]
