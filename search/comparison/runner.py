"""Does all runs of a comparison in several processes, resumes after a kill, and gathers what was found. No torch.

Each worker is a fresh process with one thread and its own benchmark, so results do not depend on how many there are.
Every finished run is a file; what is there is not done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hw_profiles.device import current_device, usable_cores
from search.budget import check_reachable
from search.comparison.cases import benchmark_of
from search.comparison.records import CaseReference, RunRecord
from search.comparison.references import references_of, shipped_references
from search.comparison.settings import Settings
from search.comparison.single_run import RunPlan, execute
from search.comparison.storage import combine, is_done, write_run
from search.comparison.workers import in_workers
from supernet.artifacts import versions, write_json

if TYPE_CHECKING:
    from search.comparison.report import ReportPaths

COMPARISON = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """What all runs found.

    Attributes:
        records: one a run.
        references: by the name of the case.
        how: what was done on what, in plain JSON types; `comparison.json` holds it and the settings.
        folder: where it is.
    """

    records: tuple[RunRecord, ...]
    references: Mapping[str, CaseReference]
    how: Mapping[str, Any]
    folder: Path

    def report(self, *, command: str = "") -> ReportPaths:
        """Write tables, figures and the report, which names the command, into the folder."""
        from search.comparison.report import write_comparison_report

        how = ({"command": command} if command else {}) | dict(self.how)
        return write_comparison_report(self.records, self.references, self.folder, how=how)


def run_comparison(
    settings: Settings, folder: str | Path, *, workers: int | None = None, progress: bool = False
) -> Comparison:
    """Do the runs that are not there yet, and read all of them.

    Args:
        settings: what to compare.
        folder: of the comparison; resumed where it holds one. Seeds, methods and cases can be added to it.
        workers: processes; None for as many as there are cores.
        progress: whether to show a progress bar.

    Raises:
        ValueError: a folder of other settings (says what differs; nothing is changed), a damaged file, stale
            reference fronts, or a budget that no network meets (names the smallest value found).
        RuntimeError: runs that failed, after all others were done; the same call does the failed ones again.
    """
    folder = Path(folder)
    if workers is not None and workers < 1:
        raise ValueError(f"workers = {workers}: give at least 1, or null for all cores")
    for case in settings.cases:
        benchmark = benchmark_of(case.benchmark, settings.devices_of(case))
        check_reachable(case.constraints(benchmark, 0), benchmark.space, np.random.default_rng(0))
    shipped = shipped_references(settings)
    plans = settings.plans()
    missing = [plan for plan in plans if not is_done(folder, plan)]
    _do_all(missing, folder, workers=workers or usable_cores(), n_done=len(plans) - len(missing), progress=progress)
    records = combine(folder, plans)
    references, sources = references_of(settings, shipped, folder)
    how = _how(settings, sources, records)
    write_json(folder / COMPARISON, {"settings": settings.to_dict(), "how": how})
    return Comparison(tuple(records), references, how, folder)


def _how(settings: Settings, sources: Mapping[str, str], records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return what readers of the report need to know, in words."""
    seeds = settings.seeds
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": "{cpu}, {physical_cores} cores".format_map(current_device("cpu").card),
        "seeds": f"{len(seeds)} ({seeds[0]} to {seeds[-1]})" if len(seeds) > 2 else list(seeds),
        "methods": [
            f"{m.name}: {m.what}, {'its front' if m.is_point else settings.n_evaluations[m.name]} evaluations"
            for m in settings.methods
        ],
        "budget": "counts evaluations of perplexity; hardware metrics and sizes cost nothing, all methods may use them",
        "inner searches": f"{settings.n_free:,} networks with hardware metrics and sizes only",
        "learning": "local search, mo-rea, tpe and Bayesian methods see every result at once, others each generation",
        "reference fronts": [f"{list(sources.values()).count(s)} {s}" for s in dict.fromkeys(sources.values())],
        "benchmarks": settings.to_dict()["benchmarks"],
        "core hours": round(sum(record.seconds for record in records) / 3600, 2),
        "versions": versions(),
    }
    if settings.left_out:
        found["left out"] = [f"{name}: {reason}" for name, reason in settings.left_out.items()]
    return found


def _do_all(plans: Sequence[RunPlan], folder: Path, *, workers: int, n_done: int, progress: bool) -> None:
    """Do runs, long ones first."""
    from tqdm import tqdm

    failed: list[tuple[RunPlan, BaseException]] = []
    ordered = sorted(plans, key=lambda plan: -plan.method.seconds)
    total = n_done + len(plans)
    with tqdm(total=total, initial=n_done, desc="compare", unit="run", disable=not progress) as bar:
        for plan, error in in_workers(partial(_do, folder=folder), ordered, workers=workers):
            if error is not None:
                failed.append((plan, error))
            bar.update()
    if failed:
        plan, error = failed[0]
        raise RuntimeError(
            f"{len(failed)} of {len(plans)} runs failed, one of them {plan.label}: {error}. The others are kept: the "
            "same command does the failed ones again"
        ) from error


def _do(plan: RunPlan, folder: Path) -> None:
    write_run(folder, plan, execute(plan))
