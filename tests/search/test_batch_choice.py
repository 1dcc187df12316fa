"""The choice of a batch: gains in hypervolume, opinions in turn, budgets; and the evolution that offers candidates."""

import numpy as np
import pytest
from search_fakes import large_space, objectives, small_space

from search.algorithms.batch_choice import choose_batch, hypervolume_improvements
from search.algorithms.free_problem import free_problem
from search.algorithms.gene_arrays import GeneArrays
from search.algorithms.guided_population import Breeding, Candidates, evolve, offspring
from search.pareto import hypervolume, nondominated
from supernet.encoding import to_genes


def candidates(values, violation=None):
    values = np.asarray(values, dtype=float)
    genes = np.arange(values.shape[1], dtype=np.int64)[:, None]
    return Candidates(genes, values, np.zeros(values.shape[:2]) if violation is None else np.asarray(violation))


def choose(n, pool, told, m=2):
    none = np.empty((len(pool.values), 0, m))
    return choose_batch(n, pool, told=np.asarray(told, float).reshape(-1, m), expected=none,
                        expected_violation=none[:, :, 0])  # fmt: skip


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("k", [0, 1, 12])
def test_gains_are_differences_of_hypervolumes(m, k):
    rng = np.random.default_rng(m)
    front, points = rng.random((k, m)) * 1.3, rng.random((40, m)) * 1.3
    before = hypervolume(front, 1.1) if k else 0.0
    expected = [hypervolume(np.concatenate([front, p[None]]), 1.1) - before for p in points]
    np.testing.assert_allclose(hypervolume_improvements(points, front), expected, atol=1e-12)


def test_the_batch_is_greedy_and_never_repeats():
    rng = np.random.default_rng(0)
    told = rng.random((10, 2)) + 0.5
    pool = candidates(rng.random((1, 30, 2)))
    chosen = choose(6, pool, told)
    assert len(set(chosen)) == 6
    front = told[nondominated(told)]
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    known = (told - low) / span
    for i in chosen[:4]:
        gains = hypervolume_improvements((pool.values[0] - low) / span, known)
        assert gains[i] == pytest.approx(gains.max())
        known = np.concatenate([known, (pool.values[0, [i]] - low) / span])


def test_opinions_take_turns():
    ends = [[[0.0, 0.5], [0.9, 0.9]], [[0.9, 0.9], [0.5, 0.0]]]  # each opinion likes another candidate
    assert choose(2, candidates(ends), [[1.0, 0.0], [0.0, 1.0]]) == [0, 1]
    assert choose(2, candidates(ends[::-1]), [[1.0, 0.0], [0.0, 1.0]]) == [1, 0]


def test_what_is_being_evaluated_counts_as_known():
    pool = candidates([[[0.3, 0.3], [0.8, 0.05]]])
    told = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert choose(1, pool, told) == [0]
    pending = np.array([[[0.29, 0.29]]])
    assert choose_batch(1, pool, told=told, expected=pending, expected_violation=np.zeros((1, 1))) == [1]
    assert choose_batch(1, pool, told=told, expected=pending, expected_violation=np.ones((1, 1))) == [0]


def test_what_misses_a_budget_is_chosen_only_when_nothing_meets_it():
    values = [[[0.1, 0.1], [0.4, 0.4], [0.3, 0.9]]]
    told = [[1.0, 0.0], [0.0, 1.0]]
    assert choose(1, candidates(values, [[1.0, 0.0, 0.0]]), told) == [1]
    assert choose(2, candidates(values, [[1.0, 0.2, 0.5]]), told) == [1, 2]


def test_without_gains_the_nearest_to_the_front_comes_first_and_without_results_nothing():
    told = [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
    assert choose(3, candidates([[[0.9, 0.9], [0.6, 0.6], [0.7, 0.8]]]), told) == [1, 2, 0]
    assert choose(3, candidates([[[np.nan, 0.9], [0.6, np.nan]]]), told) == []
    assert len(choose(2, candidates(np.random.default_rng(0).random((1, 5, 3))), [], m=3)) == 2


# --- evolution --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [large_space(), small_space(name="subset", n_layer=(1, 3, 4), layer_choice="subset"), small_space(per_layer=False)],
    ids=["prefix", "subset", "alike"],
)
def test_children_have_genes_of_the_space_and_new_ones_too(space):
    arrays, rng = GeneArrays(space), np.random.default_rng(0)
    parents = to_genes(space, space.sample_unique(6, rng))
    children = offspring(arrays, parents, 500, rng)
    assert ((children >= 0) & (children < arrays.sizes)).all()
    legal = children[arrays.is_legal(children)]
    assert len(legal) > 250
    assert all(arch in space for arch in arrays.architectures(legal))
    assert len(set(arrays.keys(legal)) - set(arrays.keys(parents))) > 20


def test_evolution_finds_the_front_of_what_it_is_told_to_minimise_and_nothing_known():
    space = small_space(n_layer=(1, 2, 3), mlp_ratio=(1, 2, 3))
    arrays, free = GeneArrays(space), free_problem(space, objectives())
    everything = to_genes(space, list(space.enumerate()))
    table = free.evaluate(everything)[0]
    rng = np.random.default_rng(0)
    start = everything[rng.choice(len(everything), 20)]
    known = {row.tobytes() for row in everything[::7]}
    left = np.array([row.tobytes() not in known for row in everything])
    truth = {tuple(v) for v in table[left][nondominated(table[left])]}

    def judge(genes):
        return (
            tuple(table[None] for table in free.evaluate(genes))
            if len(genes)
            else (np.empty((1, 0, 2)), np.empty((1, 0)))
        )

    found = evolve(start, start, judge=judge, arrays=arrays, known=known, rng=rng,
                   breeding=Breeding(generations=12, children=300, keep=60))  # fmt: skip
    assert not {row.tobytes() for row in found.genes} & known
    assert len({row.tobytes() for row in found.genes}) == len(found)
    assert {tuple(v) for v in found.values[0]} >= truth
