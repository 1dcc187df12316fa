"""MOASHA: asynchronous successive halving for several objectives (Schmucker et al. 2021, arXiv:2106.12639).

Networks are drawn at random and evaluated at the lowest fidelity, rung 0; the best 1/eta of those at a rung are
evaluated at the next, eta times as costly one. Rungs are grace * eta^k up to 1; with eta = 3 and 4 rungs 1/27, 1/9,
1/3 and 1 of the validation text. "Best" is the order of `mo_rea.priority`: non-dominated fronts, epsilon-net
order within one. (syne-tune, and with it HW-GPT-Bench, use the sorted list of indices as if it were that
rank, and HW-GPT-Bench's objective has no fidelity, so that its MOASHA is random search.)

* "stopping": a network goes on when, as its result comes, it is among the best max(1, n // eta) of the n at its rung;
  else it is stopped for good. The first at a rung goes on.
* "promotion" (Li et al. 2020, arXiv:1810.05934, algorithm 2): whenever a job is wanted, the best network that is among
  the best n // eta of its rung and has not gone on yet does so, from the highest rung downwards; where there is none, a
  new one is drawn. A network that is overtaken late is not lost, and one that led early may never go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.algorithms.front_archive import check_same_objectives
from search.algorithms.mo_rea import epsilon_net
from search.algorithms.optimizer import BaseOptimizer
from search.fidelity import FidelityJob, rung_fidelities
from search.pareto import Floats, constrained_ranks, is_valid
from supernet.architecture import Architecture
from supernet.space import SearchSpace

Variant = Literal["stopping", "promotion"]
_Step = tuple[Architecture, int]  # an architecture at a rung


class MOASHA(BaseOptimizer):
    """Successive halving over fidelities; asked with `ask_jobs`, told with `tell_jobs`.

    Args:
        space: where to search.
        rng: the only source of randomness.
        eta: one in so many goes on to the next rung, which costs so many times as much.
        n_rungs: number of fidelities; the lowest is eta^(1 - n_rungs).
        variant: "stopping" or "promotion", see the top of this file.

    Attributes:
        fidelities: of the rungs, ascending.
    """

    name = "moasha"

    def __init__(
        self,
        space: SearchSpace,
        *,
        rng: np.random.Generator,
        eta: float = 3,
        n_rungs: int = 4,
        variant: Variant = "stopping",
    ) -> None:
        super().__init__(space, rng=rng)
        if variant not in ("stopping", "promotion"):
            raise ValueError(f"variant = {variant!r}; allowed: stopping, promotion")
        self.eta = eta
        self.variant = variant
        self.fidelities = rung_fidelities(eta=eta, n_rungs=n_rungs)
        self._rungs = [_Rung() for _ in self.fidelities]
        self._next: list[_Step] = []  # to go on, in order
        self._flying: dict[_Step, None] = {}  # asked, not told
        self._unanswered: list[_Step] = []  # asked before the state was saved, never told

    def settings(self) -> dict[str, Any]:
        """Return eta, the number of rungs and the variant."""
        return {"eta": self.eta, "n_rungs": len(self.fidelities), "variant": self.variant}

    # --- ask ----------------------------------------------------------------------------------------------------------

    def ask(self, n: int) -> list[Architecture]:
        """Refuse: an architecture without its fidelity would be evaluated in full, and that is random search."""
        raise TypeError("moasha gives architectures with fidelities: use ask_jobs and tell_jobs, or run_search")

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Refuse, as `ask`."""
        raise TypeError("moasha takes values with fidelities: use ask_jobs and tell_jobs, or run_search")

    def ask_jobs(self, n: int) -> list[FidelityJob]:
        """Return 1 to `n` jobs, those that go on to a higher rung first; none when nothing is left to do.

        After `load_state`, those that were asked and never told come first.
        """
        if n < 1:
            raise ValueError(f"ask_jobs({n}): ask for at least one job")
        if self._unanswered:
            again, self._unanswered = self._unanswered[:n], self._unanswered[n:]
            return [self._job(step) for step in again]
        steps: list[_Step] = []
        while len(steps) < n and (step := self._step()) is not None:
            self._flying[step] = None
            steps.append(step)
        return [self._job(step) for step in steps]

    def _step(self) -> _Step | None:
        if self.variant == "promotion":
            self._promote()
        if self._next:
            return self._next.pop(0)
        if self.n_left <= 0:
            return None
        arch = self._random_new()
        self._seen[arch] = arch.id
        return arch, 0

    def _promote(self) -> None:
        """Let the best network that may go on do so."""
        for place in reversed(range(len(self._rungs) - 1)):
            rung = self._rungs[place]
            for arch in rung.best(int(len(rung.archs) // self.eta)):
                if arch not in rung.gone_on:
                    self._go_on(arch, place)
                    return

    def _go_on(self, arch: Architecture, place: int) -> None:
        self._rungs[place].gone_on[arch] = None
        self._next.append((arch, place + 1))

    def _job(self, step: _Step) -> FidelityJob:
        return FidelityJob(step[0], self.fidelities[step[1]])

    # --- tell ---------------------------------------------------------------------------------------------------------

    def tell_jobs(self, jobs: Sequence[FidelityJob], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Record results at their rungs; with "stopping", decide for each, once all are recorded, whether it goes on.

        Raises:
            ValueError: values of another shape, a fidelity that is no rung, a job told before or not due yet.
        """
        steps = [(job.architecture, self._rung_of(job.fidelity)) for job in jobs]
        self._check_due(steps)
        points, missed = self._receive([job.architecture for job in jobs], values, violation)
        for (arch, place), point, miss in zip(steps, points, missed, strict=True):
            self._rungs[place].add(arch, point, float(miss))
            self._flying.pop((arch, place), None)
        if self.variant == "stopping":
            self._let_the_best_go_on(steps)

    def _let_the_best_go_on(self, steps: Sequence[_Step]) -> None:
        for place, rung in enumerate(self._rungs[:-1]):
            new = [arch for arch, own in steps if own == place]
            if new:
                best = set(rung.best(max(1, int(len(rung.archs) // self.eta))))
                for arch in new:
                    if arch in best:
                        self._go_on(arch, place)

    def _rung_of(self, fidelity: float) -> int:
        if fidelity not in self.fidelities:
            raise ValueError(f"told a result at fidelity {fidelity:g}; the rungs are {self.fidelities}")
        return self.fidelities.index(fidelity)

    def _check_due(self, steps: Sequence[_Step]) -> None:
        told: set[_Step] = set()
        for arch, place in steps:
            if (arch, place) in told or arch in self._rungs[place].archs:
                raise ValueError(f"{arch.id} was told at fidelity {self.fidelities[place]:g} before")
            if place and arch not in self._rungs[place - 1].archs:
                raise ValueError(
                    f"{arch.id} was told at fidelity {self.fidelities[place]:g} before {self.fidelities[place - 1]:g}"
                )
            told.add((arch, place))

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the rungs, what goes on, what is asked, and the generator."""
        return super().state() | {
            "rungs": [rung.state() for rung in self._rungs],
            "next": [[arch.id, place] for arch, place in self._next],
            "flying": [[arch.id, place] for arch, place in self._flying],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        for rung, own in zip(self._rungs, state["rungs"], strict=True):
            rung.load_state(own)
        self._next = [(Architecture.from_id(i), place) for i, place in state["next"]]
        self._flying = {(Architecture.from_id(i), place): None for i, place in state["flying"]}
        self._unanswered = list(self._flying)


class _Rung:
    """Results at one fidelity.

    Attributes:
        archs: in the order they came, with their places.
        gone_on: those that went on to the next rung.
    """

    def __init__(self) -> None:
        self.archs: dict[Architecture, int] = {}
        self.gone_on: dict[Architecture, None] = {}
        self._values: list[Floats] = []
        self._violation: list[float] = []
        self._best: list[Architecture] = []  # the best so many, while nothing is added

    def add(self, arch: Architecture, values: Floats, violation: float) -> None:
        if self._values:
            check_same_objectives(self._values[0][None], values[None])
        self.archs[arch] = len(self.archs)
        self._values.append(values)
        self._violation.append(violation)
        self._best = []

    def best(self, n: int) -> list[Architecture]:
        """Return the best `n` of those with a result, the best first."""
        if n < 1 or not self.archs:
            return []
        if len(self._best) < n:
            archs = list(self.archs)
            self._best = [archs[i] for i in leading(np.array(self._values), np.array(self._violation), n)]
        return self._best[:n]

    def state(self) -> dict[str, Any]:
        return {
            "archs": [arch.id for arch in self.archs],
            "values": [[_plain(v) for v in row] for row in self._values],
            "violation": [_plain(v) for v in self._violation],
            "gone_on": [arch.id for arch in self.gone_on],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.archs = {Architecture.from_id(i): place for place, i in enumerate(state["archs"])}
        self._values = [np.array([_number(v) for v in row]) for row in state["values"]]
        self._violation = [_number(v) for v in state["violation"]]
        self.gone_on = {Architecture.from_id(i): None for i in state["gone_on"]}
        self._best = []


def leading(values: Floats, violation: Floats, n: int) -> NDArray[np.int64]:
    """Return the indices of the first `n` with a result in the order of `mo_rea.priority`, the best first.

    The same without ranking the others, which are most: only the fronts that are needed are put in epsilon-net order.
    """
    valid = np.flatnonzero(is_valid(values) & np.isfinite(violation))
    points = values[valid]
    fronts = constrained_ranks(points, violation[valid])
    span = np.ptp(points, axis=0) if len(points) else np.ones(values.shape[1])
    scaled = points / np.where(span > 0, span, 1.0)  # distances do not ask where zero is
    order = np.empty(0, dtype=np.int64)
    for front in range(int(fronts.max(initial=-1)) + 1):
        if len(order) >= n:
            break
        members = np.flatnonzero(fronts == front)
        order = np.concatenate([order, members[epsilon_net(scaled[members])] if len(members) > 1 else members])
    return valid[order[:n]]


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
