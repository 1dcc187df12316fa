"""Scores of all runs of a comparison: every run in every panel of its case, after every evaluation and at checkpoints.

A panel is the whole space ("all") or the networks of one width. Inside a width only networks of that width count, but
every evaluation costs budget. A point (a training-free front) has a score only at what its whole front costs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from search.comparison.indicators import FrontScale, evaluations_to_reach, mean_log_regret
from search.comparison.records import ALL, CaseReference, RunRecord, width_panel
from search.pareto import Floats, is_valid
from supernet.artifacts import atomic_path

if TYPE_CHECKING:
    import pandas as pd

CHECKPOINTS = (20, 50, 100, 200, 300, 500, 1000, 2000, 5000)
TARGETS = (0.2, 0.1, 0.05, 0.02, 0.01)  # regrets whose first time is noted
SCORES_FILE, RUNS_FILE = "scores.parquet", "run_scores.parquet"


class Entry(NamedTuple):
    """What a score is of."""

    case: str
    panel: str
    method: str


@dataclass(frozen=True)
class MethodScores:
    """Regrets of the runs of one method in one panel.

    Attributes:
        is_point: whether only the whole front counts.
        seeds: of the runs, ascending.
        lengths: evaluations of each run.
        regrets: (runs, most evaluations); NaN after the end of a run, and before the end of a point.
    """

    is_point: bool
    seeds: tuple[int, ...]
    lengths: tuple[int, ...]
    regrets: Floats

    def at(self, n: int) -> dict[int, float]:
        """Return the regret by seed after n evaluations: of runs that long, or of all where a point's median cost fits.

        Taking only those fronts of a point that fit would favour the small ones.
        """
        if self.is_point:
            return self.last() if np.median(self.lengths) <= n else {}
        found = zip(self.seeds, self.lengths, self.regrets, strict=True)
        return {seed: float(row[n - 1]) for seed, length, row in found if length >= n}

    def last(self) -> dict[int, float]:
        """Return the regret by seed at the end of each run."""
        found = zip(self.seeds, self.lengths, self.regrets, strict=True)
        return {seed: float(row[length - 1]) for seed, length, row in found if length}


@dataclass(frozen=True)
class Scores:
    """All scores of a comparison.

    Attributes:
        methods: regrets by case, panel and method.
        rows: one a run, panel and checkpoint, as `score_row` makes them.
        runs: one a run and panel: budget, counts, first times.
    """

    methods: Mapping[Entry, MethodScores]
    rows: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, Any]]

    @cached_property
    def table(self) -> pd.DataFrame:
        """`rows` as a table."""
        import pandas as pd

        return pd.DataFrame(list(self.rows))

    @cached_property
    def run_table(self) -> pd.DataFrame:
        """`runs` as a table."""
        import pandas as pd

        return pd.DataFrame(list(self.runs))

    def save(self, folder: str | Path) -> Path:
        """Write scores.parquet and run_scores.parquet into a folder and return it."""
        for name, table in ((SCORES_FILE, self.table), (RUNS_FILE, self.run_table)):
            with atomic_path(Path(folder) / name) as temporary:
                table.to_parquet(temporary, index=False)
        return Path(folder)


def score(
    records: Iterable[RunRecord], cases: Mapping[str, CaseReference], *, checkpoints: Sequence[int] = CHECKPOINTS
) -> Scores:
    """Score every run in every panel of its case.

    Args:
        records: one a case, method and seed.
        cases: references by the name of the case.
        checkpoints: evaluations at which the slower indicators are computed, besides the end of each run.

    Raises:
        ValueError: nothing to score, a run twice, a run of a case without a reference, or of other objectives.
    """
    runs = sorted(records, key=lambda r: (r.case, r.method, r.seed))
    _check(runs, cases)
    scales = {
        (case, panel): FrontScale.of(front)
        for case, reference in cases.items()
        for panel, front in reference.panels.items()
    }
    scored = [
        ScoredRun.of(record, panel, scales[record.case, panel])
        for record in runs
        if len(record.values)
        for panel in cases[record.case].panels
    ]
    groups: dict[Entry, list[ScoredRun]] = {}
    for run in scored:
        groups.setdefault(run.entry, []).append(run)
    rows = [row for run in scored for row in run.rows(checkpoints)]
    methods = {entry: _method_scores(found) for entry, found in groups.items()}
    return Scores(methods, rows, [run.summary() for run in scored])


def _check(runs: Sequence[RunRecord], cases: Mapping[str, CaseReference]) -> None:
    if not any(len(run.values) for run in runs):
        raise ValueError("there is no run to score: give records with at least one evaluation")
    for earlier, run in pairwise(runs):
        if (earlier.case, earlier.method, earlier.seed) == (run.case, run.method, run.seed):
            raise ValueError(f"{run.method} has two runs with seed {run.seed} on {run.case!r}: give each once")
    for run in runs:
        if run.case not in cases:
            near = difflib.get_close_matches(run.case, cases, n=3) or sorted(cases)
            raise ValueError(f"no reference for the case {run.case!r} of {run.method}: references are of {near}")
        names = cases[run.case].names
        if run.values.shape[1] != len(names):
            raise ValueError(f"{run.method} on {run.case!r} has {run.values.shape[1]} values a row: give {names}")


@dataclass(frozen=True)
class ScoredRun:
    """One run in one panel."""

    record: RunRecord
    panel: str
    scale: FrontScale
    values: Floats
    regrets: Floats

    @classmethod
    def of(cls, record: RunRecord, panel: str, scale: FrontScale) -> ScoredRun:
        """Score a run; rows of other widths than the panel's are evaluations without a result."""
        values = np.array(record.values, dtype=np.float64)
        if panel != ALL:
            inside = [width for width in np.unique(record.widths) if width_panel(int(width)) == panel]
            values[~np.isin(record.widths, inside)] = np.nan
        regrets = scale.regret_curve(values)
        if record.is_point:
            regrets[:-1] = np.nan
        return cls(record, panel, scale, values, regrets)

    @property
    def entry(self) -> Entry:
        """Case, panel and method."""
        return Entry(self.record.case, self.panel, self.record.method)

    def rows(self, checkpoints: Sequence[int]) -> list[dict[str, Any]]:
        """Return the scores at the checkpoints within the run and at its end; of a point at its end only."""
        n = len(self.values)
        stops = [n] if self.record.is_point else sorted({*(c for c in checkpoints if c < n), n})
        area = mean_log_regret(self.regrets)  # NaN for a point: it has no curve
        return [
            {
                **self.entry._asdict(),
                "seed": self.record.seed,
                "is_point": self.record.is_point,
                "n_evaluations": stop,
                "is_last": stop == n,
                "regret": float(self.regrets[stop - 1]),
                **self.scale.distances(self.values[:stop])._asdict(),
                "mean_log_regret": float(area[stop - 1]),
            }
            for stop in stops
        ]

    def summary(self) -> dict[str, Any]:
        """Return what there is to say of the run as a whole."""
        n = len(self.values)
        first = {f"evaluations_to_{target:g}": evaluations_to_reach(self.regrets, target) for target in TARGETS}
        return {
            **self.entry._asdict(),
            "seed": self.record.seed,
            "is_point": self.record.is_point,
            "n_evaluations": n,
            "n_in_panel": int(is_valid(self.values).sum()),
            "n_invalid": n - int(is_valid(self.record.values).sum()),
            "regret": float(self.regrets[-1]),
            "is_below_zero": bool(self.regrets[-1] < 0),
            **first,
            "seconds": self.record.seconds,
        }


def _method_scores(runs: Sequence[ScoredRun]) -> MethodScores:
    regrets = np.full((len(runs), max(len(run.regrets) for run in runs)), np.nan)
    for row, run in zip(regrets, runs, strict=True):
        row[: len(run.regrets)] = run.regrets
    is_point = {run.record.is_point for run in runs}
    if len(is_point) > 1:
        entry = runs[0].entry
        raise ValueError(f"{entry.method} is a point in some runs of {entry.case!r} and not in others: give one kind")
    return MethodScores(
        is_point.pop(), tuple(run.record.seed for run in runs), tuple(len(run.regrets) for run in runs), regrets
    )
