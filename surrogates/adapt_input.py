"""What a device is adapted from: measurements in a table or in lists, checked. No torch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hw_profiles.device import Workload
from hw_profiles.table import ANY_DEVICE, METRICS
from supernet.architecture import Architecture
from supernet.space import SearchSpace
from surrogates.adapted import SourceModel
from surrogates.targets import Targets, measured_metrics, targets

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS, MAX_ROWS = 5, 1000
SOURCES: Mapping[str, tuple[str, ...]] = {  # which metrics of shipped devices a metric is predicted from
    "latency_ms": ("latency_ms",),
    "energy_mj": ("energy_mj", "latency_ms"),
    "host_energy_mj": ("energy_mj", "latency_ms"),
    "memory_mib": ("memory_mib",),
}
_LARGEST_RATIO = 100.0  # between rows, of measured to sources: more is a unit or an accident
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def measured_values(
    archs: Sequence[Architecture], values: Sequence[float], *, space: SearchSpace, workload: Workload | str,
    metric: str = "latency_ms", unit: str | None = None, device: str = "",
) -> Targets:  # fmt: skip
    """Return checked measurements of one metric that are not in a table.

    Args:
        archs: distinct members of the space.
        values: one for each, the median of its repeats.
        space: the space.
        workload: the input, or its id.
        metric: what was measured.
        unit: of the values; None for the metric's own.
        device: where, in words.

    Raises:
        ValueError: lengths that differ, an architecture that is there twice or not in the space, a value that is not
            finite and positive, or another unit than the metric's.
    """
    if metric not in METRICS:
        raise ValueError(f"no metric {metric!r}; {_near(metric, list(METRICS))}")
    if unit is not None and unit != METRICS[metric].unit:
        raise ValueError(f"{metric} is in {METRICS[metric].unit}, the values are in {unit}: convert them")
    y = np.asarray(values, float)
    if y.shape != (len(archs),):
        raise ValueError(f"{len(archs)} architectures and values of shape {y.shape}: give one value for each")
    if len(bad := np.flatnonzero(~np.isfinite(y) | (y <= 0))):
        raise ValueError(
            f"{metric} of {archs[bad[0]].id} is {y[bad[0]]} ({len(bad)} such values): "
            "measurements are finite and above 0"
        )
    seen: dict[Architecture, int] = {}
    for i, arch in enumerate(archs):
        space.validate(arch)
        if arch in seen:
            raise ValueError(f"{arch.id} is there twice (rows {seen[arch]} and {i}): give the median of its values")
        seen[arch] = i
    text = (Workload.from_id(workload) if isinstance(workload, str) else workload).id
    return Targets(metric, METRICS[metric].unit, device, text, tuple(archs), y)


# --- from a table ------------------------------------------------------------------------------------------------


def wanted_targets(
    model: SourceModel, measurements: pd.DataFrame | Sequence[Targets], metrics: Sequence[str] | None,
    device: str | None, workload: Workload | str | None,
) -> list[Targets]:  # fmt: skip
    """Return what is to be adapted, one a metric; see `surrogates.adapt.adapt_device`."""
    if isinstance(measurements, Sequence):
        given = {data.metric: data for data in measurements}
        return [given[name] for name in _wanted(model, list(given), metrics)]
    names = _wanted(model, measured_metrics(measurements, model.space, device=device), metrics)
    return [targets(measurements, model.space, metric=name, device=device, workload=workload) for name in names]


def _wanted(model: SourceModel, there: Sequence[str], metrics: Sequence[str] | None) -> list[str]:
    """Return the metrics to adapt: those asked for, or all that were measured and that shipped devices have."""
    known = source_metrics(model)
    wanted = [name for name in there if name in known] if metrics is None else list(dict.fromkeys(metrics))
    if not wanted:
        raise ValueError(
            f"measured: {', '.join(there) or 'no metric'}; a device can be adapted for {', '.join(known)}: "
            "measure one of those"
        )
    for name in wanted:
        source_columns(model, name)
        if name not in there:
            raise ValueError(f"{name} was not measured; measured: {', '.join(there)}")
    return wanted


def repeat_noise(measurements: pd.DataFrame | Sequence[Targets]) -> dict[tuple[str, str, str], float]:
    """Return the median over rows of the standard deviation of log repeats, by metric, device and workload."""
    if isinstance(measurements, Sequence) or "repeats" not in measurements:
        return {}
    found = {}
    for key, rows in measurements.groupby(["metric", "device", "workload"]):
        samples = [np.asarray(sample, float) for sample in rows["repeats"]]
        spreads = [np.log(sample).std(ddof=1) for sample in samples if len(sample) > 1 and (sample > 0).all()]
        if spreads:
            found[tuple(map(str, key))] = float(np.median(spreads))
    return found  # type: ignore[return-value]


def described_hardware(measurements: pd.DataFrame | Sequence[Targets], device: str) -> str:
    """Return what the first row of a device says that it is."""
    if isinstance(measurements, Sequence) or "extra" not in measurements:
        return device
    rows = measurements[measurements["device"] == device]
    extra = json.loads(rows["extra"].iloc[0] or "{}")
    card = extra.get("device", {})
    return str(card.get("device", device) if isinstance(card, Mapping) else card)


def source_metrics(model: SourceModel) -> tuple[str, ...]:
    """Return the metrics that a new device can have."""
    return tuple(name for name in SOURCES if len(_columns(model, name)))


def source_columns(model: SourceModel, metric: str) -> np.ndarray:
    """Return where the sources of a metric are among the model's targets, (S,).

    Raises:
        ValueError: there is none.
    """
    columns = _columns(model, metric)
    if not len(columns):
        known = source_metrics(model)
        raise ValueError(f"no shipped device to adapt {metric} from; {_near(metric, known)}")
    return columns


def _columns(model: SourceModel, metric: str) -> np.ndarray:
    kinds = SOURCES.get(metric, ())
    return np.array([i for i, target in enumerate(model.targets) if target[0] in kinds], int)


# --- checks -------------------------------------------------------------------------------------------------------


def check_name(name: str, taken: Collection[str], *, replace: bool) -> None:
    """Refuse names that are taken, or that are no folder's name."""
    if not _NAME.fullmatch(name) or name == ANY_DEVICE:
        raise ValueError(f"device name {name!r}: give letters, digits, '-', '_' and '.', and not {ANY_DEVICE!r}")
    if name in taken and not replace:
        raise ValueError(f"there is a device {name!r} already; devices: {', '.join(sorted(taken))}. Give another name")


