"""The bar a default method has to clear, and what counting parameters is worth at each budget.

The bar: after the final budget, a lower median regret than every other method on at least 10 of 12 cases (or that share
of another number of cases), and than the parameter-count front on every case, whatever that front costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from search.comparison.indicators import evaluations_to_reach
from search.comparison.scores import Entry, Scores
from search.comparison.standings import Cell, Unit, last_medians, median_cost, unit_values
from search.comparison.statistics import LEVEL, ROUNDING, PairedTest, holm, quartiles, signed_rank

SHARE = 10 / 12  # of the cases on which the default has to be the best


@dataclass(frozen=True)
class BarRow:
    """One case of the bar.

    Attributes:
        unit: the case.
        regret: the candidate's median.
        rival: the best other method.
        rival_regret: its median.
        rival_n: evaluations it took: more than the candidate's where its front costs more.
        baseline_regret: median of the parameter-count front; NaN without it.
    """

    unit: Unit
    regret: float
    rival: str
    rival_regret: float
    rival_n: float
    baseline_regret: float

    @property
    def is_best(self) -> bool:
        """Whether the candidate has a lower median regret than every other method."""
        return bool(self.regret < self.rival_regret - ROUNDING)

    @property
    def beats_baseline(self) -> bool:
        """Whether it has a lower median regret than the parameter-count front."""
        return bool(self.regret < self.baseline_regret - ROUNDING)


@dataclass(frozen=True)
class Bar:
    """Whether a method clears the bar."""

    method: str
    at: int
    rows: tuple[BarRow, ...]

    @property
    def n_best(self) -> int:
        """Cases on which it is the best."""
        return sum(row.is_best for row in self.rows)

    @property
    def n_needed(self) -> int:
        """Cases on which it has to be."""
        return int(np.ceil(SHARE * len(self.rows) - 1e-9))

    @property
    def n_above_baseline(self) -> int:
        """Cases on which it beats the parameter-count front."""
        return sum(row.beats_baseline for row in self.rows)

    @property
    def passes(self) -> bool:
        """Whether both halves hold; never without a case."""
        return bool(self.rows) and self.n_best >= self.n_needed and self.n_above_baseline == len(self.rows)


def bar_of(scores: Scores, units: Sequence[Unit], at: int, *, method: str, baseline: str) -> Bar:
    """Judge a method after `at` evaluations against all others; fronts of counting count at whatever they cost.

    Cases on which the method has no result at that budget are left out.
    """
    rows = [_bar_row(scores, unit, at, method, baseline) for unit in units]
    return Bar(method, at, tuple(row for row in rows if row is not None))


def _bar_row(scores: Scores, unit: Unit, at: int, method: str, baseline: str) -> BarRow | None:
    found = {m: _middle(cell) for m, cell in unit_values(scores, unit, at).items()}
    if method not in found:
        return None
    ends = last_medians(scores, unit)
    found |= {m: end for m, end in ends.items() if scores.methods[Entry(*unit, m)].is_point}
    others = sorted((regret, m) for m, regret in found.items() if m != method)
    regret, rival = others[0] if others else (float("nan"), "")
    cost = _cost(scores, unit, rival, at) if rival else float("nan")
    return BarRow(unit, found[method], rival, regret, cost, found.get(baseline, float("nan")))


def _cost(scores: Scores, unit: Unit, method: str, at: int) -> float:
    """Return the evaluations behind a method's regret: `at`, or what a whole front costs."""
    return median_cost(scores, unit, method) if scores.methods[Entry(*unit, method)].is_point else float(at)


@dataclass(frozen=True)
class AgainstBaseline:
    """A method after some evaluations against the parameter-count front at its own cost, over units.

    Attributes:
        method: its name.
        at: evaluations.
        n_units: where both have results.
        lower: units with a lower median regret.
        better: units significantly so (Holm over all methods, budgets and units of a case).
        worse: units significantly the other way.
        n_affordable: units in which the front costs at most `at` evaluations.
    """

    method: str
    at: int
    n_units: int
    lower: int
    better: int
    worse: int
    n_affordable: int


