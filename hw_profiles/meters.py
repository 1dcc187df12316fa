"""Meters: each gives raw samples of one metric for a litgpt model under a workload; nothing is estimated.

Latency is wall clock around one call that is synchronised with the device, under inference_mode, after warm-up.
`interleave` takes the samples of several networks in turn, so that a drift of the machine shows in all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from litgpt import GPT

from hw_profiles.counters import EnergyCounter, MeterUnavailable
from hw_profiles.device import Workload
from hw_profiles.table import METRICS, Metric

Step = Callable[[], None]  # one call of the workload


class Meter(Protocol):
    """Measures one metric."""

    @property
    def metric(self) -> Metric:
        """What the samples are, and their unit."""
        ...

    def __call__(self, model: GPT, workload: Workload) -> np.ndarray:
        """Return raw samples (repeats,) in `metric.unit`."""
        ...


class StepMeter(Protocol):
    """Takes one sample of one metric at a time."""

    @property
    def metric(self) -> Metric:
        """What the samples are, and their unit."""
        ...

    def sample(self, step: Step) -> float:
        """Run `step` at least once and return one sample in `metric.unit`."""
        ...


# --- what is run ----------------------------------------------------------------------------------------------------


def workload_step(model: GPT, workload: Workload, *, seed: int = 0) -> Step:
    """Return the call that is measured: B x T tokens without a cache, or one token with a filled cache.

    The tokens are drawn with `seed`; all logits are computed. A decode step always computes position `cache_len`
    anew, so that every repeat does the same work.

    Raises:
        ValueError: the model's block_size is too short for the workload.
    """
    workload.check_fits(model.max_seq_length)
    device = model.lm_head.weight.device
    generator = torch.Generator().manual_seed(seed)
    shape = (workload.batch_size, workload.n_positions)
    idx = torch.randint(model.config.padded_vocab_size, shape, generator=generator).to(device)  # (B, cache_len + T)
    if workload.phase == "prefill":
        return _inference(lambda: model(idx))
    fill_cache(model, idx[:, : workload.cache_len])
    token, position = idx[:, workload.cache_len :], torch.tensor([workload.cache_len], device=device)
    return _inference(lambda: model(token, input_pos=position, input_pos_maxp1=workload.n_positions))


@torch.inference_mode()
def fill_cache(model: GPT, idx: torch.Tensor) -> None:
    """Give `model` a key/value cache with room for one position more than idx (B, P), and fill it with idx.

    With sliding windows litgpt's ring buffer takes at most one window at once and is exact only token by token after.
    """
    B, P = idx.shape
    weight = model.lm_head.weight
    model.set_kv_cache(B, max_seq_length=P + 1, device=weight.device, dtype=weight.dtype)
    window = model.config.sliding_window_size
    first = P if window is None or model.config.sliding_window_indices is None else min(P, window)
    ends = [first, *range(first + 1, P + 1)]
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        positions = torch.arange(start, end, device=idx.device)
        model(idx[:, start:end], input_pos=positions, input_pos_maxp1=end)


def _inference(call: Callable[[], Any]) -> Step:
    def step() -> None:
        with torch.inference_mode():
            call()

    return step


def interleave(meter: StepMeter, steps: Sequence[Step], *, repeats: int, warmup: int) -> np.ndarray:
    """Take samples of several steps in turn, (len(steps), repeats).

    Every step is run `warmup` times first. The order within a round alternates. Between networks one call goes
    untimed, so that a sample does not pay for the caches that the other network evicted.
    """
    samples = np.empty((len(steps), repeats))
    for step in steps:
        for _ in range(warmup):
            step()
    for repeat in range(repeats):
        indices = range(len(steps)) if repeat % 2 == 0 else reversed(range(len(steps)))
        for index in indices:
            if len(steps) > 1:
                steps[index]()
            samples[index, repeat] = meter.sample(steps[index])
    return samples


# --- latency --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatencyMeter:
    """Wall-clock time of one call: perf_counter on a CPU, CUDA events on a GPU.

    Attributes:
        device: torch's name of the device.
        repeats: samples of a call of the meter.
        warmup: untimed calls before them.
        seed: of the tokens.
        clock: seconds; time.perf_counter.
    """

    device: str = "cpu"
    repeats: int = 10
    warmup: int = 3
    seed: int = 0
    clock: Callable[[], float] = time.perf_counter
    metric: Metric = field(default=METRICS["latency_ms"], init=False)

    def __call__(self, model: GPT, workload: Workload) -> np.ndarray:
        """Return samples (repeats,) in ms; for decode, ms for one token of every sequence of the batch."""
        return _samples(self, model, workload)

    def sample(self, step: Step) -> float:
        """Return the time of one step in ms."""
        return self._cuda_ms(step) if self.device.startswith("cuda") else self._wall_ms(step)

    def _wall_ms(self, step: Step) -> float:
        start = self.clock()
        step()
        return (self.clock() - start) * 1e3

    def _cuda_ms(self, step: Step) -> float:
        """Time between two events of the stream: the queue is empty at the first, so launch gaps count."""
        with torch.cuda.device(self.device):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            step()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end))


def throughput(latency_ms: np.ndarray, workload: Workload) -> np.ndarray:
    """Convert latency samples in ms to tokens/s of the whole batch."""
    return workload.n_tokens * 1e3 / np.asarray(latency_ms)


@dataclass(frozen=True)
class ThroughputMeter:
    """Tokens per second: the tokens of one call over its measured time."""

    latency: LatencyMeter = LatencyMeter()
    metric: Metric = field(default=METRICS["tokens_per_s"], init=False)

    def __call__(self, model: GPT, workload: Workload) -> np.ndarray:
        """Return samples (repeats,) in tokens/s."""
        return throughput(self.latency(model, workload), workload)


# --- energy ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnergyMeter:
    """Energy of one call: a hardware counter over a window of many calls, divided by their number.

    The counters see the whole board or CPU package, so idle power and other processes are in the samples.

    Attributes:
        counter: NvmlCounter or RaplCounter.
        device: torch's name of the device.
        window_s: least length of a window; counters are refreshed every 1 to 100 ms.
        repeats: windows.
        warmup: calls before the first window.
        seed: of the tokens.
        clock: seconds.
    """

    counter: EnergyCounter
    device: str = "cpu"
    window_s: float = 1.0
    repeats: int = 5
    warmup: int = 3
    seed: int = 0
    clock: Callable[[], float] = time.perf_counter
    metric: Metric = field(default=METRICS["energy_mj"], init=False)

    def __call__(self, model: GPT, workload: Workload) -> np.ndarray:
        """Return samples (repeats,) in mJ a call."""
        return _samples(self, model, workload)

    def sample(self, step: Step) -> float:
        """Return mJ of one step, averaged over a window.

        Raises:
            MeterUnavailable: the counter stood still.
        """
        self._synchronise()
        start_mj, start, calls = self.counter.read_mj(), self.clock(), 0
        while self.clock() - start < self.window_s:
            step()
            self._synchronise()
            calls += 1
        used_mj = self.counter.read_mj() - start_mj
        if used_mj <= 0:
            raise MeterUnavailable("energy_mj", f"the energy counter did not move in {self.window_s} s")
        return used_mj / calls

    def _synchronise(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


def _samples(meter: LatencyMeter | EnergyMeter, model: GPT, workload: Workload) -> np.ndarray:
    """Return a meter's samples (repeats,) of one model, which is left without a key/value cache."""
    try:
        step = workload_step(model, workload, seed=meter.seed)
        return interleave(meter, [step], repeats=meter.repeats, warmup=meter.warmup)[0]
    finally:
        model.clear_kv_cache()
