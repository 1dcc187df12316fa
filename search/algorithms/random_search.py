"""Random search: genes drawn uniformly and independently, no architecture twice. The baseline of every comparison."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import ArrayLike

from search.algorithms.optimizer import BaseOptimizer
from supernet.architecture import Architecture


class RandomSearch(BaseOptimizer):
    """Draws every gene uniformly, as HW-GPT-Bench's random search does, but never the same network twice."""

    name = "random"

    def _propose(self, n: int) -> list[Architecture]:
        return [self._give_out(self._random_new()) for _ in range(min(n, self.n_left))]

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Note the architectures as seen; values change nothing."""
        self._receive(archs, values, violation)
