"""Which sub-networks a training step updates.

A sampler is called with the step and a generator made from (seed, step) and returns the sub-networks of that step:
`None` is the largest network (the supernet's dense path) and comes first, so that it can teach the others. Samplers
hold no state, so a resumed run draws what the interrupted one would have drawn, and all ranks draw the same.

Single path: Guo et al., ECCV 2020. Sandwich rule: Yu and Huang, ICCV 2019. Progressive shrinking: Cai et al.,
Once-for-All, ICLR 2020. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import cycle
from typing import Any, Literal, Protocol

import numpy as np

from supernet.architecture import Architecture
from supernet.cost import parameter_count, parameter_counts
from supernet.space import SearchSpace

Subnet = Architecture | None  # None is the largest network
_CALIBRATION_SAMPLES = 2048  # sub-networks from which the parameter bins are made
_TRIES = 8  # draws for each wanted sub-network before giving up on a new one


class Sampler(Protocol):
    """Says which sub-networks a step trains."""

    def __call__(self, step: int, rng: np.random.Generator) -> list[Subnet]:
        """Return the distinct sub-networks of `step`; None, the largest, is first where it is included."""
        ...


def draw(sampler: Sampler, *, seed: int, step: int) -> list[Subnet]:
    """Return what `sampler` gives for a step of the run with this seed."""
    return sampler(step, np.random.default_rng([seed, step]))


@dataclass(frozen=True)
class FullOnly:
    """Train the largest network only, as ordinary pre-training does."""

    space: SearchSpace

    def __call__(self, step: int, rng: np.random.Generator) -> list[Subnet]:
        """Return the largest network."""
        return [None]


@dataclass(frozen=True)
class RandomK:
    """Train `n_random` random sub-networks a step."""

    space: SearchSpace
    n_random: int = 2

    def __post_init__(self) -> None:
        _at_least("n_random", self.n_random, 1)

    def __call__(self, step: int, rng: np.random.Generator) -> list[Subnet]:
        """Return `n_random` random sub-networks (fewer where the space holds fewer)."""
        return _distinct(self.space, lambda: self.space.sample(rng), self.n_random)


@dataclass(frozen=True)
class SinglePath:
    """Train one random sub-network a step (SPOS)."""

    space: SearchSpace

    def __call__(self, step: int, rng: np.random.Generator) -> list[Subnet]:
        """Return one random sub-network."""
        return _distinct(self.space, lambda: self.space.sample(rng), 1)


@dataclass(frozen=True)
class Sandwich:
    """Train the largest, the smallest and `n_random` random sub-networks a step."""

    space: SearchSpace
    n_random: int = 2

    def __post_init__(self) -> None:
        _at_least("n_random", self.n_random, 0)

    def __call__(self, step: int, rng: np.random.Generator) -> list[Subnet]:
        """Return the largest, the smallest, then the random sub-networks."""
        ends = [self.space.largest(), self.space.smallest()]
        return _distinct(self.space, lambda: self.space.sample(rng), self.n_random, first=ends)


@dataclass(frozen=True)
class StratifiedByParameters:
    """Train sub-networks from distinct bins of their parameter count, and the largest and smallest if wanted.

    Attributes:
        space: where to draw from.
        n_random: sub-networks a step, each from another bin while there are enough bins.
        n_bins: number of bins.
        spacing: "quantile" bins hold equal shares of random sub-networks, so a step sees small, middle and large ones
            and the distribution over many steps stays the space's; "linear" bins are equally wide between the smallest
            and the largest count drawn, so rare sizes are trained as often as common ones.
        sandwich: also train the largest and the smallest network each step.
        seed: of the sub-networks from which the bins are made.
    """

    space: SearchSpace
    n_random: int = 2
    n_bins: int = 8
    spacing: Literal["quantile", "linear"] = "quantile"
    sandwich: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("n_random", self.n_random, 1)
        _at_least("n_bins", self.n_bins, 1)
        if self.spacing not in ("quantile", "linear"):
            raise ValueError(f"spacing = {self.spacing!r}; allowed: 'quantile', 'linear'")

    def __call__(self, step: int, rng: np.random.Generator) -> list[Subnet]:
        """Return one sub-network from each of `n_random` bins, after the largest and smallest if `sandwich`."""
        ends = [self.space.largest(), self.space.smallest()] if self.sandwich else []
        bins = cycle(rng.permutation(len(self._members)).tolist())
        return _distinct(self.space, lambda: self._from_bin(next(bins), rng), self.n_random, first=ends)

    def bin_of(self, arch: Architecture) -> int:
        """Return the index of the bin that holds `arch`."""
        inner = self.edges[1:-1]
        return int(np.searchsorted(inner, self._parameters(arch), side="right"))

    @cached_property
    def edges(self) -> np.ndarray:
        """Bounds of the bins in parameters, ascending; bounds that coincide are merged."""
        counts = parameter_counts(self.space.model_config, self._calibration).total
        if self.spacing == "linear":
            return np.unique(np.linspace(counts.min(), counts.max(), self.n_bins + 1))
        return np.unique(np.quantile(counts, np.linspace(0, 1, self.n_bins + 1)))

    @cached_property
    def _calibration(self) -> list[Architecture]:
        rng = np.random.default_rng(self.seed)
        return [self.space.sample(rng) for _ in range(_CALIBRATION_SAMPLES)]

    @cached_property
    def _members(self) -> list[list[Architecture]]:
        """Calibration samples of every bin that has some."""
        bins: dict[int, list[Architecture]] = {}
        for arch in self._calibration:
            bins.setdefault(self.bin_of(arch), []).append(arch)
        return [bins[i] for i in sorted(bins)]

    def _from_bin(self, index: int, rng: np.random.Generator) -> Architecture:
        """Draw from a bin by rejection; from its calibration samples when the bin is too rare for that."""
        members = self._members[index]
        wanted = self.bin_of(members[0])
        for _ in range(_TRIES * self.n_bins):
            arch = self.space.sample(rng)
            if self.bin_of(arch) == wanted:
                return arch
        return members[int(rng.integers(len(members)))]

    def _parameters(self, arch: Architecture) -> int:
        return parameter_count(self.space.model_config, arch).total


@dataclass(frozen=True)
class Phase:
    """From which share of the training on how many of the largest choices of each dimension are allowed.

    Attributes:
        start: share of the steps, 0 to 1, at which the phase begins.
        n_layer: the largest so many choices; 0 allows all of them. So for the others.
        n_embd: as `n_layer`.
        n_head: as `n_layer`.
        n_query_groups: as `n_layer`.
        mlp: choices of mlp_ratio or intermediate_size, as `n_layer`.
        bias: as `n_layer`.
    """

    start: float
    n_layer: int = 1
    n_embd: int = 1
    n_head: int = 1
    n_query_groups: int = 1
    mlp: int = 1
    bias: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.start < 1:
            raise ValueError(f"phase start = {self.start}: give a share of the steps in [0, 1)")
        for item in fields(self)[1:]:
            _at_least(f"phase {item.name}", getattr(self, item.name), 0)

    def subspace(self, space: SearchSpace) -> SearchSpace:
        """Return the part of `space` that this phase allows; its largest network is that of `space`."""
        wanted = {item.name: getattr(self, item.name) for item in fields(self)[1:]}
        mlp = wanted.pop("mlp")
        wanted |= {"mlp_ratio": mlp, "intermediate_size": mlp}
        kept: dict[str, Any] = {}
        for name, count in wanted.items():
            choices = getattr(space, name)
            if choices is not None and count:
                kept[name] = choices[-count:]
        return replace(space, name=f"{space.name}@{self.start:g}", **kept)


def _at_least(name: str, value: int, smallest: int) -> None:
    if isinstance(value, bool) or int(value) != value or value < smallest:
        raise ValueError(f"{name} = {value!r}: give an integer of at least {smallest}")


# Once-for-all's order: the whole network, then depth, then width (MLP and heads, then the residual width).
DEPTH_THEN_WIDTH = (
    Phase(0.0),
    Phase(0.2, n_layer=2),
    Phase(0.35, n_layer=0),
    Phase(0.5, n_layer=0, mlp=2, n_head=2, n_query_groups=2),
    Phase(0.65, n_layer=0, mlp=0, n_head=0, n_query_groups=0, bias=0),
    Phase(0.8, n_layer=0, mlp=0, n_head=0, n_query_groups=0, bias=0, n_embd=0),
)


@dataclass(frozen=True)
class ProgressiveShrinking:
    """Train the largest network and `n_random` sub-networks of a space that grows phase by phase.

    Attributes:
        space: the whole space, allowed in the last phase.
        total_steps: steps of the whole training.
        n_random: random sub-networks a step.
        phases: ascending by start, the first starting at 0; mappings of `Phase` fields are accepted.
        include_largest: train the largest network in every step, as the teacher.
    """

    space: SearchSpace
    total_steps: int
    n_random: int = 2
    phases: Sequence[Phase] = field(default=DEPTH_THEN_WIDTH)
    include_largest: bool = True

    def __post_init__(self) -> None:
        _at_least("n_random", self.n_random, 1)
        _at_least("total_steps", self.total_steps, 1)
        phases = tuple(Phase(**p) if isinstance(p, Mapping) else p for p in self.phases)
        object.__setattr__(self, "phases", phases)
        starts = [p.start for p in phases]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ValueError(f"phase starts are {starts}: they ascend and the first is 0")

    def __call__(self, step: int, rng: np.random.Generator) -> list[Subnet]:
        """Return the largest network (if included) and random ones of the phase of `step`."""
        space = self.space_at(step)
        first = [self.space.largest()] if self.include_largest else []
        return _distinct(self.space, lambda: space.sample(rng), self.n_random, first=first)

    def space_at(self, step: int) -> SearchSpace:
        """Return the sub-space that `step` draws from."""
        share = step / self.total_steps
        return self._subspaces[max(i for i, phase in enumerate(self.phases) if phase.start <= share)]

    @cached_property
    def _subspaces(self) -> list[SearchSpace]:
        return [phase.subspace(self.space) for phase in self.phases]


def _distinct(
    space: SearchSpace, sample: Callable[[], Architecture], n: int, *, first: Sequence[Architecture] = ()
) -> list[Subnet]:
    """Return `first` and `n` others, each once, the largest network as None and in front.

    Fewer come back when samples keep repeating, as they do in a very small space.
    """
    chosen = dict.fromkeys(first)
    wanted = len(chosen) + n
    for _ in range(_TRIES * n):
        if len(chosen) == wanted:
            break
        chosen[sample()] = None
    largest = space.largest()
    others: list[Subnet] = [arch for arch in chosen if arch != largest]
    return [None, *others] if largest in chosen else others
