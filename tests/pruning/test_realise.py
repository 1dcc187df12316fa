from dataclasses import replace

import pytest
import torch
from pruning_supernets import (
    MAIN_FAMILIES,
    STORIES,
    blocks_for,
    build_supernet,
    calm_supernet,
    largest_arch,
    recorded_inputs,
)

from pruning.collection import collect_moments
from pruning.first_tokens import first_tokens, with_first_tokens
from pruning.importance import importance
from pruning.overlay import OverlayDatabase, OverlaySettings
from pruning.realise import _Dense, realise
from pruning.reconstruction import default_damping
from pruning.reorder import order_by, reorder, reorder_moments
from pruning.structure import Sizes
from supernet.architecture import Architecture
from supernet.checkpoint import load_supernet
from supernet.extract import extract


def small_arch(supernet, *, layers=(0, 1, 3), n_embd=32):
    """Return a network of different layers: one part whole, others cut."""
    G, Q = supernet.config.n_query_groups, supernet.config.n_head // supernet.config.n_query_groups
    groups = (max(1, G - 1), G, G)
    heads = (groups[0] * Q, G * max(1, Q - 1), G * Q)
    return Architecture(n_embd, heads, groups, (20, 30, 11), layers, bias=supernet.config.bias)


@pytest.mark.parametrize("target", ["own", "dense"])
@pytest.mark.parametrize("family", ["llama-gqa6", "qwen2", "pythia", "gemma"])
def test_the_whole_network_stays_as_it_is(family, target):
    supernet = calm_supernet(family)
    blocks = blocks_for(supernet)
    pruned = realise(supernet, largest_arch(supernet.config), blocks, target=target)
    with torch.no_grad():
        assert (pruned.gpt(blocks) - supernet(blocks)).abs().max() < 1e-3


@pytest.mark.parametrize("target", ["own", "dense"])
def test_bf16_rounds_forwards_alone(target):
    supernet = build_supernet("llama-gqa6")
    blocks, arch = blocks_for(supernet, n=8), small_arch(supernet)
    exact, rounded = (realise(supernet, arch, blocks, target=target, precision=p).gpt for p in ("32", "bf16"))
    plain = extract(supernet, arch)
    changed = 0
    for (name, a), b, c in zip(exact.named_parameters(), rounded.parameters(), plain.parameters(), strict=True):
        assert b.dtype == torch.float32 and (a - b).norm() <= 0.1 * (a - c).norm() + 1e-6, name
        changed += not torch.equal(a, b)
    assert changed  # it was not float32


@pytest.mark.parametrize("family", MAIN_FAMILIES)
def test_the_first_cut_part_has_its_overlay_and_later_ones_are_solved_for_what_they_really_get(family):
    supernet = build_supernet(family)
    blocks, arch = blocks_for(supernet, n=8), small_arch(supernet)
    gpt, _ = realise(supernet, arch, blocks)
    database = OverlayDatabase(supernet, with_first_tokens(supernet, collect_moments(supernet, blocks), blocks))
    first = gpt.transformer.h[0].attn.proj.weight
    expected = database.overlay(0, "attention", (arch.n_head[0], arch.n_query_groups[0])).weight
    torch.testing.assert_close(first, expected, rtol=1e-3, atol=1e-4)
    # the last MLP once more, slowly: its whole self behind the pruned layers is what it is solved for
    whole = extract(supernet, arch)
    whole.load_state_dict(gpt.state_dict())
    whole.transformer.h[2].mlp = supernet.transformer.h[3].mlp
    texts = (blocks, first_tokens(blocks))
    rows = torch.cat([recorded_inputs(whole, ids, whole.transformer.h[2].mlp.proj).flatten(0, 1) for ids in texts])
    weight = supernet.transformer.h[3].mlp.proj.weight.detach().double()
    second = rows.T @ rows / len(rows)
    penalty = default_damping(blocks.numel()) * second.diagonal().diag()
    A = second + penalty
    solved = weight @ A[:, :11] @ torch.linalg.inv(A[:11, :11])
    torch.testing.assert_close(gpt.transformer.h[2].mlp.proj.weight.double(), solved, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("n_embd", [24, 32])
@pytest.mark.parametrize("target", ["own", "dense"])
def test_narrower_networks_and_dropped_layers_are_realised(n_embd, target, intercept):
    supernet = calm_supernet("llama-gqa6")
    blocks, arch = blocks_for(supernet), small_arch(supernet, n_embd=n_embd)
    gpt, found = realise(supernet, arch, blocks, target=target, settings=OverlaySettings(intercept=intercept))
    assert found.bias == intercept and gpt.transformer.h[1].mlp.proj.weight.shape == (n_embd, 30)
    with torch.no_grad():
        assert torch.isfinite(gpt(blocks)).all()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in [*gpt.modules(), *supernet.modules()])


def test_the_dense_residual_stream_is_nearer_with_target_dense():
    supernet = calm_supernet("llama-gqa6")
    blocks, arch = blocks_for(supernet, n=40), small_arch(supernet)
    wanted = recorded_inputs(supernet, blocks, supernet.transformer.ln_f)

    def distance(pruned):
        return (recorded_inputs(pruned.gpt, blocks, pruned.gpt.transformer.ln_f) - wanted).square().mean()

    plain = distance(OverlayDatabase(supernet, collect_moments(supernet, blocks)).extract(arch))
    assert distance(realise(supernet, arch, blocks, target="dense")) < plain


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_size_of_batches_does_not_matter(batch_size):
    supernet = calm_supernet("qwen3")
    blocks, arch = blocks_for(supernet, n=8), small_arch(supernet)
    for target in ("own", "dense"):
        one, other = (realise(supernet, arch, blocks, target=target, batch_size=b).gpt for b in (8, batch_size))
        for name, parameter in one.named_parameters():
            torch.testing.assert_close(parameter, other.get_parameter(name), rtol=1e-2, atol=1e-3)


