import json

import numpy as np
import pytest
import torch
from pruning_supernets import MAIN_FAMILIES, blocks_for, build_supernet, largest_arch, random_arch, recorded_inputs

from pruning.collection import collect_moments
from pruning.importance import importance
from pruning.levels import levels_of
from pruning.overlay import OverlayDatabase, OverlaySettings
from pruning.reorder import order_by, reorder, reorder_moments
from pruning.structure import Sizes, output_projection
from supernet.architecture import Architecture
from supernet.checkpoint import load_subnet, save_subnet
from supernet.cost import parameter_count
from supernet.extract import extract


def ordered(family, **changes):
    """Return an importance-ordered network, its moments and its calibration blocks."""
    supernet = build_supernet(family, **changes)
    blocks = blocks_for(supernet, n=10)
    moments = collect_moments(supernet, blocks)
    order = order_by(importance("obs", supernet, moments=moments))
    return reorder(supernet, order), reorder_moments(moments, order, Sizes.of(supernet.config)), blocks


ARCH = Architecture(32, (4, 2, 6), (2, 1, 2), (20, 48, 1), (0, 1, 3), bias=False)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", MAIN_FAMILIES)
def test_overlays_make_every_part_at_least_as_good_as_the_mask(family, intercept):
    supernet, moments, blocks = ordered(family)
    database = OverlayDatabase(supernet, moments, settings=OverlaySettings(intercept=intercept))
    arch = random_arch(supernet.config, np.random.default_rng(2))
    for _, layer, part, level in levels_of(arch):
        solution = database.overlay(layer, part, level)
        projection = output_projection(supernet.transformer.h[layer], part)
        rows = recorded_inputs(supernet, blocks, projection).flatten(0, 1)
        kept = (
            supernet.plan(arch)
            .parameters[f"transformer.h.{layer}.{'attn' if part == 'attention' else 'mlp'}.proj.weight"]
            .runs[1]
        )
        kept = [i for run in kept for i in run.indices()]
        weight = projection.weight.detach().double()
        target = rows @ weight.T
        mask = (target - rows[:, kept] @ weight[:, kept].T).square().sum() / target.square().sum()
        found = rows[:, kept] @ solution.weight.double().T
        found = found if solution.intercept is None else found + solution.intercept.double()
        error = (target - found).square().sum() / target.square().sum()
        assert error <= mask + 1e-6
        assert solution.error == pytest.approx(error.item(), rel=1e-3, abs=1e-5)
        assert solution.mask_error == pytest.approx(mask.item(), rel=1e-3, abs=1e-5)


def test_the_whole_network_has_no_overlays():
    supernet, moments, blocks = ordered("qwen2")
    for intercept in (False, True):
        database = OverlayDatabase(supernet, moments, settings=OverlaySettings(intercept=intercept))
        arch = largest_arch(supernet.config)
        pruned = database.extract(arch)
        assert pruned.arch == arch
        with torch.no_grad():
            assert torch.equal(pruned.gpt(blocks), supernet(blocks))


@pytest.mark.parametrize("family", ["llama-gqa6", "qwen2", "qwen3", "pythia", "llama-bias", "gemma"])
def test_a_pruned_network_has_the_projections_of_its_levels(family):
    supernet, moments, _ = ordered(family)
    arch = random_arch(supernet.config, np.random.default_rng(5))
    database = OverlayDatabase(supernet, moments)
    plain, (gpt, found) = extract(supernet, arch), database.extract(arch)
    assert found == arch
    changed = {}
    for position, layer, part, level in levels_of(arch):
        block = gpt.transformer.h[position]
        weight = output_projection(block, part).weight
        assert torch.equal(weight, database.overlay(layer, part, level).weight[: arch.n_embd])
        changed[f"transformer.h.{position}.{'attn' if part == 'attention' else 'mlp'}.proj.weight"] = weight
    for name, parameter in gpt.named_parameters():
        if name not in changed:
            assert torch.equal(parameter, plain.get_parameter(name))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama-gqa6", "qwen2", "qwen3", "pythia", "gemma"])
def test_intercepts_become_biases_that_are_saved_and_counted(family, tied, tmp_path):
    supernet, moments, blocks = ordered(family, tied=tied)
    G = supernet.config.n_query_groups
    arch = Architecture(32, (G, G), (G, G), (20, 33), (1, 2), bias=supernet.config.bias)
    gpt, found = OverlayDatabase(supernet, moments, settings=OverlaySettings(intercept=True)).extract(arch)
    assert found.bias and gpt.config.bias and all(block.config.bias for block in gpt.transformer.h)
    assert all(block.attn.config.bias and block.mlp.config.bias for block in gpt.transformer.h)
    counted = {name for name in gpt.state_dict() if name.endswith("bias")}
    assert {f"transformer.h.{i}.{n}" for i in (0, 1) for n in ("attn.qkv.bias", "attn.proj.bias", "mlp.proj.bias")} <= (
        counted
    )
    own = sum(p.numel() for p in gpt.parameters())
    assert own == parameter_count(gpt.config, found.from_dict({**found.to_dict(), "layers": [0, 1]}), tied=tied).total
    if not supernet.config.bias and not supernet.config.attn_bias:
        assert not gpt.transformer.h[0].attn.qkv.bias.any()
    with torch.no_grad():
        expected = gpt.eval()(blocks)
        loaded, _ = load_subnet(save_subnet(tmp_path / "sub", gpt, found))
        assert torch.equal(loaded.eval()(blocks), expected)
    assert supernet.config.bias == arch.bias  # the supernet's own config is untouched


