"""Tests and ranks equal scipy's and worked examples."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from search.comparison.statistics import geometric_mean, holm, mean_ranks, quartiles, signed_rank


def test_signed_rank_is_scipys_on_the_seeds_that_both_have():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20))
    found = signed_rank(dict(enumerate(a)), dict(enumerate(b)) | {99: 5.0})
    assert found.n == 20
    assert found.p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found.difference == pytest.approx(np.median(a - b))


def test_signed_rank_of_a_worked_example():
    # differences -1, -2, -3, -4, 5: ranks 1 to 5, the positive rank sum is 5. Of the 32 sign patterns 10 have a sum of
    # at most 5 (0, 1, 2, 3 twice, 4 twice, 5 three times): the two-sided p is 2 * 10 / 32.
    first = dict(enumerate([1.0, 1.0, 1.0, 1.0, 9.0]))
    second = dict(enumerate([2.0, 3.0, 4.0, 5.0, 4.0]))
    assert signed_rank(first, second).p == pytest.approx(20 / 32)


def test_ties_are_exact_by_all_sign_patterns():
    differences = np.array([1.0, -1.0, 2.0, 2.0, 3.0, -3.0, 4.0, 4.0])
    ranks = stats.rankdata(np.abs(differences))
    sums = np.array([ranks[np.array(signs)].sum() for signs in product([False, True], repeat=8)])
    own = ranks[differences > 0].sum()
    expected = min(1.0, 2 * min((sums <= own).mean(), (sums >= own).mean()))
    assert signed_rank(dict(enumerate(differences)), dict.fromkeys(range(8), 0.0)).p == pytest.approx(expected)


def test_many_pairs_are_scipys_approximation():
    a = np.random.default_rng(2).normal(0.1, 1, 80)
    found = signed_rank(dict(enumerate(a)), dict.fromkeys(range(80), 0.0))
    assert found.p == pytest.approx(stats.wilcoxon(a).pvalue)


def test_equal_methods_and_rounding_are_no_difference():
    first = {seed: 0.1 * seed for seed in range(10)}
    assert signed_rank(first, {s: v + 1e-15 for s, v in first.items()}).p == 1.0
    nothing = signed_rank(first, {77: 1.0})
    assert nothing.n == 0 and np.isnan(nothing.p)


def test_holm_of_a_worked_example():
    # sorted 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 -> 0.02, 0.03, 0.06, then not below 0.06
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_missing_tests_out_of_the_family():
    assert holm([0.02, np.nan, 0.01])[[0, 2]].tolist() == pytest.approx([0.02, 0.02])
    assert np.isnan(holm([np.nan, 0.5])[0])
    assert len(holm([])) == 0


def test_holm_rejects_as_by_its_steps():
    rng = np.random.default_rng(1)
    for _ in range(20):
        p = rng.uniform(0, 0.1, 15)
        order, rejected = np.argsort(p), np.zeros(15, bool)
        for step, index in enumerate(order):
            if p[index] >= 0.05 / (15 - step):
                break
            rejected[index] = True
        assert ((holm(p) < 0.05) == rejected).all()


def test_quartiles_skip_nan_and_keep_infinity():
    assert quartiles([3, 1, 2, np.nan]).median == 2
    assert quartiles([1, 2, np.inf, np.inf]).median == np.inf
    assert quartiles([1, 2, 3, 4, np.inf]).median == 3
    assert quartiles([]).n == 0 and np.isnan(quartiles([np.nan]).median)


def test_mean_ranks_average_ties_and_their_interval_covers_them():
    table = np.array([[0.1, 0.2, 0.2], [0.3, 0.1, 0.2], [0.1, 0.2, 0.3]])
    found = mean_ranks(table, np.random.default_rng(0))
    expected = np.array([stats.rankdata(row) for row in table]).mean(0)
    assert found.mean == pytest.approx(expected)
    assert (found.low <= found.mean).all() and (found.mean <= found.high).all()


def test_mean_ranks_resample_whole_clusters():
    table = np.array([[1.0, 2.0]] * 3 + [[2.0, 1.0]])
    found = mean_ranks(table, np.random.default_rng(0), clusters=["a", "a", "a", "b"])
    assert found.mean.tolist() == [1.5, 1.5]  # each cluster weighs the same
    assert found.low.tolist() == [1.0, 1.0]


def test_geometric_mean_has_a_floor():
    assert geometric_mean([0.1, 0.001], 1e-4) == pytest.approx(0.01)
    assert geometric_mean([-1.0], 1e-4) == pytest.approx(1e-4)
    assert np.isnan(geometric_mean([0.1, np.nan], 1e-4))
