"""How a pruned network is trained to recover."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from pruning.lora import LoraSettings
from supernet.distill import Distillation
from supernet.evaluate import PRECISIONS
from supernet.recipe import Recipe


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """How long, how fast and by what a network recovers.

    Attributes:
        max_steps: optimizer steps; also the length of the learning-rate schedule.
        batch_size: blocks of one forward and process.
        accumulate: batches whose gradients make one step.
        learning_rate: peak of the schedule: linear warm-up, then a cosine. LoRA wants about five times as much as full
            fine-tuning; `recovery_grid.recover_grid` tries several.
        final_share: end of the schedule as a share of the peak.
        warmup_steps: steps of warm-up.
        weight_decay: of matrices; norms and biases do not decay.
        clip_norm: largest gradient norm; 0 does not clip.
        method: "full" trains all of the blocks and norms, "lora" an update of low rank that is merged afterwards.
        lora: of method "lora"; a mapping of its fields is accepted.
        distillation: how much is learned from the dense network; None is cross-entropy alone; a mapping is accepted.
        teacher_top_k: compare only so many of the dense network's likeliest tokens, and the rest as one; None is all.
        first_token_weight: of the divergence from the dense network on texts of one token (`first_tokens` of each
            batch), added to the loss: training sees one first token in each block, and the attention sink of others may
            be lost with all of the text behind them. 0 is none; without distillation there is none.
        train_embeddings: whether token embedding and head are trained too (method "full"); a small text touches few
            rows of them, and tied ones are also the largest matrix.
        check_every: steps between looks at the held-out text; the last step is looked at too.
        patience: looks without a new best before training stops; 0 never stops early.
        check_batch_size: blocks of one forward of a look.
        checkpoint_every: steps between checkpoints, from which a killed run goes on.
        precision: "32", "bf16" (autocast; weights stay in 32 bits), or "auto": bf16 on a GPU that has it, else 32.
        accelerator: "cpu", "gpu", or "auto": a GPU where there is one.
        devices: how many processes train together (DDP).
        seed: of the order of the blocks and of LoRA's first factors.
        wandb_project: also log to Weights & Biases, into this project; needs a folder.

    Raises:
        ValueError: a setting out of range (named).
    """

    max_steps: int = 100
    batch_size: int = 2
    accumulate: int = 1
    learning_rate: float = 2e-4
    final_share: float = 0.1
    warmup_steps: int = 10
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    method: Literal["full", "lora"] = "full"
    lora: LoraSettings = field(default_factory=LoraSettings)
    distillation: Distillation | None = field(default_factory=Distillation)
    teacher_top_k: int | None = None
    first_token_weight: float = 0.1
    train_embeddings: bool = False
    check_every: int = 25
    patience: int = 4
    check_batch_size: int = 8
    checkpoint_every: int = 50
    precision: Literal["auto", "32", "bf16"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = 1
    seed: int = 0
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        for name, kind in (("lora", LoraSettings), ("distillation", Distillation)):
            if isinstance(getattr(self, name), Mapping):  # of a YAML file
                object.__setattr__(self, name, kind(**getattr(self, name)))
        least = {"max_steps": 1, "batch_size": 1, "accumulate": 1, "warmup_steps": 0, "check_every": 1, "patience": 0}
        least |= {"check_batch_size": 1, "checkpoint_every": 1, "devices": 1, "weight_decay": 0, "clip_norm": 0}
        least |= {"first_token_weight": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"recovery {name} = {getattr(self, name)}: must be at least {value}")
        if not self.learning_rate > 0 or not 0 <= self.final_share <= 1:
            raise ValueError(
                f"recovery learning_rate = {self.learning_rate}, final_share = {self.final_share}: give a positive "
                "rate and a share between 0 and 1"
            )
        for name, allowed in (
            ("method", ("full", "lora")), ("precision", ("auto", *PRECISIONS)), ("accelerator", ("auto", "cpu", "gpu")),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"recovery {name} = {getattr(self, name)!r}; allowed: {', '.join(allowed)}")
        self._check_distillation()

    def _check_distillation(self) -> None:
        if self.teacher_top_k is None:
            return
        if self.teacher_top_k < 1:
            raise ValueError(f"recovery teacher_top_k = {self.teacher_top_k}: must be at least 1, or None for all")
        if self.distillation is None or self.distillation.divergence != "forward_kl":
            raise ValueError("recovery teacher_top_k is for distillation with divergence='forward_kl'")

    @property
    def recipe(self) -> Recipe:
        """The optimizer's settings as those of a supernet's training."""
        return Recipe(
            learning_rate=self.learning_rate, min_learning_rate=self.learning_rate * self.final_share,
            warmup_steps=self.warmup_steps, weight_decay=self.weight_decay, clip_norm=self.clip_norm,
            accumulate=self.accumulate, seed=self.seed,
        )  # fmt: skip

    def n_tokens(self, seq_len: int) -> int:
        """Return the tokens that a whole run trains on, each time a token is seen."""
        return self.max_steps * self.accumulate * self.batch_size * self.devices * seq_len

    def resolved(self) -> RecoverySettings:
        """Return the same settings with "auto" replaced by what this machine has."""
        accelerator = self.accelerator
        if accelerator == "auto":
            accelerator = "gpu" if torch.cuda.is_available() else "cpu"
        precision = self.precision
        if precision == "auto":
            precision = "bf16" if accelerator == "gpu" and torch.cuda.is_bf16_supported() else "32"
        return replace(self, accelerator=accelerator, precision=precision)
