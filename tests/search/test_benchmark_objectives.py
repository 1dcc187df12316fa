"""The shipped benchmark as objectives of a search, from Python and from the command line."""

from functools import partial

import numpy as np
import pytest
from test_search_cli import paretolm

from search.algorithms import LTSWarmStart
from search.benchmark_objectives import BenchmarkTarget, benchmark_targets, budget_targets
from search.budget import Budget, constrain
from search.objectives import NegatedObjective
from search.result import SearchResult
from search.run import run_search
from search.setup import Context, benchmark_objective, budget_objectives
from supernet.encoding import to_genes
from supernet.spaces import load_space
from surrogates.benchmark import Benchmark
from surrogates.campaign import TargetKey


@pytest.fixture(scope="module")
def benchmark():
    return Benchmark("gpt-s")


@pytest.fixture(scope="module")
def archs(benchmark):
    return benchmark.space.sample_unique(50, np.random.default_rng(0))


def test_an_objective_is_the_column_of_the_query(benchmark, archs):
    for objective in benchmark_targets(benchmark, ("perplexity", ("latency", "h100"), ("energy", "a100"))):
        expected = benchmark.query(archs, metrics=objective.metric, devices=objective.device, out="numpy")[:, 0]
        np.testing.assert_array_equal(objective(archs), expected)
        np.testing.assert_array_equal(objective.of_genes(to_genes(benchmark.space, archs)), expected)
        assert objective([]).shape == (0,)


def test_names_units_and_what_is_free(benchmark):
    quality, latency, accuracy = benchmark_targets(benchmark, ("ppl", ("latency", "a100"), "accuracy"))
    assert (quality.name, quality.is_free, quality.device) == ("perplexity", False, None)
    assert (latency.name, latency.is_free, latency.device, latency.unit) == ("latency_ms@a100", True, "a100", "ms")
    assert (accuracy.name, accuracy.is_free) == ("-accuracy", False)


def test_accuracy_is_minimised_with_the_other_sign(benchmark, archs):
    (accuracy,) = benchmark_targets(benchmark, ["accuracy"])
    values = accuracy(archs)
    assert (values < 0).all()
    np.testing.assert_array_equal(-values, benchmark.query(archs, metrics="accuracy", out="numpy")[:, 0])
    pessimist = BenchmarkTarget(benchmark, TargetKey("accuracy"), quantile=0.9)
    assert (pessimist(archs) > values).mean() > 0.9  # an upper quantile of what is minimised


def test_noise_depends_on_the_network_and_the_seed_only(benchmark, archs):
    (plain,) = benchmark_targets(benchmark, [("latency", "a100")])
    first, again, other = (benchmark_targets(benchmark, [("latency", "a100")], noise_seed=s)[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first(archs)[::-1], again(archs[::-1]))
    assert (first(archs) != other(archs)).all()
    assert 0 < np.abs(np.log(first(archs) / plain(archs))).mean() < 0.1


def test_identity_names_the_model_and_the_draw(benchmark):
    (plain,) = benchmark_targets(benchmark, [("latency", "a100")])
    noisy = benchmark_targets(benchmark, [("latency", "a100")], noise_seed=1)[0]
    upper = BenchmarkTarget(benchmark, plain.target, quantile=0.9)
    assert len({plain.identity, noisy.identity, upper.identity}) == 3
    assert plain.identity == benchmark_targets(Benchmark("gpt-s"), [("latency", "a100")])[0].identity
    assert (
        benchmark.digest in plain.identity != benchmark_targets(Benchmark("gpt-m"), [("latency", "a100")])[0].identity
    )


def test_quantiles_that_make_no_sense_are_refused(benchmark):
    with pytest.raises(ValueError, match=r"quantile = 1\.5"):
        BenchmarkTarget(benchmark, TargetKey("perplexity"), quantile=1.5)
    with pytest.raises(ValueError, match="has no quantile"):
        BenchmarkTarget(benchmark, TargetKey("perplexity"), quantile=0.5, noise_seed=1)


def test_budgets_on_any_device_of_the_benchmark(benchmark, archs):
    objectives = benchmark_targets(benchmark, ("perplexity", ("latency", "a100")))
    known = budget_targets(benchmark)
    budgets = [Budget("memory_mib", 2000, "rtx2080"), Budget("latency_ms", 5)]
    memory, latency = constrain(budgets, objectives, benchmark.space, extra=known)
    np.testing.assert_array_equal(
        memory.objective(archs), benchmark.medians(archs, [TargetKey("memory_mib", "rtx2080")])[:, 0]
    )
    assert latency.objective is objectives[1]  # the search's own device comes first
    with pytest.raises(ValueError, match="several devices, name one of a100, rtx2080"):
        constrain([Budget("memory_mib", 2000)], objectives, benchmark.space, extra=known)
    with pytest.raises(ValueError, match="nothing measures it"):
        constrain([Budget("latency_ms", 2, "tpu")], objectives, benchmark.space, extra=known)


def test_the_configuration_names_metric_and_device(archs):
    context = Context(load_space("gpt-s"))
    objective = benchmark_objective(context, metric="latency", device="h100", quantile=0.9)
    median = benchmark_objective(context, metric="latency", device="h100")
    assert (objective(archs) > median(archs)).mean() > 0.9
    assert {o.name for o in budget_objectives(None, [objective])} >= {"latency_ms@a100", "memory_mib@rtx2080"}
    with pytest.raises(KeyError, match="near matches: h100"):
        benchmark_objective(context, metric="latency", device="h1000")
    with pytest.raises(ValueError, match="latency_ms needs a device"):
        benchmark_objective(context, metric="latency")
    with pytest.raises(ValueError, match="no benchmark of a space 'tiny'"):
        benchmark_objective(Context(load_space("tiny")), metric="perplexity")


def test_a_free_search_reads_genes_of_the_benchmark(benchmark):
    objectives = benchmark_targets(benchmark, ("perplexity", ("latency", "a100")))
    algorithm = partial(LTSWarmStart, n_free=2000, n_front=20)
    result = run_search(benchmark.space, objectives, algorithm=algorithm, n_evaluations=40, seed=1)
    assert len(result.evaluations) == 40
    assert not isinstance(objectives[1], NegatedObjective)


def test_search_on_the_shipped_benchmark_from_the_command_line(tmp_path):
    done = paretolm(
        "search", "space=gpt-s", "objectives=benchmark", "objectives.latency.device=h100", "n_evaluations=60",
        "n_free_evaluations=400", "+budget.memory_mib.a100=4000", "progress=false", "run_dir=out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith("search: ")
    result = SearchResult.load(tmp_path / "out")
    assert result.names == ["perplexity", "latency_ms@h100"]
    assert result.details["budgets"] == [str(Budget("memory_mib", 4000, "a100"))]
    assert result.front["memory_mib@a100"].max() <= 4000
    assert {s["name"] for s in result.details["standings"]} == {"model_guided", "random", "parameter_count"}


def test_a_device_that_does_not_exist_ends_with_one_message(tmp_path):
    done = paretolm(
        "search", "space=gpt-s", "objectives=benchmark", "objectives.latency.device=a101", "run_dir=out", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "near matches: a100" in done.stderr
    assert "Traceback" not in done.stderr
