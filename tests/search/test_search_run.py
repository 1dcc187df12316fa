"""The search loop: killed and resumed equals uninterrupted, foreign states refused, nothing lost."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from search_fakes import large_space, latency, loss, objectives, small_space

from search.algorithms import NSGA2, RandomSearch
from search.budget import Budget
from search.objectives import FunctionObjective
from search.result import SearchResult, spread
from search.run import run_search

HERE = Path(__file__).parent

KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from search_fakes import large_space, latency, loss, objectives
from search.algorithms import NSGA2, RandomSearch
from search.objectives import FunctionObjective
from search.run import run_search

calls = 0
def dying(archs):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(archs)

run_search(large_space(), [FunctionObjective("perplexity", dying, is_free=False), objectives()[1]],
           algorithm={algorithm}, n_evaluations=150, batch=8, seed=5, run_dir={run_dir!r})
"""


def search(run_dir=None, **changes):
    arguments = {"algorithm": NSGA2, "n_evaluations": 60, "seed": 5, "run_dir": run_dir}
    return run_search(large_space(), objectives(), **(arguments | changes))


@pytest.mark.parametrize("algorithm", [NSGA2, RandomSearch])
@pytest.mark.parametrize("call", [4, 11])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, algorithm, call):
    script = KILLED.format(here=str(HERE), call=call, algorithm=algorithm.__name__, run_dir=str(tmp_path / "killed"))
    died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    saved = json.loads((tmp_path / "killed" / "state.json").read_text())["n_evaluations"]
    assert 0 < saved < 150
    resumed = search(tmp_path / "killed", algorithm=algorithm, n_evaluations=150, batch=8)
    whole = search(tmp_path / "whole", algorithm=algorithm, n_evaluations=150, batch=8)
    pd.testing.assert_frame_equal(resumed.evaluations, whole.evaluations, check_exact=True)
    pd.testing.assert_frame_equal(resumed.front, whole.front, check_exact=True)


def test_a_kill_between_the_two_writes_costs_nothing(tmp_path):
    search(tmp_path, n_evaluations=40)
    state = (tmp_path / "state.json").read_text()
    search(tmp_path, n_evaluations=60)
    (tmp_path / "state.json").write_text(state)  # evaluations.parquet now has 20 rows more than the state counts
    pd.testing.assert_frame_equal(search(tmp_path, n_evaluations=80).evaluations, search(n_evaluations=80).evaluations)


def test_a_finished_search_is_reused_and_can_be_extended(tmp_path):
    first = search(tmp_path)
    again = search(tmp_path)
    pd.testing.assert_frame_equal(first.evaluations, again.evaluations)
    longer = search(tmp_path, n_evaluations=100)
    pd.testing.assert_frame_equal(longer.evaluations, search(n_evaluations=100).evaluations)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 6}, "seed"),
        ({"budgets": [Budget("latency_ms", 2.0)]}, "budgets"),
        ({"algorithm": RandomSearch}, "algorithm = 'nsga2'"),
        ({"algorithm": partial(NSGA2, population=10)}, "settings"),
    ],
)
def test_the_state_of_another_search_is_refused_and_kept(tmp_path, change, named):
    search(tmp_path)
    before = (tmp_path / "state.json").read_bytes()
    with pytest.raises(ValueError, match=named):
        search(tmp_path, **change)
    assert (tmp_path / "state.json").read_bytes() == before


def test_the_state_of_another_space_or_objective_is_refused_and_kept(tmp_path):
    search(tmp_path)
    before = (tmp_path / "state.json").read_bytes()
    with pytest.raises(ValueError, match="another space"):
        run_search(small_space(), objectives(), algorithm=NSGA2, n_evaluations=60, seed=5, run_dir=tmp_path)
    other = [objectives()[0], FunctionObjective("energy_mj", latency)]
    with pytest.raises(ValueError, match=r"another objectives .*energy_mj"):
        run_search(large_space(), other, algorithm=NSGA2, n_evaluations=60, seed=5, run_dir=tmp_path)
    assert (tmp_path / "state.json").read_bytes() == before


