"""Candidates as genes: legal, changed in one or two active genes, told apart; and the features that processes see."""

import numpy as np
import pytest
from search_fakes import CONFIG, large_space, small_space

from search.algorithms.gene_arrays import GeneArrays
from search.algorithms.gene_candidates import candidates, mutated, neighbours, unseen
from search.algorithms.network_features import NetworkFeatures
from supernet.encoding import to_genes
from supernet.space import SearchSpace


def spaces():
    grouped = SearchSpace(
        name="grouped", n_embd=(32, 64), n_layer=(2, 4), n_head=(2, 4), n_query_groups=(1, 2), mlp_ratio=(1, 2),
        config=CONFIG,
    )  # fmt: skip
    subset = small_space(name="subset", n_layer=(1, 3, 4), layer_choice="subset")
    return [large_space(), small_space(name="alike", n_layer=(2, 4), per_layer=False), subset, grouped]


@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.name)
def test_candidates_are_canonical_networks_of_the_space(space):
    arrays, rng = GeneArrays(space), np.random.default_rng(0)
    parents = to_genes(space, space.sample_unique(5, rng))
    genes = candidates(arrays, parents, n_random=100, n_mutations=200, rng=rng)
    assert 100 < len(genes) <= 300
    archs = arrays.architectures(genes)
    assert all(arch in space for arch in archs)
    assert (to_genes(space, archs) == genes).all()


def test_a_mutation_changes_one_active_gene_and_each_as_often():
    arrays, rng = GeneArrays(large_space()), np.random.default_rng(0)
    parent = to_genes(large_space(), [large_space().smallest()])
    genes = arrays.canonical(mutated(arrays, np.repeat(parent, 5000, axis=0), rng))
    same_depth = genes[genes[:, 2] == parent[0, 2]]
    changed = same_depth != parent
    assert (changed.sum(axis=1) == 1).all()
    active = arrays.active(parent)[0]
    assert (changed[:, ~active] == 0).all()
    counts = changed.sum(axis=0)[active & (np.arange(len(active)) != 2)]
    assert counts.min() > 0.7 * 5000 / active.sum() and counts.max() < 1.3 * 5000 / active.sum()


@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.name)
def test_neighbours_differ_in_one_gene_and_are_all(space):
    arrays, rng = GeneArrays(space), np.random.default_rng(0)
    for arch in space.sample_unique(3, rng):
        row = to_genes(space, [arch])[0]
        found = neighbours(arrays, row, rng)
        layers = slice(2, 2 + (space.max_layer if space.layer_choice == "subset" else 1))
        same_layers = found[(found[:, layers] == row[layers]).all(axis=1)]
        assert ((same_layers != row).sum(axis=1) == 1).all()
        expected = [a for a in space.neighbours(arch) if a.layers == arch.layers]
        assert {key.tobytes() for key in same_layers} == set(arrays.keys(to_genes(space, expected)))


def test_unseen_rows_are_the_first_of_equal_ones_and_not_known():
    genes = np.array([[1, 0], [2, 0], [1, 0], [3, 0]])
    assert unseen(genes, {genes[1].tobytes()}).tolist() == [0, 3]


@pytest.mark.parametrize("space", spaces(), ids=lambda space: space.name)
def test_features_are_of_the_order_of_one_vary_and_ignore_silent_genes(space):
    arrays, features = GeneArrays(space), NetworkFeatures(space)
    genes = arrays.random(500, np.random.default_rng(0))
    X = features(arrays.canonical(genes))
    assert X.shape == (500, len(features.names))
    assert np.abs(X).max() <= 1 and (np.ptp(X, axis=0) > 0).all()
    np.testing.assert_array_equal(features(genes), X)


def test_features_tell_early_from_late_layers_and_even_from_mixed():
    space, features = large_space(), NetworkFeatures(large_space())
    genes = np.tile(to_genes(space, [space.largest()]), (4, 1))
    heads = genes[:, 3:15]
    heads[0], heads[1] = [0] * 6 + [2] * 6, [2] * 6 + [0] * 6  # late, early
    heads[2], heads[3] = [0, 2] * 6, [1] * 12  # mixed, nearly the mean of both
    X = dict(zip(features.names, features(genes).T, strict=True))
    assert X["n_head"][0] == X["n_head"][1] == X["n_head"][2]
    assert X["n_head_degree_1"][0] > 0.2 > -0.2 > X["n_head_degree_1"][1]
    assert X["n_head*n_head"][2] > X["n_head*n_head"][3] + 0.3
