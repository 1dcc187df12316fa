import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from measuring_fakes import CONFIG, WORKLOAD, arch, archs

from hw_profiles import profiler
from hw_profiles.child import ChildDiedError, ChildError
from hw_profiles.device import Workload
from hw_profiles.messages import Samples
from hw_profiles.profiler import default_reference, profile, shuffled
from hw_profiles.table import ANY_DEVICE, MeasurementTable
from supernet.litgpt_config import model_config

FAULTY = Path(__file__).with_name("faulty_worker.py")


def run(items, table, **changes):
    values = {"config": CONFIG, "space_name": "doc", "workload": WORKLOAD, "table": table, "threads": 1, "repeats": 2,
              "warmup": 0, "progress": False}  # fmt: skip
    return profile(items, **(values | changes))


class FakeChild:
    """Answers at once; `trouble` maps architecture ids to errors. Keeps all children that were started."""

    started: list
    trouble: dict

    def __init__(self, setup):
        self.setup, self.asked, self.closed = setup, [], False
        self.started.append(self)

    def wait_until_ready(self):
        if "setup" in self.trouble:
            raise self.trouble["setup"]

    def measure(self, architecture):
        self.asked.append(architecture)
        if architecture in self.trouble:
            raise self.trouble[architecture]
        count = self.setup.repeats
        reference = () if self.setup.metrics == ("memory_mib",) else (2.0,) * count
        return {name: Samples.of((1.0,) * count, reference) for name in self.setup.metrics}

    def close(self):
        self.closed = True


@pytest.fixture
def fake(monkeypatch):
    fresh = type("FreshFakeChild", (FakeChild,), {"started": [], "trouble": {}})
    monkeypatch.setattr(profiler, "Child", fresh)
    return fresh


def test_every_architecture_gets_one_row_a_metric(tmp_path, fake):
    metrics = ("latency_ms", "tokens_per_s", "memory_mib", "n_params", "flops")
    result = run(archs(4), tmp_path / "t", metrics=metrics)
    frame = result.table.read()
    assert (result.n_measured, result.n_present, result.failures) == (4, 0, ())
    assert len(frame) == 20
    assert frame.groupby("metric")["architecture"].nunique().to_dict() == dict.fromkeys(metrics, 4)
    assert str(result).startswith(f"4 architectures measured on {result.device.name} in ")
    assert str(result).endswith(str(tmp_path / "t"))
    assert all(child.closed for child in fake.started)


def test_timing_and_memory_have_a_process_each(tmp_path, fake):
    run(archs(3), tmp_path / "t", metrics=("latency_ms", "n_params", "memory_mib", "tokens_per_s"), repeats=5)
    assert [child.setup.metrics for child in fake.started] == [("latency_ms", "tokens_per_s"), ("memory_mib",)]
    assert all(child.setup.repeats == 5 and child.setup.threads == 1 for child in fake.started)


def test_exact_metrics_need_no_process_and_no_device(tmp_path, fake):
    frame = run(archs(2), tmp_path / "t", metrics=("n_params", "macs")).table.read()
    assert fake.started == []
    assert set(frame["device"]) == {ANY_DEVICE}
    assert set(frame["n_repeats"]) == {1}
    assert all(json.loads(extra)["exact"] for extra in frame["extra"])


def test_rows_record_device_reference_order_and_settings(tmp_path, fake):
    result = run(archs(3), tmp_path / "t", reference=arch(n_embd=32), seed=5)
    frame = result.table.read()
    assert set(frame["device"]) == {result.device.name}
    assert set(frame["reference"]) == {arch(n_embd=32).id}
    assert sorted(frame["order"]) == [0, 1, 2]
    assert list(frame.sort_values("timestamp")["order"]) == [0, 1, 2]
    extra = json.loads(frame["extra"][0])
    assert extra["device"]["threads"] == 1
    assert (extra["seed"], extra["warmup"], extra["weights"]) == (5, 0, "random")
    assert {"torch", "litgpt"} <= set(extra["versions"])


