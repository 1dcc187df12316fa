"""LoRA over entangled weights: a supernet whose linear layers learn an update of low rank that all sub-networks share.

Is that possible, when a sub-network is slices of the weights? Yes: the slice of a product is the product of slices,
(W + s B A)[rows, columns] = W[rows, columns] + s B[rows] A[:, columns]: factors are entangled as the weights are.
Here the update is kept merged at all times. Each step's gradient of a weight, summed over the step's sub-networks,
gives those of its factors by the chain rule (dB = s G A^T, dA = s B^T G), AdamW updates the factors, and the weight is
W + s B A again. So the supernet's own training step serves unchanged. What is saved against full fine-tuning is the
optimizer's state, not the memory of gradients; and every sub-network can be extracted at any time.

Hu et al., LoRA, ICLR 2022; whittle (Sukthanker et al. 2024, arXiv 2410.06479) describes a LoRA supernet.

Shapes: out x in weights, r rank; G gradient of a weight.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pruning.lora import LoraSettings, adapted_layers, new_factors
from supernet.model import Supernet
from supernet.training import SupernetModule


class EntangledFactors(nn.Module):
    """The factors of a supernet's adapted weights, which hold the merged update at all times.

    Args:
        supernet: frozen here but for the adapted weights, whose gradients are needed.
        settings: rank, scaling and what is adapted.
        seed: of A; B is zero.
    """

    def __init__(self, supernet: Supernet, settings: LoraSettings, *, seed: int) -> None:
        super().__init__()
        layers = adapted_layers(supernet, settings)
        supernet.requires_grad_(False)
        self._weights = [layer.weight.requires_grad_(True) for layer in layers.values()]  # a list: not registered
        self.scaling = settings.scaling
        generator = torch.Generator().manual_seed(seed)
        factors = [new_factors(weight.detach(), settings, generator) for weight in self._weights]
        self.a = nn.ParameterList(nn.Parameter(a) for a, _ in factors)
        self.b = nn.ParameterList(nn.Parameter(b) for _, b in factors)
        for i, weight in enumerate(self._weights):
            self.register_buffer(f"base_{i}", weight.detach().clone(), persistent=False)

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Turn the gradients of the weights into those of the factors."""
        for weight, a, b in zip(self._weights, self.a, self.b, strict=True):
            if weight.grad is None:  # in no sub-network of this step
                a.grad = b.grad = None
                continue
            gradient = weight.grad.to(a.dtype)
            a.grad, b.grad = self.scaling * (b.T @ gradient), self.scaling * (gradient @ a.T)
            weight.grad = None

    @torch.no_grad()
    def merge(self) -> None:
        """Give the weights the update as it is now."""
        for i, (weight, a, b) in enumerate(zip(self._weights, self.a, self.b, strict=True)):
            base: Tensor = getattr(self, f"base_{i}")
            weight.copy_(base + self.scaling * (b @ a))


class LoraSupernetModule(SupernetModule):
    """Trains a supernet's low-rank update; arguments are those of SupernetModule, and LoRA's.

    To resume, give the same untrained supernet again: its weights are what the update is added to.

    Raises:
        ValueError: `recipe.slice_updates`, which confines updates to parts of weights and not of factors.
    """

    def __init__(self, supernet: Supernet, *args: Any, lora: LoraSettings, **kwargs: Any) -> None:
        super().__init__(supernet, *args, **kwargs)
        if self.recipe.slice_updates:
            raise ValueError("slice_updates is not for LoRA: factors are updated as a whole; set it to false")
        self.factors = EntangledFactors(supernet, lora, seed=self.recipe.seed)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW over the factors, which merges them after each step."""
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            self.factors.parameters(), lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps,
            weight_decay=recipe.weight_decay,
        )  # fmt: skip
        optimizer.register_step_post_hook(lambda *_: self.factors.merge())
        return optimizer

    def _clip(self) -> Tensor:
        self.factors.take_gradients()
        return torch.nn.utils.clip_grad_norm_(self.factors.parameters(), self.recipe.clip_norm or math.inf)