def test_flaps_compensation_moves_the_mean_of_what_goes_into_the_bias():
    supernet, moments, _ = ordered("llama-gqa6")
    settings = OverlaySettings(reconstruct=False, intercept=True)
    gpt, _ = OverlayDatabase(supernet, moments, settings=settings).extract(ARCH)
    weight, mean = supernet.transformer.h[3].mlp.proj.weight.double(), moments.of(3, "mlp").mean
    expected = weight[:, 1:] @ mean[1:]
    torch.testing.assert_close(gpt.transformer.h[2].mlp.proj.bias.double(), expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(gpt.transformer.h[2].mlp.proj.weight, supernet.transformer.h[3].mlp.proj.weight[:, :1])


def test_a_bias_that_is_there_gets_the_intercept_added():
    supernet, moments, _ = ordered("pythia")
    database = OverlayDatabase(supernet, moments, settings=OverlaySettings(intercept=True))
    arch = Architecture(32, (2,), (2,), (30,), (1,))
    gpt, _ = database.extract(arch)
    own = supernet.transformer.h[1].mlp.proj.bias
    torch.testing.assert_close(gpt.transformer.h[0].mlp.proj.bias, own + database.overlay(1, "mlp", (30,)).intercept)


# --- files -------------------------------------------------------------------------------------------------------


def test_overlays_are_computed_once_and_found_again_in_their_folder(tmp_path, monkeypatch):
    supernet, moments, _ = ordered("llama-gqa6")
    settings = OverlaySettings(intercept=True)
    database = OverlayDatabase(supernet, moments, settings=settings, folder=tmp_path / "overlays")
    errors = database.compute({"mlp": [(10,), (30,)], "attention": [(4, 2), (2, 2), (1, 1)]})
    assert len(errors) == 4 * 5
    again = OverlayDatabase(supernet, moments, settings=settings, folder=tmp_path / "overlays")
    monkeypatch.setattr(again, "_solve", lambda key: pytest.fail(f"{key} was computed again"))
    in_memory = OverlayDatabase(supernet, moments, settings=settings)
    for key, error in errors.items():
        found, expected = again.overlay(*key), in_memory.overlay(*key)
        assert found.error == expected.error == error and found.mask_error == expected.mask_error
        assert torch.equal(found.weight, expected.weight) and torch.equal(found.intercept, expected.intercept)


def test_a_folder_of_other_overlays_is_refused(tmp_path):
    supernet, moments, _ = ordered("llama-gqa6")
    OverlayDatabase(supernet, moments, folder=tmp_path / "overlays")
    other, other_moments, _ = ordered("llama-gqa6", block_size=20)
    with torch.no_grad():
        other.transformer.h[0].mlp.proj.weight[0, 0] += 1
    for network, found, settings in [
        (other, other_moments, OverlaySettings()),
        (supernet, moments, OverlaySettings(damping=0.5)),
        (supernet, collect_moments(supernet, blocks_for(supernet, seed=9)), OverlaySettings()),
    ]:
        with pytest.raises(ValueError, match="holds overlays of another network"):
            OverlayDatabase(network, found, settings=settings, folder=tmp_path / "overlays")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and holds no overlays"):
        OverlayDatabase(supernet, moments, folder=tmp_path / "full")


def test_a_damaged_overlay_is_named(tmp_path):
    supernet, moments, _ = ordered("llama-gqa6")
    database = OverlayDatabase(supernet, moments, folder=tmp_path / "o")
    database.overlay(1, "mlp", (10,))
    (tmp_path / "o" / "001-mlp-10.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"001-mlp-10\.safetensors is damaged"):
        database.overlay(1, "mlp", (10,))
    assert json.loads((tmp_path / "o" / "overlays.json").read_text())["settings"]["damping"] is None


def test_levels_that_are_not_there_are_refused():
    supernet, moments, _ = ordered("llama-gqa6")
    with pytest.raises(ValueError, match="1 to 48 neurons"):
        OverlayDatabase(supernet, moments).overlay(0, "mlp", (49,))


def test_moments_of_another_network_are_refused():
    supernet, _, _ = ordered("llama-gqa6")
    other = build_supernet("llama-gqa6", intermediate_size=40)
    for moments in (
        collect_moments(other, blocks_for(other)),
        collect_moments(supernet, blocks_for(supernet), layers=[0, 1]),
    ):
        with pytest.raises(ValueError, match=r"another network|no moments of layer 2"):
            OverlayDatabase(supernet, moments)
