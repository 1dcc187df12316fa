"""Every criterion against a slow computation from its definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from pruning_supernets import blocks_for, build_supernet, recorded_inputs

from pruning.collection import collect_moments
from pruning.gradients import Gradients, collect_gradients
from pruning.importance import CRITERIA, importance
from pruning.reconstruction import default_damping
from pruning.structure import Sizes

FAMILIES = ("llama-gqa6", "llama-mha", "qwen2", "qwen3", "pythia", "gemma")
LAYER = 2  # the layer that is computed again


def evidence(supernet, *, n=8):
    blocks = blocks_for(supernet, n=n)
    return {"moments": collect_moments(supernet, blocks), "gradients": collect_gradients(supernet, blocks)}


def head_slices(sizes):
    """Return (group, head in it, rows of q, columns of o) of every head."""
    D = sizes.head_size
    for g in range(sizes.n_query_groups):
        for q in range(sizes.heads_per_group):
            start = (g * sizes.heads_per_group + q) * D
            yield g, q, slice(start, start + D)


def key_rows(sizes, g):
    D, H, G = sizes.head_size, sizes.n_head, sizes.n_query_groups
    return [slice(H * D + g * D, H * D + (g + 1) * D), slice((H + G) * D + g * D, (H + G) * D + (g + 1) * D)]


def weights_of(block):
    names = [n for n in ("fc", "fc_1", "fc_2") if hasattr(block.mlp, n)]
    return [f"mlp.{n}.weight" for n in names], "mlp.proj.weight", "attn.qkv.weight", "attn.proj.weight"


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_criterion_scores_everything(name, family):
    supernet = build_supernet(family)
    sizes = Sizes.of(supernet.config)
    scores = importance(name, supernet, **evidence(supernet))
    assert scores.neurons.shape == (4, sizes.intermediate_size)
    assert scores.heads.shape == (4, sizes.n_query_groups, sizes.heads_per_group)
    assert scores.groups.shape == (4, sizes.n_query_groups)
    assert scores.channels is None or scores.channels.shape == (32,)
    assert all(t.dtype == torch.float64 for t in (scores.neurons, scores.heads, scores.groups))


def coupled(values, block, sizes):
    """Sum a value of every weight over neurons, heads and groups, one by one."""
    fcs, down, qkv, proj = weights_of(block)
    neurons = [sum(values[n][j].sum() for n in fcs) + values[down][:, j].sum() for j in range(sizes.intermediate_size)]
    heads = torch.zeros(sizes.n_query_groups, sizes.heads_per_group, dtype=torch.float64)
    groups = torch.zeros(sizes.n_query_groups, dtype=torch.float64)
    for g, q, part in head_slices(sizes):
        heads[g, q] = values[qkv][part].sum() + values[proj][:, part].sum()
    for g in range(sizes.n_query_groups):
        groups[g] = heads[g].sum() + sum(values[qkv][rows].sum() for rows in key_rows(sizes, g))
    return torch.stack(neurons), heads, groups


def assert_scores(scores, expected):
    for found, wanted in zip((scores.neurons, scores.heads, scores.groups), expected, strict=True):
        torch.testing.assert_close(found[LAYER], wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_magnitude_is_the_squared_norm_of_all_coupled_weights(family):
    supernet = build_supernet(family)
    block, sizes = supernet.transformer.h[LAYER], Sizes.of(supernet.config)
    squares = {n: p.detach().double() ** 2 for n, p in block.named_parameters()}
    assert_scores(importance("magnitude", supernet), coupled(squares, block, sizes))


@pytest.mark.parametrize("tied", [False, True])
def test_the_magnitude_of_a_channel_counts_tied_embeddings_once(tied):
    supernet = build_supernet("llama-gqa", tied=tied)
    expected = torch.zeros(32, dtype=torch.float64)
    for name, p in supernet.named_parameters():
        square = p.detach().double() ** 2
        if name.endswith("proj.weight"):
            expected += square.sum(1)
        elif p.dim() == 2:
            expected += square.sum(0)
    torch.testing.assert_close(importance("magnitude", supernet).channels, expected)


def calibrated(family, **changes):
    supernet = build_supernet(family, **changes)
    blocks = blocks_for(supernet, n=8)
    block, sizes = supernet.transformer.h[LAYER], Sizes.of(supernet.config)
    x = recorded_inputs(supernet, blocks, block.mlp.proj)  # (n, T, F)
    z = recorded_inputs(supernet, blocks, block.attn.proj)  # (n, T, H*D)
    return supernet, collect_moments(supernet, blocks), block, sizes, x, z


def by_head(columns, sizes, reduce):
    heads = torch.zeros(sizes.n_query_groups, sizes.heads_per_group, dtype=torch.float64)
    for g, q, part in head_slices(sizes):
        heads[g, q] = reduce(columns[part])
    width = sizes.heads_per_group * sizes.head_size
    groups = torch.stack([reduce(columns[g * width : (g + 1) * width]) for g in range(sizes.n_query_groups)])
    return heads, groups


@pytest.mark.parametrize("family", FAMILIES)
def test_minitron_is_the_mean_over_the_sequence_and_the_norm_over_the_batch(family):
    supernet, moments, _, sizes, x, z = calibrated(family)
    neurons = torch.stack([x[:, :, j].abs().mean(1).norm() for j in range(sizes.intermediate_size)])
    columns = z.abs().mean(1).norm(dim=0)
    scores = importance("minitron", supernet, moments=moments)
    assert_scores(scores, (neurons, *by_head(columns, sizes, torch.linalg.vector_norm)))
    assert torch.equal(scores.channels, moments.channels)


@pytest.mark.parametrize("family", FAMILIES)
def test_wanda_is_the_mean_weight_times_the_norm_of_its_input(family):
    supernet, moments, block, sizes, x, z = calibrated(family)

    def score(weight, inputs):
        return weight.detach().double().abs().mean(0) * inputs.flatten(0, 1).square().mean(0).sqrt()

    expected = (score(block.mlp.proj.weight, x), *by_head(score(block.attn.proj.weight, z), sizes, torch.sum))
    assert_scores(importance("wanda", supernet, moments=moments), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_flap_is_the_standardised_fluctuation_of_inputs(family):
    supernet, moments, block, sizes, x, z = calibrated(family)

    def fluctuation(weight, inputs):
        return inputs.flatten(0, 1).var(0, correction=0) * weight.detach().double().square().sum(0)

    def standardised(values):
        return (values - values.mean()) / values.std(correction=0)

    columns = standardised(fluctuation(block.attn.proj.weight, z) ** 2)
    neurons = standardised(fluctuation(block.mlp.proj.weight, x))
    scores = importance("flap", supernet, moments=moments)
    for found, wanted in zip(
        (scores.neurons, scores.heads, scores.groups), (neurons, *by_head(columns, sizes, torch.mean)), strict=True
    ):
        torch.testing.assert_close(found[LAYER], wanted, rtol=1e-4, atol=1e-5)


def error_without(weight, A, gone):
    """Return the least error of a projection without the inputs `gone`, by solving for the others."""
    kept = [i for i in range(len(A)) if i not in set(gone)]
    solved = weight @ A[:, kept] @ torch.linalg.inv(A[kept][:, kept])
    change = weight.clone()
    change[:, kept] -= solved
    return ((change @ A) * change).sum()


@pytest.mark.parametrize("family", ["llama-gqa6", "pythia"])
def test_obs_is_the_error_that_is_left_when_the_others_are_solved_for(family):
    supernet, moments, block, sizes, x, z = calibrated(family)

    def damped(inputs):
        rows = inputs.flatten(0, 1)
        second = rows.T @ rows / len(rows)
        return second + default_damping(len(rows)) * second.diagonal().diag()

    scores = importance("obs", supernet, moments=moments)
    weight, A = block.mlp.proj.weight.detach().double(), damped(x)
    for j in range(0, sizes.intermediate_size, 7):
        torch.testing.assert_close(scores.neurons[LAYER, j], error_without(weight, A, [j]), rtol=1e-3, atol=1e-9)
    weight, A = block.attn.proj.weight.detach().double(), damped(z)
    for g, q, part in head_slices(sizes):
        expected = error_without(weight, A, range(part.start, part.stop))
        torch.testing.assert_close(scores.heads[LAYER, g, q], expected, rtol=1e-3, atol=1e-9)
    width = sizes.heads_per_group * sizes.head_size
    for g in range(sizes.n_query_groups):
        expected = error_without(weight, A, range(g * width, (g + 1) * width))
        torch.testing.assert_close(scores.groups[LAYER, g], expected, rtol=1e-3, atol=1e-9)


def test_greedy_obs_removes_what_costs_least_given_what_is_gone():
    supernet, moments, block, sizes, _, z = calibrated("llama-gqa6")
    rows = z.flatten(0, 1)
    A = rows.T @ rows / len(rows)
    A = A + default_damping(len(rows)) * A.diagonal().diag()
    weight, D, Q = block.attn.proj.weight.detach().double(), sizes.head_size, sizes.heads_per_group
    gone, expected = [], torch.zeros(sizes.n_head, dtype=torch.float64)
    for rank in range(sizes.n_head):
        errors = {}
        for head in range(sizes.n_head):
            columns = range(head * D, (head + 1) * D)
            if columns[0] not in gone:
                errors[head] = error_without(weight, A, [*gone, *columns]) if len(gone) + D < len(A) else 0
        best = min(errors, key=errors.get)
        expected[best] = rank
        gone += range(best * D, (best + 1) * D)
    scores = importance("obs-greedy", supernet, moments=moments)
    assert torch.equal(scores.heads[LAYER].flatten(), expected)
    assert scores.heads.shape[-1] == Q
    assert torch.equal(scores.neurons[LAYER].sort().values, torch.arange(48, dtype=torch.float64))


def gradients_by_block(supernet, blocks):
    """Return every block's own gradients, one backward pass each."""
    found = []
    for block in blocks:
        supernet.zero_grad()
        logits = supernet(block[None, :-1])
        F.cross_entropy(logits[0], block[1:]).backward()
        found.append({name: p.grad.double().clone() for name, p in supernet.named_parameters() if p.dim() == 2})
    return found


