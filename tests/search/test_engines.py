"""Engines: same results everywhere, workers that stay, die, are started again, and never outlive their engine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import search.engines
from search.engines import EngineError, EngineSettings, ProcessEngine, SerialEngine, Task, open_engine

HERE = Path(__file__).parent
JOBS = [{"x": x} for x in range(7)]


@pytest.fixture(autouse=True)
def fakes_are_found_by_workers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def doubling(**arguments):
    return Task("engine_fakes:open_doubling", arguments)


def dying(folder, times):
    return Task("engine_fakes:open_dying", {"folder": str(folder), "times": times})


def ys(engine, jobs=JOBS):
    found = dict(engine.results(jobs))
    return [found[i]["y"] for i in range(len(jobs))]


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pids, seconds=20):
    end = time.monotonic() + seconds
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_running, pids))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_do_not_depend_on_the_engine(workers):
    expected = ys(SerialEngine(doubling(offset=5)))
    assert expected == [2 * x + 5 for x in range(7)]
    engine = ProcessEngine(doubling(offset=5), workers=workers)
    assert ys(engine) == expected
    assert ys(engine, []) == []
    engine.close()


def test_workers_work_at_once_stay_for_the_next_jobs_and_end_when_closed():
    engine = ProcessEngine(doubling(), workers=2)
    slow = [{"x": x, "seconds": 0.3} for x in range(4)]
    pids = {result["pid"] for _, result in engine.results(slow)}
    assert pids == set(engine.pids)
    assert len(pids) == 2
    assert {result["pid"] for _, result in engine.results(slow)} == pids
    assert os.getpid() not in pids
    engine.close()
    assert wait_until_gone(pids)
    assert ys(engine, JOBS[:2]) == [0, 2]  # starts again
    engine.close()


def test_workers_have_the_threads_they_were_given_and_do_not_spin():
    engine = ProcessEngine(doubling(), workers=1, threads=3)
    ((_, result),) = engine.results(JOBS[:1])
    assert (result["OMP_NUM_THREADS"], result["OMP_WAIT_POLICY"]) == ("3", "PASSIVE")
    engine.close()


@pytest.mark.parametrize("engine", [SerialEngine(doubling()), ProcessEngine(doubling(), workers=2)])
def test_the_callers_mistake_is_raised_as_it_is_and_the_engine_can_be_used_again(engine):
    with pytest.raises(ValueError, match="x = -1: give a positive number"):
        ys(engine, [{"x": 1}, {"x": -1}, {"x": 2}])
    assert ys(engine, [{"x": 4}]) == [8]
    engine.close()


def test_a_task_that_cannot_be_opened_says_why():
    for kind, error in (("FileNotFoundError", FileNotFoundError), ("RuntimeError", EngineError)):
        engine = ProcessEngine(Task("engine_fakes:open_failing", {"kind": kind}), workers=2)
        with pytest.raises(error, match="no supernet here"):
            ys(engine)
        assert engine.pids == []


def test_a_worker_that_dies_is_started_again_and_its_job_is_done(tmp_path, caplog):
    engine = ProcessEngine(dying(tmp_path, times=1), workers=2)
    assert ys(engine) == [2 * x for x in range(7)]
    assert "was killed by SIGKILL; it is started again" in caplog.text
    engine.close()


def test_a_worker_that_dies_twice_on_a_job_is_named_with_the_job(tmp_path):
    engine = ProcessEngine(dying(tmp_path, times=5), workers=2)
    with pytest.raises(EngineError, match=r"worker [12] died twice on one job: .*SIGKILL.* The job: \{'x': 3\}"):
        ys(engine)
    assert (tmp_path / "deaths").read_text() == "xx"
    assert engine.pids == []


def test_an_idle_worker_that_was_killed_is_replaced(caplog):
    engine = ProcessEngine(doubling(), workers=1)
    ys(engine)
    (pid,) = engine.pids
    os.kill(pid, signal.SIGKILL)
    wait_until_gone([pid], seconds=0.5)  # stays a zombie until the engine notices
    assert ys(engine) == [2 * x for x in range(7)]
    assert engine.pids != [pid]
    assert "started again" in caplog.text
    engine.close()


def test_results_that_are_not_read_to_the_end_leave_no_worker():
    engine = ProcessEngine(doubling(), workers=2)
    results = engine.results([{"x": 1}, *({"x": 1, "seconds": 60} for _ in range(3))])
    next(results)
    pids = engine.pids
    results.close()
    assert wait_until_gone(pids)


DRIVER = """
import sys, threading, time
from search.engines import ProcessEngine, Task

engine = ProcessEngine(Task("engine_fakes:open_doubling", {}), workers=2)
print(*[r["pid"] for _, r in engine.results([{"x": 1, "seconds": 0.3}] * 2)], flush=True)
list(engine.results([{"x": 1, "seconds": 60}] * 4))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_a_process_that_is_interrupted_or_killed(how):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = [int(word) for word in driver.stdout.readline().split()]
    assert len(set(pids)) == 2
    assert all(map(is_running, pids))
    time.sleep(0.3)  # in the middle of the long jobs
    driver.send_signal(how)
    _, errors = driver.communicate(timeout=30)
    assert driver.returncode == -how, errors
    assert ("KeyboardInterrupt" in errors) == (how == signal.SIGINT)
    assert wait_until_gone(pids)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="engine = 'threads'; allowed: serial, processes, ray, auto"):
        EngineSettings("threads")
    with pytest.raises(ValueError, match=r"engine.workers = 0: give at least 1, or null"):
        EngineSettings("processes", workers=0)


def test_cores_are_shared_among_the_workers(monkeypatch):
    monkeypatch.setattr(search.engines, "usable_cores", lambda: 8)
    assert EngineSettings("processes").n_processes == 8
    assert EngineSettings("processes").worker_threads == 1
    assert EngineSettings("processes", workers=3).worker_threads == 2
    assert EngineSettings("processes", workers=20).worker_threads == 1
    assert EngineSettings("serial").worker_threads is None
    assert EngineSettings("serial", threads=4).worker_threads == 4


def test_without_ray_auto_falls_back_to_processes_with_a_warning_and_ray_is_refused(monkeypatch, caplog):
    monkeypatch.setattr(search.engines, "find_spec", lambda name: None)
    engine = open_engine(EngineSettings("auto", workers=2), doubling())
    assert isinstance(engine, ProcessEngine)
    assert engine.n_workers == 2
    assert "Ray is not installed" in caplog.text
    with pytest.raises(ImportError, match="engine=ray needs Ray, which is not installed: pip install"):
        open_engine(EngineSettings("ray"), doubling())


def test_with_ray_auto_is_ray(monkeypatch):
    monkeypatch.setattr(search.engines, "find_spec", lambda name: object())
    assert EngineSettings("auto", workers=2, threads=1).resolved() == EngineSettings("ray", workers=2, threads=1)
