import pytest
import torch
import torch.nn.functional as F

from pruning.distillation_loss import recovery_loss, top_k_divergence
from pruning.fused_distillation import FusedDistillation, fused_distillation
from supernet.distill import Distillation, forward_kl, net_loss

TAU = 2.0


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 5, 13, generator=generator) * 2, torch.randn(2, 5, 13, generator=generator) * 2


def test_the_objective_is_hinton_s_formula_written_out(logits):
    student, teacher = logits
    targets = torch.arange(10).view(2, 5)
    loss = recovery_loss(student, targets, teacher=teacher, distillation=Distillation(alpha=0.3, temperature=TAU))
    p, q = (teacher / TAU).softmax(-1).double(), (student / TAU).softmax(-1).double()
    divergence = (p * (p / q).log()).sum(-1).mean()
    hard = -student.double().softmax(-1).gather(-1, targets[..., None]).log().mean()
    torch.testing.assert_close(loss.objective.double(), 0.7 * hard + 0.3 * TAU**2 * divergence)
    torch.testing.assert_close(loss.cross_entropy.double(), hard)


@pytest.mark.parametrize("k", [1, 4, 11])
def test_the_top_k_divergence_is_that_of_k_tokens_and_all_others_as_one(logits, k):
    student, teacher = (x.flatten(0, 1) for x in logits)
    p, q = (teacher / TAU).softmax(-1).double(), (student / TAU).softmax(-1).double()
    expected = []
    for p_row, q_row in zip(p, q, strict=True):
        best = sorted(range(13), key=lambda i: -float(p_row[i]))[:k]
        events = [(p_row[i], q_row[i]) for i in best]
        events.append((1 - sum(a for a, _ in events), 1 - sum(b for _, b in events)))
        expected.append(sum(a * (a / b).log() for a, b in events))
    found = top_k_divergence(student, teacher, k, TAU)
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert (found <= forward_kl(student, teacher, TAU) + 1e-6).all()


def test_of_all_tokens_it_is_the_whole_divergence(logits):
    student, teacher = (x.flatten(0, 1) for x in logits)
    for k in (12, 13, 99):
        torch.testing.assert_close(top_k_divergence(student, teacher, k, TAU), forward_kl(student, teacher, TAU))


def test_the_top_k_gradient_is_finite_where_the_others_have_no_probability():
    teacher = torch.tensor([[90.0, 80.0, 0.0, 0.0, 0.0]])
    student = torch.tensor([[95.0, 70.0, 0.0, 0.0, 0.0]], requires_grad=True)
    top_k_divergence(student, teacher, 2).sum().backward()
    assert torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0


@pytest.mark.parametrize("top_k", [None, 4])
def test_chunks_change_neither_the_loss_nor_its_gradient(logits, top_k):
    student, teacher = logits
    targets, found = torch.arange(10).view(2, 5), []
    for chunk in (0, 3):
        own = student.clone().requires_grad_(True)
        distillation = Distillation(temperature=TAU, chunk_tokens=chunk)
        loss = recovery_loss(own, targets, teacher=teacher, distillation=distillation, top_k=top_k)
        loss.objective.backward()
        found.append((loss.objective.detach(), loss.divergence, own.grad))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("tokens", [1, 3, 16])
def test_the_fused_loss_and_its_gradient_are_autograds(tau, tokens):
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(7, 13, generator=generator, dtype=torch.float64) for _ in range(2))
    targets, found = torch.arange(7), []
    for fused in (True, False):
        own = student.float().requires_grad_(True)
        if fused:
            objective, hard, soft = FusedDistillation.apply(own, teacher.float(), targets, 0.3, tau, tokens)
            assert not hard.requires_grad and not soft.requires_grad
        else:
            loss = net_loss(own, targets, distillation=Distillation(alpha=0.3, temperature=tau), teacher=teacher)
            objective, hard, soft = loss.objective, loss.cross_entropy, loss.divergence
        (objective * 2).backward()
        found.append((objective.detach(), hard, soft, own.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_the_fused_loss_of_16_bit_logits_is_taken_in_32_bits(logits):
    student, teacher = (x.flatten(0, 1).bfloat16() for x in logits)
    targets = torch.arange(10)
    objective, *_ = fused_distillation(student, teacher, targets, alpha=0.5, temperature=1.0)
    expected = net_loss(student.float(), targets, distillation=Distillation(), teacher=teacher.float()).objective
    torch.testing.assert_close(objective, expected)


def test_other_divergences_and_vocabularies_of_another_padding_are_the_supernets(logits):
    student, teacher = logits
    targets = torch.arange(10).view(2, 5)
    for kind, given in (("reverse_kl", teacher), ("forward_kl", teacher[..., :11])):
        distillation = Distillation(divergence=kind)
        found = recovery_loss(student, targets, teacher=given, distillation=distillation)
        assert found.objective == net_loss(student, targets, distillation=distillation, teacher=given).objective


def test_without_a_teacher_it_is_cross_entropy(logits):
    student, teacher = logits
    targets = torch.arange(10).view(2, 5)
    expected = F.cross_entropy(student.flatten(0, 1), targets.flatten())
    for given in ({"teacher": None, "distillation": Distillation(), "top_k": 3}, {"teacher": teacher}):
        torch.testing.assert_close(recovery_loss(student, targets, **given).objective, expected)
