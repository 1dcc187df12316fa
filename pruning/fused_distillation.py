"""Cross-entropy and forward KL in one pass that also computes the gradient, a few tokens at a time.

With a vocabulary of 49,152, losses of some hundred tokens are larger than a processor's caches, and autograd's separate
steps read and write them many times. On one CPU core, 512 tokens with gradient took 1.7 s with
`supernet.distill.net_loss`, 0.7 s with its chunks, and 0.3 s so (bfloat16 logits, temperature 1).

The gradient with respect to a token's logits s is (1 - alpha) (softmax(s) - onehot) + alpha tau (softmax(s / tau) -
softmax(t / tau)), t being the teacher's.

Shapes: N tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CPU_TOKENS, _GPU_TOKENS = 16, 1024  # at a time


class FusedDistillation(torch.autograd.Function):
    """(1 - alpha) * cross-entropy + alpha * tau^2 * KL(teacher || student), means over tokens.

    Inputs are (N, V) logits of student and teacher, (N,) targets, alpha, tau and the tokens at a time. Outputs are the
    objective, and cross-entropy and divergence without gradients; all float32.
    """

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, targets: Tensor, alpha: float, tau: float, tokens: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses; the gradient is computed here and kept, in the type of the logits."""
        n, gradient = len(student), torch.empty_like(student)
        hard, soft = student.new_zeros((2,), dtype=torch.float32)
        parts = zip(*(x.split(tokens) for x in (student, teacher, targets, gradient)), strict=True)
        for s, t, target, out in parts:
            place = (torch.arange(len(s), device=s.device), target)
            log_q, log_p = s.float().log_softmax(-1), (t.float() / tau).log_softmax(-1)
            log_q_tau = log_q if tau == 1 else (s.float() / tau).log_softmax(-1)
            p = log_p.exp()
            hard -= log_q[place].sum()
            soft += torch.dot(p.flatten(), (log_p - log_q_tau).flatten())
            d = log_q_tau.exp().sub_(p).mul_(alpha * tau)
            d.add_(log_q.exp_(), alpha=1 - alpha)
            d[place] -= 1 - alpha
            out.copy_(d.div_(n))
        ctx.save_for_backward(gradient)
        hard, soft = hard / n, soft / n
        ctx.mark_non_differentiable(hard, soft)
        return (1 - alpha) * hard + alpha * tau**2 * soft, hard, soft

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, objective: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the kept gradient."""
        (gradient,) = ctx.saved_tensors
        return (gradient * objective.to(gradient.dtype), None, None, None, None, None)


def fused_distillation(
    student: Tensor, teacher: Tensor, targets: Tensor, *, alpha: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the objective, the cross-entropy and the divergence, scalars in nats a token.

    Args:
        student: (N, V) logits; the objective has a gradient with respect to them.
        teacher: (N, V) logits, constants.
        targets: (N,) next tokens.
        alpha: share of the divergence.
        temperature: tau.
    """
    tokens = _CPU_TOKENS if student.device.type == "cpu" else _GPU_TOKENS
    return FusedDistillation.apply(student, teacher.detach(), targets, float(alpha), float(temperature), tokens)
