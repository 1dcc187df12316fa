"""From a table of measurements to what a surrogate learns: one checked value for each architecture. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hw_profiles.device import Workload
from hw_profiles.quality import quality_rows, read_evaluations
from hw_profiles.table import METRICS, MeasurementTable, Metric
from supernet.architecture import Architecture
from supernet.space import SearchSpace

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("space", "architecture", "metric", "unit", "device", "workload", "median", "adjusted_median")


@dataclass(frozen=True)
class Targets:
    """Measurements of one metric, one for each architecture.

    Attributes:
        metric: its name.
        unit: its unit.
        device: where it was measured.
        workload: id of the input.
        archs: n distinct architectures of the space.
        y: (n,) medians, of per-device metrics with the drift of the machine divided out.
    """

    metric: str
    unit: str
    device: str
    workload: str
    archs: tuple[Architecture, ...]
    y: np.ndarray


def measured_frame(table: str | Path, space: str, *, evaluations: str | Path | None = None) -> pd.DataFrame:
    """Return a table of measurements, with the perplexities that `paretolm evaluate` wrote as further rows.

    Args:
        table: folder of measurements, or one .parquet file.
        space: name of the search space that was evaluated.
        evaluations: the file of `paretolm evaluate`; None for measurements alone.

    Raises:
        FileNotFoundError: no such table or file.
        ValueError: damaged or foreign files (named).
    """
    import pandas as pd

    frame = MeasurementTable(table).read()
    if evaluations is None:
        return frame
    rows = [row.record() for row in quality_rows(read_evaluations(evaluations), space=space)]
    quality = pd.DataFrame(rows)
    quality["adjusted_median"] = quality["median"]
    return pd.concat([frame, quality[[c for c in frame.columns if c in quality]]], ignore_index=True)


def measured_metrics(frame: pd.DataFrame, space: SearchSpace, *, device: str | None = None) -> list[str]:
    """Return the metrics of `space` in a table (with a device, on it) that were measured, in the table's order.

    Exact ones (parameters, FLOPs) are arithmetic and need no surrogate.
    """
    rows = _of_space(frame, space)
    if device is not None:
        known = _choices(row for row in rows["device"] if row)
        if device not in known:
            raise ValueError(f"the table has no device {device!r}; it has: {', '.join(known)}")
        general = [name for name, metric in METRICS.items() if not metric.per_device]
        rows = rows[(rows["device"] == device) | rows["metric"].isin(general)]
    return [name for name in rows["metric"].unique() if name not in METRICS or not METRICS[name].exact]


def targets(
    frame: pd.DataFrame, space: SearchSpace, *, metric: str, device: str | None = None,
    workload: Workload | str | None = None,
) -> Targets:  # fmt: skip
    """Select and check the measurements of one metric. An architecture measured several times counts once (median).

    Args:
        frame: what `hw_profiles.table.MeasurementTable.read` gives.
        space: the space of the architectures.
        metric: name of a metric.
        device: of a metric that depends on one; None where the table has one device only.
        workload: the input, or its id; None where the table has one only.

    Raises:
        ValueError: nothing was measured, several devices or workloads to choose from, mixed units, values that are not
            finite and positive, architectures outside the space. The message lists what the table has.
    """
    kind = _metric(metric)
    rows = _of_space(frame, space)
    rows = _narrow(rows, "metric", metric, f"space {space.name!r}")
    if kind.per_device:
        rows = _narrow(rows, "device", device, metric)
    identity = workload.id if isinstance(workload, Workload) else workload
    if not kind.per_device and identity not in set(rows["workload"]):
        identity = None  # the evaluation's own input
    rows = _narrow(rows, "workload", identity, metric)
    _check_units(rows, kind)
    column = "adjusted_median" if kind.per_device else "median"
    _check_values(rows, column, metric)
    medians = rows.groupby("architecture", sort=False)[column].median()
    return Targets(
        metric, kind.unit, str(rows["device"].iloc[0]), str(rows["workload"].iloc[0]),
        _architectures(medians.index.tolist(), space), medians.to_numpy(float),
    )  # fmt: skip


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise ValueError(f"no metric {name!r}; metrics: {', '.join(METRICS)}")
    if METRICS[name].exact:
        raise ValueError(f"{name} needs no surrogate: supernet.cost counts it exactly")
    return METRICS[name]


def _of_space(frame: pd.DataFrame, space: SearchSpace) -> pd.DataFrame:
    missing = [name for name in _COLUMNS if name not in frame.columns]
    if missing:
        raise ValueError(f"not a table of measurements: it lacks the columns {missing}; `paretolm profile` makes one")
    if not len(frame):
        raise ValueError("the table of measurements is empty: run `paretolm profile` first")
    return _narrow(frame, "space", space.name, "the table")


def _narrow(rows: pd.DataFrame, column: str, value: str | None, where: str) -> pd.DataFrame:
    """Return the rows with `value` in `column`; None stands for the only value that there is."""
    known = _choices(rows[column])
    if value is None and len(known) > 1:
        raise ValueError(f"{where} was measured for several {column}s: choose one of {', '.join(known)}")
    if value is not None and value not in known:
        raise ValueError(f"{where} has no {column} {value!r} in the table of measurements; it has: {', '.join(known)}")
    return rows[rows[column] == (known[0] if value is None else value)]


def _choices(values: Iterable[object]) -> list[str]:
    return sorted({str(value) for value in values})


def _check_units(rows: pd.DataFrame, metric: Metric) -> None:
    units = _choices(rows["unit"])
    if units != [metric.unit]:
        raise ValueError(
            f"{metric.name} has the units {', '.join(units)} in the table, but is in {metric.unit}: convert the rows"
        )


def _check_values(rows: pd.DataFrame, column: str, metric: str) -> None:
    values = rows[column].to_numpy(float)
    bad = np.flatnonzero(~np.isfinite(values) | (values <= 0))
    if len(bad):
        raise ValueError(
            f"{metric} of {rows['architecture'].iloc[bad[0]]} is {values[bad[0]]} ({column}; {len(bad)} such rows): "
            "measurements are finite and above 0. Delete those rows and measure again"
        )


def _architectures(ids: Sequence[str], space: SearchSpace) -> tuple[Architecture, ...]:
    archs = []
    for text in ids:
        try:
            archs.append(space.validate(Architecture.from_id(text)))
        except ValueError as error:
            raise ValueError(f"the table's {text} does not fit space {space.name!r}: {error}") from error
    return tuple(archs)