@pytest.mark.parametrize("family", ["llama-gqa6", "pythia"])
@pytest.mark.parametrize("name", ["taylor-first", "taylor-vector", "taylor-second", "taylor-mixed"])
def test_taylor_scores_are_those_of_the_expansion_of_the_loss(name, family):
    supernet = build_supernet(family)
    blocks = blocks_for(supernet, n=3)
    scores = importance(name, supernet, gradients=collect_gradients(supernet, blocks))
    own = gradients_by_block(supernet, blocks)
    block, sizes = supernet.transformer.h[LAYER], Sizes.of(supernet.config)
    values = {}
    for leaf, parameter in block.named_parameters():
        if parameter.dim() != 2:
            continue
        each = [g[f"transformer.h.{LAYER}.{leaf}"] for g in own]
        w, g, f = parameter.detach().double(), sum(each) / 3, sum(e**2 for e in each) / 3
        values[leaf] = {
            "taylor-first": (w * g).abs(),
            "taylor-vector": w * g,
            "taylor-second": w * f * w,
            "taylor-mixed": (w * g - 0.5 * w * f * w).abs(),
        }[name]
    expected = coupled(values, block, sizes)
    for found, wanted in zip((scores.neurons, scores.heads, scores.groups), expected, strict=True):
        torch.testing.assert_close(found[LAYER], wanted.abs(), rtol=1e-3, atol=1e-7)


