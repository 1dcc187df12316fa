"""Scores of all that can be pruned inside a network, as one value.

Shapes: L layers, F intermediate_size, G query groups, Q heads of a group, C n_embd.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Importance:
    """Scores; a higher one is more important. Scores of one field and layer compare; others need not.

    Attributes:
        neurons: (L, F) MLP neurons.
        heads: (L, G, Q) query heads.
        groups: (L, G) KV groups with all their heads.
        channels: (C,) residual channels, None where the criterion says nothing about them.
    """

    neurons: Tensor
    heads: Tensor
    groups: Tensor
    channels: Tensor | None = None
