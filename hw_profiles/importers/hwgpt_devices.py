"""What HW-GPT-Bench measured, on what, and with which input (Sukthanker et al. 2024, arXiv 2405.10299). No torch.

10 000 architectures of each of the spaces gpt-s, gpt-m and gpt-l, on 8 GPUs and 6 CPUs. Where the paper's repository
does not say something, the constants below say what was inferred, and from what.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from hw_profiles.device import Workload
from hw_profiles.table import ANY_DEVICE, METRICS

SOURCE = "HW-GPT-Bench"
REPOSITORY = "https://github.com/automl/HW-GPT-Bench"
ADDED_COMMIT = "cfddd10217c070425c4eb70826d3ed4ce9579aae"  # has the raw result files
MOVED_COMMIT = "795cba8124826acc600df1bd2bb516b22f207671"  # has them in their last place
REMOVED_COMMIT = "7d2c4044217d18cdfb4f5d3a89701d00e61b2dc2"  # and all later ones do not have them
PUBLISHED = datetime(2024, 5, 20, tzinfo=UTC)  # of the raw files; when each was measured is not recorded

SCALES = ("s", "m", "l")
BATCH_SIZES: Mapping[str, int] = MappingProxyType({"s": 8, "m": 4, "l": 1})  # of everything but tracker energy
TRACKER_BATCH_SIZE = 8  # of the GPUs' energy, at every scale
TRACKER_REPEATS = 50
SEQ_LEN = 1024
CPU_THREADS = 8  # cores that the jobs asked for, on shared nodes
JOB_SIZE = 2500  # architectures that one job measured, one after the other: job = order // 2500
N_BUCKETS = 10  # of the hold-out
HELD_OUT_BUCKET = 0  # kept apart: not in the tidy tables
MJ_PER_WH = 3.6e6
MIB_PER_MB = 1e6 / 2**20  # torch's bytes were divided by 1e6

LATENCY, ENERGY, HOST_ENERGY, MEMORY = "latency_ms", "energy_mj", "host_energy_mj", "memory_mib"
PERPLEXITY, ACCURACY = "perplexity", "accuracy"
MEASURED = (LATENCY, ENERGY, HOST_ENERGY, MEMORY, PERPLEXITY, ACCURACY)


@dataclass(frozen=True)
class HwgptDevice:
    """A device of the benchmark.

    Attributes:
        name: ours; the published one, but lower case, and `cpu_p100_host` for the one that was not published.
        folder: of its raw results, without the scale. CPU names were matched to folders by evidence (partitions of the
            jobs, published maxima): likely, not certain; the folder is certain.
        dtype: of autocast on GPUs (weights were float32); of everything on CPUs.
        what: the hardware.
        memory: whether allocated memory was recorded.
        codecarbon: whether CodeCarbon's energy was recorded; 0 was, on the P100 and its host.
    """

    name: str
    folder: str
    dtype: str
    what: str
    memory: bool = False
    codecarbon: bool = True

    @property
    def is_cpu(self) -> bool:
        """Whether it is a CPU."""
        return self.name.startswith("cpu_")

    @property
    def metrics(self) -> tuple[str, ...]:
        """What was measured on it."""
        found = [LATENCY]
        if not self.is_cpu or self.codecarbon:
            found.append(ENERGY)
        if not self.is_cpu and self.codecarbon:
            found.append(HOST_ENERGY)
        return (*found, MEMORY) if self.memory else tuple(found)


DEVICES: Mapping[str, HwgptDevice] = MappingProxyType(
    {
        device.name: device
        for device in (
            HwgptDevice("p100", "P100", "float16", "NVIDIA P100", codecarbon=False),
            HwgptDevice("a100", "a100", "bfloat16", "NVIDIA A100", memory=True),
            HwgptDevice("a40", "a40", "bfloat16", "NVIDIA A40"),
            HwgptDevice("a6000", "a6000", "bfloat16", "NVIDIA RTX A6000"),
            HwgptDevice("h100", "h100", "bfloat16", "NVIDIA H100"),
            HwgptDevice("rtx2080", "rtx2080", "float16", "NVIDIA RTX 2080", memory=True),
            HwgptDevice("rtx3080", "rtx3080", "float16", "NVIDIA RTX 3080"),
            HwgptDevice("v100", "v100", "float16", "NVIDIA V100"),
            HwgptDevice("cpu_xeon_silver", "cpu_mlgpu", "float32", "Intel Xeon Silver, 8 cores"),
            HwgptDevice("cpu_xeon_gold", "cpu_meta", "float32", "Intel Xeon Gold (Cascade Lake), 8 cores"),
            HwgptDevice("cpu_amd_7502", "cpu_alldlc", "float32", "AMD EPYC 7502, 8 cores"),
            HwgptDevice("cpu_amd_7513", "helix_cpu", "float32", "AMD EPYC 7513, 8 cores"),
            HwgptDevice("cpu_amd_7452", "cpu_a6000", "float32", "AMD EPYC 7452, 8 cores"),
            HwgptDevice("cpu_p100_host", "cpu_p100", "float32", "CPU of the P100's host, 8 cores", codecarbon=False),
        )
    }
)


def device_named(name: str) -> HwgptDevice:
    """Return a device of the benchmark; raises ValueError with near matches where there is none of that name."""
    if name in DEVICES:
        return DEVICES[name]
    near = difflib.get_close_matches(str(name), DEVICES, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"{SOURCE} has no device {name!r}{hint} Its devices: {', '.join(DEVICES)}")


def workload_of(metric: str, scale: str, device: str = ANY_DEVICE) -> Workload:
    """Return the input that a metric was measured with.

    The GPUs' `energy_mj` is the power tracker's, with 8 sequences at every scale; on CPUs it is CodeCarbon's, with the
    input of the latency. `host_energy_mj` is CodeCarbon's on GPU machines. Perplexity was computed in half precision
    (the evaluation sets 16 bits) on sequences of 1024 tokens; its batch does not matter and is given as 1.
    """
    if metric in (PERPLEXITY, ACCURACY):
        return Workload(1, SEQ_LEN, dtype="float16")
    used = device_named(device)
    tracker = metric == ENERGY and not used.is_cpu
    return Workload(TRACKER_BATCH_SIZE if tracker else BATCH_SIZES[checked_scale(scale)], SEQ_LEN, dtype=used.dtype)


def n_runs(scale: str, device: str) -> int:
    """Return how often the latency was repeated, and how many runs CodeCarbon's mean and standard deviation are of.

    10; but 1 on cpu_amd_7513 at scale s, whose latency has one repeat and whose standard deviations are all 0.
    """
    return 1 if (scale, device) == ("s", "cpu_amd_7513") else 10


def checked_scale(scale: str) -> str:
    """Return a scale; raises ValueError for anything but s, m and l."""
    if scale not in SCALES:
        raise ValueError(f"scale = {scale!r}; {SOURCE} measured the scales {', '.join(SCALES)}")
    return scale


@dataclass(frozen=True)
class Selection:
    """Which part of the benchmark is meant.

    Attributes:
        scales: of s, m, l.
        metrics: of MEASURED.
        devices: of DEVICES; perplexity and accuracy depend on none and are taken whatever the devices.

    Raises:
        ValueError: nothing, or something that the benchmark does not have (with near matches).
    """

    scales: Sequence[str] = SCALES
    metrics: Sequence[str] = MEASURED
    devices: Sequence[str] = tuple(DEVICES)

    def __post_init__(self) -> None:
        for name in ("scales", "metrics", "devices"):
            values = getattr(self, name)
            values = (values,) if isinstance(values, str) else tuple(dict.fromkeys(values))
            if not values:
                raise ValueError(f"{name} is empty: give at least one")
            object.__setattr__(self, name, values)
        for scale in self.scales:
            checked_scale(scale)
        for device in self.devices:
            device_named(device)
        for metric in self.metrics:
            if metric not in MEASURED:
                near = difflib.get_close_matches(str(metric), MEASURED, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"{SOURCE} did not measure {metric!r}{hint} It measured {', '.join(MEASURED)}")

    def devices_with(self, metric: str) -> tuple[str, ...]:
        """Return the selected devices that a metric was measured on, in the benchmark's order."""
        if not METRICS[metric].per_device:
            return (ANY_DEVICE,)
        return tuple(name for name, device in DEVICES.items() if name in self.devices and metric in device.metrics)
