"""A whole comparison, worked out: which budgets are compared, standings of every group, the bar, the baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search.comparison.bar import AgainstBaseline, Bar, CatchUp, against_baseline, bar_of, catch_up
from search.comparison.case_names import CaseName, case_labels
from search.comparison.records import ALL, CaseReference, RunRecord
from search.comparison.scores import CHECKPOINTS, Scores, score
from search.comparison.standings import Standings, Unit, standings

DEFAULT, BASELINE, RANDOM = "model-guided", "lts", "random"
BUDGET_NOTE = (
    "Budget: evaluations of perplexity. Hardware metrics are free and known to every method. A front of counting (LTS) "
    "is charged one evaluation for each of its networks and has a result only as a whole."
)


@dataclass(frozen=True)
class Analysis:
    """What a comparison says, in numbers.

    Attributes:
        records: the runs.
        references: by case.
        scores: of the runs.
        default: the method that the bar is for.
        baseline: the front of counting parameters.
        main: the cases of the main comparison.
        others: the other cases: more objectives, budgets, noise.
        budgets: evaluations at which methods are compared, ascending.
        common: the most evaluations that every searching method has.
        final: the most evaluations that most searching methods have.
        whole: standings over the whole space of the main cases by budget.
        within: over the widths of the main cases.
        special: over the other cases.
        bars: of every searching method with the final budget: the default's first, then by cases won.
        against_whole: searching methods against the baseline, whole space.
        against_within: within widths.
        catch_ups: when searching methods are as good as the baseline, in all main units.
    """

    records: tuple[RunRecord, ...]
    references: Mapping[str, CaseReference]
    scores: Scores
    default: str
    baseline: str
    main: tuple[str, ...]
    others: tuple[str, ...]
    budgets: tuple[int, ...]
    common: int
    final: int
    whole: Mapping[int, Standings]
    within: Mapping[int, Standings]
    special: Mapping[int, Standings]
    bars: tuple[Bar, ...]
    against_whole: tuple[AgainstBaseline, ...]
    against_within: tuple[AgainstBaseline, ...]
    catch_ups: tuple[CatchUp, ...]

    @cached_property
    def labels(self) -> dict[str, str]:
        """Short names of the cases."""
        return case_labels((*self.main, *self.others))

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """All methods: by average rank at the final budget, then at the common one, then the others."""
        ranked = [m.method for at in (self.final, self.common) for m in self.whole[at].methods if m.rank == m.rank]
        return tuple(dict.fromkeys([*ranked, *sorted({entry.method for entry in self.scores.methods})]))

    @cached_property
    def points(self) -> tuple[str, ...]:
        """The methods that are fronts of counting, the baseline first."""
        found = {entry.method for entry, known in self.scores.methods.items() if known.is_point}
        return tuple(sorted(found, key=lambda m: (m != self.baseline, m)))

    @property
    def searching(self) -> tuple[str, ...]:
        """The other methods."""
        return tuple(method for method in self.methods if method not in self.points)

    def length(self, method: str) -> int:
        """Return the most evaluations a method has in a run of the main cases (0: none)."""
        return max((max(known.lengths) for entry, known in self.scores.methods.items()
                    if entry.method == method and entry.case in self.main), default=0)  # fmt: skip


def analyse(
    records: Iterable[RunRecord], references: Mapping[str, CaseReference], *,
    default: str = DEFAULT, baseline: str = BASELINE, seed: int = 0,
) -> Analysis:  # fmt: skip
    """Score runs and compare their methods.

    Args:
        records: one a case, method and seed; cases, seeds and evaluations may be missing.
        references: by the name of the case.
        default: the method that the bar is for.
        baseline: the front of counting parameters.
        seed: of the bootstrap of the ranks.

    Raises:
        ValueError: as `score`; or no searching method.
    """
    runs, known = tuple(records), references
    scores = score(runs, known)
    cases = list(dict.fromkeys(run.case for run in runs))
    main = tuple(case for case in cases if CaseName.of(case).is_main) or tuple(cases)
    others = tuple(case for case in cases if case not in main)
    common, final = _budgets(scores, main)
    budgets = tuple(sorted({*(c for c in CHECKPOINTS if c < final), common, final}))
    whole = [Unit(case, ALL) for case in main]
    within = [Unit(case, panel) for case in main for panel in known[case].panels if panel != ALL]
    rng = np.random.default_rng(seed)

    def over(units: Sequence[Unit]) -> dict[int, Standings]:
        return {at: standings(scores, units, at, rng) for at in budgets}

    found = over(whole)
    searching = [m.method for m in found[final].methods if not _is_point(scores, m.method)]
    bars = [bar_of(scores, whole, final, method=method, baseline=baseline) for method in searching]
    return Analysis(
        records=runs, references=known, scores=scores, default=default, baseline=baseline, main=main, others=others,
        budgets=budgets, common=common, final=final, whole=found, within=over(within),
        special=over([Unit(case, ALL) for case in others]),
        bars=tuple(sorted(bars, key=lambda bar: (bar.method != default, -bar.n_best, -bar.n_above_baseline))),
        against_whole=tuple(against_baseline(scores, whole, budgets, baseline=baseline)),
        against_within=tuple(against_baseline(scores, within, budgets, baseline=baseline)),
        catch_ups=tuple(catch_up(scores, [*whole, *within], baseline=baseline)),
    )  # fmt: skip


def _budgets(scores: Scores, cases: Sequence[str]) -> tuple[int, int]:
    """Return the most evaluations that every searching method has, and that most have (more, where two are as many)."""
    lengths: dict[str, list[int]] = {}
    for entry, known in scores.methods.items():
        if entry.case in cases and entry.panel == ALL and not known.is_point:
            lengths.setdefault(entry.method, []).extend(known.lengths)
    if not lengths:
        raise ValueError("there are only fronts of counting: give the runs of at least one searching method")
    usual = [int(np.median(found)) for found in lengths.values()]
    counted = Counter(usual)
    return min(usual), max(counted, key=lambda n: (counted[n], n))


def _is_point(scores: Scores, method: str) -> bool:
    return any(known.is_point for entry, known in scores.methods.items() if entry.method == method)
