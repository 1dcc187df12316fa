"""Does all runs of a comparison in several processes, resumes after a kill, and gathers what was found. No torch.

Each worker is a fresh process with one thread and its own benchmark, so results do not depend on how many there are.
Every finished run is a file; what is there is not done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.budget import check_reachable
from search.comparison.cases import benchmark_of
from search.comparison.records import CaseReference, RunRecord
from search.comparison.references import references_of, shipped_references
from search.comparison.settings import Settings
from search.comparison.single_run import RunPlan, execute
from search.comparison.storage import combine, is_done, write_run
from search.comparison.workers import in_workers, n_cores
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
        how: settings, versions and where references come from, in plain JSON types; `comparison.json` holds it.
        folder: where it is.
    """

    records: tuple[RunRecord, ...]
    references: Mapping[str, CaseReference]
    how: Mapping[str, Any]
    folder: Path

    def report(self) -> ReportPaths:
        """Write tables, figures and the report into the folder."""
        from search.comparison.report import write_comparison_report

        return write_comparison_report(self.records, self.references, self.folder, how=self.how)


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
    _do_all(missing, folder, workers=workers or n_cores(), n_done=len(plans) - len(missing), progress=progress)
    records = combine(folder, plans)
    references, sources = references_of(settings, shipped, folder)
    how = {
        **settings.to_dict(),
        "what": {method.name: method.what for method in settings.methods},
        "left_out": dict(settings.left_out),
        "references": sources,
        "free": "hardware metrics and sizes cost nothing and all methods may use them; the budget counts perplexity",
        "core_seconds": round(sum(record.seconds for record in records), 1),
        "versions": versions(),
    }
    write_json(folder / COMPARISON, how)
    return Comparison(tuple(records), references, how, folder)


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
