"""Runs of a comparison: what they hold, in how many processes, killed and resumed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from search.algorithms.nsga2 import NSGA2
from search.benchmark_objectives import benchmark_targets
from search.comparison.methods import METHODS, Method
from search.comparison.runner import run_comparison
from search.comparison.settings import read_settings
from search.comparison.single_run import RunPlan, execute
from search.comparison.storage import EVALUATIONS, TIMES, run_path
from search.run import run_search
from surrogates import Benchmark

TINY = {
    "scales": ["gpt-s"], "devices": ["a100"], "methods": ["random", "nsga2", "local-search", "lts"], "seeds": 3,
    "n_evaluations": 30, "n_free": 400,
}  # fmt: skip


@pytest.fixture(scope="module")
def settings():
    return read_settings(TINY)


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """A comparison of 12 runs, done by one worker."""
    return run_comparison(settings, tmp_path_factory.mktemp("one") / "run", workers=1)


def plan_of(settings, method, seed=0) -> RunPlan:
    return next(p for p in settings.plans() if p.method.name == method and p.seed == seed)


def test_a_run_is_the_search_of_that_algorithm(settings):
    benchmark = Benchmark("gpt-s")
    plan = replace(plan_of(settings, "nsga2"), n_evaluations=60)
    objectives = benchmark_targets(benchmark, ("perplexity", ("latency", "a100")))
    expected = run_search(benchmark.space, objectives, algorithm=NSGA2, n_evaluations=60, batch=20, seed=0)
    found = execute(plan)
    assert benchmark.ids(found.genes) == expected.evaluations["architecture"].tolist()
    assert np.array_equal(found.values, expected.values)


def test_records_hold_every_run_in_order(finished, settings):
    keys = [(record.case, record.method, record.seed) for record in finished.records]
    assert keys == [(p.case.name, p.method.name, p.seed) for p in settings.plans()]
    for record in finished.records:
        assert record.is_point == (record.method == "lts")
        assert record.is_point or len(record.values) == 30
        assert np.isfinite(record.values).all() and set(record.widths) <= {192, 384, 768}
        assert record.seconds > 0
    (reference,) = finished.references.values()
    assert set(reference.panels) == {"all", "n_embd=192", "n_embd=384", "n_embd=768"}
    assert reference.names == ("perplexity", "latency_ms@a100")


def test_one_table_holds_all_evaluations(finished):
    frame = pq.read_table(finished.folder / EVALUATIONS).to_pandas()
    assert len(frame) == sum(len(record.values) for record in finished.records)
    for record in finished.records:
        rows = frame[(frame["method"] == record.method) & (frame["seed"] == record.seed)]
        assert np.array_equal(rows[["perplexity", "latency_ms@a100"]].to_numpy(), record.values)
        assert rows["order"].tolist() == list(range(len(rows)))
    assert len(pq.read_table(finished.folder / TIMES)) == 12


def test_a_killed_comparison_goes_on_and_gives_the_same_with_any_number_of_workers(finished, tmp_path):
    folder = tmp_path / "two"
    code = (
        "from search.comparison.runner import run_comparison\n"
        "from search.comparison.settings import read_settings\n"
        "if __name__ == '__main__':\n"
        f"    run_comparison(read_settings({TINY!r}), {str(folder)!r}, workers=2)\n"
    )
    (tmp_path / "script.py").write_text(code)
    process = subprocess.Popen([sys.executable, tmp_path / "script.py"], env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(list(folder.glob("runs/*/*/*.parquet"))) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive, "workers outlive the process that started them"
    done = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/*/*.parquet")}
    assert done
    resumed = run_comparison(read_settings(TINY), folder, workers=2)
    assert all(path.stat().st_mtime_ns == at for path, at in done.items()), "finished runs were done again"
    assert pq.read_table(folder / EVALUATIONS).equals(pq.read_table(finished.folder / EVALUATIONS))
    for one, two in zip(finished.records, resumed.records, strict=True):
        assert np.array_equal(one.values, two.values) and np.array_equal(one.widths, two.widths)


def test_a_folder_of_other_settings_is_refused_and_kept(finished):
    before = {path: path.read_bytes() for path in finished.folder.rglob("*.parquet")}
    with pytest.raises(ValueError, match=r"n_evaluations: there 30, given 20.*another run_dir"):
        run_comparison(read_settings(TINY | {"n_evaluations": 20}), finished.folder)
    with pytest.raises(ValueError, match="n_free: there 400, given 500"):
        run_comparison(read_settings(TINY | {"n_free": 500}), finished.folder)
    assert {path: path.read_bytes() for path in finished.folder.rglob("*.parquet")} == before


def test_a_damaged_run_is_named(settings, finished, tmp_path):
    path = run_path(tmp_path, plan_of(settings, "random"))
    path.parent.mkdir(parents=True)
    path.write_bytes(run_path(finished.folder, plan_of(settings, "random")).read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"seed-0.parquet is damaged .*delete it"):
        run_comparison(settings, tmp_path)


def test_a_run_that_fails_does_not_lose_the_others(settings, tmp_path):
    broken = Method("broken", "", "search.comparison.records:Nothing")
    few = replace(settings, methods=(broken, METHODS["random"]), seeds=(0,), n_evaluations={"broken": 5, "random": 30})
    with pytest.raises(RuntimeError, match=r"1 of 2 runs failed, one of them .*broken, seed 0.*same command"):
        run_comparison(few, tmp_path, workers=1)
    assert run_path(tmp_path, plan_of(settings, "random")).is_file()


def test_a_budget_that_nobody_meets_names_the_smallest_value(tmp_path):
    with pytest.raises(ValueError, match=r"memory_mib <= 1 on a100 cannot be met .* the smallest value found"):
        run_comparison(read_settings(TINY | {"budgets": {"memory": 1}}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_rows_that_miss_a_budget_are_nan_and_count(tmp_path):
    settings = read_settings(TINY | {"budgets": {"memory": 450}, "methods": ["random"]})
    plan = settings.plans()[0]
    found = execute(plan)
    assert 0 < (found.violation > 0).sum() < 30 and np.isfinite(found.values).all()
    from search.comparison.storage import combine, write_run

    write_run(tmp_path, plan, found)
    (record,) = combine(tmp_path, [plan])
    assert np.array_equal(np.isnan(record.values).all(axis=1), found.violation > 0)


def test_noisy_runs_differ_and_hold_noise_free_values(settings):
    plan = plan_of(settings, "local-search")
    noisy = replace(plan, case=replace(plan.case, is_noisy=True))
    found = execute(noisy)
    assert not np.array_equal(found.genes, execute(plan).genes)
    assert np.array_equal(found.values, plan.case.measure(plan.benchmark, found.genes)[0])


def test_no_worker_is_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="workers = 0"):
        run_comparison(settings, tmp_path, workers=0)
