"""The loss of recovery: next-token cross-entropy and the divergence from the dense network, of all tokens or the top k.

Shapes: N tokens, V vocabulary; student and teacher logits (N, V).
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.fused_distillation import fused_distillation
from supernet.distill import Distillation, NetLoss, cross_entropy, forward_kl, net_loss, token_mean


def top_k_divergence(student: Tensor, teacher: Tensor, k: int, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) of each token over the teacher's `k` likeliest tokens and all others as one, (N,).

    The others together are one event, so nothing is renormalised: it is a divergence of true probabilities, never more
    than `forward_kl` (data processing inequality) and equal to it from k = V - 1 on. Two logarithms of sums take the
    place of two softmaxes of all of the vocabulary.
    """
    if k >= student.shape[-1] - 1:
        return forward_kl(student, teacher, temperature)
    with torch.no_grad():
        wanted = teacher.float() / temperature
        best = wanted.topk(k, dim=-1)
        log_p = _with_rest(wanted, best.indices)
    log_q = _with_rest(student.float() / temperature, best.indices)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _with_rest(logits: Tensor, index: Tensor) -> Tensor:
    """Return the log-probabilities of the tokens (N, k) at `index` and of all others together, (N, k + 1)."""
    rest = logits.scatter(-1, index, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, index), rest], dim=-1).log_softmax(-1)


def recovery_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    teacher: Tensor | None = None,
    distillation: Distillation | None = None,
    top_k: int | None = None,
) -> NetLoss:
    """Return the loss of a pruned network on one batch.

    Args:
        logits: (..., V) of the pruned network.
        targets: (...) next tokens.
        teacher: (..., V) logits of the dense network, treated as constants; None is cross-entropy alone.
        distillation: how to mix in the teacher; None is cross-entropy alone.
        top_k: compare only so many of the teacher's likeliest tokens and the rest as one; None compares all.
    """
    if teacher is None or distillation is None:
        return net_loss(logits, targets)
    if top_k is None:
        if distillation.divergence != "forward_kl" or teacher.shape != logits.shape:
            return net_loss(logits, targets, distillation=distillation, teacher=teacher)
        losses = fused_distillation(
            logits.flatten(0, -2), teacher.flatten(0, -2), targets.flatten(),
            alpha=distillation.alpha, temperature=distillation.temperature,
        )  # fmt: skip
        return NetLoss(*losses)
    chunk, tau = distillation.chunk_tokens, distillation.temperature
    flat, columns = logits.flatten(0, -2), min(logits.shape[-1], teacher.shape[-1])
    hard = token_mean(cross_entropy, flat, targets.flatten(), chunk_tokens=chunk)
    soft = token_mean(
        lambda s, t: top_k_divergence(s, t, top_k, tau),
        flat[:, :columns],
        teacher.detach().flatten(0, -2)[:, :columns],
        chunk_tokens=chunk,
    )
    objective = (1 - distillation.alpha) * hard + distillation.alpha * tau**2 * soft
    return NetLoss(objective, hard.detach(), soft.detach())
