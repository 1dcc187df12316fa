"""Which sub-networks of a pretrained supernet a step trains: the sandwich, of networks worth training. No torch.

A uniform draw from a space of a pretrained network is nearly always a ruin: half of its blocks gone, any of them. Here
the blocks that go are mostly the least important ones, and a share of the networks has one shape in all layers, which a
draw of each layer by itself never gives and which plain exports need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from supernet.architecture import Architecture
from supernet.samplers import Subnet
from supernet.space import SearchSpace

_TRIES = 8  # draws for each wanted sub-network before giving up on a new one


@dataclass(frozen=True)
class PretrainedSandwich:
    """Train the largest network, a smallest one and random ones of a pretrained supernet.

    Attributes:
        space: where to draw from.
        n_random: random sub-networks a step.
        uniform_share: share of them whose layers have one shape.
        expendable: all blocks, the least important first (`depth.block_influence(moments).argsort()`); empty draws the
            blocks that stay as the space does. Only for spaces with layer_choice="subset".
        noise: how far a block may move in that order, as a share of the number of blocks (a standard deviation).

    Raises:
        ValueError: settings out of range, or `expendable` does not name every block once.
    """

    space: SearchSpace
    n_random: int = 2
    uniform_share: float = 0.5
    expendable: Sequence[int] = field(default=())
    noise: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "expendable", tuple(int(i) for i in self.expendable))
        if self.n_random < 0 or not 0 <= self.uniform_share <= 1 or self.noise < 0:
            raise ValueError(
                f"n_random = {self.n_random}, uniform_share = {self.uniform_share}, noise = {self.noise}: give "
                "at least 0, a share between 0 and 1, and at least 0"
            )
        check_expendable(self.space, self.expendable)

    def __call__(self, step: int, rng: np.random.Generator) -> list[Subnet]:
        """Return None for the largest network, then the smallest and the random ones, each once."""
        chosen: dict[Architecture, None] = {with_best_blocks(self.space.smallest(), self.space, self.expendable): None}
        largest = self.space.largest()
        for _ in range(_TRIES * max(self.n_random, 1)):
            if len(chosen) > self.n_random:
                break
            chosen[self._draw(rng)] = None
        return [None, *(arch for arch in chosen if arch != largest)]

    def _draw(self, rng: np.random.Generator) -> Architecture:
        space = self._uniform if rng.random() < self.uniform_share else self.space
        arch = space.sample(rng)
        if not self.expendable or self.space.layer_choice != "subset":
            return arch
        ranks = np.argsort(self.expendable) + self.noise * len(self.expendable) * rng.normal(size=len(self.expendable))
        return with_best_blocks(arch, self.space, np.argsort(ranks, kind="stable").tolist())

    @cached_property
    def _uniform(self) -> SearchSpace:
        return replace(self.space, per_layer=False)


def with_best_blocks(arch: Architecture, space: SearchSpace, expendable: Sequence[int]) -> Architecture:
    """Return `arch` with as many blocks, the least expendable ones; itself where there is no choice or no order."""
    if not expendable or space.layer_choice != "subset":
        return arch
    return replace(arch, layers=tuple(sorted(expendable[len(expendable) - arch.n_layer :])))


def check_expendable(space: SearchSpace, expendable: Sequence[int]) -> None:
    """Raise ValueError unless `expendable` is empty or names every block of the space's supernet once."""
    if expendable and sorted(expendable) != list(range(space.max_layer)):
        raise ValueError(f"expendable = {tuple(expendable)}: name each of the blocks 0 to {space.max_layer - 1} once")


def uniform_networks(space: SearchSpace, expendable: Sequence[int] = ()) -> list[Architecture]:
    """Return all networks of the space whose layers have one shape, each depth with its least expendable blocks."""
    plain = replace(space, per_layer=False, layer_choice="prefix")
    return [with_best_blocks(arch, space, expendable) for arch in plain.enumerate()]
