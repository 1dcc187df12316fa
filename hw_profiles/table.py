"""Metrics with their units, measurements, and the table that keeps them. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hw_profiles.device import Workload
from hw_profiles.parts import merge_parts, read_parts, write_part
from hw_profiles.quartiles import adjusted

if TYPE_CHECKING:
    import pandas as pd

ANY_DEVICE = "any"  # device of metrics that do not depend on one


@dataclass(frozen=True)
class Metric:
    """A quantity and its unit.

    Attributes:
        name: ends with the unit where there is one.
        unit: what the numbers count.
        per_device: whether it depends on the hardware.
        exact: counted from the architecture, not measured.
        higher_is_better: direction; most metrics are costs.
        imported: comes in tables of others only; `paretolm profile` cannot measure it.
    """

    name: str
    unit: str
    per_device: bool
    exact: bool = False
    higher_is_better: bool = False
    imported: bool = False


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("latency_ms", "ms", per_device=True),
            Metric("tokens_per_s", "tokens/s", per_device=True, higher_is_better=True),
            Metric("memory_mib", "MiB", per_device=True),
            Metric("energy_mj", "mJ", per_device=True),
            Metric("host_energy_mj", "mJ", per_device=True, imported=True),  # of the whole computer around a GPU
            Metric("perplexity", "1", per_device=False),
            Metric("accuracy", "1", per_device=False, higher_is_better=True),  # share of next tokens that are right
            Metric("bits_per_byte", "bits/byte", per_device=False),
            Metric("loss", "nats/token", per_device=False),
            Metric("n_params", "parameters", per_device=False, exact=True),
            Metric("n_params_decoder", "parameters", per_device=False, exact=True),
            Metric("macs", "MACs", per_device=False, exact=True),
            Metric("flops", "FLOPs", per_device=False, exact=True),
            Metric("kv_cache_mib", "MiB", per_device=False, exact=True),
        )
    }
)

Key = tuple[str, str, str, str]  # architecture id, metric, device, workload id

_COLUMNS = {
    "space": pa.string(),
    "architecture": pa.string(),
    "metric": pa.string(),
    "unit": pa.string(),
    "device": pa.string(),
    "workload": pa.string(),
    "phase": pa.string(),
    "batch_size": pa.int64(),
    "seq_len": pa.int64(),
    "cache_len": pa.int64(),
    "dtype": pa.string(),
    "n_repeats": pa.int64(),
    "median": pa.float64(),
    "iqr": pa.float64(),
    "repeats": pa.list_(pa.float64()),
    "reference": pa.string(),
    "reference_median": pa.float64(),
    "reference_repeats": pa.list_(pa.float64()),
    "threads": pa.int64(),
    "order": pa.int64(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "extra": pa.string(),
}
SCHEMA = pa.schema(list(_COLUMNS.items()))


@dataclass(frozen=True)
class Measurement:
    """One metric of one architecture on one device under one workload, with all raw repeats.

    Attributes:
        space: name of the search space.
        architecture: `Architecture.id`.
        metric: a name in METRICS.
        unit: the unit of that metric.
        device: `Device.name`; ANY_DEVICE for metrics that do not depend on one.
        workload: the input.
        repeats: raw samples, in `unit`.
        reference_repeats: samples of the reference network, taken in turn with `repeats`; may be empty.
        threads: CPU threads of the measuring process.
        timestamp: when it was finished (with a time zone, or ISO text); now, if not given.
        order: position in the series of measurements.
        extra: further facts (device card, versions), in JSON types.
        reference: `Architecture.id` of the reference network; empty when there was none.

    Raises:
        ValueError: unknown metric, another unit, or repeats that are missing, negative, NaN or infinite.
    """

    space: str
    architecture: str
    metric: str
    unit: str
    device: str
    workload: Workload
    repeats: tuple[float, ...]
    reference_repeats: tuple[float, ...] = ()
    threads: int = 1
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    order: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    reference: str = ""

    def __post_init__(self) -> None:
        where = f"measurement of {self.metric} of {self.architecture}"
        _check_unit(self.metric, self.unit, where)
        for name in ("repeats", "reference_repeats"):
            values = tuple(float(value) for value in getattr(self, name))
            bad = [value for value in values if not math.isfinite(value) or value < 0]
            if bad:
                raise ValueError(f"{where}: {name} holds {bad[0]}; samples are finite and >= 0 {self.unit}")
            object.__setattr__(self, name, values)
        if not self.repeats:
            raise ValueError(f"{where}: repeats is empty; give at least one sample")
        for name in ("space", "architecture", "device"):
            if not getattr(self, name):
                raise ValueError(f"{where}: {name} is empty")
        stamp = self.timestamp
        stamp = datetime.fromisoformat(stamp) if isinstance(stamp, str) else stamp
        if stamp.tzinfo is None:
            raise ValueError(f"{where}: timestamp {stamp} has no time zone; use datetime.now(UTC)")
        object.__setattr__(self, "timestamp", stamp)

    @property
    def key(self) -> Key:
        """What makes it one measurement among those of its space."""
        return self.architecture, self.metric, self.device, self.workload.id

    def record(self) -> dict[str, Any]:
        """Return it as one row of the Parquet schema."""
        workload = self.workload
        sizes = {name: getattr(workload, name) for name in ("phase", "batch_size", "seq_len", "cache_len", "dtype")}
        low, median, high = np.percentile(self.repeats, (25, 50, 75))
        names = ("space", "architecture", "metric", "unit", "device", "threads", "order", "timestamp", "reference")
        return {name: getattr(self, name) for name in names} | sizes | {
            "workload": workload.id,
            "n_repeats": len(self.repeats),
            "median": float(median),
            "iqr": float(high - low),
            "repeats": list(self.repeats),
            "reference_median": float(np.median(self.reference_repeats)) if self.reference_repeats else None,
            "reference_repeats": list(self.reference_repeats),
            "extra": json.dumps(dict(self.extra), allow_nan=False),
        }  # fmt: skip


class MeasurementTable:
    """Measurements in a folder of Parquet parts; nothing that was appended is ever rewritten in place.

    Args:
        path: the folder (made by the first append), or a single .parquet file of the same schema, read only.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> row = Measurement("doc", "e8-l0-h1-f8-b1", "latency_ms", "ms", "cpu-1t", Workload(1, 8), (1.0, 3.0))
        >>> with TemporaryDirectory() as folder:
        ...     table = MeasurementTable(f"{folder}/measurements.parquet")
        ...     _ = table.append([row])
        ...     float(table.read()["median"][0])
        2.0
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"MeasurementTable({str(self.path)!r})"

    def append(self, rows: Sequence[Measurement]) -> Path:
        """Write all rows as one new part, together or not at all, and return its path.

        Raises:
            ValueError: no rows, or the table is a single file.
        """
        if not rows:
            raise ValueError(f"{self.path}: append() needs at least one row")
        self.check_writable()
        return write_part(self.path, pa.Table.from_pylist([row.record() for row in rows], schema=SCHEMA))

    def append_columns(self, rows: pa.Table) -> Path:
        """Write many rows, given as columns of SCHEMA, as one new part; the fast way for thousands of rows.

        Raises:
            ValueError: no rows, missing columns, other types, mixed units, bad samples; or the table is a single file.
        """
        if not rows.num_rows:
            raise ValueError(f"{self.path}: append_columns() needs at least one row")
        self.check_writable()
        return write_part(self.path, _conform(rows, self.path))

    def check_writable(self) -> None:
        """Raise ValueError where the table is a single file, which is only read."""
        if self.path.is_file():
            raise ValueError(f"{self.path} is a single file, which is only read; give a folder to append to")

    def read(self) -> pd.DataFrame:
        """Return every measurement, one a row, in the order of the parts.

        The column `adjusted_median` is the median with the machine's drift divided out: the median, over pairs, of
        repeat / reference repeat, x the median of all reference_median of the same space, device, workload, metric
        and reference network; `adjusted_iqr` is the interquartile range of the same. They are median and iqr where no
        reference was measured.

        Raises:
            FileNotFoundError: there is no such table.
            ValueError: a file that is no table of measurements, mixed units, or bad samples; names the file.

        Warns:
            UserWarning: a part is damaged; its good rows and all other parts are kept.
        """
        frame = self._columns().to_pandas()
        frame = frame.drop_duplicates(["space", "architecture", "metric", "device", "workload", "order", "timestamp"])
        frame = frame.reset_index(drop=True)
        median, iqr = adjusted(frame)
        frame.insert(frame.columns.get_loc("iqr"), "adjusted_median", median)
        frame.insert(frame.columns.get_loc("iqr") + 1, "adjusted_iqr", iqr)
        return frame

    def keys(self, *, space: str | None = None) -> set[Key]:
        """Return (architecture, metric, device, workload id) of all rows (of one space); empty without a table."""
        frame = self.key_frame()
        frame = frame if space is None else frame[frame["space"] == space]
        columns = (frame[name] for name in ("architecture", "metric", "device", "workload"))
        return set(zip(*columns, strict=True))

    def key_frame(self) -> pd.DataFrame:
        """Return space, architecture, metric, device and workload id of all rows; no rows without a table."""
        names = ["space", "architecture", "metric", "device", "workload"]
        rows = self._columns() if self.path.exists() else SCHEMA.empty_table()
        return rows.select(names).to_pandas()

    def _columns(self) -> pa.Table:
        """Return the rows of all parts, checked, in SCHEMA's columns."""
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path} does not exist; `paretolm profile table={self.path}` makes it")
        parts = read_parts(self.path)
        if self.path.is_file() and parts[0].table is None:
            raise ValueError(f"{self.path} is no readable Parquet file: {parts[0].damage}")
        tables = [_conform(part.table, part.path) for part in parts if part.table is not None]
        return pa.concat_tables([SCHEMA.empty_table(), *tables])

    def compact(self) -> None:
        """Merge all parts into one; a kill meanwhile loses and repeats nothing. Damaged parts are set aside, hidden."""
        if self.path.is_dir():
            merge_parts(self.path)


