"""Low-rank adaptation of any litgpt network: linear layers are frozen, a product of two thin matrices is learned.

Hu et al., LoRA, ICLR 2022. litgpt's own lora.py builds the network anew from one Config, in which all layers have one
shape; a pruned network's layers differ, so the linear layers that are there are wrapped instead. litgpt's fused qkv is
one matrix here, with one pair of factors.

Shapes: out x in weights, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import litgpt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PARTS = {"attention": "attn", "mlp": "mlp"}


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What is adapted and how freely.

    Attributes:
        rank: r; a smaller matrix gets its own smaller size.
        alpha: the product is multiplied by alpha / rank.
        parts: "attention", "mlp" or both: whose linear layers are adapted.

    Raises:
        ValueError: a rank below 1, an alpha that is not positive, or an unknown part.
    """

    rank: int = 16
    alpha: float = 32.0
    parts: tuple[str, ...] = ("attention", "mlp")

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"LoRA rank = {self.rank}, alpha = {self.alpha}: give at least 1 and a positive number")
        if not self.parts or set(self.parts) - set(PARTS):
            raise ValueError(f"LoRA parts = {self.parts}; allowed: {', '.join(PARTS)}")

    @property
    def scaling(self) -> float:
        """Factor of the product."""
        return self.alpha / self.rank


class LoraLinear(nn.Module):
    """A frozen linear layer with an update of low rank: y = W x + b + scaling * B A x.

    Args:
        linear: the layer; frozen here.
        settings: rank and scaling.
        generator: draws A; B is zero, so that nothing changes before the first step.
    """

    def __init__(self, linear: nn.Linear, settings: LoraSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.linear, self.scaling = linear.requires_grad_(False), settings.scaling
        a, b = new_factors(linear.weight, settings, generator)
        self.lora_a, self.lora_b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) for x (..., in)."""
        return self.linear(x) + self.scaling * F.linear(F.linear(x, self.lora_a), self.lora_b)

    def merged(self) -> nn.Linear:
        """Return the layer with the update added to its weight."""
        with torch.no_grad():
            self.linear.weight.add_(self.scaling * (self.lora_b @ self.lora_a))
        return self.linear


def new_factors(weight: Tensor, settings: LoraSettings, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return A (r, in), uniform with variance 1 / (3 in), and B (out, r), zero, of a weight (out, in)."""
    rows, columns = weight.shape
    rank = min(settings.rank, rows, columns)
    a = (2 * torch.rand(rank, columns, generator=generator) - 1) / columns**0.5
    return a.to(weight), weight.new_zeros(rows, rank)


def adapted_layers(gpt: litgpt.GPT, settings: LoraSettings) -> dict[str, nn.Linear]:
    """Return the linear layers that are to be adapted, by their name in the network."""
    prefixes = tuple(f"{PARTS[part]}." for part in settings.parts)
    return {
        f"transformer.h.{i}.{name}": layer
        for i, block in enumerate(gpt.transformer.h)
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(prefixes)
    }


def add_lora(gpt: litgpt.GPT, settings: LoraSettings, *, seed: int = 0) -> litgpt.GPT:
    """Freeze a network and wrap its linear layers, in place; return it.

    Raises:
        ValueError: there is no layer to adapt.
    """
    layers = adapted_layers(gpt, settings)
    if not layers:
        raise ValueError(f"the network has no linear layer in its {' or '.join(settings.parts)}: nothing to adapt")
    generator = torch.Generator().manual_seed(seed)
    gpt.requires_grad_(False)
    for name, layer in layers.items():
        gpt.set_submodule(name, LoraLinear(layer, settings, generator))
    return gpt


def merge_lora(gpt: litgpt.GPT) -> litgpt.GPT:
    """Put the linear layers back with their updates merged, in place; return the network, all of it unfrozen."""
    for name, layer in list(gpt.named_modules()):
        if isinstance(layer, LoraLinear):
            gpt.set_submodule(name, layer.merged())
    return gpt.requires_grad_(True)
