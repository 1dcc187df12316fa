import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from benchmark_fakes import NOISE, TARGETS, fake_files

import surrogates
import surrogates.benchmark as benchmark_module
from supernet.cost import mac_counts, parameter_counts
from supernet.encoding import from_genes, gene_sizes, repair_genes
from surrogates.benchmark import Benchmark
from surrogates.campaign import TargetKey
from surrogates.exact_costs import EXACT_METRICS


@pytest.fixture
def make(monkeypatch):
    def build(**options):
        files = fake_files()
        monkeypatch.setattr(benchmark_module, "load_benchmark", lambda *_, **__: files)
        return Benchmark("small", **options)

    return build


@pytest.fixture
def b(make):
    return make()


def genes_of(b, n, seed=0):
    rng = np.random.default_rng(seed)
    return b.genes([b.space.sample(rng) for _ in range(n)])


# --- what a query gives ---------------------------------------------------------------------------------------------


def test_a_query_has_a_row_an_architecture_and_a_column_for_each_metric_device_and_statistic(b):
    archs = [b.space.largest(), b.space.smallest()]
    frame = b.query(archs)
    assert frame.index.tolist() == [arch.id for arch in archs]
    assert frame.columns.names == ["metric", "device", "stat"]
    keys = [(*target, "median") for target in (*TARGETS, *(TargetKey(name) for name in EXACT_METRICS))]
    assert set(frame.columns) == set(keys) and len(frame.columns) == len(keys)
    assert frame.attrs["units"]["latency_ms"] == "ms" and frame.attrs["units"]["n_params"] == "parameters"


def test_values_are_those_of_the_model_and_of_the_exact_costs(b):
    genes = genes_of(b, 50)
    archs = [from_genes(b.space, row) for row in genes]
    frame = b.query(genes)
    expected = b._model.model.predict(genes)
    for i, target in enumerate(TARGETS):
        np.testing.assert_array_equal(frame[(*target, "median")], expected[:, i])
    costs = parameter_counts(b.space.model_config, archs)
    work = mac_counts(b.space.model_config, archs, seq_len=64).total
    for name, values in zip(EXACT_METRICS, (costs.total, costs.decoder, work, 2 * work), strict=True):
        np.testing.assert_array_equal(frame[name, "any", "median"], values)


def test_columns_come_in_the_order_that_was_asked_for_with_devices_of_a_metric_beside_each_other(b):
    frame = b.query(b.space.largest(), metrics=("ppl", "energy", "latency"), devices=("h100", "a100"))
    assert [column[:2] for column in frame.columns] == [
        ("perplexity", "any"), ("energy_mj", "h100"), ("energy_mj", "a100"),
        ("latency_ms", "h100"), ("latency_ms", "a100"),
    ]  # fmt: skip


def test_devices_choose_among_metrics_that_depend_on_one_and_leave_the_others(b):
    found = {column[:2] for column in b.query(b.space.largest(), devices="h100").columns}
    others = {("perplexity", "any"), ("accuracy", "any"), *((name, "any") for name in EXACT_METRICS)}
    assert found == {("latency_ms", "h100"), ("energy_mj", "h100")} | others


def test_numpy_and_records_hold_the_numbers_of_the_frame(b):
    genes = genes_of(b, 5)
    asked = {"metrics": ("latency", "ppl"), "quantiles": (0.9, 0.1)}
    frame = b.query(genes, **asked)
    np.testing.assert_array_equal(b.query(genes, **asked, out="numpy"), frame.to_numpy())
    records = b.query(genes, **asked, out="records")
    assert len(records) == 5 * 4
    for record in records:
        assert record["unit"] == {"latency_ms": "ms", "perplexity": "1"}[record["metric"]]
        for stat in ("median", "q0.1", "q0.9"):
            assert record[stat] == frame.loc[record["architecture"], (record["metric"], record["device"], stat)]
    assert list(frame.columns) == list(b.columns(**asked).index)


def test_no_architectures_give_no_rows(b):
    assert b.query([]).shape == (0, len(TARGETS) + 4)
    assert b.query([], quantiles=(0.1, 0.9), out="numpy").shape == (0, 3 * (len(TARGETS) + 4))
    assert b.query([], noise=True, seed=0, out="records") == []


