import numpy as np
import pytest
from lts_data import FOLDER, needs_lts, small_rows
from scipy.stats import chisquare

from search.pareto import nondominated
from search.proxies.lts_evolution import Sizes, draw_randomly, evolve
from search.proxies.lts_genes import LTSSpace
from search.proxies.lts_oracles import FittedOracle, TableOracle, fit_scores, front_values
from search.proxies.lts_replay import matched_share, replay_in_space, replay_on_table, table_score
from search.proxies.lts_table import read_lts_table

SIZES = Sizes(parents=2, mutants=4, crossovers=4)


def table_oracle(rows, seed: int = 0) -> TableOracle:
    return TableOracle(rows, space=LTSSpace("gpt2"), rng=np.random.default_rng(seed))


# --- genes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["gpt2", "transformer_xl"])
def test_sampled_genomes_are_valid_and_in_the_choices(backbone):
    space, rng = LTSSpace(backbone), np.random.default_rng(0)
    low, high = {"gpt2": (6e6, 1e8), "transformer_xl": (4e6, 1e8)}[backbone]
    for _ in range(100):
        genes = space.sample(rng)
        inner, heads = space.layers(genes)
        assert all(gene in allowed for gene, allowed in zip(genes, space.choices, strict=True))
        assert len(inner) == len(heads) == genes[0]
        assert inner.min() > 1.7 * genes[1]
        assert low <= space.decoder(genes[None])[0] <= high


def test_inactive_genes_do_not_tell_networks_apart():
    space, rng = LTSSpace("gpt2"), np.random.default_rng(0)
    genes = next(genes for genes in (space.sample(rng) for _ in range(1000)) if genes[0] == 5)
    other = genes.copy()
    other[2 + 5] += 64  # d_inner of the sixth layer
    assert space.key(other) == space.key(genes)
    assert space.decoder(other[None]) == space.decoder(genes[None])
    other[2 + 4] += 64
    assert space.key(other) != space.key(genes)


def test_rows_of_a_table_keep_their_sizes_as_genomes():
    rows, space = small_rows(), LTSSpace("gpt2")
    genomes = space.genes(rows, np.random.default_rng(0))
    np.testing.assert_array_equal(space.decoder(genomes), rows["params_decoder"])
    for genes, d_inner, n_head in zip(genomes, rows["d_inner"], rows["n_head"], strict=True):
        inner, heads = space.layers(genes)
        assert (tuple(inner), tuple(heads)) == (d_inner, n_head)


def test_mutation_changes_genes_at_its_rate_and_crossover_takes_all_from_parents():
    space, rng = LTSSpace("gpt2"), np.random.default_rng(0)
    a, b = space.sample(rng), space.sample(rng)
    redrawn = [np.mean(space.mutate(a, rng, 0.3)[2:17] != a[2:17]) for _ in range(400)]
    assert np.mean(redrawn) == pytest.approx(0.3 * 61 / 62, abs=0.02)  # one of 62 sizes is the old one
    child = space.crossover(a, b, rng, 0.5)
    assert ((child == a) | (child == b)).all()
    np.testing.assert_array_equal(space.crossover(a, b, rng, 0.0), a)


def test_a_network_deeper_than_the_space_is_refused():
    with pytest.raises(ValueError, match="n_layer = 16; gpt2 has at most 15"):
        LTSSpace("gpt2").genes(small_rows().assign(n_layer=16), np.random.default_rng(0))
    with pytest.raises(ValueError, match="backbone = 'lstm'"):
        LTSSpace("lstm")


# --- the loop -------------------------------------------------------------------------------------------------------


def test_no_network_is_evaluated_twice_and_the_budget_is_exact():
    rows = small_rows(30)
    fitted = FittedOracle(rows, space=LTSSpace("gpt2"))
    for oracle, n in ((table_oracle(rows), 27), (fitted, 57)):
        for search in (evolve, draw_randomly):
            extra = {"sizes": SIZES} if search is evolve else {}
            trace = search(oracle, rng=np.random.default_rng(0), n_evaluations=n, **extra)
            assert len(set(trace.keys)) == len(trace.keys) == len(trace.values) == n
            np.testing.assert_array_equal(oracle.values(list(trace.keys), trace.genes), trace.values)


def test_the_same_seed_gives_the_same_search():
    oracle = FittedOracle(small_rows(), space=LTSSpace("gpt2"))
    first, again, other = (
        evolve(oracle, rng=np.random.default_rng(s), n_evaluations=60, sizes=SIZES) for s in (3, 3, 4)
    )
    assert first.keys == again.keys != other.keys


def test_evolution_ends_when_the_table_is_exhausted():
    trace = evolve(table_oracle(small_rows()), rng=np.random.default_rng(0), n_evaluations=50, sizes=SIZES)
    assert sorted(trace.keys) == [(row,) for row in range(12)]


def test_random_search_draws_rows_uniformly():
    oracle, rng = table_oracle(small_rows()), np.random.default_rng(0)
    first = [draw_randomly(oracle, rng=rng, n_evaluations=1).keys[0][0] for _ in range(600)]
    assert chisquare(np.bincount(first, minlength=12)).pvalue > 1e-4


