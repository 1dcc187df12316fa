"""Local distillation: an MLP behind pruned layers comes nearer to the dense network's residual stream."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from pruning_supernets import blocks_for, build_supernet, calm_supernet, recorded_inputs
from torch import nn

from pruning.local_distillation import Examples, LocalDistillation, _train, distil_mlp
from pruning.overlay import OverlaySettings
from pruning.realise import _Dense, realise
from pruning.settings import PruneSettings
from supernet.architecture import Architecture

QUICK = LocalDistillation(epochs=3, batch_size=64)


class Small(nn.Module):
    """A gated MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def task(n=800, width=8, hidden=32, kept=16):
    """Return the first neurons of a random MLP, and what it gets and should give: to fit, to stop, and other."""
    torch.manual_seed(0)
    teacher = Small(width, hidden)
    student = Small(width, kept)
    with torch.no_grad():
        for part in ("gate", "up"):
            getattr(student, part).weight.copy_(getattr(teacher, part).weight[:kept])
            getattr(student, part).bias.copy_(getattr(teacher, part).bias[:kept])
        student.down.weight.copy_(teacher.down.weight[:, :kept])
        student.down.bias.copy_(teacher.down.bias)

        def examples(n_texts):
            inputs, state = torch.randn(n_texts, 20, width), torch.randn(n_texts, 20, width)
            return Examples.of(inputs, state, state + teacher(inputs))

        return student, examples(n // 20), examples(10), examples(40)


def weights(mlp):
    """Return all weights as one vector."""
    return torch.cat([p.detach().flatten() for p in mlp.parameters()])


def test_the_error_is_relative_to_each_tokens_stream_and_bounded():
    torch.manual_seed(1)
    mlp, (inputs, state, target) = Small(8, 16), torch.randn(3, 4, 5, 8)
    state[0, 0] *= 1000
    target[0, 0] *= 1000
    with torch.no_grad():
        relative = (state + mlp(inputs) - target).square().sum(-1) / target.square().sum(-1)
        expected = (relative / (1 + relative)).mean()
        found = Examples.of(inputs, state, target).error(mlp, "32")
        parts = [Examples.of(inputs[i : i + 1], state[i : i + 1], target[i : i + 1]) for i in range(4)]
        joined = Examples.joined(parts).error(mlp, "32")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(joined, expected)


def test_few_tokens_that_cannot_be_helped_do_not_steer():
    """Some tokens' errors are a thousand times as large as others', as where a pruned network alone makes a sink."""
    student, shown, held_out, other = task()
    lost = replace(shown, missing=shown.missing.clone())
    lost.missing[::50] *= 1000
    settings, calm = replace(QUICK, epochs=20, batch_size=128), copy.deepcopy(student)
    distil_mlp(calm, shown, held_out, settings)
    distil_mlp(student, lost, held_out, settings)
    with torch.no_grad():
        assert float(other.error(student, "32")) < 1.1 * float(other.error(calm, "32"))


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_the_error_on_other_text_falls(precision):
    student, shown, held_out, other = task()
    with torch.no_grad():
        start = float(other.error(student, "32"))
    before, after = distil_mlp(student, shown, held_out, replace(QUICK, epochs=20, batch_size=128), precision=precision)
    with torch.no_grad():
        assert after < 0.7 * before and float(other.error(student, "32")) < 0.8 * start


def test_it_goes_as_far_as_held_out_text_allows():
    student, shown, held_out, other = task(n=40)  # so few tokens that large steps fit them and nothing else
    settings = replace(QUICK, epochs=40, learning_rate=0.2)
    one, last = copy.deepcopy(student), copy.deepcopy(student).requires_grad_(True)
    before, after = distil_mlp(one, shown, held_out, settings)
    _train(last, shown, settings, "32")
    with torch.no_grad():
        assert float(held_out.error(one, "32")) == pytest.approx(after, rel=1e-5)
        assert after <= before
        assert after < float(held_out.error(last, "32"))
        assert float(other.error(one, "32")) < float(other.error(last, "32"))
    way, whole = weights(one) - weights(student), weights(last) - weights(student)
    share = float(way @ whole / (whole @ whole))
    assert share == pytest.approx(round(4 * share) / 4, abs=1e-4)
    torch.testing.assert_close(way, share * whole, rtol=1e-3, atol=1e-5)


def test_nothing_changes_where_no_pass_helps():
    student, shown, held_out, _ = task()
    with torch.no_grad():
        perfect = replace(held_out, missing=student(held_out.inputs))
    original = weights(student)
    before, after = distil_mlp(student, shown, perfect, QUICK)
    assert before == after == pytest.approx(0, abs=1e-12) and torch.equal(weights(student), original)


def test_weights_that_are_no_numbers_are_not_taken():
    student, shown, held_out, _ = task()
    original = weights(student)
    distil_mlp(student, shown, held_out, replace(QUICK, learning_rate=1e30))
    assert torch.equal(weights(student), original)


def test_the_same_seed_gives_the_same_weights_and_a_dtype_stays():
    student, shown, held_out, _ = task()
    found = []
    for seed in (3, 3, 4):
        one = copy.deepcopy(student).to(torch.bfloat16)
        distil_mlp(one, shown, held_out, replace(QUICK, seed=seed, epochs=8))
        assert one.down.weight.dtype == torch.bfloat16
        found.append(weights(one))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"epochs": -1}, {"learning_rate": 0.0}, {"batch_size": 0}, {"seed": -1}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LocalDistillation(**wrong)


