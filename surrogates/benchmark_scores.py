"""Scores of a benchmark on measurements that somebody else made, or that it was not fitted to. No torch."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hw_profiles.importers.hwgpt_devices import SCALES
from hw_profiles.importers.hwgpt_protocol import bucket
from hw_profiles.table import MeasurementTable
from supernet.encoding import from_genes
from surrogates.benchmark_card import BenchmarkCard, flat_scores
from surrogates.benchmark_model import BenchmarkModel
from surrogates.campaign import Campaign, TargetKey, campaign
from surrogates.validation import score_target

if TYPE_CHECKING:
    from supernet.space import SearchSpace

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
HELD_OUT_BUCKETS = (0, 1)  # nothing shipped was fitted to these


def table_scores(
    model: BenchmarkModel, card: BenchmarkCard, table: MeasurementTable | pd.DataFrame | str | Path, *, held_out: bool
) -> pd.DataFrame:  # fmt: skip
    """Score medians and intervals (of values as published) on a table; see `Benchmark.evaluate`."""
    frame = _frame(table)
    known = {target.target: target for target in card.targets}
    wanted = sorted({key.metric for key in known} & set(frame["metric"]))
    if not wanted:
        raise ValueError(
            f"the table has {', '.join(sorted(set(frame['metric']))) or 'no rows'}; this benchmark predicts "
            f"{', '.join(dict.fromkeys(key.metric for key in known))}"
        )
    data = campaign(frame, model.model.space, metrics=wanted)
    rows = _held_out(model.model.space, data.genes) if held_out else np.ones(len(data.ids), bool)
    keys = [key for key in known if _same_workload(data, key, known[key].workload)]
    medians = model.predict(data.genes)
    measured = {key: np.flatnonzero(rows & np.isfinite(data.values[key])) for key in keys}
    found = {key: _scored(model, data, key, at, medians) for key, at in measured.items() if len(at) >= 2}
    if not found:
        raise ValueError(
            f"the table has no two {'held-out ' * held_out}architectures of a metric, device and workload of this "
            f"benchmark; it has {', '.join(map(str, data.targets))}"
        )
    index = pd.MultiIndex.from_tuples([tuple(key) for key in found], names=["metric", "device"])
    return pd.DataFrame([{"n_train": known[key].n_train, **scores} for key, scores in found.items()], index=index)


def _frame(table: MeasurementTable | pd.DataFrame | str | Path) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        return table
    return (table if isinstance(table, MeasurementTable) else MeasurementTable(table)).read()


def _held_out(space: SearchSpace, genes: np.ndarray) -> np.ndarray:
    scale = space.name.removeprefix("gpt-")
    if scale not in SCALES:
        raise ValueError(f"space {space.name!r} has no held-out architectures: give held_out=False")
    return np.array([bucket(scale, from_genes(space, row)) in HELD_OUT_BUCKETS for row in genes], bool)


def _same_workload(data: Campaign, key: TargetKey, workload: str) -> bool:
    """Return whether a target was measured with the surrogate's input; warns where it was with another."""
    if key in data.workloads and data.workloads[key] != workload:
        warnings.warn(
            f"{key}: the table is of {data.workloads[key]}, the surrogate of {workload}: left out", stacklevel=4
        )
    return data.workloads.get(key) == workload


def _scored(
    model: BenchmarkModel, data: Campaign, key: TargetKey, rows: np.ndarray, medians: np.ndarray
) -> dict[str, float]:  # fmt: skip
    """Return flat scores of a target on some rows of the table, given the medians of all targets (n, A)."""
    index = model.targets.index(key)
    median = medians[rows, index]
    logs = model.log_quantiles(data.genes[rows], LEVELS, np.array([index]), drift=True)[:, 0]
    quantiles = median[:, None] * np.exp(logs)
    return flat_scores(
        score_target(data.values[key][rows], median, LEVELS, quantiles, widths=data.widths[rows]).to_dict()
    )