def test_what_the_table_holds_is_not_measured_again(tmp_path, fake):
    run(archs(3), tmp_path / "t")
    before = MeasurementTable(tmp_path / "t").read()
    result = run(archs(5), tmp_path / "t")
    assert (result.n_measured, result.n_present) == (2, 3)
    after = result.table.read()
    assert sorted(after["architecture"]) == sorted(item.id for item in archs(5))
    assert (
        after[after["architecture"].isin(before["architecture"])]["timestamp"].tolist() == before["timestamp"].tolist()
    )
    run(archs(5), tmp_path / "t")
    assert len(fake.started) == 2  # none for the third call


def test_only_the_metrics_that_are_missing_are_added(tmp_path, fake):
    run(archs(2), tmp_path / "t", metrics=("latency_ms",))
    run(archs(2), tmp_path / "t", metrics=("latency_ms", "memory_mib", "n_params"))
    frame = MeasurementTable(tmp_path / "t").read()
    assert frame["metric"].value_counts().to_dict() == {"latency_ms": 2, "memory_mib": 2, "n_params": 2}
    assert [child.setup.metrics for child in fake.started] == [("latency_ms",), ("memory_mib",)]


def test_other_workloads_threads_and_spaces_are_other_measurements(tmp_path, fake):
    for changes in ({}, {"workload": Workload(1, 9)}, {"threads": 2}, {"space_name": "other"}):
        assert run(archs(1), tmp_path / "t", **changes).n_measured == 1
    assert len(MeasurementTable(tmp_path / "t").read()) == 4


def test_an_architecture_that_fails_is_reported_and_the_others_are_measured(tmp_path, fake, capsys):
    bad = archs(4)[2]
    fake.trouble = {bad.id: ChildError("MemoryError: no room for it")}
    result = run(archs(4), tmp_path / "t")
    assert [(f.architecture, f.reason) for f in result.failures] == [(bad.id, "MemoryError: no room for it")]
    assert "1 FAILED" in str(result)
    assert f"{bad.id} could not be measured: MemoryError: no room for it" in capsys.readouterr().err
    assert set(result.table.read()["architecture"]) == {item.id for item in archs(4)} - {bad.id}


def test_a_dead_process_is_replaced_for_the_next_architecture(tmp_path, fake):
    bad = archs(4)[1]
    fake.trouble = {bad.id: ChildDiedError("was killed by SIGKILL")}
    result = run(archs(4), tmp_path / "t")
    assert result.n_measured == 3
    assert len(fake.started) == 2
    assert bad.id not in fake.started[1].asked


def test_when_nothing_can_be_measured_the_reason_is_raised(tmp_path, fake):
    fake.trouble = {item.id: ChildError("broken") for item in archs(2)}
    with pytest.raises(RuntimeError, match="not one of 2 architectures could be measured; the first: broken"):
        run(archs(2), tmp_path / "t")


@pytest.mark.parametrize(("text", "kind"), [("ValueError: no", ValueError), ("OutOfMemoryError: no", RuntimeError)])
def test_a_process_that_cannot_be_set_up_stops_the_run(tmp_path, fake, text, kind):
    fake.trouble = {"setup": ChildError(text)}
    with pytest.raises(kind, match=f"process for latency_ms cannot be set up: {text}"):
        run(archs(2), tmp_path / "t")
    assert all(child.closed for child in fake.started)


def test_ctrl_c_leaves_the_finished_rows_and_no_process(tmp_path, fake):
    last = shuffled(archs(4), seed=0)[2][1]
    fake.trouble = {last.id: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run(archs(4), tmp_path / "t")
    assert len(MeasurementTable(tmp_path / "t").read()) == 2
    assert all(child.closed for child in fake.started)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"repeats": 0}, "repeats = 0"),
        ({"warmup": -1}, "warmup = -1"),
        ({"shard": (2, 2)}, "shard = 2/2: give i/n"),
        ({"metrics": ("perplexity",)}, "cannot profile"),
        ({"workload": Workload(1, 65)}, "block_size is 64"),
        ({"device": "cuda:99"}, "torch sees"),
    ],
)
def test_a_setting_that_is_not_possible_is_refused_before_anything_starts(tmp_path, fake, changes, message):
    with pytest.raises(ValueError, match=message):
        run(archs(1), tmp_path / "t", **changes)
    assert fake.started == []


