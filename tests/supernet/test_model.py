from __future__ import annotations

import copy
import threading
from dataclasses import asdict

import litgpt
import numpy as np
import pytest
import torch
from family_configs import FAMILIES, build_supernet, largest_arch, random_arch, random_tokens
from litgpt.config import Config
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from supernet.architecture import Architecture
from supernet.extract import extract
from supernet.model import Supernet


def loss_of(logits: torch.Tensor, idx: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1), idx[:, 1:].flatten())


def small_arch(config: Config, seed: int = 0) -> Architecture:
    return random_arch(config, np.random.default_rng(seed))


# --- the largest network -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_largest_network_is_litgpts_bit_for_bit(family):
    supernet = build_supernet(family)
    stock = litgpt.GPT(supernet.config).eval()
    stock.load_state_dict(supernet.state_dict(), strict=True)
    idx = random_tokens(supernet.config)
    with torch.no_grad():
        expected = stock(idx)
        assert torch.equal(supernet(idx), expected)
        assert torch.equal(supernet(idx, largest_arch(supernet.config)), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_of_a_subnets_weights_matters_and_nothing_else_does(family):
    supernet = build_supernet(family)
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config, 7)
    plan = supernet.plan(arch)
    with torch.no_grad():
        before = supernet(idx, arch)
        for name, parameter in supernet.named_parameters():
            outside = torch.ones_like(parameter, dtype=torch.bool)
            if name in plan.parameters:
                plan.parameters[name].assign(outside, torch.zeros(plan.parameters[name].shape, dtype=torch.bool))
            parameter[outside] = torch.nan
        assert torch.equal(supernet(idx, arch), before)


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_the_extracted_models_inside_and_zero_outside(family, tied):
    supernet = build_supernet(family, tied=tied).train()
    idx = random_tokens(supernet.config)
    rng = np.random.default_rng(8)
    for _ in range(3):
        arch = random_arch(supernet.config, rng)
        gpt = extract(supernet, arch)
        supernet.zero_grad(set_to_none=True)
        loss_of(supernet(idx, arch), idx).backward()
        loss_of(gpt(idx), idx).backward()
        plan, inner = supernet.plan(arch), dict(gpt.named_parameters())
        for name, parameter in supernet.named_parameters():
            if name not in plan.parameters:
                assert parameter.grad is None, name
                continue
            expected, inside = torch.zeros_like(parameter), torch.zeros_like(parameter)
            gradient = inner[plan.subnet_names[name]].grad
            plan.parameters[name].assign(expected, gradient)
            plan.parameters[name].assign(inside, torch.ones_like(gradient))
            assert not parameter.grad[inside == 0].any(), (name, arch.id)
            # the same bits on some CPUs; on others matrix products of strided weights add up in another order
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-6)


def test_gradients_of_several_subnets_add_up():
    supernet = build_supernet("llama-gqa").train()
    idx, archs = random_tokens(supernet.config), [small_arch(supernet.config, seed) for seed in range(3)]
    sums: dict[str, torch.Tensor] = {}
    for arch in archs:
        supernet.zero_grad(set_to_none=True)
        loss_of(supernet(idx, arch), idx).backward()
        for name, p in supernet.named_parameters():
            if p.grad is not None:
                sums[name] = sums.get(name, torch.zeros_like(p)) + p.grad
    supernet.zero_grad(set_to_none=True)
    sum(loss_of(supernet(idx, arch), idx) for arch in archs).backward()
    for name, p in supernet.named_parameters():
        if name in sums:
            torch.testing.assert_close(p.grad, sums[name], atol=1e-6, rtol=1e-5)


def test_frozen_parameters_get_no_gradient_and_the_others_keep_theirs():
    supernet = build_supernet("pythia").train()
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config)
    loss_of(supernet(idx, arch), idx).backward()
    whole = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    supernet.zero_grad(set_to_none=True)
    supernet.transformer.wte.requires_grad_(False)
    loss_of(supernet(idx, arch), idx).backward()
    assert supernet.transformer.wte.weight.grad is None
    for name, p in supernet.named_parameters():
        if p.grad is not None:
            assert torch.equal(p.grad, whole[name])


# --- purity ------------------------------------------------------------------------------------------------------


def snapshot(supernet: Supernet) -> dict:
    return {
        "parameters": {n: (id(p), p.detach().clone(), p.requires_grad) for n, p in supernet.named_parameters()},
        "buffers": {n: b.clone() for n, b in supernet.named_buffers()},
        "config": asdict(supernet.config),
        "modules": [(n, type(m), m.training, len(m._forward_hooks)) for n, m in supernet.named_modules()],
        "length": supernet.max_seq_length,
    }


