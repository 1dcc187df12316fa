"""Peak memory of running a model: the high-water mark of a forked process (CPU) or of torch's allocator (CUDA)."""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import os
import re
from dataclasses import dataclass, field

import numpy as np
import torch
from litgpt import GPT
from torch import nn

from hw_profiles.counters import PROC_STATUS, MeterUnavailable
from hw_profiles.device import Workload
from hw_profiles.meters import workload_step
from hw_profiles.table import METRICS, Metric

_MIB = 2**20


def copy_of(model: GPT, *, device: str = "cpu", seed: int = 0) -> GPT:
    """Return an independent copy with memory of its own; a model on the meta device is given random weights.

    No temporary larger than one tensor is made, so that the peak is that of running the model.
    """
    if not model.lm_head.weight.is_meta:
        return copy.deepcopy(model).to(device)
    dtype, tied = model.lm_head.weight.dtype, model.lm_head.weight is model.transformer.wte.weight
    twin = copy.deepcopy(model)
    if tied:  # to_empty would allocate the shared matrix twice
        twin.lm_head.weight = nn.Parameter(torch.empty(0, dtype=dtype, device="meta"))
    twin = twin.to_empty(device=device)
    if tied:
        twin.lm_head.weight = twin.transformer.wte.weight
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.normal_(std=0.02)
    twin.cos, twin.sin = (table.to(dtype) for table in twin.rope_cache(device=torch.device(device)))
    return twin


@dataclass(frozen=True)
class CpuMemoryMeter:
    """Peak memory of running a model on the CPU: the high-water mark of a forked process that makes its own copy.

    A sample is VmHWM at the end minus VmRSS before the copy is made, less the growth of RssFile (/proc/self/status):
    weights, caches, activations and the work space of the math library and its threads; not the Python process with
    torch loaded, nor the pages of torch's own code that the first call touches.
    The process that forks must not have run torch operations on several threads (OpenMP does not survive a fork).

    Attributes:
        threads: of the forked process.
        repeats: forks.
        warmup: calls of the workload in each fork, at least 2; the peak is over all of them.
        seed: of weights and tokens.
    """

    threads: int = 1
    repeats: int = 3
    warmup: int = 2
    seed: int = 0
    metric: Metric = field(default=METRICS["memory_mib"], init=False)

    def __call__(self, model: GPT, workload: Workload) -> np.ndarray:
        """Return samples (repeats,) in MiB.

        Raises:
            MeterUnavailable: not on Linux.
            RuntimeError: the forked process failed, or was killed (out of memory).
        """
        if not hasattr(os, "fork") or "VmHWM" not in process_memory_kib():
            raise MeterUnavailable("memory_mib", f"needs fork and VmHWM of {PROC_STATUS}, which Linux has")
        return np.array([self._forked(model, workload) for _ in range(self.repeats)])

    def _forked(self, model: GPT, workload: Workload) -> float:
        gc.collect()
        _return_free_memory()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            self._report(model, workload, writer)  # does not return
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            reply = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not reply:
            reason = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise RuntimeError(f"memory_mib: the process that runs the model {reason} (out of memory?)")
        result = json.loads(reply)
        if "error" in result:
            raise RuntimeError(f"memory_mib: {result['error']}")
        return float(result["kib"]) * 1024 / _MIB

    def _report(self, model: GPT, workload: Workload, writer: int) -> None:
        """In the fork: measure, write the result as JSON and leave at once, without the parent's exit handlers."""
        status = 1
        try:
            reply = json.dumps({"kib": self._peak_kib(model, workload)})
            status = 0
        except BaseException as error:  # the only way out is the pipe
            reply = json.dumps({"error": f"{type(error).__name__}: {error}"})
        finally:
            os.write(writer, reply.encode())
            os._exit(status)

    def _peak_kib(self, model: GPT, workload: Workload) -> int:
        torch.set_num_threads(self.threads)
        before = process_memory_kib()
        step = workload_step(copy_of(model, seed=self.seed).eval(), workload, seed=self.seed)
        for _ in range(max(2, self.warmup)):  # in the second call all code is in memory, so the peak holds all of it
            step()
        after = process_memory_kib()
        code = after.get("RssFile", 0) - before.get("RssFile", 0)
        return after["VmHWM"] - before["VmRSS"] - code


@dataclass(frozen=True)
class CudaMemoryMeter:
    """Peak memory of running a model on a GPU: torch's allocator peak minus what was allocated before.

    The work space that cuBLAS keeps for the process, the CUDA context and fragmentation are not in it.
    """

    device: str = "cuda:0"
    repeats: int = 3
    warmup: int = 2
    seed: int = 0
    metric: Metric = field(default=METRICS["memory_mib"], init=False)

    def __call__(self, model: GPT, workload: Workload) -> np.ndarray:
        """Return samples (repeats,) in MiB."""
        self._touch_libraries()
        return np.array([self._peak_bytes(model, workload) / _MIB for _ in range(self.repeats)])

    def _peak_bytes(self, model: GPT, workload: Workload) -> int:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        step = workload_step(copy_of(model, device=self.device, seed=self.seed).eval(), workload, seed=self.seed)
        for _ in range(max(1, self.warmup)):
            step()
        torch.cuda.synchronize(self.device)
        return int(torch.cuda.max_memory_allocated(self.device)) - before

    def _touch_libraries(self) -> None:
        """Make cuBLAS allocate its lasting work space now, so that it is in every baseline."""
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            square = torch.ones(16, 16, device=self.device, dtype=dtype)
            nn.functional.linear(square, square, square[0])
        torch.cuda.synchronize(self.device)


def process_memory_kib() -> dict[str, int]:
    """Return the sizes of this process that Linux shows (VmRSS, VmHWM, RssFile, ...), in KiB; empty elsewhere."""
    try:
        text = PROC_STATUS.read_text()
    except OSError:
        return {}
    return {name: int(value) for name, value in re.findall(r"^((?:Vm|Rss)\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def _return_free_memory() -> None:
    """Give freed heap back to the system (glibc), so that a fork cannot use it unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