def test_a_single_file_is_refused_as_a_table_before_anything_starts(tmp_path, fake):
    (tmp_path / "t.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="single file"):
        run(archs(1), tmp_path / "t.parquet")


def test_the_order_is_random_by_seed_and_shards_divide_it():
    whole = shuffled(archs(10), seed=1)
    assert whole == shuffled(archs(10), seed=1)
    assert whole != shuffled(archs(10), seed=2)
    assert {item for _, item in whole} == set(archs(10))
    shards = [shuffled(archs(10), seed=1, shard=(i, 3)) for i in range(3)]
    assert sorted(pair[0] for shard in shards for pair in shard) == list(range(10))
    assert sorted((pair for shard in shards for pair in shard), key=lambda pair: pair[0]) == whole


def test_repeated_architectures_count_once():
    assert len(shuffled([*archs(3), *archs(3)], seed=0)) == 3


def test_the_default_reference_is_half_the_supernet():
    assert default_reference(model_config(CONFIG)) == arch(n_embd=32, n_layer=1, n_head=4, intermediate_size=64)


# --- real processes -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["error", "kill"])
def test_a_real_process_that_fails_or_dies_costs_one_architecture(tmp_path, monkeypatch, fault):
    bad = archs(3)[1]
    monkeypatch.setattr("hw_profiles.child.worker_command", lambda: [sys.executable, str(FAULTY), bad.id, fault])
    result = run(archs(3), tmp_path / "t")
    assert [failure.architecture for failure in result.failures] == [bad.id]
    expected = (
        "MemoryError: no room for it" if fault == "error" else "was killed by SIGKILL; its last words: about to die"
    )
    assert expected in result.failures[0].reason
    frame = result.table.read()
    assert set(frame["architecture"]) == {item.id for item in archs(3)} - {bad.id}
    assert all(len(r) == 2 and len(s) == 2 for r, s in zip(frame["repeats"], frame["reference_repeats"], strict=True))


SCRIPT = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from measuring_fakes import archs
    from test_profiler import FAULTY, run
    from hw_profiles import child
    child.worker_command = lambda: [sys.executable, str(FAULTY), "none", "slow"]
    run(archs(12), sys.argv[2], metrics=("latency_ms", "n_params"))
"""


def start_profiling(table):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(Path(__file__).parent), str(table)]
    return subprocess.Popen(command)


def wait_for(condition, timeout_s=120):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def children_of(pid):
    import psutil

    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["SIGKILL", "Ctrl-C"])
def test_a_killed_run_goes_on_without_losing_or_repeating_rows(tmp_path, sent):
    table = tmp_path / "t"
    process = start_profiling(table)
    wait_for(lambda: len(list(table.glob("part-*.parquet"))) >= 3)
    children = children_of(process.pid)
    process.send_signal(sent)
    assert process.wait(30) != 0
    wait_for(lambda: not any(is_alive(pid) for pid in children))
    assert children, "the measuring process was running"
    before = MeasurementTable(table).read()
    assert 3 <= before["architecture"].nunique() < 12
    assert (before.groupby("architecture")["metric"].nunique() == 2).all()

    assert start_profiling(table).wait(120) == 0
    after = MeasurementTable(table).read()
    pairs = list(zip(after["architecture"], after["metric"], strict=True))
    assert len(pairs) == len(set(pairs)) == 24
    adjusted = ["adjusted_median", "adjusted_iqr"]  # in units of the whole table's reference median
    assert after.head(len(before)).drop(columns=adjusted).equals(before.drop(columns=adjusted))


def is_alive(pid):
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


assert os.name == "posix", "these tests send POSIX signals"