def check_count(n: int) -> None:
    """Refuse too few rows, and more than the method is for."""
    if n < MIN_ROWS:
        raise ValueError(
            f"{n} measured architectures are too few to adapt a device: at least {MIN_ROWS} are needed, 20 are better; "
            f"measure {MIN_ROWS - n} more (`paretolm adapt --propose` says which)"
        )
    if n > MAX_ROWS:
        raise ValueError(
            f"{n} measured architectures need no other devices (at most {MAX_ROWS}): `paretolm fit` learns from them"
        )


def check_ratios(data: Targets, sources: np.ndarray) -> None:
    """Refuse rows that are far from what the sources make of the others: other units, or an accident."""
    logs = np.log(data.y) - np.log(sources).mean(axis=1)
    away = logs - np.median(logs)
    worst = int(np.abs(away).argmax())
    if np.ptp(logs) > np.log(_LARGEST_RATIO):
        factor = float(np.exp(abs(away[worst])))
        raise ValueError(
            f"{data.metric} of {data.archs[worst].id} is {data.y[worst]:g} {data.unit}: {factor:.3g} times "
            f"{'more' if away[worst] > 0 else 'less'} than the other rows let expect. Are all values in {data.unit}? "
            "Convert or leave out the rows that are not"
        )


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return (f"near matches: {', '.join(near)}; " if near else "") + f"metrics: {', '.join(known) or 'none'}"