# --- order, duplicates, cache, threads ------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_size", [0, 3, 4096])
def test_answers_do_not_depend_on_earlier_questions_the_batch_or_the_cache(make, cache_size):
    genes = genes_of(make(), 60)
    expected = make(cache_size=0).query(genes, out="numpy")
    b = make(cache_size=cache_size)
    order = np.random.default_rng(1).permutation(60)
    for part in (order[:1], order[:7], order, order[::-1], order[5:6]):
        np.testing.assert_array_equal(b.query(genes[part], out="numpy"), expected[part])


def test_a_part_of_a_large_batch_has_the_numbers_of_the_whole(b):
    genes = genes_of(b, 100)
    whole = b.query(genes)
    for metrics, devices in (
        ("latency", "h100"),
        (("macs", "ppl"), None),
        ("n_params", None),
        (("energy", "ppl"), None),
    ):
        part = b.query(genes, metrics, devices)
        np.testing.assert_array_equal(part.to_numpy(), whole[list(part.columns)].to_numpy())


@pytest.mark.parametrize("n", [3, 200])
def test_duplicates_are_evaluated_once_and_each_gets_its_row(make, n):
    b = make(cache_size=0)
    genes = np.repeat(genes_of(b, n), 2, axis=0)
    distinct = len(np.unique(genes, axis=0))
    values = b.query(genes, out="numpy")
    assert b._model.model.rows_asked == distinct
    np.testing.assert_array_equal(values[::2], values[1::2])
    assert b.query(genes).shape[0] == 2 * n


def test_the_cache_answers_without_the_model_and_forgets_the_oldest(make):
    b = make(cache_size=2)
    genes = genes_of(b, 3)
    for i in (0, 1, 0, 2):  # 1 was not asked for the longest, so 2 takes its place
        b.query(genes[i], out="numpy")
    asked = b._model.model.rows_asked
    assert asked == 3 and len(b._cache) == 2
    b.query(genes[0])
    assert b._model.model.rows_asked == asked
    b.query(genes[1])
    assert b._model.model.rows_asked == asked + 1


def test_a_result_can_be_changed_without_changing_later_answers(b):
    genes = genes_of(b, 1)
    first = b.query(genes, out="numpy")
    kept = first.copy()
    first[:] = -1
    frame = b.query(genes)
    frame.iloc[:] = -1
    frame.attrs["units"].clear()
    np.testing.assert_array_equal(b.query(genes, out="numpy"), kept)
    assert b.query(genes).attrs["units"]["latency_ms"] == "ms"


def test_a_negative_cache_size_is_refused(make):
    with pytest.raises(ValueError, match="cache_size = -1"):
        make(cache_size=-1)


