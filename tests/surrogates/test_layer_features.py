import numpy as np
import pytest
from small_space import SPACE, random_genes

from supernet.encoding import from_genes, to_genes
from supernet.spaces import load_space
from surrogates.layer_features import LayerFeatures
from surrogates.packing_features import packing, packing_names


def test_counts_and_sums_are_those_of_the_architectures() -> None:
    for space in (SPACE, load_space("gpt-m")):
        features = LayerFeatures(space)
        genes = random_genes(50, space=space)
        linear, trees = features.linear(genes), features.trees(genes, positions=True)
        assert linear.shape[1] == len(features.linear_names)
        assert trees.shape[1] == len(features.position_tree_names)
        assert features.trees(genes).shape[1] == len(features.tree_names)
        assert features.positions(genes).shape[1] == len(features.position_names)
        for row, lin, tree in zip(genes, linear, trees, strict=True):
            arch = from_genes(space, row)
            named = dict(zip(features.linear_names, lin, strict=True))
            heads = [h for h, _ in space.attention_choices]
            for i, head in enumerate(heads):
                assert named[f"blocks_attention={i}"] == arch.n_head.count(head)
                assert named[f"bias*blocks_attention={i}"] == arch.bias * arch.n_head.count(head)
            values = dict(zip(features.position_tree_names, tree, strict=True))
            assert values["n_embd"] == arch.n_embd
            assert values["sum_n_head"] == sum(arch.n_head)
            assert values["sum_intermediate_size"] == sum(arch.intermediate_size)
            head_size = space.model_config.head_size
            block = arch.n_embd * (2 * head_size * sum(arch.n_head) + sum(arch.intermediate_size))
            assert values["block_weights"] == pytest.approx(block)
            assert values[f"sum_n_head_to_{space.max_layer - 1:02}"] == sum(arch.n_head)


def test_check_clears_inactive_genes_and_agrees_with_the_encoding() -> None:
    features = LayerFeatures(SPACE)
    rng = np.random.default_rng(0)
    wild = np.column_stack([rng.integers(0, size, 200) for size in features.sizes])
    checked = features.check(wild)
    assert (checked == to_genes(SPACE, [from_genes(SPACE, row) for row in wild])).all()
    assert (features.check(checked) == checked).all()


def test_bad_genes_are_named() -> None:
    features = LayerFeatures(SPACE)
    genes = random_genes(3)
    genes[1, 0] = 3
    with pytest.raises(ValueError, match=r"row 1: gene n_embd = 3 .* allowed: 0 \(32\), 1 \(64\), 2 \(128\)"):
        features.check(genes)
    with pytest.raises(ValueError, match="takes integers"):
        features.check(random_genes(3)[:, :-1])
    with pytest.raises(ValueError, match="takes integers"):
        features.check(random_genes(3).astype(float))


def test_spaces_of_other_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="layer_choice='prefix'"):
        LayerFeatures(load_space({**SPACE.to_dict(), "layer_choice": "subset"}))


def test_packing_counts_the_bytes_of_large_tensors() -> None:
    space = load_space("gpt-s")
    features = LayerFeatures(space)
    genes = random_genes(30, space=space)
    table, names = packing(features, genes), packing_names(features)
    assert table.shape == (30, len(names))
    for row, values in zip(genes, table, strict=True):
        arch = from_genes(space, row)
        named = dict(zip(names, values, strict=True))
        running = 0
        for i, (heads, neurons) in enumerate(zip(arch.n_head, arch.intermediate_size, strict=True)):
            numbers = [3 * 64 * heads * arch.n_embd, 64 * heads * arch.n_embd, *[neurons * arch.n_embd] * 3]
            running += sum(4 * k for k in numbers if 4 * k > 2**20)
            assert named[f"large_{i:02}"] == pytest.approx(running, rel=1e-6)
            assert named[f"in_segment_{i:02}"] == pytest.approx(running % (20 * 2**20), rel=1e-6)
        kinds = list(zip(arch.n_head, arch.intermediate_size, strict=True))
        first = (space.n_head[0], space.mlp_ratio[1] * arch.n_embd)
        assert named["blocks_attention=0_mlp=1"] == kinds.count(first)
