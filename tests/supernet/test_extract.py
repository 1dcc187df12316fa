from __future__ import annotations

import litgpt
import numpy as np
import pytest
import torch
from family_configs import FAMILIES, build_supernet, largest_arch, random_arch, random_tokens

from supernet.architecture import Architecture
from supernet.cost import parameter_count
from supernet.extract import build_gpt, extract
from supernet.selection import subnet_config


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_extracted_subnet_gives_the_supernets_logits_bit_for_bit(family, tied):
    supernet = build_supernet(family, tied=tied)
    idx = random_tokens(supernet.config)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for _ in range(6):
            arch = random_arch(supernet.config, rng)
            assert torch.equal(extract(supernet, arch)(idx), supernet(idx, arch)), arch.id


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_extracted_parameters_are_those_counted_and_planned(family, tied):
    supernet = build_supernet(family, tied=tied)
    rng = np.random.default_rng(2)
    for _ in range(6):
        arch = random_arch(supernet.config, rng)
        gpt = extract(supernet, arch)
        numel = sum(p.numel() for p in gpt.parameters())
        assert numel == parameter_count(supernet.config, arch, tied=tied).total
        plan, own = supernet.plan(arch), dict(gpt.named_parameters(remove_duplicate=False))
        assert {plan.subnet_names[name]: s.shape for name, s in plan.parameters.items()} == {
            name: tuple(p.shape) for name, p in own.items()
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_uniform_extracted_subnet_is_what_stock_litgpt_builds(family):
    supernet = build_supernet(family)
    idx = random_tokens(supernet.config)
    arch = random_arch(supernet.config, np.random.default_rng(3), uniform=True)
    gpt = extract(supernet, arch)
    stock = litgpt.GPT(subnet_config(supernet.config, arch)).eval()
    stock.load_state_dict(gpt.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(stock(idx), gpt(idx))


def test_an_extracted_subnet_is_independent_of_its_supernet():
    supernet = build_supernet("llama-gqa")
    arch = largest_arch(supernet.config)
    gpt = extract(supernet, arch)
    before = supernet(random_tokens(supernet.config))
    with torch.no_grad():
        for tensor in (*gpt.parameters(), *gpt.buffers()):
            tensor.zero_()
    assert torch.equal(supernet(random_tokens(supernet.config)), before)
    own = {t.untyped_storage().data_ptr() for t in supernet.parameters()}
    assert not own & {t.untyped_storage().data_ptr() for t in gpt.parameters()}


def test_tied_embeddings_stay_tied_and_count_once():
    gpt = extract(build_supernet("gemma", tied=True), Architecture.uniform(
        n_embd=20, n_layer=2, n_head=2, n_query_groups=2, intermediate_size=9, bias=False))  # fmt: skip
    assert gpt.lm_head.weight is gpt.transformer.wte.weight


def test_attention_scores_scalar_and_rope_are_copied_never_recomputed():
    supernet = build_supernet("gemma2")
    arch = Architecture.uniform(n_embd=7, n_layer=1, n_head=1, n_query_groups=1, intermediate_size=3, bias=False)
    gpt = extract(supernet, arch)
    assert gpt.config.attention_scores_scalar == supernet.config.attention_scores_scalar
    assert gpt.config.head_size == supernet.config.head_size
    assert torch.equal(gpt.cos, supernet.cos)


def test_sliding_windows_and_local_rope_follow_the_kept_blocks():
    supernet = build_supernet("gemma3")  # blocks 0 and 2 slide
    arch = Architecture(16, (2, 2), (2, 2), (8, 8), (1, 2), bias=False)
    gpt = extract(supernet, arch)
    assert gpt.config.sliding_window_indices == [0, 1]
    assert gpt.config.rope_indices == [0, 1]
    assert [bool(block.attn.apply_sliding_window_attention) for block in gpt.transformer.h] == [False, True]


def test_train_and_eval_mode_dtype_and_max_seq_length_are_kept():
    supernet = build_supernet("pythia").to(torch.bfloat16)
    supernet.max_seq_length = 10
    arch = random_arch(supernet.config, np.random.default_rng(0))
    assert not extract(supernet, arch).training
    gpt = extract(supernet.train(), arch)
    assert gpt.training
    assert gpt.lm_head.weight.dtype == torch.bfloat16
    assert gpt.max_seq_length == 10


# --- decoding ----------------------------------------------------------------------------------------------------


def decode(gpt: litgpt.GPT, idx: torch.Tensor, *, prefill: int) -> torch.Tensor:
    """Return the logits of `idx` by a prefill and then one token at a time."""
    gpt.set_kv_cache(batch_size=len(idx))
    logits = []
    for start, end in [(0, prefill), *((i, i + 1) for i in range(prefill, idx.shape[1]))]:
        logits.append(gpt(idx[:, start:end], input_pos=torch.arange(start, end), input_pos_maxp1=end))
    gpt.clear_kv_cache()
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_with_the_kv_cache_equals_the_full_forward(family):
    supernet = build_supernet(family)
    idx = random_tokens(supernet.config, length=16)
    rng = np.random.default_rng(4)
    # litgpt adds its boolean cache mask to softcapped scores, so a prefill of several tokens is not causal there
    prefill = 1 if supernet.config.attention_logit_softcapping else 5
    with torch.no_grad():
        for arch in (
            largest_arch(supernet.config),
            random_arch(supernet.config, rng),
            random_arch(supernet.config, rng),
        ):
            gpt = extract(supernet, arch)
            torch.testing.assert_close(decode(gpt, idx, prefill=prefill), gpt(idx), atol=1e-4, rtol=1e-4)


def test_litgpt_still_prefills_softcapped_attention_without_causality():
    """The day this fails litgpt is mended, and the exception above can go."""
    gpt = extract(build_supernet("gemma2"), largest_arch(build_supernet("gemma2").config))
    idx = random_tokens(gpt.config, length=6)
    with torch.no_grad():
        assert not torch.allclose(decode(gpt, idx, prefill=6)[:, 0], gpt(idx)[:, 0], atol=1e-3)


def test_build_gpt_has_the_shapes_of_extract_without_a_supernet():
    supernet = build_supernet("qwen3")
    arch = random_arch(supernet.config, np.random.default_rng(5))
    built = build_gpt(supernet.config, arch, device="meta")
    shapes = {name: p.shape for name, p in extract(supernet, arch).named_parameters()}
    assert {name: p.shape for name, p in built.named_parameters()} == shapes
    assert all(p.is_meta for p in built.parameters())