def test_threads_get_the_answers_of_one_thread(make):
    b = make(cache_size=8)
    genes = genes_of(b, 40)
    expected = make(cache_size=0).query(genes, quantiles=(0.1, 0.9), out="numpy")
    found = [np.empty_like(expected) for _ in range(2)]
    barrier = threading.Barrier(2)

    def ask(result, seed):
        barrier.wait()
        for i in np.random.default_rng(seed).permutation(np.tile(np.arange(40), 5)):
            result[i] = b.query(genes[i], quantiles=(0.1, 0.9), out="numpy")

    threads = [threading.Thread(target=ask, args=(result, seed)) for seed, result in enumerate(found)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found:
        np.testing.assert_array_equal(result, expected)


# --- quantiles and noise --------------------------------------------------------------------------------------------


def test_quantiles_ascend_around_the_median_and_exact_metrics_have_none(b):
    frame = b.query(genes_of(b, 20), quantiles=(0.95, 0.05, 0.5))
    for target in TARGETS:
        values = frame[[(*target, stat) for stat in ("q0.05", "q0.5", "q0.95")]].to_numpy()
        assert (np.diff(values, axis=1) > 0).all()
    np.testing.assert_array_equal(frame["macs", "any", "q0.05"], frame["macs", "any", "median"])


def test_quantiles_of_values_as_published_are_wider(b):
    device, published = (b.query(b.space.largest(), quantiles=(0.95,), drift=drift) for drift in (False, True))
    key = ("latency_ms", "a100", "q0.95")
    assert published[key].item() > device[key].item()
    assert published["latency_ms", "a100", "median"].item() == device["latency_ms", "a100", "median"].item()


def test_noise_has_the_measured_spread_around_the_median_and_none_where_nothing_was_repeated(b):
    genes = np.random.default_rng(0).integers(0, gene_sizes(b.space), (4000, len(gene_sizes(b.space))))
    genes = np.unique(b.genes(genes), axis=0)
    drawn, median = b.query(genes, noise=True, seed=3, out="numpy"), b.query(genes, out="numpy")
    logs = np.log(drawn / median)
    columns = {target: i for i, target in enumerate(b.columns().targets)}
    for target, std in zip(TARGETS, NOISE, strict=True):
        found = logs[:, columns[target]]
        if np.isnan(std):
            assert not found.any()
        else:
            np.testing.assert_allclose(found.std(), std, rtol=5 / np.sqrt(len(genes)))
            assert abs(found.mean()) < 5 * std / np.sqrt(len(genes))
    noisy = [columns[target] for target, std in zip(TARGETS, NOISE, strict=True) if std == std]
    correlations = np.corrcoef(logs[:, noisy].T) - np.eye(len(noisy))
    assert np.abs(correlations).max() < 5 / np.sqrt(len(genes))  # targets are drawn independently


def test_a_draw_depends_on_seed_architecture_and_target_only(b):
    genes = genes_of(b, 30)
    drawn = b.query(genes, noise=True, seed=1)
    again = b.query(genes[::-1], noise=True, seed=1)
    np.testing.assert_array_equal(again.to_numpy()[::-1], drawn.to_numpy())
    alone = b.query(genes[17], metrics="energy", devices="h100", noise=True, seed=1, quantiles=(0.5,))
    assert alone["energy_mj", "h100", "draw"].item() == drawn["energy_mj", "h100", "draw"].iloc[17]
    other = b.query(genes, noise=True, seed=2)
    assert (other["latency_ms", "a100", "draw"] != drawn["latency_ms", "a100", "draw"]).all()


def test_quantiles_beside_a_draw_are_those_of_the_median(b):
    drawn = b.query(b.space.largest(), noise=True, seed=0, quantiles=(0.9,))
    median = b.query(b.space.largest(), quantiles=(0.9,))
    assert drawn["latency_ms", "a100", "q0.9"].item() == median["latency_ms", "a100", "q0.9"].item()
    assert "median" not in drawn.columns.get_level_values("stat")


def test_noise_without_a_seed_and_a_seed_without_noise_are_not_silent(b):
    with pytest.raises(ValueError, match="needs a seed"):
        b.query(b.space.largest(), noise=True)
    for seed in (-1, 1.5, True):
        with pytest.raises(ValueError, match="integer >= 0"):
            b.query(b.space.largest(), noise=True, seed=seed)
    with pytest.warns(UserWarning, match="seed is not used"):
        b.query(b.space.largest(), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        b.query(b.space.largest(), noise=True, seed=0)


@pytest.mark.parametrize("levels", [(0.0,), (0.5, 1.0), (-0.1,), (5,)])
def test_levels_that_are_no_probabilities_are_refused(b, levels):
    with pytest.raises(ValueError, match="between 0 and 1"):
        b.query(b.space.largest(), quantiles=levels)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "near", "known"),
    [
        ({"metrics": "latencyms"}, "latency_ms", "perplexity"),
        ({"metrics": ("latency", "enregy")}, "energy", "memory_mib"),
        ({"devices": "A100"}, "a100", "cpu_xeon_gold"),
        ({"devices": ["a100", "h10"]}, "h100", "cpu_xeon_gold"),
        ({"metrics": "tokens_per_s"}, "", "latency_ms"),
    ],
)
def test_unknown_names_are_answered_with_near_matches_and_all_names(b, asked, near, known):
    with pytest.raises(KeyError) as error:
        b.query(b.space.largest(), **asked)
    assert near in error.value.args[0] and known in error.value.args[0]


def test_a_metric_that_a_device_lacks_is_an_error_when_both_are_named(b):
    with pytest.raises(ValueError, match="no memory_mib of h100; devices that have it: a100"):
        b.query(b.space.largest(), metrics="memory", devices=("a100", "h100"))
    frame = b.query(b.space.largest(), metrics="memory")
    assert [column[:2] for column in frame.columns] == [("memory_mib", "a100")]


def test_empty_choices_and_unknown_forms_of_output_are_refused(b):
    for asked in ({"metrics": ()}, {"devices": []}):
        with pytest.raises(ValueError, match="at least one"):
            b.query(b.space.largest(), **asked)
    with pytest.raises(ValueError, match="frame, numpy, records"):
        b.query(b.space.largest(), out="list")


