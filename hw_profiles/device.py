"""What is measured on (Device) and with which input (Workload). No torch, unless a GPU is asked about."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

DTYPES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}  # name -> bytes of an element
_NOISE = re.compile(r"\((?:r|tm|c)\)|\bcpu\b|@.*$", re.IGNORECASE)
_WORKLOAD_ID = re.compile(
    r"(?:prefill-b(?P<batch>\d+)-t(?P<tokens>\d+)|decode-b(?P<decode_batch>\d+)-c(?P<cached>\d+))-(?P<dtype>\w+)"
)


@dataclass(frozen=True)
class Workload:
    """The input of one measured call.

    Attributes:
        batch_size: sequences of a batch, B.
        seq_len: tokens of a sequence that one call computes, T; 1 for decode.
        dtype: type of weights and activations: float32, bfloat16 or float16.
        phase: "prefill" computes B x T tokens without a cache; "decode" computes the next token of every sequence
            with a key/value cache that already holds `cache_len` positions.
        cache_len: positions in the cache before a decode call.

    Raises:
        ValueError: a value that is not possible, or does not go with the phase.

    Example:
        >>> Workload(1, 256).id
        'prefill-b1-t256-float32'
        >>> Workload(4, 1, dtype="bfloat16", phase="decode", cache_len=512).id
        'decode-b4-c512-bfloat16'
    """

    batch_size: int
    seq_len: int
    dtype: str = "float32"
    phase: Literal["prefill", "decode"] = "prefill"
    cache_len: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("seq_len", 1), ("cache_len", 0)):
            value = getattr(self, name)
            if isinstance(value, (bool, str)) or int(value) != value or value < least:
                raise ValueError(f"workload {name} = {value!r}: give an integer >= {least}")
            object.__setattr__(self, name, int(value))
        if self.dtype not in DTYPES:
            raise ValueError(f"workload dtype = {self.dtype!r}; allowed: {', '.join(DTYPES)}")
        if self.phase not in ("prefill", "decode"):
            raise ValueError(f"workload phase = {self.phase!r}; allowed: prefill, decode")
        if self.phase == "prefill" and self.cache_len:
            raise ValueError(f"workload cache_len = {self.cache_len}: prefill has no cache; set phase='decode' or 0")
        if self.phase == "decode" and (self.seq_len != 1 or self.cache_len < 1):
            raise ValueError(
                f"workload seq_len = {self.seq_len}, cache_len = {self.cache_len}: decode computes one token "
                "(seq_len=1) after a cache of at least one position (cache_len>=1)"
            )

    @property
    def id(self) -> str:
        """Short name that tells workloads apart."""
        length = f"t{self.seq_len}" if self.phase == "prefill" else f"c{self.cache_len}"
        return f"{self.phase}-b{self.batch_size}-{length}-{self.dtype}"

    @classmethod
    def from_id(cls, text: str) -> Workload:
        """Read the string that `id` gives.

        Raises:
            ValueError: the text is not of that form.
        """
        match = _WORKLOAD_ID.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} is no workload id; they look like prefill-b1-t256-float32, decode-b1-c64-float32"
            )
        batch_size, length = int(match["batch"] or match["decode_batch"]), int(match["tokens"] or match["cached"])
        if match["cached"]:
            return cls(batch_size, 1, dtype=match["dtype"], phase="decode", cache_len=length)
        return cls(batch_size, length, dtype=match["dtype"])

    @property
    def n_tokens(self) -> int:
        """Tokens that one call computes."""
        return self.batch_size * self.seq_len

    @property
    def n_positions(self) -> int:
        """Positions of a sequence that are in use when the call ends."""
        return self.cache_len + self.seq_len

    @property
    def bytes_per_element(self) -> int:
        """Size of one number of `dtype`."""
        return DTYPES[self.dtype]

    def check_fits(self, block_size: int) -> None:
        """Raise ValueError when a model of this block_size cannot run it."""
        if self.n_positions > block_size:
            raise ValueError(
                f"workload {self.id} needs {self.n_positions} positions, but the model's block_size is {block_size}; "
                "choose a shorter workload (workload.seq_len, workload.cache_len)"
            )


@dataclass(frozen=True)
class Device:
    """Hardware as it was used: another number of threads is another device.

    Attributes:
        name: identifies it in tables ("intel-xeon-gold-6338-4t", "nvidia-h200").
        kind: "cpu" or "cuda".
        torch_name: what torch calls it ("cpu", "cuda:0").
        threads: CPU threads of the measuring process.
        card: facts for the record: names, cores, memory, operating system, driver, versions.
    """

    name: str
    kind: str
    torch_name: str
    threads: int
    card: Mapping[str, Any]


def current_device(spec: str = "cpu", *, threads: int | None = None) -> Device:
    """Describe a device of this machine.

    Args:
        spec: "cpu", "cuda" (the first GPU) or "cuda:1". torch is imported for GPUs only.
        threads: CPU threads the measuring process will use; None for the physical cores that this process may use.

    Raises:
        ValueError: no such device here, or a number of threads below 1.
    """
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", str(spec))
    if match is None:
        raise ValueError(f"device = {spec!r}; allowed: 'cpu', 'cuda', 'cuda:<index>'")
    if threads is not None and threads < 1:
        raise ValueError(f"threads = {threads}: give at least 1, or null for the physical cores")
    count = threads or usable_cores()
    host = _host_card() | {"threads": count}
    if spec == "cpu":
        return Device(f"{_slug(host['cpu'])}-{count}t", "cpu", "cpu", count, {"device": host["cpu"]} | host)
    index = int(match[1] or 0)
    gpu = _gpu_card(index)
    return Device(_slug(gpu["device"]), "cuda", f"cuda:{index}", count, gpu | host)


def usable_cores() -> int:
    """Return the physical cores that this process may use (affinity and container quota counted in), at least 1."""
    counts = [psutil.cpu_count(logical=False) or os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        counts.append(len(os.sched_getaffinity(0)))
    quota = _read("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit():
        counts.append(int(quota[0]) // int(quota[1]))
    return max(1, min(counts))


def _host_card() -> dict[str, Any]:
    card: dict[str, Any] = {
        "cpu": _cpu_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(logical=True),
        "usable_cores": usable_cores(),
        "memory_mib": psutil.virtual_memory().total // 2**20,
        "os": platform.platform(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    for package in ("torch", "litgpt"):
        try:
            card[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            card[package] = None
    return card


def _gpu_card(index: int) -> dict[str, Any]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        seen = f"torch sees {count} CUDA GPU(s)" if count else "torch sees no CUDA GPU on this machine"
        raise ValueError(f"device = 'cuda:{index}': {seen}; use device=cpu or another index")
    properties = torch.cuda.get_device_properties(index)
    return {
        "device": properties.name,
        "device_index": index,
        "device_uuid": str(getattr(properties, "uuid", "")),
        "device_memory_mib": properties.total_memory // 2**20,
        "multiprocessors": properties.multi_processor_count,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "driver": _nvidia_driver(),
    }


def _nvidia_driver() -> str | None:
    """Return the version of the NVIDIA kernel driver, None when it does not tell."""
    match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)", _read("/proc/driver/nvidia/version"))
    return match[1] if match else None


def _cpu_name() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("model name", "hardware", "cpu model"):
            return value.strip()
    return platform.processor() or platform.machine() or "unknown CPU"


def _slug(name: str) -> str:
    """Return a name in lower case with words joined by hyphens, without marks and clock rates."""
    return re.sub(r"[^a-z0-9.]+", "-", _NOISE.sub(" ", name).lower()).strip("-.") or "unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
