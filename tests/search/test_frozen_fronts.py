import itertools

import moocore
import numpy as np
import pytest

from search.frozen_fronts import _spread_out, corners, front_of, frozen_front, neighbours, offspring, random_genes
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


def everything() -> np.ndarray:
    rows = np.array(list(itertools.product(*(range(size) for size in FEATURES.sizes))))
    return np.unique(FEATURES.check(rows), axis=0)


def three(genes: np.ndarray) -> np.ndarray:
    """A third objective that conflicts with both."""
    return np.column_stack([evaluate(genes), np.abs(FEATURES.linear(genes)[:, 2] - 1.5) + 0.1 * genes[:, 1]])


def test_a_front_of_one_width_within_a_budget_is_that_of_exhaustive_enumeration() -> None:
    def limited(genes: np.ndarray) -> np.ndarray:
        return np.where(evaluate(genes)[:, :1] <= 9, evaluate(genes), np.nan)

    genes = everything()
    values = limited(genes[genes[:, 0] == 1])
    values = values[np.isfinite(values).all(axis=1)]
    truth = np.unique(values[moocore.is_nondominated(values)], axis=0)
    found = frozen_front(limited, FEATURES, np.random.default_rng(0), generations=10, children=100, width=1)
    assert np.allclose(found.front, truth) and (found.genes[:, 0] == 1).all()


def test_a_front_of_three_objectives_is_that_of_exhaustive_enumeration() -> None:
    values = three(everything())
    truth = np.unique(values[moocore.is_nondominated(values)], axis=0)
    found = frozen_front(three, FEATURES, np.random.default_rng(0), generations=20, children=200)
    assert np.allclose(np.unique(found.front, axis=0), truth)
    assert np.array_equal(found.front, front_of(found.genes, three(found.genes)).front)


def test_a_front_too_large_keeps_its_ends_and_a_spread() -> None:
    rng = np.random.default_rng(0)
    points = np.abs(rng.normal(size=(3000, 3)))
    points /= np.linalg.norm(points, axis=1, keepdims=True)  # on a sphere, none dominates another
    points = 1 - points
    kept = points[_spread_out(points, 200)]
    assert 100 <= len(kept) <= 200
    assert np.array_equal(kept.min(axis=0), points.min(axis=0))
    reference = np.array([1.1, 1.1, 1.1])
    shares = [moocore.hypervolume(some, ref=reference) for some in (kept, points[:200], points)]
    assert shares[0] > shares[1] and shares[0] > 0.94 * shares[2]


def test_a_front_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no network of space 'tiny-front'"):
        frozen_front(
            lambda genes: np.full((len(genes), 2), np.nan),
            FEATURES,
            np.random.default_rng(0),
            generations=1,
            children=5,
        )
    with pytest.raises(ValueError, match="none of 3 networks"):
        front_of(np.zeros((3, 2), int), np.full((3, 2), np.nan))


def test_known_networks_are_started_from() -> None:
    best = frozen_front(evaluate, FEATURES, np.random.default_rng(0), generations=10, children=100)
    found = frozen_front(
        evaluate, FEATURES, np.random.default_rng(1), generations=0, children=5, sweeps=0, known=best.genes
    )
    assert np.array_equal(found.front, best.front)
