from itertools import combinations

import numpy as np
import pytest
from surrogate_data import sampled, small_space

from supernet.encoding import to_genes
from surrogates.adaptation_terms import DeviceFeatures
from surrogates.design import METHODS, choose, design_columns, propose

SPACE = small_space()
FEATURES = DeviceFeatures(SPACE)


def table(n: int, seed: int = 0) -> np.ndarray:
    return FEATURES(to_genes(SPACE, sampled(SPACE, n, seed)))


def information(rows: np.ndarray) -> float:
    return float(np.linalg.slogdet(0.1 * np.eye(rows.shape[1]) + rows.T @ rows)[1])


def chosen(features: np.ndarray, n: int, method: str, measured: np.ndarray | None = None) -> list[int]:
    known = features[:0] if measured is None else measured
    return choose(
        features, n, measured=known, method=method, widths=SPACE.n_embd, rng=np.random.default_rng(0)
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_proposals_are_new_distinct_members_and_the_same_for_a_seed(method: str) -> None:
    measured = sampled(SPACE, 10)
    first = propose(SPACE, 15, measured=measured, method=method, seed=1, pool=200)
    assert len(set(first)) == 15 and not set(first) & set(measured) and all(arch in SPACE for arch in first)
    assert first == propose(SPACE, 15, measured=measured, method=method, seed=1, pool=200)
    assert first != propose(SPACE, 15, measured=measured, method=method, seed=2, pool=200)


def test_d_optimal_rows_tell_more_than_others() -> None:
    features = table(200)
    columns = design_columns(features, SPACE.n_embd)
    best = information(columns[chosen(features, 15, "d_optimal")])
    rng = np.random.default_rng(0)
    assert best > max(information(columns[rng.permutation(200)[:15]]) for _ in range(200))
    assert best > information(columns[chosen(features, 15, "farthest_point")])


def test_d_optimal_finds_the_best_subset_of_a_small_pool() -> None:
    features = table(11)
    columns = design_columns(features, SPACE.n_embd)
    everything = [information(columns[list(rows)]) for rows in combinations(range(11), 4)]
    found = information(columns[chosen(features, 4, "d_optimal")])
    assert found >= np.quantile(everything, 0.99)


def test_measured_rows_are_not_measured_again() -> None:
    features = table(100)
    measured = features[chosen(features, 10, "d_optimal")]
    for method in ("d_optimal", "farthest_point"):
        more = features[chosen(features, 5, method, measured)]
        assert not (more[:, None] == measured).all(axis=2).any()


def test_farthest_point_keeps_rows_apart() -> None:
    features = table(300)
    columns = design_columns(features, SPACE.n_embd)

    def closest(rows: list[int]) -> float:
        return min(float(((columns[a] - columns[b]) ** 2).sum()) for a, b in combinations(rows, 2))

    rng = np.random.default_rng(0)
    best = closest(chosen(features, 12, "farthest_point"))
    assert best > max(closest([int(i) for i in rng.permutation(300)[:12]]) for _ in range(100))


def test_designs_cover_every_width() -> None:
    for method in ("d_optimal", "farthest_point"):
        found = propose(SPACE, 9, method=method)
        assert {arch.n_embd for arch in found} == set(SPACE.n_embd)


def test_a_small_space_is_used_up() -> None:
    tiny = small_space(n_embd=(32,), n_layer=(2,), n_head=(1, 2), mlp_ratio=(1, 2))
    everything = propose(tiny, tiny.num_architectures)
    assert len(set(everything)) == tiny.num_architectures
    with pytest.raises(ValueError, match="cannot draw"):
        propose(tiny, 1, measured=everything)


def test_unknown_methods_and_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="method = 'best'; allowed: d_optimal, farthest_point, random"):
        propose(SPACE, 3, method="best")
    with pytest.raises(ValueError, match="n = 0: propose at least one"):
        propose(SPACE, 0)
    with pytest.raises(ValueError, match="30 of 20 candidates"):
        chosen(table(20), 30, "random")