def test_pruning_takes_no_negative_passes():
    assert PruneSettings(local_distillation=0).distillation is None
    assert PruneSettings(local_distillation=2, seed=5).distillation == LocalDistillation(2, seed=5)
    with pytest.raises(ValueError, match="local_distillation = -1"):
        PruneSettings(local_distillation=-1)


# --- in the final network -------------------------------------------------------------------------------------------


def cut_arch(supernet):
    """Return a network with fewer neurons in every block, of which one is gone."""
    config = supernet.config
    return Architecture(
        config.n_embd, (config.n_head,) * 3, (config.n_query_groups,) * 3, (20, 30, 11), (0, 1, 3), bias=config.bias
    )


def last_stream(gpt, blocks):
    """Return the residual stream behind the last block, (n, T, C)."""
    return recorded_inputs(gpt, blocks, gpt.transformer.ln_f)


@pytest.mark.parametrize("family", ["llama-gqa6", "qwen2", "pythia", "gemma"])
def test_a_realised_network_is_nearer_to_the_dense_stream_on_other_text(family):
    supernet = calm_supernet(family)
    blocks, held_out, other = (blocks_for(supernet, n=n, seed=n) for n in (48, 8, 16))
    plain, distilled = (
        realise(supernet, cut_arch(supernet), blocks, target="dense", distillation=how, held_out=held_out).gpt
        for how in (None, LocalDistillation(epochs=10, batch_size=256))
    )
    wanted = last_stream(supernet, other)
    before, after = (
        ((last_stream(gpt, other) - wanted).square().sum(-1) / wanted.square().sum(-1)).mean().item()
        for gpt in (plain, distilled)
    )
    assert after < before
    names = [n for n, p in plain.named_parameters() if not torch.equal(p, dict(distilled.named_parameters())[n])]
    assert any(".mlp.fc" in name for name in names)
    assert not any("norm" in name or "wte" in name or "lm_head" in name for name in names)


@pytest.mark.parametrize("intercept", [False, True])
def test_the_stream_behind_a_distilled_block_is_that_of_the_block(intercept, monkeypatch):
    supernet = build_supernet("qwen2")
    blocks, held_out = blocks_for(supernet, n=8), blocks_for(supernet, n=2, seed=3)
    call = partial(
        realise, supernet, cut_arch(supernet), blocks, target="dense", distillation=QUICK, held_out=held_out,
        settings=OverlaySettings(intercept=intercept),
    )  # fmt: skip
    found = call().gpt
    after = _Dense.after

    def run_again(self, stream, position, block):
        after(self, stream, position, block)
        return stream.after(block, position)

    monkeypatch.setattr(_Dense, "after", run_again)
    for name, weight in call().gpt.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], weight, rtol=1e-2, atol=1e-3)


def test_held_out_text_does_not_enter_the_least_squares():
    supernet = build_supernet("llama-gqa6")
    blocks = blocks_for(supernet, n=8)
    attention = [
        realise(
            supernet, cut_arch(supernet), blocks, target="dense", distillation=QUICK,
            held_out=blocks_for(supernet, n=2, seed=seed),
        ).gpt.transformer.h[0].attn.proj.weight
        for seed in (3, 4)
    ]  # fmt: skip
    assert torch.equal(*attention)


def test_distillation_needs_the_dense_target_and_held_out_text():
    supernet = build_supernet("llama-gqa6")
    call = partial(realise, supernet, cut_arch(supernet), blocks_for(supernet), distillation=QUICK)
    with pytest.raises(ValueError, match="target='dense', not 'own'"):
        call()
    with pytest.raises(ValueError, match="give held_out"):
        call(target="dense")