def test_the_supernet_is_left_as_it_was():
    supernet = build_supernet("llama-gqa6").train()
    before = {name: p.clone() for name, p in supernet.named_parameters()}
    for target in ("own", "dense"):
        realise(supernet, small_arch(supernet), blocks_for(supernet), target=target)
    assert supernet.training and all(torch.equal(p, before[name]) for name, p in supernet.named_parameters())


def test_bad_requests_say_what_is_allowed():
    supernet = build_supernet("gemma2")
    arch, blocks = largest_arch(supernet.config), blocks_for(supernet)
    with pytest.raises(ValueError, match="allowed: own, dense"):
        realise(supernet, arch, blocks, target="teacher")
    with pytest.raises(ValueError, match="use target='own'"):
        realise(supernet, arch, blocks, target="dense")
    with pytest.raises(ValueError, match="empty or too short"):
        realise(supernet, arch, blocks[:0])
    with pytest.raises(ValueError, match="not in this supernet"):
        realise(supernet, Architecture.uniform(n_embd=64, n_layer=1, n_head=4, intermediate_size=9), blocks)


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not there")
def test_solving_behind_the_pruned_layers_is_nearer_to_a_real_network_than_the_mask():
    supernet = load_supernet(STORIES).supernet.eval()
    config = supernet.config
    generator = torch.Generator().manual_seed(0)
    start = torch.ones(24, 1, dtype=torch.long)
    ids = start  # text of the network's own, since its tokens are not random
    with torch.no_grad():
        for _ in range(47):
            last = supernet(ids)[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(last, 1, generator=generator)], 1)
    calibration, held_out = ids[:16], ids[16:]
    moments = collect_moments(supernet, calibration)
    order = order_by(importance("obs", supernet, moments=moments))
    supernet, moments = reorder(supernet, order), reorder_moments(moments, order, Sizes.of(config))
    arch = Architecture.uniform(
        n_embd=config.n_embd, n_layer=5, n_head=6, n_query_groups=3, intermediate_size=110, bias=False
    )
    with torch.no_grad():
        expected = supernet(held_out).log_softmax(-1)

        def divergence(gpt):
            return (expected.exp() * (expected - gpt(held_out).log_softmax(-1))).sum(-1).mean().item()

        mask = divergence(extract(supernet, arch))
        overlay = divergence(OverlayDatabase(supernet, moments).extract(arch).gpt)
        realised = divergence(realise(supernet, arch, calibration).gpt)
    assert overlay < mask and realised < mask


def partial_arch(supernet):
    """Return a network with a block of attention alone and one of an MLP alone."""
    G, Q = supernet.config.n_query_groups, supernet.config.n_head // supernet.config.n_query_groups
    groups = (max(1, G - 1), 0, G)
    heads = (groups[0] * Q, 0, G * Q)
    return Architecture(32, heads, groups, (0, 30, 20), (0, 1, 3), bias=supernet.config.bias)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", MAIN_FAMILIES)
def test_blocks_without_attention_or_mlp_are_reconstructed_where_they_have_a_part(family, intercept):
    supernet = calm_supernet(family)
    blocks, arch = blocks_for(supernet), partial_arch(supernet)
    settings = OverlaySettings(intercept=intercept)
    database = OverlayDatabase(supernet, collect_moments(supernet, blocks), settings=settings)
    plain = extract(supernet, arch)
    targets = ("own",) if supernet.config.post_attention_norm else ("own", "dense")
    realised = [realise(supernet, arch, blocks, target=target, settings=settings) for target in targets]
    for gpt, found in [database.extract(arch), *realised]:
        assert found.bias == (arch.bias or intercept)
        changed = gpt.transformer.h[1].mlp.proj.weight
        assert changed.shape == (32, 30) and not torch.equal(changed, plain.transformer.h[1].mlp.proj.weight)
        assert {name for name, _ in plain.named_parameters()} <= {name for name, _ in gpt.named_parameters()}
        with torch.no_grad():
            assert torch.isfinite(gpt(blocks)).all()


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", ["llama-gqa6", "qwen2", "pythia"])
def test_the_stream_behind_a_solved_block_is_that_of_the_block(family, intercept, monkeypatch):
    supernet = build_supernet(family)
    blocks, settings = blocks_for(supernet, n=8), OverlaySettings(intercept=intercept)
    arch = small_arch(supernet)
    bare = replace(arch, n_head=(arch.n_head[0], 0, arch.n_head[2]), intermediate_size=(20, 30, 0),
                   n_query_groups=(arch.n_query_groups[0], 0, arch.n_query_groups[2]))  # fmt: skip
    for one in (arch, bare):
        found = realise(supernet, one, blocks, settings=settings, target="dense")
        with monkeypatch.context() as patched:
            patched.setattr(_Dense, "after", lambda self, stream, position, block: stream.after(block, position))
            expected = realise(supernet, one, blocks, settings=settings, target="dense")
        for name, weight in expected.gpt.state_dict().items():
            torch.testing.assert_close(found.gpt.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