class _Meeting(NamedTuple):
    """One method at one budget in one unit against the front."""

    method: str
    at: int
    test: PairedTest
    is_lower: bool
    is_affordable: bool


def against_baseline(
    scores: Scores, units: Sequence[Unit], budgets: Sequence[int], *, baseline: str
) -> list[AgainstBaseline]:
    """Compare every searching method at every budget with the whole parameter-count front, paired by seed."""
    groups: dict[tuple[str, int], list[tuple[_Meeting, bool]]] = {}
    for case in dict.fromkeys(unit.case for unit in units):
        own = [unit for unit in units if unit.case == case]
        found = [meeting for unit in own for at in budgets for meeting in _meetings(scores, unit, at, baseline)]
        for meeting, p in zip(found, holm([meeting.test.p for meeting in found]), strict=True):
            groups.setdefault((meeting.method, meeting.at), []).append((meeting, bool(p < LEVEL)))
    return [
        AgainstBaseline(
            method=method,
            at=at,
            n_units=len(rows),
            lower=sum(meeting.is_lower for meeting, _ in rows),
            better=sum(sure and meeting.test.difference < 0 for meeting, sure in rows),
            worse=sum(sure and meeting.test.difference > 0 for meeting, sure in rows),
            n_affordable=sum(meeting.is_affordable for meeting, _ in rows),
        )
        for (method, at), rows in groups.items()
    ]


def _meetings(scores: Scores, unit: Unit, at: int, baseline: str) -> list[_Meeting]:
    known = scores.methods.get(Entry(*unit, baseline))
    if known is None:
        return []
    front, is_affordable = known.last(), bool(np.median(known.lengths) <= at)
    found = []
    for method, cell in unit_values(scores, unit, at).items():
        if not scores.methods[Entry(*unit, method)].is_point:
            rival = for_seeds(front, cell)
            is_lower = _middle(cell) < _middle(rival) - ROUNDING
            found.append(_Meeting(method, at, signed_rank(cell, rival), is_lower, is_affordable))
    return found


def for_seeds(front: Cell, seeds: Iterable[int]) -> Cell:
    """Return a front's regret by seed; the regret of its only run for every seed."""
    return dict.fromkeys(seeds, next(iter(front.values()))) if len(front) == 1 else front


def _middle(cell: Cell) -> float:
    return quartiles(list(cell.values())).median


@dataclass(frozen=True)
class CatchUp:
    """After how many evaluations a method is as good as the parameter-count front of the same seed.

    Attributes:
        unit: the panel of a case.
        method: its name.
        median: over seeds; infinity where at most half of the runs get there.
        n_runs: paired runs.
        n_reached: of them, those that get there.
        front_cost: median evaluations of the front.
    """

    unit: Unit
    method: str
    median: float
    n_runs: int
    n_reached: int
    front_cost: float


def catch_up(scores: Scores, units: Sequence[Unit], *, baseline: str) -> list[CatchUp]:
    """Return when every searching method reaches the regret of the parameter-count front, in every unit."""
    out = []
    for (case, panel, method), known in scores.methods.items():
        base = scores.methods.get(Entry(case, panel, baseline))
        if base is None or known.is_point or (case, panel) not in units:
            continue
        target = for_seeds(base.last(), known.seeds)
        times = [
            evaluations_to_reach(row, target[seed] + ROUNDING)
            for seed, row in zip(known.seeds, known.regrets, strict=True)
            if seed in target
        ]
        if times:
            reached = int(np.isfinite(times).sum())
            cost = float(np.median(base.lengths))
            out.append(CatchUp(Unit(case, panel), method, quartiles(times).median, len(times), reached, cost))
    return out
