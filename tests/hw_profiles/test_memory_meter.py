import litgpt
import pytest
import torch
from measuring_fakes import CONFIG, WORKLOAD, arch

from hw_profiles import memory
from hw_profiles.counters import MeterUnavailable
from hw_profiles.device import Workload
from hw_profiles.memory import CpuMemoryMeter, CudaMemoryMeter, copy_of, process_memory_kib
from supernet.architecture import Architecture
from supernet.extract import build_gpt

BIG = {"n_embd": 256, "n_layer": 4, "n_head": 4, "n_query_groups": 4, "head_size": 64, "intermediate_size": 1024}
linux = pytest.mark.skipif("VmHWM" not in process_memory_kib(), reason="needs /proc/self/status with VmHWM")


def big(device="meta", dtype=torch.float32):
    largest = Architecture.uniform(n_embd=256, n_layer=4, n_head=4, intermediate_size=1024, bias=False)
    return build_gpt(litgpt.Config(**(CONFIG | BIG)), largest, device=device).to(dtype)


def mib(model, bytes_per_element=4):
    return sum(p.numel() for p in model.parameters()) * bytes_per_element / 2**20


@linux
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_the_peak_holds_the_weights_and_little_else_for_a_short_prompt(device):
    model = big(device)
    samples = CpuMemoryMeter(repeats=2)(model, WORKLOAD)
    assert samples.shape == (2,)
    assert (samples >= mib(model)).all()
    assert (samples <= mib(model) + 24).all()


@linux
def test_half_precision_weights_need_about_half_and_no_float32_copy():
    model = big(dtype=torch.bfloat16)
    sample = CpuMemoryMeter(repeats=1)(model, Workload(1, 8, dtype="bfloat16"))[0]
    assert mib(model, 2) <= sample < mib(model, 4)


@linux
def test_a_large_batch_shows_its_activations():
    model = big()
    meter = CpuMemoryMeter(repeats=1)
    mlp_mib = 64 * 64 * 1024 * 4 / 2**20  # (B, T, F) in float32: at least one is alive at the peak
    assert meter(model, Workload(64, 64))[0] - meter(model, WORKLOAD)[0] >= mlp_mib


@linux
def test_a_failure_in_the_measured_process_comes_back_with_its_reason():
    with pytest.raises(RuntimeError, match=r"memory_mib: ValueError: workload .* needs 65 positions"):
        CpuMemoryMeter(repeats=1)(big(), Workload(1, 65))


@linux
def test_a_killed_process_is_reported_as_such(monkeypatch):
    monkeypatch.setattr(memory, "copy_of", lambda *_, **__: memory.os.kill(memory.os.getpid(), 9))
    with pytest.raises(RuntimeError, match="was killed by signal 9"):
        CpuMemoryMeter(repeats=1)(big(), WORKLOAD)


def test_without_the_kernels_numbers_memory_is_unavailable_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "PROC_STATUS", tmp_path / "missing")
    with pytest.raises(MeterUnavailable, match="memory_mib cannot be measured here"):
        CpuMemoryMeter()(big(), WORKLOAD)


def small(device, *, tied):
    model = build_gpt(litgpt.Config(**CONFIG), arch(), device=device).to(torch.bfloat16)
    if tied:
        model.lm_head.weight = model.transformer.wte.weight
    return model


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_copy_has_its_own_memory_the_same_shapes_and_ties(device, tied):
    model = small(device, tied=tied)
    twin = copy_of(model)
    assert {n: p.shape for n, p in twin.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert all(p.dtype == torch.bfloat16 and p.device.type == "cpu" for p in twin.parameters())
    assert (twin.lm_head.weight is twin.transformer.wte.weight) == tied
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    real = small("cpu", tied=tied)
    assert torch.equal(twin.cos, real.cos) and torch.equal(twin.sin, real.sin)
    assert twin(torch.zeros(1, 4, dtype=torch.long)).isfinite().all()


def test_the_gpu_meter_takes_the_allocators_peak_above_what_was_there_before(monkeypatch):
    log = []
    cuda = memory.torch.cuda
    monkeypatch.setattr(cuda, "empty_cache", lambda: log.append("empty"))
    monkeypatch.setattr(cuda, "reset_peak_memory_stats", lambda device: log.append("reset"))
    monkeypatch.setattr(cuda, "memory_allocated", lambda device: 5 * 2**20)
    monkeypatch.setattr(cuda, "max_memory_allocated", lambda device: log.append("peak") or 12 * 2**20)
    monkeypatch.setattr(cuda, "synchronize", lambda device: log.append("synchronize"))
    monkeypatch.setattr(memory, "copy_of", lambda model, **_: (log.append("copy"), small("cpu", tied=False))[1])
    monkeypatch.setattr(memory, "workload_step", lambda *_, **__: lambda: log.append("step"))
    monkeypatch.setattr(CudaMemoryMeter, "_touch_libraries", lambda self: log.append("touch"))
    samples = CudaMemoryMeter(repeats=2, warmup=1)(small("meta", tied=False), WORKLOAD)
    assert samples.tolist() == [7.0, 7.0]
    assert log == ["touch", *["empty", "reset", "copy", "step", "synchronize", "peak"] * 2]
