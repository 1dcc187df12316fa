"""Families: one method's pruned networks of all sizes, so that it can be grown or shrunk to any budget.

A size is a tuple of integers that the family understands: (neurons, groups) of uniform width, (blocks,) of depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from litgpt.config import Config

from pruning.pruned import Pruned
from pruning.structure import Sizes
from supernet.architecture import Architecture
from supernet.cost import parameter_counts

Size = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Family:
    """A method's networks.

    Attributes:
        name: of the method.
        ladders: sizes, every ladder from its smallest network to its largest. Where there are several, the first one
            whose smallest network is small enough is the one to use (see `width_ladders`).
        arch_of: the architecture of a size, with `bias` where the method adds biases. No weights are touched.
        make: the pruned network of a size.
    """

    name: str
    ladders: tuple[tuple[Size, ...], ...]
    arch_of: Callable[[Size], Architecture]
    make: Callable[[Size], Pruned]

    @property
    def sizes(self) -> tuple[Size, ...]:
        """All sizes, ladder by ladder."""
        return tuple(size for ladder in self.ladders for size in ladder)

    def arch(self, size: Sequence[int]) -> Architecture:
        """Return the architecture of a size.

        Raises:
            ValueError: the family has no such size.
        """
        return self.arch_of(self._known(size))

    def at(self, size: Sequence[int]) -> Pruned:
        """Return the pruned network of a size.

        Raises:
            ValueError: the family has no such size.
        """
        return self.make(self._known(size))

    def _known(self, size: Sequence[int]) -> Size:
        size = tuple(size)
        if size not in self.sizes:
            raise ValueError(f"{self.name} has no size {size}; smallest and largest: {self.sizes[0]}, {self.sizes[-1]}")
        return size


def width_ladders(sizes: Sizes, *, step: int | None = None) -> tuple[tuple[Size, ...], ...]:
    """Return the sizes (neurons, groups) of networks whose blocks are all as wide: a ladder for each number of groups.

    The rule, the same for all width baselines: neurons go first. With g of G groups at most the share (G - g + 1) / G
    of the neurons goes; a budget that asks for more takes a group with all its heads, and then the neurons are chosen
    anew. With 1536 neurons and 3 groups, all groups stay down to 1024 neurons, two down to 512.

    Args:
        sizes: of the dense network.
        step: between two numbers of neurons; None is about a hundredth of them, a multiple of 16 where possible.
    """
    F, G = sizes.intermediate_size, sizes.n_query_groups
    step = step or (max(16, F // 96 // 16 * 16) if F >= 512 else max(1, F // 96))
    ladders = []
    for groups in range(G, 0, -1):
        least = max(F * (groups - 1) // G, step)
        neurons = sorted({least, F, *range(-(-least // step) * step, F, step)})
        ladders.append(tuple((n, groups) for n in neurons))
    return tuple(ladders)


def uniform_arch(whole: Architecture, sizes: Sizes, size: Size) -> Architecture:
    """Return the dense architecture with (neurons, groups) in every block; groups keep all their heads."""
    neurons, groups = size
    n = whole.n_layer
    return replace(
        whole,
        n_head=(groups * sizes.heads_per_group,) * n,
        n_query_groups=(groups,) * n,
        intermediate_size=(neurons,) * n,
    )


def given_family(
    name: str, archs: Sequence[Architecture], config: Config, make: Callable[[Architecture], Pruned]
) -> Family:
    """Return a family of networks that were chosen elsewhere, e.g. those of a Pareto curve.

    Args:
        name: of the method.
        archs: its networks; they are put in the order of their trunk parameters.
        config: litgpt's Config of the dense network.
        make: gives the pruned network of one of them.

    Raises:
        ValueError: no network.
    """
    if not archs:
        raise ValueError(f"the family {name!r} needs at least one architecture")
    ordered = sorted(set(archs), key=lambda arch: (trunk_parameters(config, arch), arch.id))
    ladder = tuple((i,) for i in range(len(ordered)))
    return Family(name, (ladder,), lambda size: ordered[size[0]], lambda size: make(ordered[size[0]]))


def trunk_parameters(config: Config, arch: Architecture) -> int:
    """Return the parameters of all but the embedding and the output head: attention, MLPs and norms."""
    whole = replace(config, bias=config.bias or arch.bias)
    return int(parameter_counts(whole, [arch]).decoder[0])
