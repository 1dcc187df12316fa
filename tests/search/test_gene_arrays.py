"""Gene arrays against the one-at-a-time encoding, in every form of space."""

import numpy as np
import pytest
from search_fakes import large_space, small_space

from search.algorithms.gene_arrays import GeneArrays
from supernet.encoding import from_genes, to_genes

SPACES = [
    large_space(),
    small_space(name="subset", n_layer=(1, 3, 4), layer_choice="subset"),
    small_space(name="alike", n_layer=(2, 4), per_layer=False),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_random_rows_are_legal_and_decode_as_the_encoding_says(space):
    arrays = GeneArrays(space)
    genes = arrays.random(200, np.random.default_rng(0))
    assert arrays.is_legal(genes).all()
    archs = arrays.architectures(genes)
    assert archs == [from_genes(space, row) for row in genes]
    np.testing.assert_array_equal(arrays.canonical(genes), to_genes(space, archs))
    assert {arch.n_layer for arch in archs} == set(space.n_layer)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_rows_have_equal_keys_exactly_when_their_networks_are_equal(space):
    arrays = GeneArrays(space)
    genes = arrays.random(100, np.random.default_rng(1))
    other = arrays.expressed(genes, arrays.random(100, np.random.default_rng(2)))
    assert arrays.keys(other) == arrays.keys(genes)
    assert arrays.architectures(other) == arrays.architectures(genes)
    both = np.concatenate([genes, other])
    assert len(set(arrays.keys(both))) == len(set(arrays.architectures(both)))
    if space.name == "large":
        assert (other != genes).any()  # silent genes differ


def test_a_row_that_keeps_a_depth_the_space_lacks_is_not_legal():
    arrays = GeneArrays(SPACES[1])
    genes = arrays.random(1, np.random.default_rng(0))
    genes[0, 2:6] = [1, 1, 0, 0]
    assert arrays.is_legal(genes).tolist() == [False]