def test_collecting_gradients_leaves_the_network_as_it_was():
    supernet = build_supernet("llama-gqa").train()
    supernet.transformer.wte.weight.requires_grad_(False)
    collect_gradients(supernet, blocks_for(supernet, n=2))
    assert supernet.training and not supernet.transformer.wte.weight.requires_grad
    assert supernet.lm_head.weight.requires_grad and all(p.grad is None for p in supernet.parameters())


def test_random_scores_are_the_seeds():
    supernet = build_supernet("llama-gqa")
    one, again, other = (importance("random", supernet, seed=s).neurons for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


# --- bad input ---------------------------------------------------------------------------------------------------


def test_an_unknown_criterion_names_near_matches():
    with pytest.raises(KeyError, match="no criterion 'wandas'; near matches: \\['wanda'"):
        importance("wandas", build_supernet("llama-gqa"))


@pytest.mark.parametrize(("name", "needed"), [("wanda", "moments"), ("obs", "moments"), ("taylor-first", "gradients")])
def test_missing_evidence_is_named(name, needed):
    with pytest.raises(ValueError, match=f"{name!r} needs {needed}"):
        importance(name, build_supernet("llama-gqa"))


def test_moments_of_another_network_are_refused():
    supernet, other = build_supernet("llama-gqa"), build_supernet("llama-gqa", intermediate_size=40)
    with pytest.raises(ValueError, match="mlp, have 40 inputs, the network has 48"):
        importance("wanda", supernet, moments=collect_moments(other, blocks_for(other)))


def test_scores_that_are_not_finite_are_refused():
    supernet = build_supernet("llama-gqa")
    found = collect_gradients(supernet, blocks_for(supernet))
    bad = {name: torch.full_like(value, math.nan) for name, value in found.mean.items()}
    with pytest.raises(ValueError, match="taylor-first scores of neurons are not finite"):
        importance("taylor-first", supernet, gradients=Gradients(bad, found.square))
