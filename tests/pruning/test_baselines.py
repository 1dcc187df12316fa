"""The peers' methods: what each cuts, and that each does what its paper says."""

from dataclasses import replace

import pytest
import torch
from pruning_supernets import blocks_for, calm_supernet

from pruning.baselines import BASELINES, baseline, depth_family
from pruning.depth import block_influence
from pruning.families import given_family, trunk_parameters, width_ladders
from pruning.importance import importance
from pruning.prepared import prepare
from pruning.pruned import Pruned
from pruning.structure import Sizes
from supernet.extract import build_gpt, extract

FAMILY = "llama-gqa6"  # 4 blocks, 48 neurons, 6 heads in 2 groups


@pytest.fixture(scope="module")
def prepared():
    supernet = calm_supernet(FAMILY).eval()
    return prepare(supernet, blocks_for(supernet, n=8))


def logits(gpt, prepared):
    with torch.no_grad():
        return gpt(prepared.blocks[:2])


def kept_neurons(pruned, supernet, position, layer):
    """Return which neurons of the dense network a pruned block keeps, found by their gate rows."""
    rows, whole = pruned.gpt.transformer.h[position].mlp.fc_1.weight, supernet.transformer.h[layer].mlp.fc_1.weight
    return {int((whole == row).all(1).nonzero()) for row in rows}


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_at_full_size_is_the_dense_network(name, prepared):
    family = baseline(name, prepared)
    largest = family.at(max(family.sizes))
    assert largest.arch == prepared.whole
    assert torch.allclose(logits(largest.gpt, prepared), logits(prepared.supernet, prepared), atol=1e-5)


@pytest.mark.parametrize("name", BASELINES)
def test_sizes_grow_and_the_shape_is_known_before_the_network_is_made(name, prepared):
    family, config = baseline(name, prepared), prepared.supernet.config
    for ladder in family.ladders:
        counts = [trunk_parameters(config, replace(family.arch(size), bias=False)) for size in ladder]
        assert counts == sorted(set(counts))
    size = family.ladders[0][0]
    made = family.at(size)
    assert made.arch == family.arch(size)
    shape = build_gpt(config, family.arch(size), device="meta")
    assert {n: p.shape for n, p in made.gpt.named_parameters()} == {n: p.shape for n, p in shape.named_parameters()}


@pytest.mark.parametrize(
    ("name", "criterion"),
    [("magnitude", "magnitude"), ("minitron", "minitron"), ("wanda-sp", "wanda"), ("flap", "flap")],
)
def test_width_baselines_keep_the_neurons_of_their_criterion(name, criterion, prepared):
    pruned = baseline(name, prepared).at((24, 2))
    scores = importance(criterion, prepared.supernet, moments=prepared.moments).neurons
    for layer in range(4):
        best = set(scores[layer].argsort(descending=True)[:24].tolist())
        assert kept_neurons(pruned, prepared.supernet, layer, layer) == best


def test_random_goes_by_the_seed(prepared):
    first, again = (baseline("random", prepared).at((24, 2)) for _ in range(2))
    other = baseline("random", replace(prepared, seed=1)).at((24, 2))
    kept = [kept_neurons(p, prepared.supernet, 0, 0) for p in (first, again, other)]
    assert kept[0] == kept[1] != kept[2]


def test_flaps_bias_keeps_the_mean_output_of_the_mlp(prepared):
    pruned = baseline("flap", prepared).at((24, 2))
    assert pruned.arch.bias
    caught = {}
    for name, gpt in (("dense", prepared.supernet), ("pruned", pruned.gpt)):
        handle = gpt.transformer.h[0].mlp.register_forward_hook(
            lambda module, args, out, name=name: caught.__setitem__(name, out.flatten(0, 1).mean(0))
        )
        with torch.no_grad():
            gpt(prepared.blocks)
        handle.remove()
    assert torch.allclose(caught["dense"], caught["pruned"], atol=1e-5)  # block 0's MLP gets the dense network's input


def test_flaps_global_allocation_is_one_threshold_for_all_layers(prepared):
    family = baseline("flap-global", prepared)
    arch = family.arch((24, 2))
    scores = importance("flap", prepared.supernet, moments=prepared.moments).neurons
    threshold = scores.flatten().sort(descending=True).values[24 * 4 - 1]
    assert list(arch.intermediate_size) == (scores >= threshold).sum(1).tolist()
    assert sum(arch.intermediate_size) == 24 * 4 and len(set(arch.intermediate_size)) > 1
    pruned = family.at((24, 2))
    for layer in range(4):
        expected = set((scores[layer] >= threshold).nonzero().flatten().tolist())
        assert kept_neurons(pruned, prepared.supernet, layer, layer) == expected


def test_shortgpt_drops_the_blocks_of_least_influence(prepared):
    arch = baseline("shortgpt", prepared).arch((2,))
    expected = sorted(block_influence(prepared.moments).argsort(descending=True)[:2].tolist())
    assert list(arch.layers) == expected


def test_least_squares_is_nearer_to_the_dense_network_than_the_same_mask(prepared):
    size = (24, 2)
    fitted = baseline("obs-ls", prepared).at(size)
    order_only = extract_mask(prepared, size)
    dense = logits(prepared.supernet, prepared)
    errors = [(logits(gpt, prepared) - dense).square().mean() for gpt in (fitted.gpt, order_only.gpt)]
    assert errors[0] < errors[1]


def extract_mask(prepared, size):
    from pruning.baselines import width_family

    return width_family(prepared, "obs-mask", "obs").at(size)


def test_groups_go_only_when_the_budget_asks_for_more_than_neurons():
    sizes = Sizes(n_layer=30, n_embd=576, n_query_groups=3, heads_per_group=3, head_size=64, intermediate_size=1536)
    ladders = width_ladders(sizes)
    assert [ladder[0] for ladder in ladders] == [(1024, 3), (512, 2), (16, 1)]
    assert all(ladder[-1][0] == 1536 for ladder in ladders)
    assert (960, 2) in ladders[1]


def test_a_depth_family_drops_blocks_in_the_given_order(prepared):
    family = depth_family(prepared, "iterative", [2, 0])
    assert family.sizes == ((2,), (3,), (4,))
    assert family.arch((3,)).layers == (0, 1, 3)
    assert family.arch((2,)).layers == (1, 3)
    with pytest.raises(ValueError, match="once each"):
        depth_family(prepared, "iterative", [2, 2])


def test_a_given_family_is_put_in_order_of_parameters(prepared):
    config, supernet = prepared.supernet.config, prepared.supernet
    whole = prepared.whole
    narrow = replace(whole, intermediate_size=(8,) * 4)
    family = given_family("ours", [whole, narrow], config, lambda arch: Pruned(extract(supernet, arch), arch))
    assert [family.arch(size) for size in family.sizes] == [narrow, whole]
    assert family.at((0,)).arch == narrow
    with pytest.raises(ValueError, match="at least one"):
        given_family("ours", [], config, lambda arch: None)


def test_unknown_names_and_sizes_are_refused_with_what_there_is(prepared):
    with pytest.raises(KeyError, match=r"near matches: \['wanda-sp'"):
        baseline("wanda", prepared)
    with pytest.raises(ValueError, match="has no size"):
        baseline("shortgpt", prepared).at((9,))
