"""Blocks without attention or without MLP: as values, in the supernet, extracted, counted, stored and decoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from family_configs import FAMILIES, build_supernet, largest_arch, random_arch, random_tokens, randomise
from torch import nn

from supernet.architecture import Architecture
from supernet.blocks import Absent
from supernet.checkpoint import load_subnet, load_supernet, save_subnet
from supernet.cost import kv_cache_bytes, kv_cache_elements, mac_counts, macs, parameter_count, parameter_counts
from supernet.export import export_hf, export_litgpt
from supernet.extract import build_gpt, extract
from supernet.generate import generate
from supernet.optimizer import covering_architecture


def without_parts(arch: Architecture, rng: np.random.Generator) -> Architecture:
    """Take attention or MLP out of some blocks, of at least one."""
    kinds = rng.integers(0, 3, arch.n_layer)  # 0 whole, 1 no attention, 2 no MLP
    kinds[rng.integers(arch.n_layer)] = rng.integers(1, 3)
    keeps_attention, keeps_mlp = kinds != 1, kinds != 2
    return replace(
        arch,
        n_head=tuple(arch.n_head * keeps_attention),
        n_query_groups=tuple(arch.n_query_groups * keeps_attention),
        intermediate_size=tuple(arch.intermediate_size * keeps_mlp),
    )


def partial_archs(config, seed: int, n: int = 5) -> list[Architecture]:
    """Draw sub-networks with absent parts, and two extremes: no attention at all, no MLP at all."""
    rng, whole = np.random.default_rng(seed), largest_arch(config)
    nothing = (0,) * config.n_layer
    return [
        *(without_parts(random_arch(config, rng), rng) for _ in range(n)),
        replace(whole, n_head=nothing, n_query_groups=nothing),
        replace(whole, intermediate_size=nothing),
    ]


# --- values ------------------------------------------------------------------------------------------------------


def test_ids_dictionaries_and_json_keep_absent_parts():
    arch = Architecture(8, (0, 4, 2), (0, 2, 2), (16, 0, 16), (0, 1, 5), bias=False)
    assert arch.id == "e8-l0_1.5-h0.4.2-g0.2x2-f16.0.16-b0"
    assert Architecture.from_id(arch.id) == Architecture.from_dict(arch.to_dict()) == arch
    assert Architecture.from_json(arch.to_json()) == arch


def test_random_architectures_with_absent_parts_round_trip():
    rng = np.random.default_rng(0)
    config = build_supernet("llama-gqa").config
    for _ in range(200):
        arch = without_parts(random_arch(config, rng), rng)
        assert Architecture.from_id(arch.id) == arch
        assert not arch.is_complete


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": (0, 4)}, r"n_head\[0\] = 0 and n_query_groups\[0\] = 2: a block without attention has 0 of both"),
        ({"n_query_groups": (2, 0)}, r"n_head\[1\] = 4 and n_query_groups\[1\] = 0"),
        ({"n_head": (4, 0), "n_query_groups": (2, 0), "intermediate_size": (8, 0)},
         r"block 3 has neither attention nor MLP; leave it out of layers"),
    ],
)  # fmt: skip
def test_half_absent_attention_and_empty_blocks_are_refused(change, message):
    good = {"n_embd": 8, "n_head": (4, 4), "n_query_groups": (2, 2), "intermediate_size": (8, 8), "layers": (1, 3)}
    with pytest.raises(ValueError, match=message):
        Architecture(**(good | change))


def test_a_network_that_lacks_a_part_is_not_uniform():
    assert not Architecture(8, (0, 0), (0, 0), (16, 16), (0, 1)).is_uniform
    assert not Architecture(8, (2, 2), (2, 2), (0, 0), (0, 1)).is_uniform
    assert Architecture(8, (2, 2), (2, 2), (16, 16), (0, 1)).is_uniform


def test_the_covering_architecture_has_a_part_that_any_network_has():
    first = Architecture(8, (0, 4), (0, 2), (16, 0), (0, 1))
    second = Architecture(8, (2, 0), (1, 0), (8, 8), (0, 1))
    assert covering_architecture([first, second]) == Architecture(8, (2, 4), (1, 2), (16, 8), (0, 1))
    assert covering_architecture([first]) == first


# --- the network -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_supernet_and_the_extracted_model_agree_bit_for_bit(family, tied):
    supernet = build_supernet(family, tied=tied)
    idx = random_tokens(supernet.config)
    with torch.no_grad():
        for arch in partial_archs(supernet.config, seed=1):
            assert torch.equal(extract(supernet, arch)(idx), supernet(idx, arch)), arch.id


class _Zero(nn.Module):
    """A part that adds nothing, in a litgpt Block as it is: an independent meaning of absence."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *args):
        return torch.zeros_like(self.part(*args))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_absent_part_adds_zero_to_litgpts_residual(family):
    supernet = build_supernet(family)
    whole = largest_arch(supernet.config)
    arch = replace(
        whole,
        n_head=(0, *whole.n_head[1:]),
        n_query_groups=(0, *whole.n_query_groups[1:]),
        intermediate_size=(*whole.intermediate_size[:-1], 0),
    )
    gpt, idx = extract(supernet, whole), random_tokens(supernet.config)
    first, last = gpt.transformer.h[0], gpt.transformer.h[-1]
    first.post_attention_norm = _Zero(first.post_attention_norm)
    last.post_mlp_norm = _Zero(last.post_mlp_norm)
    with torch.no_grad():
        torch.testing.assert_close(supernet(idx, arch), gpt(idx), rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama-gqa", "pythia", "gemma2", "phi"])
def test_gradients_are_the_extracted_models_and_none_where_nothing_is_used(family):
    supernet = build_supernet(family).train()
    idx = random_tokens(supernet.config)
    for arch in partial_archs(supernet.config, seed=3, n=3):
        supernet.zero_grad(set_to_none=True)
        supernet(idx, arch).square().mean().backward()
        gpt = extract(supernet, arch)
        gpt(idx).square().mean().backward()
        plan, theirs = supernet.plan(arch), dict(gpt.named_parameters())
        for name, parameter in supernet.named_parameters():
            if name not in plan.parameters:
                assert parameter.grad is None, name
            else:
                part = plan.parameters[name].select(parameter.grad)
                torch.testing.assert_close(part, theirs[plan.subnet_names[name]].grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama-gqa", "gemma2", "phi", "pythia"])
def test_an_absent_parts_norms_are_gone(family):
    supernet = build_supernet(family)
    arch = replace(
        largest_arch(supernet.config),
        n_head=(0, 4, 4, 4),
        n_query_groups=(0, *(supernet.config.n_query_groups,) * 3),
        intermediate_size=(*(supernet.config.intermediate_size,) * 3, 0),
    )
    blocks = extract(supernet, arch).transformer.h
    assert isinstance(blocks[0].attn, Absent)
    assert isinstance(blocks[3].mlp, Absent)
    names = [{name.split(".")[0] for name, _ in blocks[i].named_parameters()} for i in (0, 3)]
    expected = {
        "llama-gqa": [{"norm_2", "mlp"}, {"norm_1", "attn"}],
        "gemma2": [{"norm_2", "mlp", "post_mlp_norm"}, {"norm_1", "attn", "post_attention_norm"}],
        "phi": [{"norm_1", "mlp"}, {"norm_1", "attn"}],  # one norm for both
        "pythia": [{"norm_2", "mlp"}, {"norm_1", "attn"}],
    }
    assert names == expected[family]


def test_build_gpt_has_the_shapes_of_extract_and_fresh_finite_weights():
    supernet = build_supernet("gemma3")
    for arch in partial_archs(supernet.config, seed=4, n=3):
        built = build_gpt(supernet.config, arch)
        assert {n: p.shape for n, p in built.named_parameters()} == {
            n: p.shape for n, p in extract(supernet, arch).named_parameters()
        }
        assert built(random_tokens(supernet.config)).isfinite().all()


# --- costs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_extracted_model(family, tied):
    supernet = build_supernet(family, tied=tied)
    archs = partial_archs(supernet.config, seed=2)
    counts = parameter_counts(supernet.config, archs, tied=tied)
    for i, arch in enumerate(archs):
        gpt = extract(supernet, arch)
        numel = sum(p.numel() for p in gpt.parameters())
        assert parameter_count(supernet.config, arch, tied=tied).total == counts.total[i] == numel, arch.id
        norms = sum(p.numel() for n, p in gpt.named_parameters() if "norm" in n or "ln_f" in n)
        assert counts.norm[i] == norms


@pytest.mark.parametrize("family", ["llama-gqa", "pythia", "gemma2", "qwen3"])
def test_multiply_adds_are_those_of_the_matrices_that_were_multiplied(family):
    supernet = build_supernet(family)
    idx = random_tokens(supernet.config, batch=1, length=10)
    for arch in partial_archs(supernet.config, seed=5):
        gpt, products = extract(supernet, arch), []
        for module in gpt.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda m, i, o, p=products: p.append(m.weight.numel() * i[0].shape[1]))
        gpt(idx)
        counts = mac_counts(supernet.config, [arch], seq_len=10)
        assert counts.linear[0] == sum(products)
        if not any(arch.n_head):
            assert counts.scores[0] == 0
        assert macs(supernet.config, arch, seq_len=10) == counts.total[0]


@pytest.mark.parametrize("family", ["llama-gqa", "gemma2"])
def test_the_kv_cache_has_nothing_for_blocks_without_attention(family):
    supernet = build_supernet(family)
    for arch in partial_archs(supernet.config, seed=6):
        gpt = extract(supernet, arch)
        gpt.set_kv_cache(batch_size=1, max_seq_length=12)
        caches = [block.attn.kv_cache for block in gpt.transformer.h if block.attn.kv_cache is not None]
        assert len(caches) == sum(heads > 0 for heads in arch.n_head)
        elements = sum(cache.k.numel() + cache.v.numel() for cache in caches)
        assert kv_cache_elements(supernet.config, [arch], seq_len=12)[0] == elements
        assert kv_cache_bytes(supernet.config, arch, seq_len=12, bytes_per_element=2) == 2 * elements


# --- decoding, files, exports ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama-gqa", "pythia", "gemma", "gemma3", "phi", "mistral", "qwen3"])
def test_generation_with_the_cache_equals_the_most_likely_tokens_without_it(family):
    supernet = build_supernet(family)
    for arch in partial_archs(supernet.config, seed=7, n=3):
        gpt = extract(supernet, arch)
        prompt = random_tokens(supernet.config, batch=1, length=5)[0]
        out = generate(gpt, prompt, max_new_tokens=10, temperature=0)
        with torch.no_grad():
            assert torch.equal(gpt(out[None, :-1])[0, 4:].argmax(-1), out[5:])
        assert all(block.attn.kv_cache is None for block in gpt.transformer.h)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama-gqa", "pythia", "gemma2", "phi"])
def test_a_saved_subnet_comes_back_bit_for_bit(family, tied, tmp_path):
    supernet = build_supernet(family, tied=tied)
    idx = random_tokens(supernet.config)
    for i, arch in enumerate(partial_archs(supernet.config, seed=8, n=2)):
        gpt = extract(supernet, arch)
        folder = save_subnet(tmp_path / f"subnet-{i}", gpt, arch)
        loaded, found = load_subnet(folder)
        assert found == arch
        with torch.no_grad():
            assert torch.equal(loaded.eval()(idx), gpt(idx))
        assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in gpt.parameters())


def test_litgpt_exports_keep_it_and_what_needs_one_shape_refuses_it(tmp_path):
    supernet = build_supernet("llama-gqa")
    whole = largest_arch(supernet.config)
    arch = replace(whole, n_head=(0,) * 4, n_query_groups=(0,) * 4)  # all layers alike, and yet no stock class
    gpt = extract(supernet, arch)
    assert export_litgpt(tmp_path / "lit", gpt, arch).max_difference == 0
    with pytest.raises(ValueError, match=r"no attention or no MLP.*format=litgpt"):
        export_hf(tmp_path / "hf", gpt, arch)
    with pytest.raises(ValueError, match="load_subnet"):
        load_supernet(tmp_path / "lit")
    assert not (tmp_path / "hf").exists()


def test_bfloat16_and_new_weights_reach_blocks_without_a_part():
    supernet = build_supernet("llama-gqa")
    arch = partial_archs(supernet.config, seed=9, n=1)[0]
    idx = random_tokens(supernet.config)
    before = supernet(idx, arch)
    randomise(supernet, seed=5)
    assert not torch.equal(supernet(idx, arch), before)
    supernet.to(torch.bfloat16)
    assert torch.equal(extract(supernet, arch)(idx), supernet(idx, arch))
