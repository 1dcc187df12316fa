"""Which weights belong to which neuron, head, KV group and channel, read from the selection plan's axes.

Shapes: C n_embd, H heads, G query groups, Q heads of a group (H = G*Q), D head_size, F intermediate_size, L layers.
litgpt's fused qkv rows are q (H*D, ordered by group), then k (G*D), then v (G*D).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import litgpt
import torch
from litgpt.config import Config
from torch import Tensor, nn

from supernet.selection import BLOCK_AXES, SHARED_AXES

Part = Literal["attention", "mlp"]
PARTS: tuple[Part, Part] = ("attention", "mlp")
_MODULES: Mapping[Part, str] = {"attention": "attn", "mlp": "mlp"}
_BLOCKS_PREFIX = "transformer.h."


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a network whose blocks are all of one shape."""

    n_layer: int
    n_embd: int
    n_query_groups: int
    heads_per_group: int
    head_size: int
    intermediate_size: int

    @classmethod
    def of(cls, config: Config) -> Sizes:
        """Read the sizes of litgpt's Config."""
        groups, head_size, neurons = config.n_query_groups, config.head_size, config.intermediate_size
        assert groups and head_size and neurons
        return cls(config.n_layer, config.n_embd, groups, config.n_head // groups, head_size, neurons)

    @property
    def n_head(self) -> int:
        """Query heads."""
        return self.n_query_groups * self.heads_per_group

    @property
    def n_columns(self) -> dict[Part, int]:
        """Inputs of each part's output projection."""
        return {"attention": self.n_head * self.head_size, "mlp": self.intermediate_size}


def output_projection(block: nn.Module, part: Part) -> nn.Linear | None:
    """Return the layer of a block that writes a part's output (o_proj, down_proj); None where the part is absent."""
    projection = getattr(getattr(block, _MODULES[part], None), "proj", None)
    return projection if isinstance(projection, nn.Linear) and projection.in_features else None


def block_parameters(block: nn.Module) -> dict[str, Tensor]:
    """Return a block's parameters by their name inside it, detached."""
    return {name: parameter.detach() for name, parameter in block.named_parameters()}


@dataclass(frozen=True, slots=True)
class CoupledSums:
    """Sums over the weights that stay or go together in one block.

    Attributes:
        neurons: (F,) the neuron's rows of fc (gate and up) and its column of the output projection.
        heads: (G, Q) the head's query rows and its columns of the output projection.
        groups: (G,) all heads of the group and its key and value rows.
    """

    neurons: Tensor
    heads: Tensor
    groups: Tensor


def coupled_sums(values: Mapping[str, Tensor], sizes: Sizes) -> CoupledSums:
    """Sum a value of every weight (by the name of its parameter in the block) over neurons, heads and groups.

    Parameters of one dimension (biases, norms) are left out: criteria are defined on matrices.
    """
    matrices = {name: value for name, value in values.items() if value.dim() == 2}
    G, Q, D = sizes.n_query_groups, sizes.heads_per_group, sizes.head_size
    rows = _axis_sum(matrices, "qkv")
    query, key, value = rows.split((G * Q * D, G * D, G * D))
    heads = query.view(G, Q, D).sum(2) + _axis_sum(matrices, "query").view(G, Q, D).sum(2)
    groups = heads.sum(1) + key.view(G, D).sum(1) + value.view(G, D).sum(1)
    return CoupledSums(_axis_sum(matrices, "mlp"), heads, groups)


def _axis_sum(matrices: Mapping[str, Tensor], axis: str) -> Tensor:
    """Return the sum over all matrices with this axis, reduced over their other axis; float64."""
    parts = [
        value.double().sum(1 - BLOCK_AXES[name].index(axis))
        for name, value in matrices.items()
        if axis in BLOCK_AXES[name]
    ]
    return torch.stack(parts).sum(0)


def channel_sums(values: Iterable[tuple[str, Tensor]]) -> Tensor:
    """Sum a value of every weight over the residual channels: (C,) float64.

    Args:
        values: pairs of a parameter's name in the network and its values; those of one dimension are left out.
    """
    total = None
    for name, value in values:
        axes = parameter_axes(name)
        if value.dim() < 2 or "embd" not in axes:
            continue
        part = value.double().sum(1 - axes.index("embd"))
        total = part if total is None else total + part
    assert total is not None
    return total


def parameter_axes(name: str) -> tuple[str, ...]:
    """Return the axes of a parameter by its name in the network."""
    if not name.startswith(_BLOCKS_PREFIX):
        return SHARED_AXES[name]
    return BLOCK_AXES[name.removeprefix(_BLOCKS_PREFIX).partition(".")[2]]


def check_uniform(model: litgpt.GPT) -> Sizes:
    """Return the sizes of a network whose blocks are all of the config's shape.

    Raises:
        ValueError: a block has another shape, or no attention or MLP.
    """
    sizes = Sizes.of(model.config)
    for i, block in enumerate(model.transformer.h):
        for part in PARTS:
            projection = output_projection(block, part)
            if projection is None or projection.in_features != sizes.n_columns[part]:
                found = "none" if projection is None else projection.in_features
                raise ValueError(
                    f"block {i}: the {part} has {found} inputs of its output projection, the config says "
                    f"{sizes.n_columns[part]}: importance and order are those of a supernet, not of a pruned network"
                )
    return sizes
