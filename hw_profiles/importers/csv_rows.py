"""Imports measurements of any program from a CSV file. No torch.

Columns, in any order (others are ignored):

- space: name of a shipped space ("gpt-s"), of a litgpt config, or the path of a space file; not needed
  where one is given for all rows
- architecture: an id ("e64-l0_2-h4x3-f256x3-b1"), a JSON mapping, or HW-GPT-Bench's own string ("gpt-s-10-192-...")
- metric: latency_ms, energy_mj, memory_mib, perplexity, ...
- unit: of the values: s, ms, us; J, mJ, Wh, kWh; MB, MiB, GiB, bytes; 1; one unit a metric, device and workload
- device: any name; empty for metrics that do not depend on one
- workload: e.g. prefill-b8-t1024-bfloat16 or decode-b1-c512-float32
- value: one number; or repeats: several, separated by spaces or semicolons
- order (optional): position in the series of measurements; else the line
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import pandas as pd
import pyarrow as pa

from hw_profiles.device import Workload
from hw_profiles.importers.bulk import ImportResult, append_new
from hw_profiles.importers.hwgpt_protocol import architecture_from_canonical
from hw_profiles.importers.units import conversion_factor
from hw_profiles.table import ANY_DEVICE, METRICS, SCHEMA, Measurement, MeasurementTable
from supernet.architecture import Architecture, parse_architecture
from supernet.space import SearchSpace
from supernet.spaces import load_space

_NEEDED = ("architecture", "metric", "unit", "device", "workload")
_SERIES = ["space", "metric", "device", "workload"]


def import_csv(path: str | Path, table: str | Path, *, space: str | None = None) -> ImportResult:
    """Import a CSV file of measurements into a table; rows that are there already are left.

    Everything is read and checked before anything is written.

    Args:
        path: the file; see above.
        table: folder of the table; made when it does not exist.
        space: the space of all rows; None where the file has a column `space`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: missing columns, unknown or mixed units, NaN or negative values, architectures that are not in the
            space, a measurement given twice; names the line.
    """
    start, target, path = perf_counter(), MeasurementTable(table), Path(path)
    target.check_writable()
    rows = csv_measurements(path, space=space)
    columns = pa.Table.from_pylist([row.record() for row in rows], schema=SCHEMA)
    added, known = append_new(target, [columns])
    return ImportResult(str(path), target.path, added, known, perf_counter() - start)


def csv_measurements(path: Path, *, space: str | None = None) -> list[Measurement]:
    """Return the measurements of a CSV file in the table's units; see `import_csv`."""
    frame = _read(path, space)
    _check_series(frame, path)
    spaces = {name: load_space(name) for name in frame["space"].unique()}
    rows: list[dict[str, str]] = frame.to_dict("records")  # type: ignore[assignment]
    return [_measurement(row, spaces[row["space"]], path, line) for line, row in enumerate(rows, 2)]


def _read(path: Path, space: str | None) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it should hold the columns space, {', '.join(_NEEDED)}, value")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV file: {error}") from error
    if space is not None:
        frame["space"] = space
    missing = [name for name in ("space", *_NEEDED) if name not in frame]
    if missing or not {"value", "repeats"} & set(frame):
        raise ValueError(
            f"{path} lacks the columns {missing or ['value (or repeats)']}; it has {list(frame)}. Needed: space (or "
            f"space_name=...), {', '.join(_NEEDED)}, and value or repeats"
        )
    if not len(frame):
        raise ValueError(f"{path} has no rows")
    return frame.apply(lambda column: column.str.strip())


def _check_series(frame: pd.DataFrame, path: Path) -> None:
    """Raise for a series of measurements in several units, and for measurements given twice."""
    for (_, metric, device, workload), rows in frame.groupby(_SERIES):
        units = sorted(rows["unit"].unique())
        if len(units) > 1:
            raise ValueError(
                f"{path}: {metric} of {device or ANY_DEVICE} ({workload}) has mixed units: {', '.join(units)}; "
                "convert the values to one"
            )
    twice = frame.duplicated([*_SERIES, "architecture"])
    if twice.any():
        line = int(twice.to_numpy().argmax()) + 2
        row = frame.loc[twice].iloc[0]
        raise ValueError(
            f"{path}, line {line}: {row['metric']} of {row['architecture']} is given twice; put the samples of one "
            "measurement in the column repeats of one line"
        )


def _measurement(row: dict[str, str], space: SearchSpace, path: Path, line: int) -> Measurement:
    try:
        metric = row["metric"]
        factor = conversion_factor(metric, row["unit"])
        return Measurement(
            space=space.name,
            architecture=space.validate(_architecture(row["architecture"])).id,
            metric=metric,
            unit=METRICS[metric].unit,
            device=row["device"] if METRICS[metric].per_device else ANY_DEVICE,
            workload=Workload.from_id(row["workload"]),
            repeats=tuple(value * factor for value in _samples(row)),
            order=int(row.get("order") or line - 2),
            extra={"source": path.name},
        )
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from error


def _architecture(text: str) -> Architecture:
    return architecture_from_canonical(text)[1] if text.startswith("gpt-") else parse_architecture(text)


def _samples(row: dict[str, str]) -> list[float]:
    text = row.get("repeats") or row.get("value") or ""
    values = [float(part) for part in text.replace(";", " ").split()]
    if not values:
        raise ValueError("value (or repeats) is empty; give at least one number")
    return values
