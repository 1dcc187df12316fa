"""Files of a comparison: one Parquet a run, written whole or not at all, and all of them in one. No torch.

`runs/<case>/<method>/seed-<n>.parquet` has a row for each evaluation; its metadata say what the run depended on, so
that a run of other settings is never taken for one's own. `evaluations.parquet` has the rows of all runs, the same
bytes of numbers whatever the number of workers; `runs.parquet` has a row a run, with its seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from search.comparison.records import RunRecord
from search.comparison.single_run import FoundNetworks, RunPlan
from supernet.artifacts import atomic_path

RUNS, EVALUATIONS, TIMES = "runs", "evaluations.parquet", "runs.parquet"
_META = b"paretolm.run"
_KEYS = ["case", "method", "seed"]


def run_path(folder: Path, plan: RunPlan) -> Path:
    """Return the file of a run."""
    return folder / RUNS / plan.case.slug / plan.method.name / f"seed-{plan.seed}.parquet"


def write_run(folder: Path, plan: RunPlan, found: FoundNetworks) -> None:
    """Write a finished run."""
    benchmark = plan.benchmark
    widths = np.asarray(benchmark.space.n_embd)[found.genes[:, 0]]
    columns: dict[str, Any] = {
        "order": np.arange(len(widths), dtype=np.int32),
        "architecture": benchmark.ids(found.genes),
        "n_embd": widths.astype(np.int32),
        **{name: found.values[:, i] for i, name in enumerate(plan.case.names)},
        "violation": found.violation,
    }
    meta = {"identity": plan.identity, "seconds": found.seconds, "is_point": plan.method.is_point}
    table = pa.table(columns).replace_schema_metadata({_META: json.dumps(meta).encode()})
    with atomic_path(run_path(folder, plan)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def is_done(folder: Path, plan: RunPlan) -> bool:
    """Return whether the run is there.

    Raises:
        ValueError: a damaged file, or one of another run.
    """
    path = run_path(folder, plan)
    if not path.is_file():
        return False
    found, own = _metadata(path, _schema(path))["identity"], plan.identity
    different = [key for key in own if found.get(key) != own[key]]
    if different:
        shown = "; ".join(f"{key}: there {found.get(key)}, given {own[key]}" for key in different)
        raise ValueError(
            f"{path} is a run of other settings ({shown}): give another run_dir, or the settings of that run; "
            "nothing was changed"
        )
    return True


def read_run(folder: Path, plan: RunPlan) -> tuple[pa.Table, RunRecord]:
    """Return the rows of a finished run, and its record.

    Raises:
        ValueError: a damaged file; names it.
    """
    path = run_path(folder, plan)
    try:
        table = pq.read_table(path)
        values = np.column_stack([table[name].to_numpy() for name in plan.case.names]).astype(np.float64)
        values[~(table["violation"].to_numpy() <= 0)] = np.nan
        widths = table["n_embd"].to_numpy()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise _damaged(path, error) from error
    meta = _metadata(path, table.schema)
    record = RunRecord(
        case=plan.case.name, method=plan.method.name, seed=plan.seed, values=values, widths=widths,
        is_point=plan.method.is_point, seconds=float(meta["seconds"]),
    )  # fmt: skip
    return table, record


def combine(folder: Path, plans: Sequence[RunPlan]) -> list[RunRecord]:
    """Write the rows of all runs to `evaluations.parquet` and their times to `runs.parquet`; return the records."""
    names = list(dict.fromkeys(name for plan in plans for name in plan.case.names))
    schema = pa.schema(
        [("case", pa.string()), ("method", pa.string()), ("seed", pa.int64()), ("order", pa.int32()),
         ("architecture", pa.string()), ("n_embd", pa.int32()), *((name, pa.float64()) for name in names),
         ("violation", pa.float64())]
    )  # fmt: skip
    records = []
    with atomic_path(folder / EVALUATIONS) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as out:
        for group in _by_case(plans):
            tables = []
            for plan in group:
                table, record = read_run(folder, plan)
                tables.append(_widened(table, plan, schema))
                records.append(record)
            out.write_table(pa.concat_tables(tables))
    _write_times(folder, records)
    return records


def _by_case(plans: Sequence[RunPlan]) -> Iterator[list[RunPlan]]:
    groups: dict[str, list[RunPlan]] = {}
    for plan in plans:
        groups.setdefault(plan.case.name, []).append(plan)
    yield from groups.values()


def _widened(table: pa.Table, plan: RunPlan, schema: pa.Schema) -> pa.Table:
    """Return the rows with all columns of `schema`: what run they are of, nulls for other cases' objectives."""
    n = len(table)
    keys = dict(zip(_KEYS, (plan.case.name, plan.method.name, plan.seed), strict=True))
    columns = []
    for column in schema:
        if column.name in keys:
            columns.append(pa.array([keys[column.name]] * n, column.type))
        elif column.name in table.column_names:
            columns.append(table[column.name].cast(column.type))
        else:
            columns.append(pa.nulls(n, column.type))
    return pa.table(columns, schema=schema)


def _write_times(folder: Path, records: Sequence[RunRecord]) -> None:
    columns = {
        "case": [r.case for r in records],
        "method": [r.method for r in records],
        "seed": [r.seed for r in records],
        "n_evaluations": [len(r.values) for r in records],
        "n_without_result": [int((~np.isfinite(r.values).all(axis=1)).sum()) for r in records],
        "seconds": [r.seconds for r in records],
    }
    with atomic_path(folder / TIMES) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _metadata(path: Path, schema: pa.Schema) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((schema.metadata or {})[_META])
        return found
    except (KeyError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({error!r}): delete it, and the run is done again")