# --- objectives -----------------------------------------------------------------------------------------------------


def test_an_objective_gives_medians_to_minimise(b):
    objective = b.objective(("accuracy", ("latency", "h100"), "n_params"))
    assert objective.names == ("-accuracy", "latency_ms@h100", "n_params")
    assert objective.units == ("1", "ms", "parameters")
    genes = genes_of(b, 50)
    frame = b.query(genes)
    expected = np.column_stack([
        -frame["accuracy", "any", "median"], frame["latency_ms", "h100", "median"], frame["n_params", "any", "median"],
    ])  # fmt: skip
    np.testing.assert_array_equal(objective(genes), expected)
    np.testing.assert_array_equal(objective([from_genes(b.space, row) for row in genes]), expected)
    repaired = np.array([repair_genes(b.space, row.astype(float), np.random.default_rng(0)) for row in genes])
    np.testing.assert_array_equal(objective(repaired.astype(float)), expected)


def test_an_objective_has_the_frozen_front_bounds_and_reference_point(b):
    objective = b.objective(("perplexity", ("latency", "a100")))
    assert objective.reference_front.tolist() == [[1, 9], [2, 4]]
    assert [bound.tolist() for bound in objective.bounds] == [[1, 4], [2, 9]]
    np.testing.assert_allclose(objective.reference_point, [2.1, 9.5])
    swapped = b.objective((("latency", "a100"), "perplexity"))
    assert swapped.reference_front.tolist() == [[4, 2], [9, 1]]
    assert [bound.tolist() for bound in swapped.bounds] == [[4, 1], [9, 2]]
    assert swapped.reference_genes.shape == (2, 11)


def test_objectives_without_a_shipped_front_take_the_extremes_over_the_space(b):
    objective = b.objective(("perplexity", "accuracy", ("latency", "a100")))
    assert objective.reference_front is None and objective.reference_genes is None
    assert [bound.tolist() for bound in objective.bounds] == [[1, -0.4, 3], [3, -0.1, 9]]
    with pytest.raises(ValueError, match="no frozen bounds of n_params"):
        _ = b.objective(("n_params",)).bounds


def test_objectives_that_name_no_single_target_are_refused(b):
    with pytest.raises(ValueError, match=r"needs a device: .*a100, h100"):
        b.objective(("latency",))
    assert b.objective(("memory",)).names == ("memory_mib@a100",)  # there is one device only
    for metrics in ((), ("perplexity", "ppl")):
        with pytest.raises(ValueError, match="each once"):
            b.objective(metrics)
    with pytest.raises(KeyError, match="h100"):
        b.objective((("latency", "h10"),))


# --- what it says about itself --------------------------------------------------------------------------------------


def test_devices_and_metrics_say_what_there_is(b):
    devices = b.devices
    assert devices.index.tolist() == ["a100", "h100", "cpu_xeon_gold"]
    assert devices.loc["a100", ["kind", "vendor", "dtype", "batch_size", "seq_len"]].tolist() == [
        "gpu", "nvidia", "bfloat16", 8, 64,
    ]  # fmt: skip
    assert devices.loc["cpu_xeon_gold", ["kind", "vendor", "metrics"]].tolist() == ["cpu", "intel", "latency_ms"]
    assert devices.loc["h100", ["n_train", "r2", "coverage90"]].tolist() == [800, 0.99, 0.9]
    metrics = b.metrics
    assert metrics.loc["latency_ms"].tolist() == ["ms", True, "surrogate", True, True]
    assert metrics.loc["macs"].tolist() == ["MACs", False, "exact", True, False]
    assert metrics.loc["accuracy", ["lower_is_better", "noise"]].tolist() == [False, False]


def test_the_card_names_every_target_with_unit_and_protocol_and_fits_100_columns(b):
    text = b.card()
    for target in TARGETS:
        assert any(target.metric in line and target.device in line for line in text.splitlines())
    for word in ("ms", "mJ", "MiB", "ten passes", "Nothing is odd.", "prefill-b8-t64-bfloat16", "0.950"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 100


def test_benchmark_is_imported_without_torch_xgboost_and_scikit_learn():
    code = (
        "import sys, surrogates; surrogates.Benchmark; "
        "print([m for m in ('torch', 'xgboost', 'sklearn', 'hydra', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert surrogates.Benchmark is Benchmark
    with pytest.raises(AttributeError, match="no attribute 'Bench'"):
        _ = surrogates.Bench
