"""Energy counters of the hardware (NVML, RAPL), and which metrics this machine can measure. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hw_profiles.device import Device
from hw_profiles.table import METRICS

RAPL_ROOT = Path("/sys/class/powercap")
PROC_STATUS = Path("/proc/self/status")


class MeterUnavailable(ValueError):  # noqa: N818  (a state of the machine, not a defect)
    """A meter cannot measure on this machine; the message names the meter and says why."""

    def __init__(self, metric: str, reason: str) -> None:
        super().__init__(f"{metric} cannot be measured here: {reason}")
        self.metric = metric
        self.reason = reason


class EnergyCounter(Protocol):
    """A counter that only grows."""

    def read_mj(self) -> float:
        """Return the energy used since some fixed moment, in mJ."""
        ...


class NvmlCounter:
    """Total energy of a whole NVIDIA GPU board, idle power included (NVML, Volta and newer).

    Args:
        device: a CUDA device; found by its UUID, so CUDA_VISIBLE_DEVICES does not matter.

    Raises:
        MeterUnavailable: the NVML bindings, the driver or the counter are missing.
    """

    def __init__(self, device: Device) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise MeterUnavailable("energy_mj", "NVML bindings are missing; pip install nvidia-ml-py") from error
        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = self._find(device)
            self.read_mj()
        except pynvml.NVMLError as error:
            raise MeterUnavailable("energy_mj", f"NVML: {error}") from error

    def _find(self, device: Device) -> Any:
        uuid = str(device.card.get("device_uuid", ""))
        if uuid:
            return self._nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        return self._nvml.nvmlDeviceGetHandleByIndex(int(device.card["device_index"]))

    def read_mj(self) -> float:
        """Return the board's energy since the driver was loaded, in mJ."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))


@dataclass
class _Zone:
    """One RAPL package; its counter wraps around at `range_uj`."""

    path: Path
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def advance(self) -> int:
        """Return microjoules since the zone was opened."""
        now = int((self.path / "energy_uj").read_text())
        step = now - self.last_uj
        self.total_uj += step if step >= 0 else step + self.range_uj
        self.last_uj = now
        return self.total_uj


class RaplCounter:
    """Energy of all CPU packages, whatever runs on them (Linux powercap, RAPL).

    Args:
        root: the powercap folder of sysfs.

    Raises:
        MeterUnavailable: the kernel shows no package counter, or it may not be read.
    """

    def __init__(self, root: Path = RAPL_ROOT) -> None:
        self._zones = [self._open(path) for path in rapl_packages(root)]
        if not self._zones:
            raise MeterUnavailable(
                "energy_mj", f"the kernel shows no RAPL package under {root} (usual in virtual machines)"
            )

    @staticmethod
    def _open(path: Path) -> _Zone:
        try:
            now, wrap = (int((path / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
        except OSError as error:
            reason = f"{path / 'energy_uj'} may not be read ({error.strerror}); an administrator can `chmod a+r` it"
            raise MeterUnavailable("energy_mj", reason) from error
        return _Zone(path, wrap, now)

    def read_mj(self) -> float:
        """Return the energy of all packages since this counter was opened, in mJ.

        Read at least once per wrap-around of the hardware counter (minutes at full power).
        """
        return sum(zone.advance() for zone in self._zones) / 1e3


def rapl_packages(root: Path = RAPL_ROOT) -> list[Path]:
    """Return the top-level RAPL zones, one a CPU package (sub-zones such as core and dram are parts of them)."""
    zones = sorted(root.glob("intel-rapl:*")) if root.is_dir() else []
    return [zone for zone in zones if zone.name.count(":") == 1 and _text(zone / "name").startswith("package")]


def energy_counter(device: Device) -> EnergyCounter:
    """Return the counter of a device; raises MeterUnavailable where there is none."""
    return NvmlCounter(device) if device.kind == "cuda" else RaplCounter()


def check_measurable(metrics: Sequence[str], device: Device) -> None:
    """Raise for the first metric that `profile` cannot give on this device.

    Raises:
        ValueError: not a metric of profiling.
        MeterUnavailable: a metric that this machine cannot measure.
    """
    allowed = [name for name, metric in METRICS.items() if (metric.per_device or metric.exact) and not metric.imported]
    unknown = [name for name in metrics if name not in allowed]
    if unknown or not metrics:
        raise ValueError(
            f"metrics = {list(metrics)}: cannot profile {unknown or 'nothing'}; allowed: {', '.join(allowed)} "
            "(perplexity, loss and bits_per_byte come from `paretolm evaluate`)"
        )
    if "energy_mj" in metrics:
        energy_counter(device)
    if "memory_mib" in metrics and device.kind == "cpu" and "VmHWM" not in _text(PROC_STATUS):
        raise MeterUnavailable("memory_mib", f"{PROC_STATUS} does not show VmHWM, which Linux alone does")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
