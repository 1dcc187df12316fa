"""What an architecture is predicted to cost, in units of the dense network, and what it may cost. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from supernet.architecture import Architecture
from supernet.cost import parameter_counts
from supernet.litgpt_config import ModelConfig

CostFunction = Callable[[Sequence[Architecture]], np.ndarray]
_ROUNDING = 1e-9


@dataclass(frozen=True)
class CostLimit:
    """A cost and its limit.

    Attributes:
        name: e.g. "latency".
        predict: n architectures -> (n,) costs, as ratios to the dense network's.
        limit: the largest ratio allowed.
        additive: a cost that sums over blocks, for the dynamic programme, where `predict` does not (the latency table
            of a model with a correction); None is `predict`.
    """

    name: str
    predict: CostFunction
    limit: float
    additive: CostFunction | None = None

    @property
    def of_blocks(self) -> CostFunction:
        """The cost that sums over blocks."""
        return self.additive or self.predict

    def holds(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Return which architectures keep the limit, (n,) bool."""
        return self.predict(archs) <= self.limit + _ROUNDING if len(archs) else np.zeros(0, bool)


def all_hold(limits: Sequence[CostLimit], archs: Sequence[Architecture]) -> np.ndarray:
    """Return which architectures keep all limits, (n,) bool."""
    held = np.ones(len(archs), bool)
    for limit in limits:
        held[held] = limit.holds([arch for arch, ok in zip(archs, held, strict=True) if ok])
    return held


def parameter_ratio(config: ModelConfig, dense: Architecture, *, tied: bool, decoder: bool = False) -> CostFunction:
    """Return the cost function that counts parameters.

    Args:
        config: of the supernet.
        dense: the whole network.
        tied: whether embedding and head are one matrix.
        decoder: leave out embedding and head.
    """
    return partial(_parameters, config, dense, tied, decoder)


def _parameters(
    config: ModelConfig, dense: Architecture, tied: bool, decoder: bool, archs: Sequence[Architecture]
) -> np.ndarray:
    counts = parameter_counts(config, [dense, *archs], tied=tied)
    values = counts.decoder if decoder else counts.total
    return values[1:] / values[0]
