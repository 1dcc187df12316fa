"""How training updates weights: initialisation, decay groups, learning-rate schedule.

Initialisation: Black et al., GPT-NeoX-20B, 2022. Decay groups and warm-up + cosine: as in GPT-3 and nanoGPT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import litgpt
import torch
from litgpt.model import CausalSelfAttention, GptNeoxMLP, LLaMAMLP
from torch import nn


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of the optimizer and of a step.

    Attributes:
        learning_rate: peak of the schedule.
        min_learning_rate: end of the schedule.
        warmup_steps: steps of linear warm-up.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of the parameters that decay, see `decay_groups`.
        decay_embeddings: whether the token embedding decays like the other matrices.
        clip_norm: largest gradient norm; 0 does not clip.
        accumulate: batches whose gradients make one step.
        slice_updates: confine AdamW's decay, momentum and update to the part of the weights that the step trained
            (supernet.optimizer.SubnetAdamW), when the largest network is not in every step.
        compile: torch.compile of the largest network's dense path.
        n_validation_random: sub-networks, drawn once from `seed`, whose validation perplexity is logged beside the
            largest's and the smallest's.
        seed: of all that is drawn during training.
    """

    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-4
    warmup_steps: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_embeddings: bool = True
    clip_norm: float = 1.0
    accumulate: int = 1
    slice_updates: bool = False
    compile: bool = False
    n_validation_random: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(
                f"min_learning_rate = {self.min_learning_rate}: give 0 to learning_rate = {self.learning_rate}"
            )
        for name, smallest in (
            ("warmup_steps", 0), ("clip_norm", 0), ("accumulate", 1), ("n_validation_random", 0), ("weight_decay", 0),
        ):  # fmt: skip
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least {smallest}")

    def learning_rate_at(self, step: int, max_steps: int) -> float:
        """Return the learning rate of a step (0 is the first): linear warm-up, then a cosine to the minimum."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        progress = min((step - self.warmup_steps) / max(max_steps - self.warmup_steps, 1), 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return self.min_learning_rate + cosine * (self.learning_rate - self.min_learning_rate)


def decay_groups(model: litgpt.GPT, recipe: Recipe) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: matrices decay, norms and biases do not, embeddings as the recipe says.

    A head tied to the embedding is that embedding.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    embedding = model.transformer.wte.weight
    for parameter in model.parameters():
        decays = parameter.dim() >= 2 and (recipe.decay_embeddings or parameter is not embedding)
        (decayed if decays else others).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def initialize_weights(model: litgpt.GPT, *, seed: int) -> None:
    """Draw all matrices anew as GPT-NeoX does; biases become 0, norms are left as they are.

    Matrices are normal with variance 2 / (5 n_embd), output projections of attention and MLP with deviation
    1 / (n_layer sqrt(n_embd)). The draw depends on `seed` and the shapes only, not on torch's global generator.
    """
    n_embd, n_layer = model.config.n_embd, model.config.n_layer
    generator = torch.Generator().manual_seed(seed)
    projections = {
        module.proj for module in model.modules() if isinstance(module, CausalSelfAttention | GptNeoxMLP | LLaMAMLP)
    }
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Embedding):
            continue
        std = 1 / (n_layer * math.sqrt(n_embd)) if module in projections else math.sqrt(2 / (5 * n_embd))
        with torch.no_grad():
            drawn = torch.empty(module.weight.shape).normal_(0.0, std, generator=generator)
            module.weight.copy_(drawn)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
