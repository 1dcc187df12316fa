"""Grow or shrink a family until it meets a target: equal measured latency, or equal parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from litgpt.config import Config

from pruning.families import Family, Size, trunk_parameters
from supernet.architecture import Architecture
from supernet.litgpt_config import whole_architecture

_ROUNDING = 1e-9
Measure = Callable[[Architecture], float]  # an architecture -> its cost relative to the dense network's


@dataclass(frozen=True)
class Match:
    """The largest network of a family that meets a target.

    Attributes:
        family: its name.
        size: of the network.
        arch: of the network.
        target: what was asked for, relative to the dense network.
        ratio: what it has.
        within: whether |ratio - target| is at most the tolerance; False where the family's steps are too coarse.
        above: the next larger network and its ratio, which is over the target; None where there is none.
        tried: all (size, ratio) that were looked at, in order.
    """

    family: str
    size: Size
    arch: Architecture
    target: float
    ratio: float
    within: bool
    above: tuple[Size, float] | None
    tried: tuple[tuple[Size, float], ...]


def match_latency(family: Family, target_ratio: float, measure: Measure, *, tolerance: float = 0.01) -> Match:
    """Return the family's largest network whose measured ratio is at most the target plus the tolerance.

    Bisection over sizes: it takes latency for monotone in size, so where it is not, a larger network that is fast too
    can be missed. Only shapes are measured, no weights are made.

    Args:
        family: the method.
        target_ratio: latency relative to the dense network's, e.g. 0.75.
        measure: architecture -> measured ratio, best interleaved with the dense network.
        tolerance: what counts as equal, in parts of the dense network's latency.

    Raises:
        ValueError: the family's smallest network is above the target; names its ratio.
    """
    tried: dict[Size, float] = {}

    def fits(size: Size) -> bool:
        if size not in tried:
            tried[size] = measure(family.arch(size))
        return tried[size] <= target_ratio + tolerance + _ROUNDING

    ladder = next((ladder for ladder in family.ladders if fits(ladder[0])), None)
    if ladder is None:
        least = min(tried.items(), key=lambda item: item[1])
        raise ValueError(
            f"{family.name} cannot be made as small as {target_ratio:.3f}: its smallest network {least[0]} is at "
            f"{least[1]:.3f}"
        )
    low, high = 0, len(ladder)  # ladder[low] fits, ladder[high] (if there is one) does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(ladder[middle]) else (low, middle)
    size, above = ladder[low], ladder[high] if high < len(ladder) else None
    return Match(
        family=family.name, size=size, arch=family.arch(size), target=target_ratio, ratio=tried[size],
        within=abs(tried[size] - target_ratio) <= tolerance + _ROUNDING, above=above and (above, tried[above]),
        tried=tuple(tried.items()),
    )  # fmt: skip


def match_params(family: Family, target_ratio: float, config: Config, *, tolerance: float = 0.001) -> Match:
    """Return the family's largest network with at most this share of the dense network's trunk parameters.

    Args:
        family: the method.
        target_ratio: trunk parameters (all but embedding and head) relative to the dense network's.
        config: litgpt's Config of the dense network.
        tolerance: what counts as equal.

    Raises:
        ValueError: as in `match_latency`.
    """
    dense = trunk_parameters(config, whole_architecture(config))
    return match_latency(
        family, target_ratio, lambda arch: trunk_parameters(config, arch) / dense, tolerance=tolerance
    )  # fmt: skip
