"""Methods side by side at one budget: medians, wins, average ranks and paired tests over the cases of a group.

A unit is a panel of a case. Groups: the whole space of the main cases, the widths of the main cases, other cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from search.comparison.indicators import FLOOR
from search.comparison.scores import Entry, Scores
from search.comparison.statistics import (
    LEVEL,
    ROUNDING,
    PairedTest,
    Quartiles,
    geometric_mean,
    holm,
    mean_ranks,
    quartiles,
    signed_rank,
)

Cell = dict[int, float]  # regret by seed


class Unit(NamedTuple):
    """A panel of a case."""

    case: str
    panel: str


@dataclass(frozen=True)
class PairResult:
    """Two methods in one unit.

    Attributes:
        unit: the panel of a case.
        first: a method.
        second: another.
        n: seeds that both have.
        difference: median regret of first minus second over seeds; below 0 where the first is better.
        p: two-sided, not corrected.
        p_holm: corrected for all pairs in all units of the case.
    """

    unit: Unit
    first: str
    second: str
    n: int
    difference: float
    p: float
    p_holm: float

    @property
    def winner(self) -> str:
        """The better one where they differ significantly, else an empty string."""
        if not self.p_holm < LEVEL or self.difference == 0:
            return ""
        return self.first if self.difference < 0 else self.second


class Outcomes(NamedTuple):
    """In how many units a method is significantly better, worse, or neither than another."""

    better: int
    worse: int
    open: int


@dataclass(frozen=True)
class MethodStanding:
    """A method over all units of a group.

    Attributes:
        method: its name.
        n_units: units it has a result in.
        mean_regret: geometric mean of its median regrets; NaN unless it has one in every unit.
        rank: average rank of its median regret, with a bootstrap interval; NaN likewise.
        rank_low: lower end.
        rank_high: upper end.
        wins: units in which no method has a lower median; ties count for all.
    """

    method: str
    n_units: int
    mean_regret: float
    rank: float
    rank_low: float
    rank_high: float
    wins: int


@dataclass(frozen=True)
class Standings:
    """All methods at one budget.

    Attributes:
        at: evaluations.
        units: of the group.
        cells: quartiles of the regret by unit and method; only those with at least half of the unit's seeds.
        methods: the best average rank first, then those that lack a unit.
        pairs: all pairs in all units.
        dropped: (unit, method, seeds) with too few seeds.
    """

    at: int
    units: tuple[Unit, ...]
    cells: Mapping[tuple[Unit, str], Quartiles]
    methods: tuple[MethodStanding, ...]
    pairs: tuple[PairResult, ...]
    dropped: tuple[tuple[Unit, str, int], ...]

    @property
    def ranked(self) -> tuple[MethodStanding, ...]:
        """The methods with a result in every unit, the best average rank first."""
        return tuple(m for m in self.methods if m.n_units == len(self.units))

    def median(self, unit: Unit, method: str) -> float:
        """Return a method's median regret in a unit; NaN where it has none."""
        cell = self.cells.get((unit, method))
        return cell.median if cell else float("nan")

    def order(self, unit: Unit) -> list[tuple[str, float]]:
        """Return methods and median regrets in a unit, the best first."""
        found = [(method, cell.median) for (at, method), cell in self.cells.items() if at == unit]
        return sorted(found, key=lambda item: item[1])

    def outcomes(self, method: str, other: str) -> Outcomes:
        """Return in how many units `method` is significantly better than, worse than, or level with `other`."""
        winners = [p.winner for p in self.pairs if {p.first, p.second} == {method, other} and p.n]
        better, worse = winners.count(method), winners.count(other)
        return Outcomes(better, worse, len(winners) - better - worse)


def standings(scores: Scores, units: Sequence[Unit], at: int, rng: np.random.Generator) -> Standings:
    """Compare all methods after `at` evaluations; points where their front costs at most that, in the median.

    Args:
        scores: of all runs.
        units: of the group.
        at: evaluations.
        rng: of the bootstrap of the ranks.
    """
    values: dict[Unit, dict[str, Cell]] = {}
    dropped = []
    for unit in units:
        values[unit], few = _enough_seeds(unit_values(scores, unit, at))
        dropped += [(unit, method, n) for method, n in few.items()]
    cells = {(unit, m): quartiles(list(cell.values())) for unit, found in values.items() for m, cell in found.items()}
    methods = tuple(dict.fromkeys(method for found in values.values() for method in found))
    ranked = _standing(cells, units, methods, rng)
    return Standings(at, tuple(units), cells, ranked, paired_tests(values), tuple(dropped))


