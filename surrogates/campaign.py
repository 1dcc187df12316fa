"""A campaign of measurements as arrays: the same architectures, one column a metric and device. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hw_profiles.table import ANY_DEVICE, METRICS
from supernet.architecture import Architecture
from supernet.encoding import to_genes
from supernet.space import SearchSpace

if TYPE_CHECKING:
    import pandas as pd


class TargetKey(NamedTuple):
    """What is predicted: a metric on a device, or on ANY_DEVICE where it depends on none."""

    metric: str
    device: str = ANY_DEVICE

    def __str__(self) -> str:
        return self.metric if self.device == ANY_DEVICE else f"{self.metric} of {self.device}"


@dataclass(frozen=True)
class Campaign:
    """Measurements of n architectures for several targets.

    Attributes:
        space: the search space.
        ids: (n,) architecture ids, distinct.
        genes: (n, g) canonical genes.
        values: medians (n,) by target, NaN where there is none.
        order: position in the series (n,) by target, -1 where there is none.
        repeats: all samples (n, r) by target, NaN where there are none; only of targets with at least 2 repeats.
        workloads: workload id by target.
    """

    space: SearchSpace
    ids: np.ndarray
    genes: np.ndarray
    values: Mapping[TargetKey, np.ndarray]
    order: Mapping[TargetKey, np.ndarray]
    repeats: Mapping[TargetKey, np.ndarray]
    workloads: Mapping[TargetKey, str]

    @property
    def targets(self) -> tuple[TargetKey, ...]:
        """The targets, in the order of the table."""
        return tuple(self.values)

    @property
    def widths(self) -> np.ndarray:
        """Network widths, (n,) int64."""
        return np.asarray(self.space.n_embd, np.int64)[self.genes[:, 0]]


def campaign(frame: pd.DataFrame, space: SearchSpace, *, metrics: Sequence[str] | None = None) -> Campaign:
    """Arrange a table of measurements by architecture.

    Args:
        frame: what `hw_profiles.table.MeasurementTable.read` gives.
        space: rows of other spaces are left out.
        metrics: names; None for all that were measured (exact ones need no surrogate).

    Raises:
        ValueError: nothing of the space, an architecture that is not in it, an unknown metric, several workloads of one
            target, an architecture twice, or values that are not finite and positive.
    """
    rows = frame[frame["space"] == space.name]
    if not len(rows):
        known = ", ".join(sorted(map(str, frame["space"].unique()))) or "none"
        raise ValueError(f"the table has no rows of space {space.name!r}; its spaces: {known}")
    wanted = [m for m in rows["metric"].unique() if not METRICS[m].exact] if metrics is None else list(metrics)
    if unknown := [name for name in wanted if name not in METRICS]:
        raise ValueError(f"no metric {unknown[0]!r}; metrics: {', '.join(METRICS)}")
    rows = rows[rows["metric"].isin(wanted)]
    ids = np.array(sorted(rows["architecture"].unique()))
    genes = to_genes(space, [Architecture.from_id(text) for text in ids])
    parts = {
        TargetKey(str(metric), str(device)): _aligned(group, ids, f"{metric} of {device}")
        for (metric, device), group in rows.groupby(["metric", "device"], sort=False)
    }
    return Campaign(
        space, ids, genes,
        values={key: part.values for key, part in parts.items()},
        order={key: part.order for key, part in parts.items()},
        repeats={key: part.repeats for key, part in parts.items() if part.repeats.shape[1] > 1},
        workloads={key: part.workload for key, part in parts.items()},
    )  # fmt: skip


class _Aligned(NamedTuple):
    values: np.ndarray
    order: np.ndarray
    repeats: np.ndarray
    workload: str


def _aligned(rows: pd.DataFrame, ids: np.ndarray, where: str) -> _Aligned:
    """Return one target's rows in the order of `ids`."""
    workloads = sorted(map(str, rows["workload"].unique()))
    if len(workloads) > 1:
        raise ValueError(f"{where} was measured for several workloads: {', '.join(workloads)}; keep one")
    if (twice := rows["architecture"].duplicated()).any():
        raise ValueError(f"{where} was measured twice for {rows['architecture'][twice].iloc[0]}: keep one of the rows")
    medians = rows["median"].to_numpy(float)
    if (bad := ~np.isfinite(medians) | (medians <= 0)).any():
        raise ValueError(f"{where} of {rows['architecture'][bad].iloc[0]} is {medians[bad][0]}: values are above 0")
    at = np.searchsorted(ids, rows["architecture"].to_numpy(str))
    values, order = np.full(len(ids), np.nan), np.full(len(ids), -1, np.int64)
    values[at], order[at] = medians, rows["order"].to_numpy(np.int64)
    samples = list(rows["repeats"])
    repeats = np.full((len(ids), max(len(s) for s in samples)), np.nan)
    for i, sample in zip(at, samples, strict=True):
        repeats[i, : len(sample)] = sample
    return _Aligned(values, order, repeats, workloads[0])
