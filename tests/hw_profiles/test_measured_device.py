import subprocess
import sys

import pytest

from hw_profiles import device as module
from hw_profiles.device import Workload, current_device, usable_cores


def test_measuring_vocabulary_imports_no_torch():
    code = (
        "import sys, hw_profiles.table, hw_profiles.profiler, hw_profiles.cli; "
        "from hw_profiles.device import current_device; current_device('cpu'); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_cpu_is_named_with_its_threads():
    device = current_device("cpu", threads=3)
    assert device.name.endswith("-3t")
    assert device.name != current_device("cpu", threads=1).name
    assert (device.kind, device.torch_name, device.threads, device.card["threads"]) == ("cpu", "cpu", 3, 3)
    assert {"cpu", "physical_cores", "memory_mib", "os", "python", "torch", "litgpt"} <= set(device.card)
    assert device.card["memory_mib"] > 100


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", "intel-xeon-gold-6338"),
        ("AMD EPYC 7502 32-Core Processor", "amd-epyc-7502-32-core-processor"),
        ("NVIDIA H200", "nvidia-h200"),
        ("", "unknown"),
    ],
)
def test_device_names_are_short_and_safe(name, slug):
    assert module._slug(name) == slug


def test_threads_default_to_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr(module.psutil, "cpu_count", lambda logical=True: 64)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(module, "_read", lambda path: "300000 100000" if path.endswith("cpu.max") else "")
    assert usable_cores() == 3
    assert current_device("cpu").threads == 3


@pytest.mark.parametrize(
    ("spec", "threads", "message"),
    [("tpu", None, "device = 'tpu'; allowed: 'cpu', 'cuda'"), ("cpu", 0, "threads = 0: give at least 1")],
)
def test_a_device_that_is_not_possible_is_refused(spec, threads, message):
    with pytest.raises(ValueError, match=message):
        current_device(spec, threads=threads)


def test_a_gpu_that_is_not_there_is_refused_with_what_is():
    with pytest.raises(ValueError, match=r"device = 'cuda:77': torch sees"):
        current_device("cuda:77")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0: give an integer >= 1"),
        ({"seq_len": 1.5}, "seq_len = 1.5"),
        ({"dtype": "int8"}, "dtype = 'int8'; allowed: float32, bfloat16, float16"),
        ({"phase": "train"}, "phase = 'train'; allowed: prefill, decode"),
        ({"cache_len": 4}, "prefill has no cache"),
        ({"phase": "decode", "seq_len": 1}, "at least one position"),
        ({"phase": "decode", "cache_len": 4}, "decode computes one token"),
    ],
)
def test_a_workload_that_is_not_possible_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Workload(**({"batch_size": 1, "seq_len": 8} | values))


def test_workload_ids_tell_workloads_apart():
    workloads = [
        Workload(1, 8), Workload(2, 8), Workload(1, 9), Workload(1, 8, dtype="bfloat16"),
        Workload(1, 1), Workload(1, 1, phase="decode", cache_len=8), Workload(1, 1, phase="decode", cache_len=9),
    ]  # fmt: skip
    assert len({workload.id for workload in workloads}) == len(workloads)
    assert [Workload.from_id(workload.id) for workload in workloads] == workloads


def test_a_workload_longer_than_the_model_is_refused_with_both_lengths():
    Workload(1, 1, phase="decode", cache_len=63).check_fits(64)
    with pytest.raises(ValueError, match="needs 65 positions, but the model's block_size is 64"):
        Workload(1, 1, phase="decode", cache_len=64).check_fits(64)