def unit_values(scores: Scores, unit: Unit, at: int) -> dict[str, Cell]:
    """Return the regrets of all methods in a unit by seed; the single run of a point stands for every seed."""
    found = {
        entry.method: (known.is_point, known.at(at)) for entry, known in scores.methods.items() if entry[:2] == unit
    }
    seeds = sorted({seed for _, cell in found.values() for seed in cell})
    return {
        method: dict.fromkeys(seeds, next(iter(cell.values()))) if is_point and len(cell) == 1 else cell
        for method, (is_point, cell) in found.items()
        if cell
    }


def _enough_seeds(found: dict[str, Cell]) -> tuple[dict[str, Cell], dict[str, int]]:
    """Return methods with at least half of the most seeds, and the number of seeds of the others."""
    most = max((len(cell) for cell in found.values()), default=0)
    kept = {method: cell for method, cell in found.items() if 2 * len(cell) >= most}
    return kept, {method: len(cell) for method, cell in found.items() if method not in kept}


def paired_tests(values: Mapping[Unit, Mapping[str, Cell]]) -> tuple[PairResult, ...]:
    """Test all pairs of methods in all units; Holm's correction is over all pairs in all units of a case."""
    families: dict[str, list[tuple[Unit, str, str, PairedTest]]] = {}
    for unit, methods in values.items():
        tests = [(unit, a, b, signed_rank(methods[a], methods[b])) for a, b in combinations(methods, 2)]
        families.setdefault(unit.case, []).extend(tests)
    return tuple(
        PairResult(unit, a, b, test.n, test.difference, test.p, float(p))
        for tests in families.values()
        for (unit, a, b, test), p in zip(tests, holm([test.p for *_, test in tests]), strict=True)
    )


def _standing(
    cells: Mapping[tuple[Unit, str], Quartiles], units: Sequence[Unit], methods: Sequence[str],
    rng: np.random.Generator,
) -> tuple[MethodStanding, ...]:  # fmt: skip
    medians = np.array([[_median(cells, unit, m) for m in methods] for unit in units]).reshape(len(units), len(methods))
    whole = np.isfinite(medians).all(axis=0) & (len(units) > 0)
    best = np.array([np.nanmin(row) if np.isfinite(row).any() else np.nan for row in medians])
    wins = (medians <= best[:, None] + ROUNDING).sum(axis=0)
    ranks = np.full((3, len(methods)), np.nan)
    if whole.any():
        found = mean_ranks(medians[:, whole], rng, clusters=[unit.case for unit in units])
        ranks[:, whole] = found.mean, found.low, found.high
    rows = [
        MethodStanding(
            method, int(np.isfinite(medians[:, i]).sum()), geometric_mean(medians[:, i], FLOOR), float(ranks[0, i]),
            float(ranks[1, i]), float(ranks[2, i]), int(wins[i]),
        )
        for i, method in enumerate(methods)
    ]  # fmt: skip
    return tuple(sorted(rows, key=lambda m: (np.isnan(m.rank), m.rank, -m.n_units, m.method)))


def _median(cells: Mapping[tuple[Unit, str], Quartiles], unit: Unit, method: str) -> float:
    return cells[unit, method].median if (unit, method) in cells else float("nan")


def last_medians(scores: Scores, unit: Unit) -> dict[str, float]:
    """Return every method's median regret at the end of its runs, whatever they cost."""
    return {
        entry.method: quartiles(list(known.last().values())).median
        for entry, known in scores.methods.items()
        if entry[:2] == unit
    }


def median_cost(scores: Scores, unit: Unit, method: str) -> float:
    """Return the median number of evaluations of a method's runs; NaN where it has none."""
    known = scores.methods.get(Entry(*unit, method))
    return float(np.median(known.lengths)) if known else float("nan")
