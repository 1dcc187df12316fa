from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from supernet.distill import (
    DIVERGENCES,
    Distillation,
    cross_entropy,
    forward_kl,
    jensen_shannon,
    net_loss,
    reverse_kl,
    token_mean,
)

TAU = 2.5


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 11, generator=generator) * 3, torch.randn(6, 11, generator=generator) * 3


def test_cross_entropy_is_torchs(logits) -> None:
    student, _ = logits
    targets = torch.arange(6)
    torch.testing.assert_close(cross_entropy(student, targets).mean(), F.cross_entropy(student, targets))


def test_forward_kl_is_torchs_divergence_of_the_teacher_from_the_student(logits) -> None:
    student, teacher = logits
    p, q = (teacher / TAU).softmax(-1), (student / TAU).softmax(-1)
    expected = torch.distributions.kl_divergence(torch.distributions.Categorical(p), torch.distributions.Categorical(q))
    torch.testing.assert_close(forward_kl(student, teacher, TAU), expected)
    torch.testing.assert_close(forward_kl(student, teacher, TAU).mean(), F.kl_div(q.log(), p, reduction="batchmean"))


def test_reverse_kl_swaps_the_two(logits) -> None:
    student, teacher = logits
    torch.testing.assert_close(reverse_kl(student, teacher, TAU), forward_kl(teacher, student, TAU))
    assert not torch.allclose(reverse_kl(student, teacher, TAU), forward_kl(student, teacher, TAU))


def test_jensen_shannon_is_the_mean_divergence_from_the_mixture(logits) -> None:
    student, teacher = logits
    p, q = (teacher / TAU).softmax(-1), (student / TAU).softmax(-1)
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2
    torch.testing.assert_close(jensen_shannon(student, teacher, TAU), expected)


def test_jensen_shannon_is_symmetric_and_at_most_log_two(logits) -> None:
    student, teacher = logits
    torch.testing.assert_close(jensen_shannon(student, teacher), jensen_shannon(teacher, student))
    apart = jensen_shannon(torch.tensor([[200.0, 0.0]]), torch.tensor([[0.0, 200.0]]))
    assert apart.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_vanish_on_equal_logits_with_no_gradient(name: str, logits) -> None:
    student = logits[0].clone().requires_grad_()
    loss = DIVERGENCES[name](student, logits[0], TAU)
    torch.testing.assert_close(loss, torch.zeros(6), atol=1e-6, rtol=0)
    loss.sum().backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergences_stay_finite_on_extreme_logits(name: str) -> None:
    student = torch.tensor([[1000.0, -1000.0, 0.0]], requires_grad=True)
    loss = DIVERGENCES[name](student, torch.tensor([[-1000.0, 1000.0, 0.0]]), 1.0).sum()
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_the_objective_mixes_hard_and_soft_losses(logits) -> None:
    student, teacher = (x.view(2, 3, 11) for x in logits)
    targets = torch.arange(6).view(2, 3)
    distillation = Distillation(divergence="reverse_kl", alpha=0.3, temperature=TAU)
    loss = net_loss(student, targets, distillation=distillation, teacher=teacher)
    hard = F.cross_entropy(student.flatten(0, 1), targets.flatten())
    soft = reverse_kl(student.flatten(0, 1), teacher.flatten(0, 1), TAU).mean()
    torch.testing.assert_close(loss.objective, 0.7 * hard + 0.3 * TAU**2 * soft)
    torch.testing.assert_close(loss.cross_entropy, hard)
    torch.testing.assert_close(loss.divergence, soft)


def test_the_teacher_gets_no_gradient(logits) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1].clone().requires_grad_()
    net_loss(student, torch.arange(6), distillation=Distillation(), teacher=teacher).objective.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_without_a_teacher_the_objective_is_cross_entropy(logits) -> None:
    student, _ = logits
    loss = net_loss(student, torch.arange(6), distillation=Distillation(alpha=0.9))
    torch.testing.assert_close(loss.objective, F.cross_entropy(student, torch.arange(6)))


def test_chunks_give_the_loss_and_gradient_of_the_whole(logits) -> None:
    whole, parts = (logits[0].clone().requires_grad_() for _ in range(2))
    losses = []
    for student, chunk in ((whole, 0), (parts, 4)):
        loss = net_loss(student, torch.arange(6), distillation=Distillation(chunk_tokens=chunk), teacher=logits[1])
        loss.objective.backward()
        losses.append(loss.objective)
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(whole.grad, parts.grad)


def test_chunks_hold_one_chunk_of_distributions_at_a_time() -> None:
    kept: list[int] = []

    def loss(student: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return forward_kl(student, reference)

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.untyped_storage().nbytes() if tensor.untyped_storage().data_ptr() not in own else 0)
        return tensor

    student, teacher = torch.randn(64, 50, requires_grad=True), torch.randn(64, 50)
    own = {student.untyped_storage().data_ptr(), teacher.untyped_storage().data_ptr()}
    sizes = {}
    for chunk in (0, 8):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            token_mean(loss, student, teacher, chunk_tokens=chunk)
        sizes[chunk] = sum(kept)
    assert sizes[8] < sizes[0] / 8


def test_a_teacher_padded_to_another_size_is_compared_on_common_columns(logits) -> None:
    student, teacher = logits
    padded = torch.cat([teacher, torch.full((6, 5), 9.0)], dim=-1)
    loss = net_loss(student, torch.arange(6), distillation=Distillation(), teacher=padded)
    torch.testing.assert_close(loss.divergence, forward_kl(student, teacher).mean())


def test_a_teacher_of_other_tokens_is_refused(logits) -> None:
    student, teacher = logits
    with pytest.raises(ValueError, match="both must be of the same tokens"):
        net_loss(student, torch.arange(6), distillation=Distillation(), teacher=teacher[:5])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "l2"}, "allowed: forward_kl, reverse_kl, jensen_shannon"),
        ({"alpha": 1.5}, "alpha = 1.5"),
        ({"temperature": 0.0}, "must be positive"),
        ({"chunk_tokens": -1}, "chunk_tokens = -1"),
    ],
)
def test_illegal_settings_name_what_is_allowed(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Distillation(**settings)
