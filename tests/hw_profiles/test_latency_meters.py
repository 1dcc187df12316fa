import litgpt
import numpy as np
import pytest
import torch
from measuring_fakes import CONFIG, WORKLOAD, FakeClock, arch

from hw_profiles import meters
from hw_profiles.counters import MeterUnavailable
from hw_profiles.device import Workload
from hw_profiles.meters import (
    EnergyMeter,
    LatencyMeter,
    ThroughputMeter,
    fill_cache,
    interleave,
    throughput,
    workload_step,
)  # fmt: skip
from supernet.extract import build_gpt

DECODE = Workload(2, 1, phase="decode", cache_len=5)


def gpt(**changes):
    torch.manual_seed(0)
    return build_gpt(litgpt.Config(**(CONFIG | changes)), arch(n_embd=32, n_layer=2, n_head=4)).eval()


class Recorder:
    """Stands between a model and its forward; keeps what it was called with."""

    def __init__(self, model):
        self.calls, self.modes, self.logits = [], [], []
        forward = model.forward

        def recorded(idx, input_pos=None, input_pos_maxp1=None):
            self.calls.append((tuple(idx.shape), None if input_pos is None else input_pos.tolist()))
            self.modes.append(torch.is_inference_mode_enabled())
            self.logits.append((idx.clone(), forward(idx, input_pos, input_pos_maxp1)))
            return self.logits[-1][1]

        model.forward = recorded


def test_a_fake_clock_gives_exact_milliseconds():
    meter = LatencyMeter(repeats=4, warmup=2, clock=FakeClock(0.25))
    assert meter(gpt(), WORKLOAD).tolist() == [250.0] * 4


def test_prefill_runs_warm_up_and_repeats_in_inference_mode_without_a_cache():
    model = gpt()
    recorder = Recorder(model)
    samples = LatencyMeter(repeats=4, warmup=2)(model, Workload(3, 8))
    assert samples.shape == (4,)
    assert (samples > 0).all()
    assert recorder.calls == [((3, 8), None)] * 6
    assert all(recorder.modes)


def test_decode_computes_one_token_after_the_filled_cache():
    model = gpt()
    recorder = Recorder(model)
    LatencyMeter(repeats=3, warmup=1)(model, DECODE)
    assert recorder.calls == [((2, 5), [0, 1, 2, 3, 4]), *[((2, 1), [5])] * 4]
    assert all(recorder.modes)


def test_the_meter_leaves_no_cache_behind():
    model = gpt()
    LatencyMeter(repeats=1, warmup=0)(model, DECODE)
    assert all(block.attn.kv_cache is None for block in model.transformer.h)


@pytest.mark.parametrize(
    "changes",
    [{}, {"sliding_window_size": 3, "sliding_window_indices": [1, 0]}, {"rotary_percentage": 0.5}],
    ids=["plain", "sliding window", "partial rotary"],
)
def test_decoded_logits_are_those_of_the_full_forward(changes):
    model = gpt(**changes)
    recorder = Recorder(model)
    step = workload_step(model, DECODE)
    step()
    step()
    decode = [(idx, logits) for idx, logits in recorder.logits if idx.shape[1] == 1 and logits.shape[1] == 1][-2:]
    prompt = torch.randint(64, (2, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(decode[-1][0], prompt[:, 5:])
    with torch.inference_mode():
        expected = gpt(**changes)(prompt)[:, -1:]
    for _, logits in decode:  # computing the position again changes nothing
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_filled_cache_has_room_for_one_more_position():
    model = gpt()
    fill_cache(model, torch.zeros(2, 5, dtype=torch.long))
    assert model.transformer.h[0].attn.kv_cache.k.shape[:3] == (2, 4, 6)


def test_a_workload_longer_than_the_model_is_refused():
    with pytest.raises(ValueError, match="needs 65 positions"):
        workload_step(gpt(), Workload(1, 65))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_models_run_in_both_phases(dtype):
    model = gpt().to(getattr(torch, dtype))
    for workload in (Workload(1, 8, dtype=dtype), Workload(1, 1, dtype=dtype, phase="decode", cache_len=8)):
        assert LatencyMeter(repeats=2, warmup=0)(model, workload).shape == (2,)


def test_networks_are_measured_in_turn_after_an_untimed_call():
    log = []

    class Meter:
        def sample(self, step):
            log.append("timed")
            step()
            return float(len(log))

    samples = interleave(Meter(), [lambda: log.append("a"), lambda: log.append("b")], repeats=2, warmup=1)
    a, b = ["a", "timed", "a"], ["b", "timed", "b"]
    assert log == ["a", "b", *a, *b, *b, *a]
    assert samples.tolist() == [[5.0, 14.0], [8.0, 11.0]]


def test_throughput_is_tokens_over_time():
    assert throughput(np.array([4.0, 8.0]), Workload(2, 16)).tolist() == [8000.0, 4000.0]
    assert throughput(np.array([4.0]), DECODE).tolist() == [500.0]
    meter = ThroughputMeter(LatencyMeter(repeats=2, warmup=0, clock=FakeClock(0.5)))
    assert meter(gpt(), WORKLOAD).tolist() == [16.0, 16.0]


def test_a_gpu_is_timed_by_events_between_synchronisations(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("end.synchronize")

        def elapsed_time(self, end):
            return 7.5

    class Context:
        def __init__(self, device):
            assert device == "cuda:1"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(meters.torch.cuda, "Event", Event)
    monkeypatch.setattr(meters.torch.cuda, "device", Context)
    monkeypatch.setattr(meters.torch.cuda, "synchronize", lambda *_: log.append("synchronize"))
    assert LatencyMeter(device="cuda:1").sample(lambda: log.append("step")) == 7.5
    assert log == ["synchronize", "record", "step", "record", "end.synchronize"]


class FakeCounter:
    """2 mJ with every call of the workload."""

    def __init__(self, per_step=2.0):
        self.per_step, self.used = per_step, 0.0

    def read_mj(self):
        return self.used

    def step(self):
        self.used += self.per_step


def test_energy_is_that_of_one_call_averaged_over_a_window():
    counter, calls = FakeCounter(), []
    meter = EnergyMeter(counter, window_s=1.0, clock=FakeClock(0.25))

    def step():
        calls.append(1)
        counter.step()

    assert meter.sample(step) == 2.0
    assert len(calls) == 3  # clock readings: start 0, then 0.25, 0.5, 0.75 inside the window, 1.0 ends it


def test_an_energy_counter_that_stands_still_is_no_measurement():
    with pytest.raises(MeterUnavailable, match=r"energy_mj .*did not move"):
        EnergyMeter(FakeCounter(0.0), window_s=1.0, clock=FakeClock(0.25)).sample(lambda: None)
