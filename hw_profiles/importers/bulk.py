"""Many measurements as columns of the table's schema, and into a table without repeating what is there. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from hw_profiles.device import Workload
from hw_profiles.quartiles import quartiles
from hw_profiles.table import METRICS, SCHEMA, MeasurementTable

_KEY = ["space", "architecture", "metric", "device", "workload"]


@dataclass(frozen=True)
class ImportResult:
    """What an import did.

    Attributes:
        source: what was read.
        table: the table it was written to.
        added: rows by space.
        known: rows by space that were in the table already and were left as they are.
        seconds: how long it took.
    """

    source: str
    table: Path
    added: dict[str, int]
    known: dict[str, int]
    seconds: float

    def __str__(self) -> str:
        parts = [f"{count:,} rows of {space}" for space, count in self.added.items()]
        known = sum(self.known.values())
        there = f" ({known:,} more were already there)" if known else ""
        return f"{', '.join(parts)} imported{there} from {self.source} in {self.seconds:.1f} s: {self.table}"


def columns(
    samples: np.ndarray, lengths: np.ndarray, *, space: str, architecture: pa.Array, metric: str, device: str,
    workload: Workload, order: np.ndarray, timestamp: datetime, threads: int, extra: str | Sequence[str],
) -> pa.Table:  # fmt: skip
    """Return n measurements of one metric, device and workload in SCHEMA's columns; nothing is checked here.

    Args:
        samples: the repeats of all rows, one row after the other, in the metric's unit.
        lengths: (n,) how many repeats each row has.
        space: name of the search space.
        architecture: (n,) ids, plain or dictionary-encoded.
        metric: a name in METRICS.
        device: the device.
        workload: the input.
        order: (n,) position in the series of measurements.
        timestamp: of all rows.
        threads: CPU threads of the measuring process.
        extra: JSON, for all rows or one a row.
    """
    n = len(lengths)
    low, middle, high = quartiles(samples, lengths).T
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    constant = {
        "space": space, "metric": metric, "unit": METRICS[metric].unit, "device": device, "workload": workload.id,
        "phase": workload.phase, "dtype": workload.dtype, "reference": "",
        "batch_size": workload.batch_size, "seq_len": workload.seq_len, "cache_len": workload.cache_len,
        "threads": threads, "timestamp": timestamp,
    }  # fmt: skip
    varying = {
        "architecture": architecture, "n_repeats": lengths, "median": middle, "iqr": high - low, "order": order,
        "repeats": pa.ListArray.from_arrays(offsets, samples.astype(np.float64)),
        "reference_median": pa.nulls(n, pa.float64()),
        "reference_repeats": pa.ListArray.from_arrays(np.zeros(n + 1, np.int32), np.empty(0)),
        "extra": _same(extra, pa.string(), n) if isinstance(extra, str) else pa.array(extra, pa.string()),
    }  # fmt: skip
    found = varying | {name: _same(value, SCHEMA.field(name).type, n) for name, value in constant.items()}
    return pa.table({name: found[name] for name in SCHEMA.names})


def _same(value: object, kind: pa.DataType, n: int) -> pa.Array:
    """Return n times the same value, kept once (dictionary-encoded) until it is written."""
    if not pa.types.is_string(kind):
        return pa.repeat(pa.scalar(value, kind), n)
    return pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([value], kind))


def append_new(table: MeasurementTable, rows: Sequence[pa.Table]) -> tuple[dict[str, int], dict[str, int]]:
    """Append the rows that the table does not have yet, one part a space; return how many were new and known, by space.

    A row is known when the table has one of the same space, architecture, metric, device and workload.

    Args:
        table: where to.
        rows: tables of SCHEMA's columns.
    """
    there = pd.MultiIndex.from_frame(_keys(table.key_frame()).drop_duplicates())
    added: dict[str, int] = {}
    known: dict[str, int] = {}
    by_space: dict[str, list[pa.Table]] = {}
    for part in rows:
        part = part.cast(SCHEMA)
        old = pd.MultiIndex.from_frame(_keys(part.select(_KEY).to_pandas())).isin(there)
        for space in part["space"].unique().to_pylist():
            mine = part["space"].to_pandas().to_numpy() == space
            by_space.setdefault(space, []).append(part.filter(pa.array(mine & ~old)))
            added[space] = added.get(space, 0) + int((mine & ~old).sum())
            known[space] = known.get(space, 0) + int((mine & old).sum())
    for parts in by_space.values():
        new = pa.concat_tables(parts)
        if new.num_rows:
            table.append_columns(new)
    return added, known


def _keys(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[_KEY].astype(str)
