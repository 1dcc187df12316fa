"""Put the most important neurons, heads, groups and channels first, without changing what the network computes.

After it every selection of the supernet is a prefix, and pruning is choosing an `Architecture`.

Shapes: L layers, F intermediate_size, G query groups, Q heads of a group, C n_embd, D head_size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pruning.moments import Moments
from pruning.scores import Importance
from pruning.structure import Sizes, check_uniform, parameter_axes
from supernet.model import Supernet


@dataclass(frozen=True, eq=False)
class Order:
    """For every new place, the old one; int64.

    Attributes:
        neurons: (L, F) old neurons.
        groups: (L, G) old groups.
        heads: (L, G, Q) old heads inside each group, by the group's old place.
        channels: (C,) old channels; None leaves them.
    """

    neurons: Tensor
    groups: Tensor
    heads: Tensor
    channels: Tensor | None = None

    def attention_inputs(self, layer: int, sizes: Sizes) -> Tensor:
        """Return, for every new input of a layer's attn.proj, the old one: (G*Q*D,)."""
        D, Q = sizes.head_size, sizes.heads_per_group
        groups = self.groups[layer]
        heads = (groups[:, None] * Q + self.heads[layer][groups]).flatten()  # (G*Q,)
        return (heads[:, None] * D + torch.arange(D)).flatten()

    def _indices(self, layer: int, sizes: Sizes, *, joint_norms: bool) -> dict[str, Tensor | None]:
        """Return the index along every axis of a block's parameters; None where it stays."""
        D, H, G = sizes.head_size, sizes.n_head, sizes.n_query_groups
        query = self.attention_inputs(layer, sizes)
        key = (self.groups[layer][:, None] * D + torch.arange(D)).flatten()  # (G*D,)
        return {
            "embd": self.channels,
            "mlp": self.neurons[layer],
            "query": query,
            "qkv": torch.cat([query, H * D + key, (H + G) * D + key]),
            "norm_q": query if joint_norms else None,  # OLMo 2 normalises all heads at once, others each alone
            "norm_k": key if joint_norms else None,
            "vocab": None,
        }


def order_by(importance: Importance, *, channels: bool = False) -> Order:
    """Return the order of falling importance; equal scores keep their places.

    Args:
        importance: scores.
        channels: order the residual channels too (only where `n_embd` is to be pruned).

    Raises:
        ValueError: `channels` is asked for and the criterion has no scores of them.
    """
    if channels and importance.channels is None:
        raise ValueError("this criterion has no scores of channels: use magnitude, minitron or a Taylor criterion")

    def ranked(scores: Tensor) -> Tensor:
        return scores.cpu().argsort(dim=-1, descending=True, stable=True)

    return Order(
        neurons=ranked(importance.neurons),
        groups=ranked(importance.groups),
        heads=ranked(importance.heads),
        channels=ranked(importance.channels) if channels and importance.channels is not None else None,
    )


def reorder(supernet: Supernet, order: Order) -> Supernet:
    """Return a copy of a supernet with everything in this order; its logits are the same up to rounding.

    Raises:
        ValueError: the order is of another network.
    """
    sizes = check_uniform(supernet)
    _check(order, sizes)
    joint_norms = supernet.config.norm_qk_type == "olmo2"
    indices = [order._indices(layer, sizes, joint_norms=joint_norms) for layer in range(sizes.n_layer)]
    shared: dict[str, Tensor | None] = {"embd": order.channels, "vocab": None}

    def moved(name: str, parameter: Tensor) -> Tensor:
        chosen = indices[int(name.split(".")[2])] if name.startswith("transformer.h.") else shared
        for dim, axis in enumerate(parameter_axes(name)):
            index = chosen[axis]
            if index is not None:
                parameter = parameter.index_select(dim, index.to(parameter.device))
        return parameter

    own = supernet.named_parameters(remove_duplicate=False)
    return with_parameters(supernet, {name: moved(name, parameter.detach()).clone() for name, parameter in own})


def reorder_moments(moments: Moments, order: Order, sizes: Sizes) -> Moments:
    """Return the moments of the reordered network: nothing has to be collected again."""
    inputs = {
        (layer, part): value.reordered(order.neurons[layer] if part == "mlp" else order.attention_inputs(layer, sizes))
        for (layer, part), value in moments.inputs.items()
    }
    moments = replace(moments, inputs=inputs)
    if order.channels is None:
        return moments
    index = order.channels.to(moments.channels.device)
    residual = None if moments.residual is None else moments.residual[index][:, index]
    return replace(moments, channels=moments.channels[index], residual=residual)


def with_parameters(supernet: Supernet, parameters: Mapping[str, Tensor], *, tied: bool | None = None) -> Supernet:
    """Return a supernet like this one with other parameters, by name.

    Args:
        supernet: left as it is.
        parameters: all of them, as memory of their own; lm_head.weight is not read where embeddings are tied.
        tied: whether the new one ties its embeddings; None is as before.
    """
    tied = supernet.tie_embeddings if tied is None else tied
    with torch.device("meta"):
        new = Supernet(supernet.config, tie_embeddings=tied)
    new.load_state_dict(dict(parameters), strict=True, assign=True)
    if tied:
        new.lm_head.weight = new.transformer.wte.weight
    new._max_seq_length = supernet._max_seq_length
    new.cos, new.sin = supernet.cos.clone(), supernet.sin.clone()
    return new.train(supernet.training)


def _check(order: Order, sizes: Sizes) -> None:
    L, G, Q = sizes.n_layer, sizes.n_query_groups, sizes.heads_per_group
    expected = {
        "neurons": (L, sizes.intermediate_size), "groups": (L, G), "heads": (L, G, Q), "channels": (sizes.n_embd,),
    }  # fmt: skip
    for name, shape in expected.items():
        index = getattr(order, name)
        if name == "channels" and index is None:
            continue
        whole = torch.arange(shape[-1]).expand(shape)
        if tuple(index.shape) != shape or not torch.equal(index.sort(dim=-1).values.cpu(), whole):
            raise ValueError(f"the order of {name} is {tuple(index.shape)}; give permutations of shape {shape}")