def test_children_of_the_loop_are_valid():
    space = LTSSpace("gpt2")
    oracle = FittedOracle(small_rows(), space=space)
    trace = evolve(oracle, rng=np.random.default_rng(0), n_evaluations=100, sizes=SIZES)
    assert all(space.is_valid(genes) for genes in trace.genes)
    assert (trace.values[:, 1] > 0).all() and (trace.values[:, 1] <= oracle.max_latency_ms).all()


def test_evolution_finds_larger_networks_than_random_search_where_size_is_all():
    class SizeOnly(FittedOracle):
        def values(self, keys, genes):
            return super().values(keys, genes)[:, :1]

    oracle = SizeOnly(small_rows(), space=LTSSpace("gpt2"))
    best = {
        search: [
            search(oracle, rng=np.random.default_rng(s), n_evaluations=100, **extra).values.min() for s in range(5)
        ]
        for search, extra in ((evolve, {"sizes": SIZES}), (draw_randomly, {}))
    }
    assert np.median(best[evolve]) < np.median(best[draw_randomly])


# --- oracles --------------------------------------------------------------------------------------------------------


def test_a_child_stands_for_the_nearest_row_not_seen():
    rows = small_rows()
    oracle = table_oracle(rows)
    genomes = LTSSpace("gpt2").genes(rows, np.random.default_rng(9))
    assert [oracle.settle(genes, ())[0] for genes in genomes] == [(row,) for row in range(12)]
    second = oracle.settle(genomes[0], {(0,)})[0]
    assert second != (0,)
    assert oracle.settle(genomes[0], [(row,) for row in range(12)]) is None


def test_fitted_costs_are_exact_where_costs_are_sums_of_the_features():
    rows, new = small_rows(30), small_rows(30, seed=1)
    space = LTSSpace("gpt2")
    found = FittedOracle(rows, space=space).predict(space.genes(new, np.random.default_rng(0)))
    np.testing.assert_allclose(found, new[["latency_ms", "peak_memory_mb"]], rtol=1e-6)
    assert all(score.r2 > 1 - 1e-9 and score.mape < 1e-4 for score in fit_scores(rows, space))


@needs_lts
def test_memory_of_the_saved_networks_is_a_sum_of_their_sizes():
    table = read_lts_table(FOLDER)
    for name in table.names("pareto"):
        models = table.trained(name)
        latency, memory = fit_scores(models, LTSSpace(models["backbone"].iloc[0]))
        assert memory.r2 > 0.998 and memory.mape < 1
        assert latency.r2 > 0.94 and latency.mape < 7


# --- scores ---------------------------------------------------------------------------------------------------------


def test_all_rows_looked_at_give_what_the_proxy_front_gives():
    rows = small_rows(20)
    n_trained, recall, proxy_recall, hypervolume = table_score(rows, range(20))
    proxy = nondominated(front_values(rows, ("latency_ms",)))
    true = nondominated(front_values(rows, ("latency_ms",), quality="valid_ppl"))
    assert (n_trained, proxy_recall) == (proxy.sum(), 1)
    assert recall == (true & proxy).sum() / true.sum()
    assert 0 < hypervolume <= 1


def test_more_looked_at_never_gives_less_of_the_proxy_front():
    rows = small_rows(20)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(20)
        shares = [table_score(rows, order[:n])[2] for n in range(1, 21)]
        assert shares == sorted(shares)


def test_a_saved_network_is_matched_within_the_tolerance():
    saved = np.array([[-100.0, 10.0], [-50.0, 5.0]])
    assert matched_share(saved, saved, tolerance=0) == 1
    assert matched_share(np.array([[-98.5, 10.1]]), saved, tolerance=0.02) == 0.5
    assert matched_share(np.array([[-97.0, 10.0]]), saved, tolerance=0.02) == 0
    assert matched_share(np.array([[-120.0, 4.0]]), saved, tolerance=0) == 1


def test_both_searches_of_a_seed_start_with_the_same_networks():
    scores = replay_on_table(small_rows(20), seeds=(0, 1), costs=("latency_ms",), evaluations=(10, 15))
    assert len(scores) == 2 * 2 * 2
    for seed in (0, 1):
        first = [s for s in scores if s.seed == seed and s.n_evaluations == 10]
        assert {s.search for s in first} == {"evolution", "random"}
        assert len({(s.n_trained, s.recall, s.hypervolume) for s in first}) == 1
    assert {s.costs for s in scores} == {"latency"}


def test_hypervolume_in_the_space_grows_with_evaluations_and_is_a_share():
    scores = replay_in_space(small_rows(20), seeds=(0,), evaluations=(50, 100, 150))
    for search in ("evolution", "random"):
        found = [s for s in scores if s.search == search]
        assert [s.n_evaluations for s in found] == [50, 100, 150]
        shares = [s.hypervolume for s in found]
        assert shares == sorted(shares) and shares[0] > 0 and shares[-1] <= 1
        matched = [s.matched for s in found]
        assert matched == sorted(matched)


@needs_lts
def test_the_search_on_a_real_table_recovers_nearly_all_of_the_true_front_once_all_was_looked_at():
    table = read_lts_table(FOLDER)
    for name in table.names("pareto"):
        models = table.trained(name)
        (score,) = (
            s for s in replay_on_table(models, seeds=(0,), evaluations=(len(models),)) if s.search == "evolution"
        )
        assert score.hypervolume > 0.98
        assert score.proxy_recall == 1
        assert score.recall >= 0.6