def _check_unit(metric: str, unit: str, where: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"{where}: metric {metric!r} is not known; known: {', '.join(METRICS)}")
    if unit != METRICS[metric].unit:
        raise ValueError(f"{where}: unit is {unit!r}, but {metric} is in {METRICS[metric].unit!r}; convert the samples")


def _conform(table: pa.Table, path: Path) -> pa.Table:
    """Return a part's rows in SCHEMA's columns and types, checked.

    Raises:
        ValueError: columns are missing or of another type, a unit is not its metric's, or samples are bad.
    """
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{path} is no table of measurements: it lacks the columns {missing}")
    try:
        table = table.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"{path} is no table of measurements: {error}") from error
    pairs = table.select(["metric", "unit"]).group_by(["metric", "unit"]).aggregate([]).to_pylist()
    for pair in pairs:
        _check_unit(pair["metric"], pair["unit"], str(path))
    for name in ("repeats", "reference_repeats"):
        _check_samples(table, name, path)
    return table


def _check_samples(table: pa.Table, name: str, path: Path) -> None:
    samples = table[name].combine_chunks()
    lengths = samples.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    values = samples.flatten().to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(~np.isfinite(values) | (values < 0))
    row = int(np.repeat(np.arange(len(lengths)), lengths)[bad[0]]) if len(bad) else None
    if row is None and name == "repeats" and (lengths == 0).any():
        row = int(np.flatnonzero(lengths == 0)[0])
    if row is not None:
        facts = table.slice(row, 1).to_pylist()[0]
        raise ValueError(
            f"{path}, row {row} ({facts['metric']} of {facts['architecture']}): {name} = {facts[name]}; "
            "samples are finite and >= 0, and there is at least one. Delete the row or the file and measure again"
        )
