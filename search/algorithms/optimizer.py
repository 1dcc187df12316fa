"""What every search algorithm offers: ask for architectures, tell their values, and a state that JSON can hold.

An algorithm is a class called as `Algorithm(space, rng=rng, ...)`. It never evaluates anything itself, so the same
class searches on a surrogate, a table or a live supernet. `BaseOptimizer` keeps what all of them need: the random
generator, the set of architectures already given out (compared by their canonical value, so that no network is
evaluated twice), and saving and loading both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from search.pareto import Floats, as_values
from supernet.architecture import Architecture
from supernet.space import SearchSpace


class Optimizer(Protocol):
    """A multi-objective search algorithm; all objectives are minimised."""

    def ask(self, n: int) -> list[Architecture]:
        """Return 1 to `n` architectures not asked before; none when the space is exhausted."""
        ...

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Report values (n, m), NaN where there is no result, and by how much (n,) constraints are missed (0: met)."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that the next `ask` depends on, in plain JSON types."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken; ValueError for another algorithm, setting or space."""
        ...


class OptimizerFactory(Protocol):
    """Builds an optimizer: an algorithm class, or `functools.partial` of one with its settings."""

    def __call__(self, space: SearchSpace, *, rng: np.random.Generator) -> Optimizer:
        """Return a fresh optimizer of `space` that draws from `rng`."""
        ...


class BaseOptimizer:
    """Random generator, no repeated architectures, and a state.

    Attributes:
        name: what states and messages call the algorithm.
        space: the space searched.
    """

    name = "optimizer"

    def __init__(self, space: SearchSpace, *, rng: np.random.Generator) -> None:
        self.space = space
        self._rng = rng
        self._pending: dict[Architecture, None] = {}  # asked, not told; dicts keep the order
        self._seen: dict[Architecture, str] = {}  # asked or told, with their ids
        self._again: list[Architecture] = []  # asked before the state was saved, never told

    def settings(self) -> dict[str, Any]:
        """Return the settings that a resumed search must share, in plain JSON types."""
        return {}

    @property
    def n_left(self) -> int:
        """Number of architectures of the space not given out yet."""
        return self.space.num_architectures - len(self._seen)

    def ask(self, n: int) -> list[Architecture]:
        """Return 1 to `n` architectures not asked before; none when the space is exhausted.

        After `load_state`, those that were asked and never told come first.
        """
        if n < 1:
            raise ValueError(f"ask({n}): ask for at least one architecture")
        if self._again:
            again, self._again = self._again[:n], self._again[n:]
            return again
        return self._propose(n)

    def _propose(self, n: int) -> list[Architecture]:
        """Return up to `n` new architectures, each passed through `_give_out`."""
        raise NotImplementedError

    def _give_out(self, arch: Architecture) -> Architecture:
        self._pending[arch] = None
        self._seen[arch] = arch.id
        return arch

    def _random_new(self) -> Architecture:
        """Draw an architecture not given out before (there must be one left)."""
        for _ in range(100):
            arch = self.space.sample(self._rng)
            if arch not in self._seen:
                return arch
        return self.space.sample_unique(1, self._rng, exclude=list(self._seen))[0]

    def _receive(
        self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None
    ) -> tuple[Floats, Floats]:
        """Check what was told, note it as seen, and return values (n, m) and violation (n,)."""
        points = as_values(values) if len(archs) else np.empty((0, 1))
        missed = np.zeros(len(archs)) if violation is None else np.asarray(violation, dtype=np.float64)
        if len(points) != len(archs) or missed.shape != (len(archs),):
            raise ValueError(
                f"told {len(archs)} architectures with values of shape {points.shape} and violation of shape "
                f"{missed.shape}: give (n, m) and (n,)"
            )
        for arch in archs:
            if arch not in self._seen:  # not one of ours, e.g. a warm start
                self._seen[self.space.validate(arch)] = arch.id
            self._pending.pop(arch, None)
        return points, missed

    def state(self) -> dict[str, Any]:
        """Return the generator's state and the architectures given out."""
        return {
            "algorithm": self.name,
            "space": self.space.name,
            "settings": self.settings(),
            "rng": self._rng.bit_generator.state,
            "pending": [arch.id for arch in self._pending],
            "seen": list(self._seen.values()),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: it is the state of another algorithm, of other settings or of another space.
        """
        own = {"algorithm": self.name, "space": self.space.name, "settings": self.settings()}
        for key, value in own.items():
            if state.get(key) != value:
                raise ValueError(f"the saved state has {key} = {state.get(key)!r}, this search has {value!r}")
        self._rng.bit_generator.state = state["rng"]
        self._pending = {Architecture.from_id(i): None for i in state["pending"]}
        self._seen = {Architecture.from_id(i): i for i in state["seen"]}
        self._again = list(self._pending)
