"""A pruned network: a litgpt GPT with corrected output projections, and the changes that make it one."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import litgpt
import torch
from torch import nn

from pruning.reconstruction import Solution
from pruning.structure import Part, output_projection
from supernet.architecture import Architecture


class Pruned(NamedTuple):
    """A pruned network and its architecture, whose `bias` is true where intercepts were put in."""

    gpt: litgpt.GPT
    arch: Architecture


def put_projection(block: nn.Module, part: Part, solution: Solution) -> None:
    """Put a corrected projection into a block; rows beyond a narrower network's width are left out.

    Raises:
        ValueError: the block's part keeps another number of inputs, or an intercept has no bias to go to.
    """
    projection = output_projection(block, part)
    if projection is None or projection.in_features != solution.weight.shape[1]:
        found = "none" if projection is None else projection.in_features
        raise ValueError(f"this {part} keeps {found} inputs, the overlay is of {solution.weight.shape[1]}")
    if solution.intercept is not None and projection.bias is None:
        raise ValueError(f"this {part} has no bias for the overlay's intercept: call add_biases first")
    width = projection.out_features
    with torch.no_grad():
        projection.weight.copy_(solution.weight[:width])
        if solution.intercept is not None:
            projection.bias.add_(solution.intercept[:width])


def add_biases(gpt: litgpt.GPT, arch: Architecture) -> Architecture:
    """Give all linear layers that litgpt's `Config.bias` governs a bias, zero where there was none.

    Returns:
        The architecture with its bias.
    """
    for block in gpt.transformer.h:
        for layer in block.modules():
            if isinstance(layer, nn.Linear) and layer.bias is None:
                layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_features))
    with_bias = {id(config): replace(config, bias=True) for config in _configs(gpt)}
    for module in gpt.modules():
        if id(getattr(module, "config", None)) in with_bias:
            module.config = with_bias[id(module.config)]
    return replace(arch, bias=True)


def _configs(gpt: litgpt.GPT) -> list[litgpt.Config]:
    return [module.config for module in gpt.modules() if isinstance(getattr(module, "config", None), litgpt.Config)]
