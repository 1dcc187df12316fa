"""Architecture -> selection plan: which part of every supernet parameter a sub-network uses.

The plan is the only place that knows how weights are shared. Forward, extraction, counting, importance, pruning and
export read it. Every selection is made of contiguous runs, because the supernet keeps the most important heads,
neurons and channels first.

Shapes: C n_embd, H heads, G query groups, D head_size, F intermediate_size, V padded vocabulary; lower case letters
are the sub-network's. litgpt's fused qkv rows are q (H*D, ordered by group), then k (G*D), then v (G*D).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from litgpt.config import Config
from torch import Tensor

if TYPE_CHECKING:
    from supernet.architecture import Architecture

# The dimensions of every parameter of a litgpt Block: which axis of the network each runs along.
BLOCK_AXES: Mapping[str, tuple[str, ...]] = {
    **{f"{norm}.{kind}": ("embd",) for norm in ("norm_1", "norm_2", "post_attention_norm", "post_mlp_norm")
       for kind in ("weight", "bias")},
    "attn.qkv.weight": ("qkv", "embd"), "attn.qkv.bias": ("qkv",),
    "attn.proj.weight": ("embd", "query"), "attn.proj.bias": ("embd",),
    "attn.norm_q.weight": ("norm_q",), "attn.norm_q.bias": ("norm_q",),
    "attn.norm_k.weight": ("norm_k",), "attn.norm_k.bias": ("norm_k",),
    **{f"mlp.{fc}.weight": ("mlp", "embd") for fc in ("fc", "fc_1", "fc_2")},
    **{f"mlp.{fc}.bias": ("mlp",) for fc in ("fc", "fc_1", "fc_2")},
    "mlp.proj.weight": ("embd", "mlp"), "mlp.proj.bias": ("embd",),
}  # fmt: skip
SHARED_AXES: Mapping[str, tuple[str, ...]] = {
    "transformer.wte.weight": ("vocab", "embd"),
    "transformer.ln_f.weight": ("embd",), "transformer.ln_f.bias": ("embd",),
    "lm_head.weight": ("vocab", "embd"), "lm_head.bias": ("vocab",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """`count` stretches of `length` entries along one dimension, the first at `start`, one every `step` entries."""

    start: int
    length: int
    step: int = 0
    count: int = 1

    @property
    def size(self) -> int:
        """Number of selected entries."""
        return self.length * self.count

    def indices(self) -> list[int]:
        """Return the selected indices in order."""
        return [self.start + c * self.step + i for c in range(self.count) for i in range(self.length)]

    def view(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the selection of `tensor` along `dim`; with `count` > 1 that dimension is split in (count, length)."""
        if self.count == 1:
            return tensor.narrow(dim, self.start, self.length) if self.length != tensor.shape[dim] else tensor
        whole = tensor.narrow(dim, self.start, self.step * self.count)
        return whole.unflatten(dim, (self.count, self.step)).narrow(dim + 1, 0, self.length)

    def select(self, tensor: Tensor, dim: int) -> Tensor:
        """Return the selection of `tensor` along `dim` as one dimension (a copy when `count` > 1)."""
        view = self.view(tensor, dim)
        return view if self.count == 1 else view.flatten(dim, dim + 1)


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of one parameter that a sub-network uses: a tuple of runs for each dimension."""

    runs: tuple[tuple[Run, ...], ...]
    is_whole: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the selected part."""
        return tuple(sum(run.size for run in runs) for runs in self.runs)

    @property
    def is_rectangle(self) -> bool:
        """Whether the part is a view: one run of one stretch in every dimension."""
        return all(len(runs) == 1 and runs[0].count == 1 for runs in self.runs)

    def select(self, parameter: Tensor) -> Tensor:
        """Return the selected part: a view where it is one rectangle, else a copy; differentiable."""
        if self.is_whole:
            return parameter
        if all(len(runs) == 1 for runs in self.runs):
            view = self._rectangle(parameter)
            return view if view.dim() == parameter.dim() else view.reshape(self.shape)
        for dim in reversed(range(len(self.runs))):  # columns first: then rows of several runs copy less
            parts = [run.select(parameter, dim) for run in self.runs[dim]]
            parameter = parts[0] if len(parts) == 1 else torch.cat(parts, dim)
        return parameter

    def _rectangle(self, parameter: Tensor) -> Tensor:
        """Return the only run of each dimension as a view: one call, since narrow after narrow costs host time."""
        offset, sizes, strides = parameter.storage_offset(), [], []
        for (run,), stride in zip(self.runs, parameter.stride(), strict=True):
            offset += run.start * stride
            if run.count > 1:
                sizes.append(run.count)
                strides.append(run.step * stride)
            sizes.append(run.length)
            strides.append(stride)
        return parameter.as_strided(sizes, strides, offset)

    def assign(self, target: Tensor, value: Tensor) -> None:
        """Write `value` (shape `self.shape`) into the selected part of `target`, in place."""
        if self.is_whole:
            target.copy_(value)
            return
        for region, part in self.regions(target, value):
            region.copy_(part)

    def regions(self, target: Tensor, value: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return pairs of equal shape: rectangles of `target`, as views, and the matching parts of `value`."""
        pairs = [(target, value)]
        for dim in reversed(range(len(self.runs))):
            pairs = [pair for t, v in pairs for pair in _split(t, v, dim, self.runs[dim])]
        return pairs


def _split(target: Tensor, value: Tensor, dim: int, runs: tuple[Run, ...]) -> list[tuple[Tensor, Tensor]]:
    parts = value.split([run.size for run in runs], dim) if len(runs) > 1 else (value,)
    return [
        (run.view(target, dim), part if run.count == 1 else part.unflatten(dim, (run.count, run.length)))
        for run, part in zip(runs, parts, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The shape of one block of a sub-network: all that its selection depends on."""

    n_embd: int
    n_head: int
    n_query_groups: int
    intermediate_size: int
    bias: bool

    @property
    def has_attention(self) -> bool:
        """Whether the block has attention."""
        return self.n_head > 0

    @property
    def has_mlp(self) -> bool:
        """Whether the block has an MLP."""
        return self.intermediate_size > 0


@dataclass(frozen=True)
class SelectionPlan:
    """All that a sub-network uses of its supernet.

    Attributes:
        arch: the sub-network.
        blocks: selections of each kept block's parameters by their name inside the block.
        shared: selections of the parameters outside the blocks by name.
    """

    arch: Architecture
    blocks: tuple[Mapping[str, Selection], ...]
    shared: Mapping[str, Selection]

    @cached_property
    def parameters(self) -> dict[str, Selection]:
        """Selections by the parameter's name in the supernet."""
        named = {
            f"transformer.h.{layer}.{name}": selection
            for layer, block in zip(self.arch.layers, self.blocks, strict=True)
            for name, selection in block.items()
        }
        return {**self.shared, **named}

    @cached_property
    def subnet_names(self) -> dict[str, str]:
        """The parameter's name in the supernet -> its name in the extracted model."""
        names = {name: name for name in self.shared}
        for position, (layer, block) in enumerate(zip(self.arch.layers, self.blocks, strict=True)):
            names |= {f"transformer.h.{layer}.{name}": f"transformer.h.{position}.{name}" for name in block}
        return names


def layer_shapes(arch: Architecture) -> list[LayerShape]:
    """Return the shape of each kept block."""
    layers = zip(arch.n_head, arch.n_query_groups, arch.intermediate_size, strict=True)
    return [LayerShape(arch.n_embd, h, g, f, arch.bias) for h, g, f in layers]


def axis_runs(config: Config, shape: LayerShape) -> dict[str, tuple[tuple[Run, ...], int]]:
    """Return, for each axis of a block, the runs that `shape` selects and the axis's full size.

    The axes of a part that the block does not have select nothing; no parameter of such a block runs along them.
    """
    D, H, G = config.head_size, config.n_head, config.n_query_groups
    assert D is not None and G is not None
    g, Q = shape.n_query_groups, H // G
    q = shape.n_head // max(g, 1)
    query = Run(0, g * q * D) if q == Q else Run(0, q * D, Q * D, g)  # the first q of the Q heads of g groups
    key, value = Run(H * D, g * D), Run((H + G) * D, g * D)
    if g == G and q == Q:
        qkv: tuple[Run, ...] = (Run(0, (H + 2 * G) * D),)
    elif Q == 1:
        qkv = (Run(0, g * D, H * D, 3),)  # multi-head: q, k, v are three equal stretches
    else:
        qkv = (query, key, value)
    whole_head = (Run(0, D),)
    olmo2 = config.norm_qk_type == "olmo2"
    return {
        "embd": ((Run(0, shape.n_embd),), config.n_embd),
        "mlp": ((Run(0, shape.intermediate_size),), config.intermediate_size or 0),
        "qkv": (qkv, (H + 2 * G) * D),
        "query": ((query,), H * D),
        "norm_q": ((query,), H * D) if olmo2 else (whole_head, D),
        "norm_k": ((Run(0, g * D),), G * D) if olmo2 else (whole_head, D),
        "vocab": ((Run(0, config.padded_vocab_size or 0),), config.padded_vocab_size or 0),
    }


def select_axes(axes: tuple[str, ...], runs: Mapping[str, tuple[tuple[Run, ...], int]]) -> Selection:
    """Return the selection of a parameter whose dimensions run along `axes`."""
    chosen = tuple(runs[axis][0] for axis in axes)
    whole = tuple((Run(0, runs[axis][1]),) for axis in axes)
    return Selection(chosen, is_whole=chosen == whole)


def layer_config(config: Config, layer: int) -> Config:
    """Return litgpt's Config of a one-block network at full width, for block `layer` of `config`."""
    return replace(
        config,
        n_layer=1,
        sliding_window_indices=_pick(config.sliding_window_indices, (layer,)),
        rope_indices=_pick(config.rope_indices, (layer,)),
    )


def subnet_config(config: Config, arch: Architecture) -> Config:
    """Return litgpt's Config of the sub-network; where layers differ, head and MLP sizes are the widest layer's.

    Where no layer has attention the config says one head: litgpt's Config cannot say none.
    """
    widest = max((1, 1), *zip(arch.n_head, arch.n_query_groups, strict=True))
    return replace(
        config,
        n_layer=arch.n_layer,
        n_embd=arch.n_embd,
        n_head=widest[0],
        n_query_groups=widest[1],
        intermediate_size=max(arch.intermediate_size),
        bias=arch.bias,
        sliding_window_indices=_pick(config.sliding_window_indices, arch.layers),
        rope_indices=_pick(config.rope_indices, arch.layers),
    )


def _pick(values: list[int] | None, layers: tuple[int, ...]) -> list[int] | None:
    return None if values is None else [values[i] for i in layers]
