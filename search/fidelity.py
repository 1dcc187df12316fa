"""Evaluating networks on less than everything: fidelities, jobs, and what objectives and algorithms offer for them.

A fidelity is a share of a full evaluation, above 0 and at most 1: of the validation text that a live supernet reads.
Its cost is counted in tokens, and what was read at a lower fidelity is not read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from search.objectives import Objective
from search.pareto import Floats
from supernet.architecture import Architecture


def rung_fidelities(*, eta: float = 3, n_rungs: int = 4) -> tuple[float, ...]:
    """Return the shares grace * eta^k, k = 0 .. n_rungs - 1, with grace such that the last is 1.

    Raises:
        ValueError: eta not above 1, or no rung.

    Example:
        >>> [round(1 / fidelity) for fidelity in rung_fidelities(eta=3, n_rungs=4)]
        [27, 9, 3, 1]
    """
    if not eta > 1 or n_rungs < 1:
        raise ValueError(f"eta = {eta}, n_rungs = {n_rungs}: need eta > 1 and at least one rung")
    return tuple(1 / eta**k for k in reversed(range(n_rungs)))


@dataclass(frozen=True)
class FidelityJob:
    """An architecture to be evaluated at a fidelity."""

    architecture: Architecture
    fidelity: float


@runtime_checkable
class FidelityObjective(Protocol):
    """An objective (search.objectives.Objective) that can be evaluated at a lower fidelity for less."""

    def tokens(self, fidelity: float) -> int:
        """Return the tokens of one evaluation at a fidelity, those of lower fidelities included."""
        ...

    def at(self, archs: Sequence[Architecture], fidelities: Sequence[float]) -> Floats:
        """Return values (n,), each at its own fidelity (n,)."""
        ...


@runtime_checkable
class MultiFidelityOptimizer(Protocol):
    """A search algorithm that says at which fidelity each architecture is to be evaluated.

    It stands beside search.algorithms.optimizer.Optimizer, with the same `state` and `load_state`.
    """

    fidelities: tuple[float, ...]

    def ask_jobs(self, n: int) -> list[FidelityJob]:
        """Return 1 to `n` jobs not asked before; none when nothing is left to do."""
        ...

    def tell_jobs(self, jobs: Sequence[FidelityJob], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Report values (n, m), NaN where there is no result, and by how much (n,) constraints are missed (0: met)."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that the next `ask_jobs` depends on, in plain JSON types."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken; ValueError for another algorithm, setting or space."""
        ...


@dataclass(frozen=True)
class FidelityCosts:
    """Tokens of an evaluation at each fidelity of a search, cumulative.

    Attributes:
        fidelities: ascending; the last is 1.
        tokens: of each.
    """

    fidelities: tuple[float, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, objectives: Sequence[Objective], fidelities: Sequence[float], *, algorithm: str) -> FidelityCosts:
        """Return what the objectives cost at each fidelity; those that are free cost nothing.

        Raises:
            ValueError: an objective that is neither free nor has a fidelity, none that has one, or two fidelities that
                are the same tokens.
        """
        paid = [o for o in objectives if not o.is_free]
        rigid = [o for o in paid if not isinstance(o, FidelityObjective)]
        if rigid or not paid:
            raise ValueError(_no_fidelity(algorithm, [o.name for o in rigid or objectives], all_free=not paid))
        costs = [sum(o.tokens(f) for o in paid if isinstance(o, FidelityObjective)) for f in fidelities]
        if sorted(set(costs)) != costs:
            raise ValueError(
                f"the fidelities {[f'{f:.3g}' for f in fidelities]} are {costs} tokens of text, which are not all "
                "different: give more text (n_blocks) or fewer rungs (algorithm.n_rungs)"
            )
        return cls(tuple(fidelities), tuple(costs))

    @property
    def full(self) -> int:
        """Tokens of a full evaluation."""
        return self.tokens[-1]

    def step(self, fidelity: float) -> int:
        """Return the tokens that a job adds to those of the fidelity below it."""
        place = self.fidelities.index(fidelity)
        return self.tokens[place] - (self.tokens[place - 1] if place else 0)


def _no_fidelity(algorithm: str, names: Sequence[str], *, all_free: bool) -> str:
    why = (
        f"of the objectives {list(names)} none costs an evaluation, so there is nothing to save"
        if all_free
        else f"{list(names)} cannot be evaluated on a part of the text: what a surrogate or a table says is the "
        "same at every fidelity, and without one this algorithm is random search (as HW-GPT-Bench's MOASHA was)"
    )
    return f"algorithm {algorithm!r} needs a quality with a fidelity, such as objectives=live-perplexity; {why}"


@dataclass(frozen=True)
class AtFidelities:
    """An objective at given fidelities (n,), to be called with as many architectures; others stay as they are."""

    objective: Objective
    fidelities: tuple[float, ...]

    @property
    def name(self) -> str:
        """Of the objective."""
        return self.objective.name

    @property
    def unit(self) -> str:
        """Of the objective."""
        return self.objective.unit

    @property
    def is_free(self) -> bool:
        """As the objective."""
        return self.objective.is_free

    @property
    def identity(self) -> str:
        """Of the objective."""
        return self.objective.identity

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return values (n,)."""
        if isinstance(self.objective, FidelityObjective):
            return np.asarray(self.objective.at(archs, self.fidelities), dtype=np.float64)
        return self.objective(archs)
