"""Imports HW-GPT-Bench from tidy Parquet tables: a file a kind and scale, e.g. latency_s.parquet. No torch.

Files, with <scale> s, m or l (other columns are ignored):

- architectures_<scale>: arch_id, embed_dim, n_layer, bias, n_head_00.., mlp_ratio_00..
- latency_<scale>: arch_id, device, latency_ms_repeats
- energy_gpu_<scale>: arch_id, device, energy_wh_repeats (power tracker, GPUs)
- energy_codecarbon_<scale>: arch_id, device, energy_wh_mean, energy_wh_std
- memory_<scale>: arch_id, bfloat16_memory_mb (a100), float16_memory_mb (rtx2080), 1 MB = 1e6 bytes
- perplexity_<scale>: arch_id, perplexity, accuracy
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from hw_profiles.importers.bulk import ImportResult, append_new
from hw_profiles.importers.hwgpt_arrays import HwgptArchitectures
from hw_profiles.importers.hwgpt_devices import (
    ACCURACY,
    DEVICES,
    ENERGY,
    HOST_ENERGY,
    LATENCY,
    MEMORY,
    PERPLEXITY,
    Selection,
    device_named,
)
from hw_profiles.importers.hwgpt_rows import Observations, Scale, measurement_columns
from hw_profiles.table import ANY_DEVICE, MeasurementTable

_KINDS = {  # metric -> kinds of files that hold it
    LATENCY: ("latency",), ENERGY: ("energy_gpu", "energy_codecarbon"), HOST_ENERGY: ("energy_codecarbon",),
    MEMORY: ("memory",), PERPLEXITY: ("perplexity",), ACCURACY: ("perplexity",),
}  # fmt: skip
_SAMPLES = {"latency": "latency_ms_repeats", "energy_gpu": "energy_wh_repeats", "energy_codecarbon": "energy_wh_mean"}
_MEMORY = {"bfloat16": "bfloat16_memory_mb", "float16": "float16_memory_mb"}


def import_hwgpt_tables(
    path: str | Path, table: str | Path, *, selection: Selection | None = None, progress: bool = False
) -> ImportResult:
    """Import tidy tables of HW-GPT-Bench into a table of measurements; rows that are there already are left.

    Everything is read and checked before anything is written.

    Args:
        path: the folder of Parquet files.
        table: folder of the table; made when it does not exist.
        selection: scales, metrics and devices; None for all.
        progress: whether to show a progress bar.

    Raises:
        FileNotFoundError: the folder or one of its files does not exist.
        ValueError: missing columns, unknown devices or architectures, NaN, negative or mixed values, rows given twice.
    """
    start, chosen, target = perf_counter(), selection or Selection(), MeasurementTable(table)
    target.check_writable()
    steps = [(scale, kind) for scale in chosen.scales for kind in _kinds(chosen)]
    scales = {scale: _scale(Path(path), scale) for scale in chosen.scales}
    rows: list[pa.Table] = []
    for scale, kind in tqdm(steps, desc="import", unit="file", disable=not progress):
        found = _observations(Path(path), scales[scale], kind, chosen)
        rows += [measurement_columns(scales[scale], observations) for observations in found]
    added, known = append_new(target, rows)
    return ImportResult(str(path), target.path, added, known, perf_counter() - start)


def _kinds(chosen: Selection) -> list[str]:
    found = [kind for metric in chosen.metrics for kind in _KINDS[metric]]
    return list(dict.fromkeys(found))


def _scale(folder: Path, scale: str) -> Scale:
    path = folder / f"architectures_{scale}.parquet"
    table = _read(path, ["arch_id"], others=True)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    order = columns["arch_id"].astype(np.int64)
    if len(np.unique(order)) < len(order):
        raise ValueError(f"{path} has an arch_id twice")
    try:
        return Scale(HwgptArchitectures.from_columns(columns, scale=scale), order)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _observations(folder: Path, scale: Scale, kind: str, chosen: Selection) -> Iterator[Observations]:
    path = folder / f"{kind}_{scale.name}.parquet"
    if kind == "memory":
        yield from _memory(path, scale, chosen)
    elif kind == "perplexity":
        yield from _quality(path, scale, chosen)
    else:
        yield from _by_device(path, scale, kind, chosen)


def _by_device(path: Path, scale: Scale, kind: str, chosen: Selection) -> Iterator[Observations]:
    names = ["arch_id", "device", _SAMPLES[kind]] + (["energy_wh_std"] if kind == "energy_codecarbon" else [])
    table = _read(path, names)
    for device in pc.unique(table["device"]).to_pylist():
        try:
            metric = _metric(kind, device_named(device).name)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if metric not in chosen.metrics or device not in chosen.devices:
            continue
        rows = table.filter(pc.equal(table["device"], device))
        samples, lengths = _lists(rows[_SAMPLES[kind]])
        std = _floats(rows["energy_wh_std"]) if kind == "energy_codecarbon" else None
        yield Observations(metric, device, _rows(path, scale, rows), samples, lengths, str(path), std)


def _metric(kind: str, device: str) -> str:
    if kind == "latency":
        return LATENCY
    return ENERGY if kind == "energy_gpu" or DEVICES[device].is_cpu else HOST_ENERGY


def _memory(path: Path, scale: Scale, chosen: Selection) -> Iterator[Observations]:
    devices = chosen.devices_with(MEMORY)
    table = _read(path, ["arch_id", *(_MEMORY[DEVICES[device].dtype] for device in devices)])
    rows = _rows(path, scale, table)
    for device in devices:
        values = _floats(table[_MEMORY[DEVICES[device].dtype]])
        yield Observations(MEMORY, device, rows, values, np.ones(len(values), np.int64), str(path))


def _quality(path: Path, scale: Scale, chosen: Selection) -> Iterator[Observations]:
    metrics = [metric for metric in (PERPLEXITY, ACCURACY) if metric in chosen.metrics]
    table = _read(path, ["arch_id", *metrics])
    rows = _rows(path, scale, table)
    for metric in metrics:
        values = _floats(table[metric])
        yield Observations(metric, ANY_DEVICE, rows, values, np.ones(len(values), np.int64), str(path))


def _rows(path: Path, scale: Scale, table: pa.Table) -> np.ndarray:
    """Return which architecture of the scale each row is of."""
    wanted = table["arch_id"].to_numpy().astype(np.int64)
    by_order = np.argsort(scale.order)
    at = np.minimum(np.searchsorted(scale.order, wanted, sorter=by_order), len(by_order) - 1)
    rows = by_order[at]
    if (unknown := scale.order[rows] != wanted).any():
        raise ValueError(f"{path} has arch_id {wanted[unknown][0]}, which architectures_{scale.name}.parquet does not")
    return rows


def _lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return all samples and the length of each row, of a column of lists or of single numbers."""
    chunk = column.combine_chunks()
    if not pa.types.is_nested(chunk.type):
        return _floats(column), np.ones(len(chunk), np.int64)
    lengths = pc.list_value_length(chunk).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return _floats(chunk.flatten()), lengths


def _floats(values: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return numbers as float64; missing ones are NaN."""
    return np.asarray(values.cast(pa.float64()).to_pandas(), np.float64)


def _read(path: Path, names: list[str], *, others: bool = False) -> pa.Table:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the folder holds <kind>_<scale>.parquet, as latency_s.parquet")
    try:
        found = pq.read_schema(path).names
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(f"{path} lacks the columns {missing}; it has {found}")
        return pq.read_table(path, columns=None if others else names)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no readable Parquet file: {error}") from error
