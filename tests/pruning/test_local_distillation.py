"""Local distillation: an MLP behind pruned layers comes nearer to the dense network's residual stream."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from pruning_supernets import blocks_for, build_supernet, calm_supernet, recorded_inputs
from torch import nn

from pruning.local_distillation import Examples, LocalDistillation, distil_mlp
from pruning.realise import realise
from pruning.solve import PruneSettings
from supernet.architecture import Architecture

QUICK = LocalDistillation(epochs=3, batch_size=64)


class Small(nn.Module):
    """A gated MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def task(seed=0, n=24, T=32, width=8, hidden=32, kept=16):
    """Return the first neurons of a random MLP, and what it gets and should give, n texts and first tokens."""
    torch.manual_seed(seed)
    teacher = Small(width, hidden)
    student = Small(width, kept)
    with torch.no_grad():
        for part in ("gate", "up"):
            getattr(student, part).weight.copy_(getattr(teacher, part).weight[:kept])
            getattr(student, part).bias.copy_(getattr(teacher, part).bias[:kept])
        student.down.weight.copy_(teacher.down.weight[:, :kept])
        student.down.bias.copy_(teacher.down.bias)
    inputs = [torch.randn(n // 2, T, width), torch.randn(n - n // 2, T, width), torch.randn(40, 1, width)]
    states = [torch.randn(x.shape) for x in inputs]
    with torch.no_grad():
        targets = [s + teacher(x) for s, x in zip(states, inputs, strict=True)]
    return student, inputs, states, targets


def relative_error(mlp, inputs, states, targets):
    """Return the mean over tokens of |state + MLP(x) - target|^2 / |target|^2, by its definition."""
    with torch.no_grad():
        errors = [
            ((s + mlp(x) - y).square().sum(-1) / y.square().sum(-1)).flatten()
            for x, s, y in zip(inputs, states, targets, strict=True)
        ]
    return torch.cat(errors).mean().item()


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_the_error_on_texts_that_it_does_not_see_falls(precision):
    student, inputs, states, targets = task()
    _, fresh, fresh_states, _ = task(seed=1)
    torch.manual_seed(0)
    teacher = Small(8, 32)
    with torch.no_grad():
        fresh_targets = [s + teacher(x) for s, x in zip(fresh_states, fresh, strict=True)]
    start = relative_error(student, fresh, fresh_states, fresh_targets)
    before, after = distil_mlp(
        student, inputs, states, targets, replace(QUICK, epochs=20, batch_size=128), precision=precision
    )
    assert after < 0.7 * before
    assert relative_error(student, fresh, fresh_states, fresh_targets) < 0.8 * start


def test_what_is_returned_is_the_error_on_every_eighth_text():
    student, inputs, states, targets = task()
    original = copy.deepcopy(student)
    before, after = distil_mlp(student, inputs, states, targets, QUICK)
    texts = [[row for batch in part for row in batch] for part in (inputs, states, targets)]
    held = [[row for i, row in enumerate(own) if i % 8 == 7] for own in texts]
    assert before == pytest.approx(relative_error(original, *held), rel=1e-5)
    assert after == pytest.approx(relative_error(student, *held), rel=1e-5)


def test_nothing_changes_where_no_pass_helps():
    student, inputs, states, _ = task()
    with torch.no_grad():
        perfect = [s + student(x) for s, x in zip(states, inputs, strict=True)]
    original = copy.deepcopy(student.state_dict())
    before, after = distil_mlp(student, inputs, states, perfect, QUICK)
    assert before == after == pytest.approx(0, abs=1e-12)
    assert all(torch.equal(value, original[name]) for name, value in student.state_dict().items())


def test_weights_that_are_no_numbers_are_not_taken():
    student, inputs, states, targets = task()
    original = copy.deepcopy(student.state_dict())
    distil_mlp(student, inputs, states, targets, replace(QUICK, learning_rate=1e30))
    assert all(torch.equal(value, original[name]) for name, value in student.state_dict().items())


def test_one_text_is_not_enough():
    student, inputs, states, targets = task(n=2)
    original = copy.deepcopy(student.state_dict())
    one = [[part[0], part[2]] for part in (inputs, states, targets)]
    assert all(math.isnan(error) for error in distil_mlp(student, *one, QUICK))
    assert all(torch.equal(value, original[name]) for name, value in student.state_dict().items())


def test_tokens_of_large_streams_count_as_much_as_others():
    student, inputs, states, targets = task()
    examples = Examples.of(inputs, states, targets)
    assert float(examples.error(student, "32")) == pytest.approx(
        relative_error(student, inputs, states, targets), rel=1e-5
    )
    larger = [[x.clone() for x in part] for part in (states, targets)]
    for part in larger:
        part[0][0, 0] *= 1000
    assert float(Examples.of(inputs, *larger).weight[0]) == pytest.approx(1e-6 * float(examples.weight[0]), rel=1e-5)


def test_the_same_seed_gives_the_same_weights_and_a_dtype_stays():
    student, inputs, states, targets = task()
    found = []
    for seed in (3, 3, 4):
        one = copy.deepcopy(student).to(torch.bfloat16)
        distil_mlp(one, inputs, states, targets, replace(QUICK, seed=seed, epochs=8))
        assert one.down.weight.dtype == torch.bfloat16
        found.append(torch.cat([p.flatten() for p in one.parameters()]))
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
    blocks, other = blocks_for(supernet, n=48), blocks_for(supernet, n=16, seed=9)
    plain, distilled = (
        realise(supernet, cut_arch(supernet), blocks, target="dense", distillation=how).gpt
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
    from pruning import realise as module
    from pruning.overlay import OverlaySettings

    supernet = build_supernet("qwen2")
    seen = []

    def checked(mlp, inputs, states, targets, settings, *, precision):
        seen.append(len(inputs))
        return distil_mlp(mlp, inputs, states, targets, settings, precision=precision)

    monkeypatch.setattr(module, "distil_mlp", checked)
    blocks = blocks_for(supernet, n=8)
    settings = OverlaySettings(intercept=intercept)
    pruned = realise(supernet, cut_arch(supernet), blocks, target="dense", distillation=QUICK, settings=settings)
    assert len(seen) == 3
    with monkeypatch.context() as patched:
        after = module._Dense.after

        def run_again(self, stream, position, block):
            after(self, stream, position, block)
            return stream.after(block, position)

        patched.setattr(module._Dense, "after", run_again)
        expected = realise(supernet, cut_arch(supernet), blocks, target="dense", distillation=QUICK, settings=settings)
    for name, weight in expected.gpt.state_dict().items():
        torch.testing.assert_close(pruned.gpt.state_dict()[name], weight, rtol=1e-2, atol=1e-3)


def test_distillation_needs_the_dense_target():
    supernet = build_supernet("llama-gqa6")
    with pytest.raises(ValueError, match="target='dense', not 'own'"):
        realise(supernet, cut_arch(supernet), blocks_for(supernet), distillation=QUICK)
