"""Losses: next-token cross-entropy and distillation from the largest network or from another teacher.

A network's objective is (1 - alpha) * cross-entropy + alpha * temperature^2 * divergence(teacher, student) on softened
distributions (Hinton et al., 2015); the teacher of in-place distillation is the largest network of the same step (Yu
and Huang, ICCV 2019). Everything is in nats a token.

Shapes: N tokens, V vocabulary; student and teacher logits (N, V), targets (N,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log softmax(logits)[target] of each token, (N,) float32."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def forward_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) of each token, (N,): the student covers all that the teacher considers likely."""
    log_q, log_p = _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    return _kl(log_p, log_q)


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(student || teacher) of each token, (N,): the student keeps to the teacher's main modes."""
    log_q, log_p = _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    return _kl(log_q, log_p)


def jensen_shannon(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the Jensen-Shannon divergence of each token, (N,): symmetric, between 0 and log 2."""
    log_q, log_p = _log_softmax(student, temperature), _log_softmax(teacher, temperature)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (_kl(log_p, log_m) + _kl(log_q, log_m))


DIVERGENCES: Mapping[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
}


@dataclass(frozen=True, slots=True)
class Distillation:
    """How much and with which divergence a network learns from its teacher.

    Attributes:
        divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
        alpha: share of the divergence in the objective, 0 to 1; the rest is cross-entropy.
        temperature: divides both logits; the divergence is multiplied by its square, which keeps gradients comparable.
        chunk_tokens: tokens whose distributions are held at a time; 0 holds all. Chunks are recomputed in backward, so
            memory beyond the logits is that of one chunk, at the price of computing the loss twice.
    """

    divergence: Divergence = "forward_kl"
    alpha: float = 0.5
    temperature: float = 1.0
    chunk_tokens: int = 0

    def __post_init__(self) -> None:
        if self.divergence not in DIVERGENCES:
            raise ValueError(f"divergence = {self.divergence!r}; allowed: {', '.join(DIVERGENCES)}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha = {self.alpha}: give a share between 0 and 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature = {self.temperature}: must be positive")
        if self.chunk_tokens < 0:
            raise ValueError(f"chunk_tokens = {self.chunk_tokens}: must be 0 (all at once) or more")


@dataclass(frozen=True, slots=True)
class NetLoss:
    """Loss of one network on one batch; scalars in nats a token.

    Attributes:
        objective: what is minimised.
        cross_entropy: of the next token, detached.
        divergence: from the teacher, detached; 0 without one.
    """

    objective: Tensor
    cross_entropy: Tensor
    divergence: Tensor


def net_loss(
    logits: Tensor, targets: Tensor, *, distillation: Distillation | None = None, teacher: Tensor | None = None
) -> NetLoss:
    """Return the loss of one network.

    Args:
        logits: (..., V) of the network.
        targets: (...) next tokens.
        distillation: how to mix in the teacher; None is cross-entropy alone.
        teacher: (..., V') logits of the teacher, treated as constants; None is cross-entropy alone. Vocabularies that
            are padded to different sizes are compared on the columns that both have.

    Raises:
        ValueError: the teacher's logits are of other tokens than the network's.
    """
    chunk = distillation.chunk_tokens if distillation else 0
    flat = logits.flatten(0, -2)
    hard = token_mean(cross_entropy, flat, targets.flatten(), chunk_tokens=chunk)
    if distillation is None or teacher is None:
        return NetLoss(hard, hard.detach(), torch.zeros_like(hard.detach()))
    if teacher.shape[:-1] != logits.shape[:-1]:
        raise ValueError(
            f"teacher logits have shape {tuple(teacher.shape)}, the network's {tuple(logits.shape)}: "
            "both must be of the same tokens"
        )
    kind, tau = DIVERGENCES[distillation.divergence], distillation.temperature
    columns = min(teacher.shape[-1], flat.shape[-1])
    fixed = teacher.detach().flatten(0, -2)[:, :columns]
    soft = token_mean(lambda s, t: kind(s, t, tau), flat[:, :columns], fixed, chunk_tokens=chunk)
    objective = (1 - distillation.alpha) * hard + distillation.alpha * tau**2 * soft
    return NetLoss(objective, hard.detach(), soft.detach())


def token_mean(
    loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, reference: Tensor, *, chunk_tokens: int = 0
) -> Tensor:
    """Return the mean over tokens of `loss(student, reference)`, holding `chunk_tokens` tokens at a time (0: all)."""
    if not 0 < chunk_tokens < len(student):
        return loss(student, reference).mean()
    chunks = zip(student.split(chunk_tokens), reference.split(chunk_tokens), strict=True)
    sums = [checkpoint(lambda s, r: loss(s, r).sum(), s, r, use_reentrant=False) for s, r in chunks]
    return torch.stack(sums).sum() / len(student)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(logits.float() / temperature, dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) of each row from log-probabilities."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
