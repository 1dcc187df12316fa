"""Moments against what is computed from stored activations."""

import math

import pytest
import torch
from pruning_supernets import MAIN_FAMILIES, STORIES, blocks_for, build_supernet, recorded_inputs

from pruning.collection import collect_moments
from pruning.input_statistics import InputStatistics
from pruning.structure import PARTS, output_projection
from supernet.architecture import Architecture
from supernet.checkpoint import load_supernet
from supernet.extract import extract


@pytest.mark.parametrize("family", MAIN_FAMILIES)
def test_moments_are_those_of_the_stored_inputs(family):
    supernet = build_supernet(family)
    blocks = blocks_for(supernet, n=7)
    moments = collect_moments(supernet, blocks, batch_size=3, dtype=torch.float64)
    assert set(moments.inputs) == {(layer, part) for layer in range(4) for part in PARTS}
    assert moments.n_tokens == blocks.numel()
    for (layer, part), found in moments.inputs.items():
        x = recorded_inputs(supernet, blocks, output_projection(supernet.transformer.h[layer], part))
        rows = x.flatten(0, 1)
        torch.testing.assert_close(found.second, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(found.mean, rows.mean(0), rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(found.variance, rows.var(0, correction=0), rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(found.activation, x.abs().mean(1).square().sum(0).sqrt(), rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(found.norm, rows.square().mean(0).sqrt(), rtol=1e-5, atol=1e-9)
        assert torch.equal(found.second, found.second.T)


def test_float32_sums_are_close_to_float64_ones():
    supernet = build_supernet("llama-gqa")
    blocks = blocks_for(supernet, n=8)
    single, double = (collect_moments(supernet, blocks, dtype=d) for d in (torch.float32, torch.float64))
    for key, found in single.inputs.items():
        assert found.second.dtype == torch.float32
        torch.testing.assert_close(found.second.double(), double.inputs[key].second, rtol=1e-4, atol=1e-6)


def test_the_variance_of_inputs_far_from_zero_is_exact():
    # the sum of squares minus the squared mean would lose all digits here, and FLAP's own running variance counts the
    # first batch as zero and weighs batches of one only rightly
    x = 1e4 + torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sizes in ([6], [1] * 6, [4, 2], [1, 5]):
        sums = InputStatistics(3, device=torch.device("cpu"), dtype=torch.float64)
        for part in x.split(sizes):
            sums.add(part)
        torch.testing.assert_close(sums.result().variance, x.flatten(0, 1).var(0, correction=0), rtol=1e-9, atol=0)


@pytest.mark.parametrize("size", [1, 5, 127, 128, 129, 600])
def test_second_moments_in_tiles_are_whole_and_symmetric(size):
    x = torch.randn(2, 9, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = InputStatistics(size, device=torch.device("cpu"), dtype=torch.float64)
    sums.add(x)
    rows = x.flatten(0, 1)
    torch.testing.assert_close(sums.result().second, rows.T @ rows / len(rows))


def test_the_size_of_batches_does_not_matter():
    supernet = build_supernet("qwen3")
    blocks = blocks_for(supernet, n=5)
    one, all_at_once = (
        collect_moments(supernet, blocks, batch_size=b, dtype=torch.float64, extras=("angles", "residual"))
        for b in (1, 5)
    )
    for name in ("channels", "influence", "angles", "residual"):
        torch.testing.assert_close(getattr(one, name), getattr(all_at_once, name), rtol=1e-4, atol=1e-5)


def hidden_states(supernet, blocks):
    """Return the residual streams before every block and at the end, (L + 1, n, T, C) float64."""
    found = []
    handles = [b.register_forward_pre_hook(lambda _, args: found.append(args[0])) for b in supernet.transformer.h]
    handles.append(supernet.transformer.ln_f.register_forward_pre_hook(lambda _, args: found.append(args[0])))
    with torch.no_grad():
        supernet(blocks)
    for handle in handles:
        handle.remove()
    return torch.stack(found).double()


@pytest.mark.parametrize("family", MAIN_FAMILIES)
def test_influence_and_angles_are_those_of_the_residual_streams(family):
    supernet = build_supernet(family)
    blocks = blocks_for(supernet)
    moments = collect_moments(supernet, blocks, batch_size=4, extras=("angles",))
    states = hidden_states(supernet, blocks)
    cosines = torch.nn.functional.cosine_similarity(states[:-1], states[1:], dim=-1).mean((1, 2))
    torch.testing.assert_close(moments.influence[0], 1 - cosines, rtol=1e-4, atol=1e-6)
    for i in range(5):
        for j in range(5):
            cosine = torch.nn.functional.cosine_similarity(states[i], states[j], dim=-1).clamp(-1, 1)
            expected = torch.arccos(cosine).mean().item() / math.pi if i != j else 0.0
            assert moments.angles[i, j].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["llama-gqa6", "pythia", "gemma2"])
def test_the_influence_of_a_part_is_that_of_leaving_it_out(family):
    supernet = build_supernet(family)
    blocks = blocks_for(supernet)
    moments = collect_moments(supernet, blocks)
    x = hidden_states(supernet, blocks)
    for layer, block in enumerate(supernet.transformer.h):
        after = {}
        handles = [
            getattr(block, f"post_{name}_norm").register_forward_hook(
                lambda _, __, output, name=name, after=after: after.__setitem__(name, output.double())
            )
            for name in ("attention", "mlp")
        ]
        with torch.no_grad():
            supernet(blocks)
        for handle in handles:
            handle.remove()
        cosine = torch.nn.CosineSimilarity(dim=-1)
        attention = 1 - cosine(x[layer], x[layer] + after["attention"]).mean()
        mlp = 1 - cosine(x[layer + 1] - after["mlp"], x[layer + 1]).mean()
        torch.testing.assert_close(moments.influence[1, layer], attention, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(moments.influence[2, layer], mlp, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("family", ["llama-gqa6", "pythia", "phi"])
def test_channels_are_minitrons_norms_of_what_reads_the_residual_stream(family):
    supernet = build_supernet(family)
    blocks = blocks_for(supernet)
    norms = [norm for b in supernet.transformer.h for norm in (b.norm_1, b.norm_2) if norm is not None]
    expected = torch.zeros(supernet.config.n_embd, dtype=torch.float64)
    for norm in [*norms, supernet.transformer.ln_f]:
        with torch.no_grad():
            x = norm(recorded_inputs(supernet, blocks, norm).float()).double()
        expected += x.abs().mean(1).square().sum(0).sqrt()
    torch.testing.assert_close(collect_moments(supernet, blocks).channels, expected, rtol=1e-4, atol=1e-5)


def test_the_residual_moments_have_unit_mean_square_channels():
    supernet = build_supernet("llama-gqa")
    blocks = blocks_for(supernet)
    found = collect_moments(supernet, blocks, extras=("residual",)).residual
    norms = [norm for b in supernet.transformer.h for norm in (b.norm_1, b.norm_2)] + [supernet.transformer.ln_f]
    expected = torch.zeros_like(found)
    for norm in norms:
        rows = recorded_inputs(supernet, blocks, norm).flatten(0, 1)
        rows = rows / rows.square().mean(1, keepdim=True).sqrt()
        expected += rows.T @ rows / len(rows) / len(norms)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.trace().item() == pytest.approx(supernet.config.n_embd, rel=1e-4)


def test_the_network_is_left_as_it_was():
    supernet = build_supernet("llama-gqa").train()
    blocks = blocks_for(supernet)
    before = supernet(blocks)
    collect_moments(supernet, blocks, extras=("angles", "residual"))
    assert supernet.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in supernet.modules())
    assert torch.equal(supernet(blocks), before)


def test_moments_can_be_used_where_gradients_are_wanted():
    supernet = build_supernet("llama-gqa")
    moments = collect_moments(supernet, blocks_for(supernet))
    assert not moments.of(0, "mlp").second.is_inference() and not moments.of(0, "mlp").second.requires_grad


def test_layers_can_be_chosen():
    supernet = build_supernet("llama-gqa")
    moments = collect_moments(supernet, blocks_for(supernet), layers=[2])
    assert set(moments.inputs) == {(2, "attention"), (2, "mlp")}
    with pytest.raises(KeyError, match="no moments of layer 0, mlp"):
        moments.of(0, "mlp")


def test_a_pruned_network_of_different_layers_has_moments_too():
    supernet = build_supernet("llama-gqa")
    arch = Architecture(24, (2, 4), (1, 2), (9, 40), (1, 3), bias=False)
    moments = collect_moments(extract(supernet, arch), blocks_for(supernet))
    assert {key: value.size for key, value in moments.inputs.items()} == {
        (0, "attention"): 16, (0, "mlp"): 9, (1, "attention"): 32, (1, "mlp"): 40,
    }  # fmt: skip


def test_autocast_gives_nearly_the_same_moments():
    supernet = build_supernet("llama-mha")
    blocks = blocks_for(supernet)
    exact, rounded = (collect_moments(supernet, blocks, precision=p).of(1, "mlp").second for p in ("32", "bf16"))
    assert (exact - rounded).norm() / exact.norm() < 0.05
    assert not torch.equal(exact, rounded)


def test_activations_that_are_not_finite_are_refused_by_name():
    supernet = build_supernet("llama-gqa")
    with torch.no_grad():
        supernet.transformer.h[2].mlp.fc_1.weight[3, 0] = math.nan
    with pytest.raises(ValueError, match="inputs of layer 2, mlp is not finite"):
        collect_moments(supernet, blocks_for(supernet))


@pytest.mark.parametrize("wrong", [{"extras": ("angels",)}, {"precision": "fp8"}, {"batch_size": 0}])
def test_unknown_settings_are_refused(wrong):
    supernet = build_supernet("llama-gqa")
    with pytest.raises(ValueError, match="allowed: angles and residual; 32 and bf16; at least 1"):
        collect_moments(supernet, blocks_for(supernet), **wrong)


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not there")
def test_a_real_network_has_moments():
    supernet = load_supernet(STORIES).supernet.eval()
    moments = collect_moments(supernet, blocks_for(supernet, n=4, length=64))
    assert len(moments.inputs) == 10
    assert all(torch.linalg.eigvalsh(m.second.double())[0] > -1e-5 * m.second.trace() for m in moments.inputs.values())
