"""From a front to networks that were measured: choose a few, time them again, evaluate them on text.

A surrogate's front is a list of guesses, and its best points are partly its luckiest errors. What is reported are the
numbers measured here, with their spread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hw_profiles.device import Workload
from hw_profiles.profiler import profile
from hw_profiles.table import MeasurementTable
from search.live import LivePerplexityObjective, QualityRecord
from search.pareto import knee
from search.picks import Pick
from search.result import SearchResult, spread
from supernet.architecture import Architecture
from supernet.cost import parameter_count
from supernet.space import SearchSpace

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
LATENCY = "latency_ms"


@dataclass(frozen=True)
class Choice:
    """A network taken from a front.

    Attributes:
        name: what tables call it.
        search: name of the search that found it; empty for a network of reference.
        architecture: the network.
        predicted: what surrogates said, by metric.
    """

    name: str
    search: str
    architecture: Architecture
    predicted: Mapping[str, float] = field(default_factory=dict)


def choose(result: SearchResult, k: int, *, along: str = LATENCY, search: str | None = None) -> list[Choice]:
    """Return `k` networks of the front spread evenly over `along`, its two ends included, and the knee.

    Args:
        result: a search.
        k: networks without the knee (which may be one of them); fewer when the front is smaller.
        along: the objective over which they are spread; the last one when the search has no such objective.
        search: what to call the search; its algorithm by default.

    Raises:
        ValueError: an empty front, or k < 1.
    """
    front = result.front
    if not len(front) or k < 1:
        raise ValueError(f"cannot choose {k} networks from a front of {len(front)}: the search found nothing feasible")
    along = along if along in result.names else result.names[-1]
    places = front[along].to_numpy(dtype=np.float64)
    chosen = {*spread(places, k), knee(front[result.names].to_numpy(dtype=np.float64))}
    ordered = sorted(chosen, key=lambda i: places[i])
    search = search or result.algorithm
    predicted = [o.name for o in result.objectives if o.identity.startswith("surrogate")]
    return [
        Choice(
            name=f"{search} {number}",
            search=search,
            architecture=Architecture.from_id(front["architecture"][i]),
            predicted={name: float(front[name][i]) for name in predicted},
        )
        for number, i in enumerate(ordered, 1)
    ]


def remeasure(
    choices: Sequence[Choice],
    *,
    space: SearchSpace,
    quality: LivePerplexityObjective,
    workload: Workload,
    table: MeasurementTable | str | Path,
    weights: str | Path = "random",
    repeats: int = 20,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> list[Pick]:
    """Measure latency and perplexity of chosen networks.

    Args:
        choices: networks; one that two searches chose is measured once and kept for both.
        space: their space.
        quality: evaluates the supernet's weights.
        workload: the input of the latency.
        table: where the new measurements go. Not the table that the surrogate was fitted on: rows present there would
            be taken for new ones.
        weights: "random", or the folder of the supernet.
        repeats: samples of the latency of each.
        threads: CPU threads of the measuring process.
        device: "cpu", "cuda", "cuda:1".
        progress: show a progress bar.

    Returns:
        One pick a choice, in order; those that could not be measured are left out with a warning.
    """
    archs = list(dict.fromkeys(choice.architecture for choice in choices))
    done = profile(
        archs, config=space.config, space_name=space.name, workload=workload, table=table, metrics=(LATENCY,),
        repeats=repeats, threads=threads, device=device, weights=weights, progress=progress,
    )  # fmt: skip
    for failure in done.failures:
        _log.warning("%s could not be measured and is left out: %s", failure.architecture, failure.reason)
    rows = _latest(done.table.read(), space.name, done.device.name, workload)
    measured = [choice for choice in choices if choice.architecture.id in rows]
    records = quality.records([choice.architecture for choice in measured])
    return [
        _pick(choice, rows[choice.architecture.id], record, space, workload)
        for choice, record in zip(measured, records, strict=True)
    ]


def _latest(frame: pd.DataFrame, space: str, device: str, workload: Workload) -> dict[str, pd.Series]:
    """Return the newest latency row of each architecture by id."""
    mine = frame[
        (frame["space"] == space)
        & (frame["metric"] == LATENCY)
        & (frame["device"] == device)
        & (frame["workload"] == workload.id)
    ].sort_values("timestamp", kind="stable")
    return {row["architecture"]: row for _, row in mine.iterrows()}


def _pick(choice: Choice, row: pd.Series, record: QualityRecord, space: SearchSpace, workload: Workload) -> Pick:
    return Pick(
        name=choice.name,
        search=choice.search,
        architecture=choice.architecture,
        parameters=parameter_count(space.model_config, choice.architecture),
        latency_ms=float(row["adjusted_median"]),
        latency_iqr_ms=float(row["adjusted_iqr"]),
        n_repeats=int(row["n_repeats"]),
        predicted_latency_ms=choice.predicted.get(LATENCY, float("nan")),
        perplexity=record.perplexity,
        perplexity_stderr=record.perplexity_stderr,
        predicted_perplexity=choice.predicted.get("perplexity", float("nan")),
        device=str(row["device"]),
        workload=workload.id,
    )