def test_a_damaged_state_is_named(tmp_path):
    search(tmp_path)
    (tmp_path / "state.json").write_text('{"search": ')
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        search(tmp_path)


def test_truncated_evaluations_are_named(tmp_path):
    search(tmp_path)
    file = tmp_path / "evaluations.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"evaluations\.parquet is damaged"):
        search(tmp_path)


def test_evaluations_without_a_number_are_left_out_and_counted(tmp_path, caplog):
    def holey(archs):
        values = loss(archs)
        values[[a.n_embd == 192 for a in archs]] = np.nan
        return values

    holes = [FunctionObjective("perplexity", holey, is_free=False), objectives()[1]]
    result = run_search(large_space(), holes, algorithm=NSGA2, n_evaluations=80, run_dir=tmp_path)
    assert result.n_without_result == result.evaluations["perplexity"].isna().sum() > 0
    assert all(arch.n_embd < 192 for arch in result.front_architectures)
    assert f"{result.n_without_result} of 80 evaluations gave no number" in caplog.text
    assert json.loads((tmp_path / "summary.json").read_text())["n_without_result"] == result.n_without_result


def test_budgets_hold_on_the_front_and_unreachable_ones_are_an_error():
    limit = float(np.quantile(latency([large_space().sample(np.random.default_rng(i)) for i in range(100)]), 0.2))
    result = search(budgets=[Budget("latency_ms", limit), Budget("n_params_decoder", 3e6)], n_evaluations=200)
    assert result.front["latency_ms"].max() <= limit
    assert result.front["n_params_decoder"].max() <= 3e6
    assert result.n_infeasible > 0
    smallest = latency([large_space().smallest()])[0]
    with pytest.raises(ValueError, match=rf"latency_ms <= 0.001 cannot be met.*smallest value found.*{smallest:.6g}"):
        search(budgets=[Budget("latency_ms", 0.001)])


def test_the_search_stops_when_the_space_is_exhausted(caplog):
    space = small_space()
    result = run_search(space, objectives(), algorithm=NSGA2, n_evaluations=10_000)
    assert len(result.evaluations) == space.num_architectures
    assert "exhausted" in caplog.text


def test_result_on_disk_equals_the_result_in_memory(tmp_path):
    result = search(tmp_path)
    loaded = SearchResult.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.evaluations, result.evaluations)
    assert (loaded.objectives, loaded.details) == (result.objectives, result.details)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "front.parquet"), result.front)
    with pytest.raises(FileNotFoundError, match="holds no finished search"):
        SearchResult.load(tmp_path / "nothing")


def test_hypervolume_never_falls_and_ends_at_the_total():
    result = search(n_evaluations=100)
    curve = result.hypervolume_curve()
    assert curve["n_evaluations"].tolist() == list(range(1, 101))
    assert (np.diff(curve["hypervolume"]) >= 0).all()
    assert curve["hypervolume"].iloc[-1] == result.hypervolume() > 0


def test_an_objective_of_the_wrong_shape_and_doubled_names_are_refused():
    bad = FunctionObjective("x", lambda archs: np.zeros((len(archs), 2)))
    with pytest.raises(ValueError, match=r"objective x gave shape \(20, 2\) for 20 architectures"):
        run_search(large_space(), [bad], algorithm=NSGA2, n_evaluations=20)
    with pytest.raises(ValueError, match="each name once"):
        run_search(large_space(), [bad, bad], algorithm=NSGA2, n_evaluations=20)


def test_spread_takes_both_ends_and_even_places_between():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0], 3) == [1, 2, 0]
    assert spread([0.0, 0.1, 0.2, 10.0], 3) == [0, 2, 3]
    assert spread([1.0, 2.0], 5) == [0, 1]
    assert spread([3.0, 1.0, 2.0], 1) == [2]


def test_search_and_all_its_modules_import_without_torch():
    code = (
        "import importlib, pkgutil, sys, search\n"
        "for m in pkgutil.walk_packages(search.__path__, 'search.'): importlib.import_module(m.name)\n"
        "assert not {'torch', 'litgpt', 'lightning'} & set(sys.modules), 'torch is imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
