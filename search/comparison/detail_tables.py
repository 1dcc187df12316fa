"""Tables of details: catching up, targets, other indicators, tests, runs."""

from __future__ import annotations

import numpy as np

from search.comparison.analysis import BUDGET_NOTE, RANDOM, Analysis
from search.comparison.method_styles import method_label
from search.comparison.other_indicators import INDICATORS, indicator_means
from search.comparison.records import ALL
from search.comparison.scores import TARGETS
from search.comparison.standings import Standings, median_cost
from search.comparison.statistics import quartiles
from search.comparison.table_cells import TESTED, ReportTable, column_best, decimal_cell, range_cell, whole_cell
from search.comparison.wording import listed
from search.number_format import NONE


def catch_up_table(analysis: Analysis) -> ReportTable:
    """Return after how many evaluations the median run is as good as the parameter-count front, by case."""
    units = analysis.whole[analysis.final].units
    times = {(c.method, c.unit): c for c in analysis.catch_ups}
    rows = [
        (method_label(m), *(whole_cell(times[m, u].median) if (m, u) in times else NONE for u in units))
        for m in analysis.searching
        if any((m, u) in times for u in units)
    ]
    costs = [median_cost(analysis.scores, unit, analysis.baseline) for unit in units]
    if rows:
        rows.append((f"cost of {method_label(analysis.baseline)}", *(whole_cell(cost) for cost in costs)))
    return ReportTable(
        "whole", "Evaluations until as good as the parameter-count front",
        f"Median over seeds, whole space; a dash: at most half of the runs get there. {BUDGET_NOTE}",
        ("method", *(analysis.labels[u.case] for u in units)), tuple(rows),
    )  # fmt: skip


def target_table(analysis: Analysis) -> ReportTable:
    """Return after how many evaluations runs reach given regrets, over all main cases."""
    runs = analysis.scores.run_table
    runs = runs[(runs["panel"] == ALL) & runs["case"].isin(analysis.main)]
    rows = []
    for method in analysis.methods:
        own = runs[runs["method"] == method]
        cells = []
        for target in TARGETS:
            times = own[f"evaluations_to_{target:g}"].to_numpy(float)
            share = np.isfinite(times).mean() if len(times) else 0.0
            cells.append(f"{whole_cell(quartiles(times).median)} ({100 * share:.0f} %)" if share else NONE)
        rows.append((method_label(method), *cells))
    return ReportTable(
        "whole", "Evaluations to reach a regret",
        "Median over all runs of the main cases, whole space (a dash in front of the bracket: at most half get there); "
        f"in brackets the share of runs that do. {BUDGET_NOTE}",
        ("method", *(f"{100 * target:g} %" for target in TARGETS)), tuple(rows),
    )  # fmt: skip


def indicator_table(analysis: Analysis) -> ReportTable:
    """Return the other indicators at the end."""
    means = indicator_means(analysis)
    rows = [
        (method_label(m), *(decimal_cell(means[m][name]) for name in INDICATORS))
        for m in analysis.methods
        if m in means
    ]  # fmt: skip
    return ReportTable(
        "whole", f"Other indicators after {analysis.final} evaluations",
        "Mean over cases of the median; lower is better. Mean log10 regret: the area under the regret curve on a "
        f"logarithmic axis, over the evaluations. Shorter runs and fronts of counting: at their end. {BUDGET_NOTE}",
        ("method", "IGD+", "additive epsilon", "mean log10 regret"), tuple(rows), column_best(rows, range(1, 4)),
    )  # fmt: skip


def outcome_table(analysis: Analysis) -> ReportTable:
    """Return tests of the default, of random search and of the front against every method."""
    ends = sorted({analysis.common, analysis.final})
    groups = [(name, found[at]) for name, found in (("whole", analysis.whole), ("within", analysis.within))
              for at in ends if found[at].units]  # fmt: skip
    against = [m for m in dict.fromkeys((analysis.default, RANDOM)) if m in analysis.methods]
    rows = tuple(
        (method_label(m), *(_outcome(found, rival, m) for rival in against for _, found in groups))
        for m in analysis.methods
    )
    head = tuple(f"{method_label(rival)}, {name}, {found.at}" for rival in against for name, found in groups)
    return ReportTable(
        "tests", "Who is told apart from whom",
        "In how many panels the method named above is significantly better / worse than the one on the left / not told "
        f"apart ({TESTED}). {BUDGET_NOTE}",
        ("method", *head), rows,
    )  # fmt: skip


def _outcome(found: Standings, method: str, other: str) -> str:
    counts = found.outcomes(method, other)
    return " / ".join(map(str, counts)) if sum(counts) else NONE


def run_table(analysis: Analysis) -> ReportTable:
    """Return what was run: cases, seeds, evaluations, results that are missing, time."""
    runs = analysis.scores.run_table
    runs = runs[runs["panel"] == ALL]
    rows = []
    for method in analysis.methods:
        own = runs[runs["method"] == method]
        seeds = own.groupby("case").size()
        rows.append((
            method_label(method), "front of counting" if method in analysis.points else "search", str(len(seeds)),
            range_cell(seeds), range_cell(own["n_evaluations"]), f"{int(own['n_invalid'].sum()):,}",
            f"{int(own['is_below_zero'].sum()):,}", f"{own['seconds'].median():.2f}",
        ))  # fmt: skip
    cases = listed(analysis.labels[case] for case in (*analysis.main, *analysis.others))
    return ReportTable(
        "runs", "What was run", f"Cases: {cases}. {BUDGET_NOTE}",
        ("method", "kind", "cases", "seeds a case", "evaluations", "without result", "regret below 0", "seconds"),
        tuple(rows), left=2,
    )  # fmt: skip
