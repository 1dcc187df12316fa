"""Ray: the same results from two actors of a local cluster, which are started again when they die."""

from pathlib import Path

import pytest

from search.engines import EngineError, EngineSettings, SerialEngine, Task, open_engine

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
JOBS = [{"x": x} for x in range(7)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A head and a second node, one CPU each, on this machine."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8},
        )
        cluster.add_node(num_cpus=1, object_store_memory=10**8)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def engine_of(cluster):
    engines = []

    def make(task, **settings):
        engines.append(open_engine(EngineSettings("ray", address=cluster.address, **settings), task))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def doubling():
    return Task("engine_fakes:open_doubling", {"offset": 1})


def dying(folder, times):
    return Task("engine_fakes:open_dying", {"folder": str(folder), "times": times})


def ys(engine, jobs=JOBS):
    found = dict(engine.results(jobs))
    return [found[i]["y"] for i in range(len(jobs))]


def test_two_actors_on_two_nodes_give_the_serial_results_and_stay(engine_of):
    engine = engine_of(doubling())
    assert engine.n_workers == 2  # one a CPU of the cluster
    slow = [{"x": x, "seconds": 0.5} for x in range(4)]
    assert ys(engine) == ys(SerialEngine(doubling()))
    pids = {result["pid"] for _, result in engine.results(slow)}
    assert len(pids) == 2
    assert {result["pid"] for _, result in engine.results(slow)} == pids


def test_the_callers_mistake_names_the_machine(engine_of):
    engine = engine_of(doubling(), workers=1)
    with pytest.raises(ValueError, match=r"x = -1: give a positive number \(on .+\)"):
        ys(engine, [{"x": -1}])
    assert ys(engine, [{"x": 4}]) == [9]


def test_an_actor_that_dies_is_started_again_and_its_job_is_done(engine_of, tmp_path, caplog):
    assert ys(engine_of(dying(tmp_path, times=1), workers=2)) == [2 * x for x in range(7)]
    assert "started again" in caplog.text


def test_an_actor_that_dies_twice_on_a_job_is_named_with_the_job(engine_of, tmp_path):
    with pytest.raises(EngineError, match=r"Ray actor [12] died twice on one job: .* The job: \{'x': 3\}"):
        ys(engine_of(dying(tmp_path, times=5), workers=2))