def assert_same(a, b) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_leaves_nothing_behind(family):
    supernet = build_supernet(family)
    idx = random_tokens(supernet.config)
    before = snapshot(supernet)
    archs = [small_arch(supernet.config, seed) for seed in range(4)]
    with torch.no_grad():
        first = [supernet(idx, arch) for arch in archs]
        whole = supernet(idx)
        for i in (3, 0, 2, 1, 1, 3):
            assert torch.equal(supernet(idx, archs[i]), first[i])
            assert torch.equal(supernet(idx), whole)
    assert_same(snapshot(supernet), before)


def test_an_exception_inside_a_call_leaves_the_supernet_intact():
    supernet = build_supernet("llama-gqa")
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config)
    before, logits = snapshot(supernet), supernet(idx, arch)
    with pytest.raises(IndexError):
        supernet(torch.full_like(idx, 10_000), arch)
    hook = supernet.transformer.h[arch.layers[-1]].register_forward_pre_hook(_fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        supernet(idx, arch)
    hook.remove()
    with pytest.raises(ValueError, match="max seq length is only 24"):
        supernet(random_tokens(supernet.config, length=25), arch)
    assert torch.equal(supernet(idx, arch), logits)
    assert_same(snapshot(supernet), before)


def _fail(*_: object) -> None:
    raise RuntimeError("in the middle")


@pytest.mark.parametrize("fails", [False, True])
def test_no_weights_or_graphs_are_kept_alive_by_a_call(fails):
    supernet = build_supernet("llama-gqa").train()
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config)
    if fails:
        supernet.transformer.ln_f.register_forward_pre_hook(_fail)
        supernet.transformer.h[arch.layers[-1]].register_forward_hook(_fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            supernet(idx, arch)
    else:
        supernet(idx, arch)
    skeletons = [f.skeleton for f in supernet._local.frames.values()]
    skeletons += [c.skeleton for c in supernet._local.calls.values()]
    assert len(skeletons) >= 2
    assert all(p.is_meta for s in skeletons for p in s.module.parameters())


def test_two_threads_at_once_give_what_one_gives():
    supernet = build_supernet("gemma2")
    idx = random_tokens(supernet.config)
    archs = [small_arch(supernet.config, seed) for seed in range(6)]
    with torch.no_grad():
        expected = [supernet(idx, arch) for arch in archs]
    wrong: list[str] = []
    start = threading.Barrier(3)

    def work(order: np.ndarray) -> None:
        start.wait()
        with torch.no_grad():
            for i in order:
                if not torch.equal(supernet(idx, archs[i]), expected[i]):
                    wrong.append(archs[i].id)

    orders = [np.random.default_rng(seed).integers(6, size=60) for seed in range(3)]
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_copy_is_independent_and_has_the_weights_of_the_original():
    supernet = build_supernet("qwen3", tied=True)
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config)
    expected = supernet(idx, arch)
    twin = copy.deepcopy(supernet)
    assert twin.lm_head.weight is twin.transformer.wte.weight
    assert torch.equal(twin(idx, arch), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(supernet(idx, arch), expected)
    assert not torch.equal(twin(idx, arch), expected)
    third = Supernet(supernet.config, tie_embeddings=True).eval()
    third.load_state_dict(supernet.state_dict(), strict=True)
    assert torch.equal(third(idx, arch), expected)


def test_a_module_that_was_replaced_is_used_by_subnets_that_were_called_before():
    supernet = build_supernet("llama-mha")
    arch, idx = small_arch(supernet.config), random_tokens(supernet.config)
    before = supernet(idx, arch)
    proj = supernet.transformer.h[arch.layers[0]].attn.proj
    supernet.transformer.h[arch.layers[0]].attn.proj = torch.nn.Linear(
        proj.in_features, proj.out_features, bias=proj.bias is not None
    )
    after = supernet(idx, arch)
    assert not torch.equal(after, before)
    assert torch.equal(after, extract(supernet, arch)(idx))


def test_new_weights_are_seen_by_subnets_that_were_called_before():
    supernet = build_supernet("llama-mha")
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config)
    supernet(idx, arch)
    other = build_supernet("llama-mha", seed=1)
    supernet.load_state_dict(other.state_dict())
    assert torch.equal(supernet(idx, arch), other(idx, arch))
    supernet.load_state_dict(build_supernet("llama-mha", seed=2).state_dict(), assign=True)
    assert torch.equal(supernet(idx, arch), build_supernet("llama-mha", seed=2)(idx, arch))


# --- with the rest of torch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["pythia", "llama-gqa", "gemma3"])
def test_functional_call_runs_a_subnet_on_other_weights(family):
    supernet, other = build_supernet(family), build_supernet(family, seed=1)
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config)
    before = supernet(idx, arch)
    found = torch.func.functional_call(supernet, dict(other.named_parameters()), (idx, arch))
    assert torch.equal(found, other(idx, arch))
    assert torch.equal(supernet(idx, arch), before)


