import pytest
import torch
from pruning_supernets import FAMILIES, MAIN_FAMILIES, STORIES, blocks_for, build_supernet, calm_supernet, largest_arch

from pruning.collection import collect_moments
from pruning.importance import importance
from pruning.reorder import Order, order_by, reorder, reorder_moments
from pruning.structure import Sizes, output_projection
from supernet.architecture import Architecture
from supernet.checkpoint import load_supernet


def random_order(supernet, *, channels=True, seed=0):
    return order_by(importance("random", supernet, seed=seed), channels=channels)


def assert_same_logits(one, other, idx):
    with torch.no_grad():
        expected = one(idx)
        assert (other(idx) - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max())
        assert expected.std() > 0.1


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_reordering_keeps_the_logits(family, tied):
    supernet = calm_supernet(family, tied=tied)
    idx = blocks_for(supernet)
    for channels in (False, True):
        moved = reorder(supernet, random_order(supernet, channels=channels))
        assert_same_logits(supernet, moved, idx)
        assert not torch.equal(moved.transformer.h[0].mlp.proj.weight, supernet.transformer.h[0].mlp.proj.weight)
        assert (moved.lm_head.weight is moved.transformer.wte.weight) == tied


@pytest.mark.parametrize("family", MAIN_FAMILIES)
def test_a_prefix_of_the_reordered_network_is_the_chosen_part_of_the_old_one(family):
    # zeroing a neuron's, a group's and a head's columns of the output projections is what leaving it out means
    supernet = build_supernet(family)
    sizes, order = Sizes.of(supernet.config), random_order(supernet, channels=False)
    heads = max(1, sizes.heads_per_group - 1)
    groups = max(1, sizes.n_query_groups - 1)
    n = sizes.n_layer
    arch = Architecture(32, (heads * groups,) * n, (groups,) * n, (11,) * n, tuple(range(n)), bias=supernet.config.bias)
    moved = reorder(supernet, order)
    if supernet.config.norm_qk_type == "olmo2" and supernet.config.norm_qk:
        pytest.skip("its norm of queries spans all heads, so leaving one out changes the others")
    with torch.no_grad():
        for layer, block in enumerate(supernet.transformer.h):
            kept = [
                (g * sizes.heads_per_group + int(q)) * sizes.head_size + d
                for g in order.groups[layer, :groups].tolist()
                for q in order.heads[layer, g, :heads]
                for d in range(sizes.head_size)
            ]
            gone = torch.ones(block.attn.proj.in_features, dtype=torch.bool)
            gone[kept] = False
            block.attn.proj.weight[:, gone] = 0
            block.mlp.proj.weight[:, order.neurons[layer, 11:]] = 0
    idx = blocks_for(supernet)
    with torch.no_grad():
        expected, found = supernet(idx), moved(idx, arch)
    assert (found - expected).abs().max() < 1e-4 * max(1.0, expected.abs().max())


def test_the_most_important_comes_first_and_equal_scores_keep_their_places():
    supernet = build_supernet("llama-gqa6")
    scores = importance("magnitude", supernet)
    scores.neurons[1] = 1.0
    order = order_by(scores, channels=True)
    assert torch.equal(order.neurons[1], torch.arange(48))
    moved = importance("magnitude", reorder(supernet, order))
    for name in ("neurons", "groups", "heads", "channels"):
        values = getattr(moved, name)
        rows = values[[0, 2, 3]] if name == "neurons" else values
        assert (rows.diff(dim=-1) <= 1e-6 * rows.abs().max()).all(), name


@pytest.mark.parametrize("family", ["llama-gqa6", "pythia", "qwen3"])
def test_reordered_moments_are_those_of_the_reordered_network(family):
    supernet = build_supernet(family)
    blocks, order = blocks_for(supernet), random_order(supernet)
    given = {"dtype": torch.float64, "extras": ("residual",)}
    expected = collect_moments(reorder(supernet, order), blocks, **given)
    found = reorder_moments(collect_moments(supernet, blocks, **given), order, Sizes.of(supernet.config))
    for key, value in expected.inputs.items():
        torch.testing.assert_close(found.inputs[key].second, value.second, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found.inputs[key].activation, value.activation, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.channels, expected.channels, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.residual, expected.residual, rtol=1e-3, atol=1e-4)


def test_the_old_network_is_left_as_it_was():
    supernet = build_supernet("llama-gqa")
    before = {name: p.clone() for name, p in supernet.named_parameters()}
    moved = reorder(supernet, random_order(supernet))
    with torch.no_grad():
        for p in moved.parameters():
            p.zero_()
    assert all(torch.equal(p, before[name]) for name, p in supernet.named_parameters())


def test_sub_networks_of_the_reordered_network_run():
    moved = reorder(build_supernet("llama-gqa"), random_order(build_supernet("llama-gqa")))
    idx = blocks_for(moved)
    with torch.no_grad():
        assert torch.allclose(moved(idx, largest_arch(moved.config)), moved(idx), atol=1e-5)
    assert output_projection(moved.transformer.h[0], "mlp") is moved.transformer.h[0].mlp.proj


def test_an_order_of_another_network_is_refused():
    supernet = build_supernet("llama-gqa")
    order = random_order(supernet)
    with pytest.raises(ValueError, match="order of neurons is \\(4, 47\\)"):
        reorder(supernet, Order(order.neurons[:, :47], order.groups, order.heads))
    with pytest.raises(ValueError, match="order of groups is"):
        reorder(supernet, Order(order.neurons, torch.zeros_like(order.groups), order.heads))


def test_channels_need_scores_of_channels():
    supernet = build_supernet("llama-gqa")
    scores = importance("wanda", supernet, moments=collect_moments(supernet, blocks_for(supernet)))
    with pytest.raises(ValueError, match="no scores of channels"):
        order_by(scores, channels=True)


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not there")
def test_a_real_network_keeps_its_logits():
    supernet = load_supernet(STORIES).supernet.eval()
    idx = blocks_for(supernet, n=2, length=64)
    scores = importance("minitron", supernet, moments=collect_moments(supernet, idx))
    assert_same_logits(supernet, reorder(supernet, order_by(scores, channels=True)), idx)
