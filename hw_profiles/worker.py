"""The child process that measures: reads one JSON request a line, writes one JSON reply a line.

    {"setup": {...}}              -> {"ready": true}
    {"architecture": "e64-..."}   -> {"samples": {"latency_ms": {"repeats": [...], "reference_repeats": [...]}}}
    a request that fails          -> {"error": "ValueError: ..."}

It ends when its standard input is closed, so it never outlives the profiler. Run by hw_profiles.child.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np
import torch
from litgpt import GPT, Config

from hw_profiles.counters import energy_counter
from hw_profiles.device import current_device
from hw_profiles.memory import CpuMemoryMeter, CudaMemoryMeter
from hw_profiles.messages import RANDOM_WEIGHTS, Samples, WorkerSetup
from hw_profiles.meters import EnergyMeter, LatencyMeter, StepMeter, interleave, throughput, workload_step
from supernet.architecture import Architecture
from supernet.extract import build_gpt, extract
from supernet.litgpt_config import check_fits

ModelBuilder = Callable[[Architecture, str], GPT]  # (architecture, torch's name of a device) -> model
_MEMORY_REPEATS = 3  # a high-water mark hardly varies
_TIMED = ("latency_ms", "tokens_per_s", "energy_mj")


def model_builder(setup: WorkerSetup) -> ModelBuilder:
    """Return the function that builds sub-networks: randomly initialised, or extracted from a supernet's folder."""
    dtype = getattr(torch, setup.workload.dtype)
    config = Config(**setup.config)
    if setup.weights == RANDOM_WEIGHTS:

        def build(arch: Architecture, device: str) -> GPT:
            check_fits(config, arch)
            torch.manual_seed(setup.seed)
            gpt = build_gpt(config, arch, device="meta" if device == "meta" else "cpu")
            if setup.tie_embeddings:
                gpt.lm_head.weight = gpt.transformer.wte.weight
            return gpt.to(device=device, dtype=dtype).eval()

        return build

    from supernet.checkpoint import load_supernet

    supernet = load_supernet(setup.weights).supernet
    if supernet.tie_embeddings != setup.tie_embeddings:
        raise ValueError(
            f"the supernet in {setup.weights} has {'tied' if supernet.tie_embeddings else 'untied'} embeddings: "
            f"set tie_embeddings={str(supernet.tie_embeddings).lower()}"
        )
    return lambda arch, device: extract(supernet, arch).to(device=device, dtype=dtype).eval()


class TimedSession:
    """Samples latency, throughput and energy of sub-networks, each in turn with a reference network."""

    def __init__(self, setup: WorkerSetup, build: ModelBuilder) -> None:
        assert setup.reference is not None
        self.setup = setup
        self.build = build
        self.meters = _step_meters(setup)
        self.reference_step = self._step(Architecture.from_id(setup.reference))

    def measure(self, arch: Architecture) -> dict[str, Samples]:
        """Return the samples of all metrics of the setup."""
        steps = [self._step(arch), self.reference_step]
        setup, found = self.setup, {}
        for name, meter in self.meters.items():
            own, reference = interleave(meter, steps, repeats=setup.repeats, warmup=setup.warmup)
            found[name] = Samples.of(own.tolist(), reference.tolist())
            if name == "latency_ms":
                own, reference = (throughput(values, setup.workload) for values in (own, reference))
                found["tokens_per_s"] = Samples.of(own.tolist(), reference.tolist())
        return {name: found[name] for name in setup.metrics}

    def _step(self, arch: Architecture) -> Callable[[], None]:
        model = self.build(arch, self.setup.device)
        return workload_step(model, self.setup.workload, seed=self.setup.seed)


class MemorySession:
    """Samples the peak memory of sub-networks; runs no network in this process itself on a CPU."""

    def __init__(self, setup: WorkerSetup, build: ModelBuilder) -> None:
        self.setup = setup
        self.build = build
        repeats = {"repeats": min(setup.repeats, _MEMORY_REPEATS), "warmup": setup.warmup, "seed": setup.seed}
        self.meter: CpuMemoryMeter | CudaMemoryMeter = (
            CpuMemoryMeter(threads=setup.threads, **repeats)
            if setup.device == "cpu"
            else CudaMemoryMeter(device=setup.device, **repeats)
        )

    def measure(self, arch: Architecture) -> dict[str, Samples]:
        """Return the samples of memory_mib; weights are made in the measured process, so only shapes are built here."""
        samples: np.ndarray = self.meter(self.build(arch, "meta"), self.setup.workload)
        return {"memory_mib": Samples.of(samples.tolist())}


def _step_meters(setup: WorkerSetup) -> dict[str, StepMeter]:
    """Return the meters to be run; throughput comes out of the latency samples."""
    meters: dict[str, StepMeter] = {}
    if {"latency_ms", "tokens_per_s"} & set(setup.metrics):
        meters["latency_ms"] = LatencyMeter(device=setup.device)
    if "energy_mj" in setup.metrics:
        counter = energy_counter(current_device(setup.device, threads=setup.threads))
        meters["energy_mj"] = EnergyMeter(counter, device=setup.device)
    return meters


def open_session(setup: WorkerSetup) -> TimedSession | MemorySession:
    """Return the session for the metrics of a setup, which are all timed or memory_mib alone."""
    if setup.metrics == ("memory_mib",):  # weights do not matter for memory: only shapes, dtype and ties do
        shapes = WorkerSetup.from_dict(setup.to_dict() | {"weights": RANDOM_WEIGHTS})
        return MemorySession(shapes, model_builder(shapes))
    unknown = set(setup.metrics) - set(_TIMED)
    if unknown:
        raise ValueError(f"a timed session cannot sample {sorted(unknown)}; it samples {', '.join(_TIMED)}")
    torch.set_num_threads(setup.threads)
    return TimedSession(setup, model_builder(setup))


def serve(
    requests: TextIO, replies: TextIO, *, open_session: Callable[[WorkerSetup], Any] = open_session
) -> None:  # fmt: skip
    """Answer requests until they end; a request that fails is answered with its error, and the next one is read."""
    session: TimedSession | MemorySession | None = None
    for line in requests:
        try:
            request = json.loads(line)
            if "setup" in request:
                session = open_session(WorkerSetup.from_dict(request["setup"]))
                reply: dict[str, Any] = {"ready": True}
            else:
                assert session is not None, "the first request is the setup"
                samples = session.measure(Architecture.from_id(request["architecture"]))
                reply = {"samples": {name: values.to_dict() for name, values in samples.items()}}
        except Exception as error:  # the profiler reports it with the architecture
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main(open_session: Callable[[WorkerSetup], Any] = open_session) -> int:
    """Serve on standard input and output; what libraries print goes to standard error."""
    torch.set_num_interop_threads(1)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        serve(sys.stdin, replies, open_session=open_session)
    except BrokenPipeError:  # the profiler was killed while this process measured
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