def test_activation_checkpointing_of_blocks_gives_the_same_gradients():
    supernet = build_supernet("llama-gqa").train()
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config)
    loss_of(supernet(idx, arch), idx).backward()
    expected = {n: p.grad.clone() for n, p in supernet.named_parameters() if p.grad is not None}
    supernet.zero_grad(set_to_none=True)
    calls = []
    for block in supernet.transformer.h:
        forward = block.forward

        def checkpointed(*args, forward=forward, **kwargs):
            calls.append(1)
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)

        block.forward = checkpointed
    loss_of(supernet(idx, arch), idx).backward()
    assert len(calls) == arch.n_layer
    for name, parameter in supernet.named_parameters():
        assert (parameter.grad is None) == (name not in expected)
        if name in expected:
            assert torch.equal(parameter.grad, expected[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_inference_mode_and_bfloat16_autocast_agree_with_the_extracted_model(family):
    supernet = build_supernet(family)
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config, 3)
    gpt = extract(supernet, arch)
    with torch.inference_mode():
        assert torch.equal(supernet(idx, arch), gpt(idx))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(supernet(idx, arch), gpt(idx))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_of(supernet.train()(idx, arch).float(), idx).backward()
    assert all(p.grad.dtype == p.dtype for p in supernet.parameters() if p.grad is not None)


def test_a_subnet_first_called_in_inference_mode_can_be_trained_after():
    supernet = build_supernet("llama-gqa").train()
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config)
    with torch.inference_mode():
        supernet(idx, arch)
    loss_of(supernet(idx, arch), idx).backward()
    found = {n: p.grad for n, p in supernet.named_parameters() if p.grad is not None}
    fresh = build_supernet("llama-gqa").train()
    loss_of(fresh(idx, arch), idx).backward()
    assert all(torch.equal(g, fresh.get_parameter(n).grad) for n, g in found.items())
    assert len(found) == len(supernet.plan(arch).parameters)


def test_caches_of_shapes_do_not_grow_without_bound(monkeypatch):
    monkeypatch.setattr("supernet.model._REMEMBERED", 3)
    monkeypatch.setattr("supernet.model._REMEMBERED_SHAPES", 5)
    supernet = build_supernet("llama-gqa")
    idx = random_tokens(supernet.config)
    for seed in range(12):
        arch = small_arch(supernet.config, seed)
        assert torch.equal(supernet(idx, arch), extract(supernet, arch)(idx))
    assert [len(getattr(supernet._local, name)) for name in ("frames", "plans", "calls")] == [3, 3, 5]


def test_block_hooks_run_once_for_each_kept_block():
    supernet = build_supernet("pythia")
    seen: list[int] = []
    for i, block in enumerate(supernet.transformer.h):
        block.register_forward_hook(lambda *_, i=i: seen.append(i))
    supernet(random_tokens(supernet.config), Architecture(16, (2, 2), (2, 2), (8, 8), (1, 3)))
    assert seen == [1, 3]


def test_chunks_of_the_head_make_up_the_logits():
    supernet = build_supernet("gemma2")
    idx, arch = random_tokens(supernet.config), small_arch(supernet.config)
    chunks = supernet(idx, arch, lm_head_chunk_size=5)
    assert [c.shape[1] for c in chunks] == [5, 5, 2]
    torch.testing.assert_close(torch.cat(chunks, dim=1), supernet(idx, arch), atol=1e-6, rtol=1e-6)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_mixture_of_experts_and_latent_attention_are_refused_by_name():
    moe = {**FAMILIES["llama-mha"], "mlp_class_name": "LLaMAMoE", "n_expert": 4, "n_expert_per_token": 2}
    with pytest.raises(ValueError, match="mixture of experts"):
        Supernet(Config(**moe))
    latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    with pytest.raises(ValueError, match="latent attention"):
        Supernet(Config(**{**FAMILIES["llama-mha"], "latent_attention": latent}))


def test_what_is_no_subnet_is_refused_by_name():
    supernet = build_supernet("llama-gqa")
    idx = random_tokens(supernet.config)
    with pytest.raises(ValueError, match=r"n_embd = 33 .* allowed: 1 to 32"):
        supernet(idx, Architecture(33, (2,), (2,), (8,), (0,), bias=False))
    with pytest.raises(TypeError, match="give an Architecture"):
        supernet(idx, torch.arange(3))
    with pytest.raises(TypeError, match="extract"):
        supernet(idx, small_arch(supernet.config), input_pos=torch.arange(3))
