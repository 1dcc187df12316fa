import itertools

import moocore
import numpy as np

from search.frozen_fronts import corners, frozen_front, neighbours, offspring, random_genes
from supernet.space import SearchSpace
from surrogates.layer_features import LayerFeatures

SPACE = SearchSpace(
    name="tiny-front",
    n_embd=(32, 64),
    n_layer=(2, 3),
    n_head=(2, 4),
    mlp_ratio=(2, 3),
    bias=(True, False),
    config={"head_size": 16, "vocab_size": 64, "padded_vocab_size": 64},
)
FEATURES = LayerFeatures(SPACE)


def evaluate(genes: np.ndarray) -> np.ndarray:
    """Cost counts blocks; quality also depends on where they are."""
    cost = (1 + 2 * genes[:, 0]) * (1 + FEATURES.linear(genes)[:, 1:4] @ [1.0, 1.7, 0.6])
    places = FEATURES.positions(genes)
    return np.column_stack([cost, -genes[:, 0] - places @ np.linspace(1.0, 0.3, places.shape[1])])


def test_the_front_is_that_of_exhaustive_enumeration() -> None:
    everything = np.array(list(itertools.product(*(range(size) for size in FEATURES.sizes))))
    genes = np.unique(FEATURES.check(everything), axis=0)
    values = evaluate(genes)
    truth = np.unique(values[moocore.is_nondominated(values)], axis=0)
    found = frozen_front(evaluate, FEATURES, np.random.default_rng(0), generations=10, children=100)
    assert np.allclose(found.front, truth)
    assert np.allclose(evaluate(found.genes), found.front)
    assert np.array_equal(found.ideal, truth.min(axis=0)) and np.array_equal(found.nadir, truth.max(axis=0))


def test_the_same_seed_gives_the_same_front() -> None:
    one, two = (frozen_front(evaluate, FEATURES, np.random.default_rng(3), generations=3, children=50) for _ in "ab")
    assert np.array_equal(one.front, two.front) and np.array_equal(one.genes, two.genes)


def test_children_and_neighbours_are_canonical_members_of_the_space() -> None:
    rng = np.random.default_rng(0)
    parents = FEATURES.check(random_genes(FEATURES, 20, rng))
    for rows in (
        offspring(FEATURES, parents, 200, rng),
        neighbours(FEATURES, parents),
        FEATURES.check(corners(FEATURES)),
    ):
        assert np.array_equal(FEATURES.check(rows), rows)
    one = parents[:1]
    near = {row.tobytes() for row in neighbours(FEATURES, one)}
    for column, size in enumerate(FEATURES.sizes):
        changed = one.copy()
        changed[0, column] = (changed[0, column] + 1) % size
        assert FEATURES.check(changed)[0].tobytes() in near
