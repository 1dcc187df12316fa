"""The tables of a comparison: text cells, for HTML and Markdown alike. Regrets are in percent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.comparison.analysis import BUDGET_NOTE, Analysis
from search.comparison.bar import AgainstBaseline
from search.comparison.detail_tables import (
    catch_up_table,
    indicator_table,
    outcome_table,
    run_table,
    target_table,
)
from search.comparison.method_styles import families, method_label
from search.comparison.standings import Standings, last_medians, median_cost
from search.comparison.statistics import ROUNDING
from search.comparison.table_cells import TESTED, ReportTable, column_best, whole_cell
from search.comparison.wording import counted, percent_digits
from search.number_format import NONE


def report_tables(analysis: Analysis) -> list[ReportTable]:
    """Return all tables that have rows, in the order of the report."""
    final, common = analysis.final, analysis.common
    found = [
        bar_table(analysis),
        candidates_table(analysis),
        summary_table(analysis, "whole"),
        against_table(analysis, analysis.against_whole, "whole"),
        regret_table(analysis, analysis.whole[final], "whole"),
        *([regret_table(analysis, analysis.whole[common], "whole")] if common != final else []),
        catch_up_table(analysis),
        target_table(analysis),
        indicator_table(analysis),
        summary_table(analysis, "within"),
        against_table(analysis, analysis.against_within, "within"),
        width_table(analysis),
        regret_table(analysis, analysis.special[final], "special"),
        outcome_table(analysis),
        run_table(analysis),
    ]
    return [table for table in found if table.rows]


def bar_table(analysis: Analysis) -> ReportTable:
    """Return the default against the best other method and the parameter-count front, case by case."""
    bar = next((bar for bar in analysis.bars if bar.method == analysis.default), None)
    rows = tuple(
        (
            analysis.labels[row.unit.case], percent_digits(row.regret),
            method_label(row.rival) if row.rival else NONE, percent_digits(row.rival_regret), whole_cell(row.rival_n),
            "yes" if row.is_best else "no", percent_digits(row.baseline_regret), "yes" if row.beats_baseline else "no",
        )
        for row in (bar.rows if bar else ())
    )  # fmt: skip
    head = ("case", "default", "best other method", "its regret", "its evaluations", "lower than all",
            "parameter-count front", "lower than the front")  # fmt: skip
    return ReportTable(
        "bar", f"The bar: {method_label(analysis.default)} after {analysis.final} evaluations",
        f"Median regret in %, whole space. Fronts of counting count whatever they cost. {BUDGET_NOTE}", head, rows,
    )  # fmt: skip


def candidates_table(analysis: Analysis) -> ReportTable:
    """Return how far every searching method is from clearing the bar."""
    rows = tuple(
        (method_label(bar.method), f"{bar.n_best} of {len(bar.rows)}", f"{bar.n_above_baseline} of {len(bar.rows)}",
         "yes" if bar.passes else "no")
        for bar in analysis.bars
    )  # fmt: skip
    needed = analysis.bars[0].n_needed if analysis.bars else 0
    return ReportTable(
        "bar", "Every method as the default",
        f"To clear it: the lowest median on at least {counted(needed, 'case')}, and lower than the front on all. "
        f"{BUDGET_NOTE}",
        ("method", "lower than all on", "lower than the front on", "clears the bar"), rows,
    )  # fmt: skip


def summary_table(analysis: Analysis, section: str) -> ReportTable:
    """Return mean regrets at every budget, average ranks and wins; `section` is "whole" or "within"."""
    found = analysis.whole if section == "whole" else analysis.within
    ends = sorted({analysis.common, analysis.final})
    rows = []
    for method in analysis.methods:
        known = {at: next((m for m in found[at].methods if m.method == method), None) for at in analysis.budgets}
        if any(known.values()):
            means = [percent_digits(m.mean_regret) if m else NONE for m in known.values()]
            ranks = [_rank(m.rank, m.rank_low, m.rank_high) if m else NONE for m in (known[at] for at in ends)]
            wins = [str(m.wins) if m else NONE for m in (known[at] for at in ends)]
            rows.append((method_label(method), *means, *ranks, *wins))
    n = len(found[analysis.final].units)
    head = ("method", *(f"{at}" for at in analysis.budgets), *(f"rank at {at}" for at in ends),
            *(f"lowest at {at}" for at in ends))  # fmt: skip
    what = f"{counted(n, 'case')}, whole space" if section == "whole" else f"{counted(n, 'panel')} within one width"
    return ReportTable(
        section, f"All methods over {what}",
        "Regret in %: geometric mean of the medians after so many evaluations. Average rank of the median with its "
        "95 % bootstrap interval over cases; where it is the lowest. A dash: no result in some case at that budget. "
        f"{BUDGET_NOTE}",
        head, tuple(rows), column_best(rows, range(1, 1 + len(analysis.budgets))),
    )  # fmt: skip


def _rank(mean: float, low: float, high: float) -> str:
    return f"{mean:.1f} ({low:.1f} to {high:.1f})" if np.isfinite(mean) else NONE


def against_table(analysis: Analysis, rows: Sequence[AgainstBaseline], section: str) -> ReportTable:
    """Return every searching method at every budget against the whole parameter-count front."""
    by_method = {m: {row.at: row for row in rows if row.method == m} for m in analysis.searching}
    cells = tuple(
        (method_label(m), *(_against(found.get(at)) for at in analysis.budgets))
        for m, found in by_method.items()
        if found
    )
    n = max((row.n_units for row in rows), default=0)
    return ReportTable(
        section, f"Searching against counting parameters, {'whole space' if section == 'whole' else 'within widths'}",
        f"In how many of {n} the median regret is lower than that of the whole front at its own cost; in brackets: "
        f"significantly better / worse ({TESTED}). {BUDGET_NOTE}",
        ("method", *(f"{at} evaluations" for at in analysis.budgets)), cells,
    )  # fmt: skip


def _against(row: AgainstBaseline | None) -> str:
    return f"{row.lower} ({row.better} / {row.worse})" if row else NONE


def regret_table(analysis: Analysis, found: Standings, section: str) -> ReportTable:
    """Return the median regret of every method in every case after a budget."""
    medians = {m: [found.median(unit, m) for unit in found.units] for m in analysis.methods}
    medians = {m: values for m, values in medians.items() if np.isfinite(values).any()}
    rows = [(method_label(m), *(percent_digits(v) for v in values)) for m, values in medians.items()]
    table = np.array(list(medians.values())).reshape(len(medians), len(found.units))
    best = np.argwhere(table <= np.nanmin(table, axis=0) + ROUNDING) if len(table) else np.empty((0, 2), int)
    names = {"whole": "whole space", "special": "other cases"}[section]
    return ReportTable(
        section, f"Median regret after {found.at} evaluations, {names}",
        f"In %, median over seeds. Fronts of counting appear where they cost at most {found.at} in the median. "
        f"{BUDGET_NOTE}",
        ("method", *(analysis.labels[unit.case] for unit in found.units)), tuple(rows),
        frozenset((int(i), int(j) + 1) for i, j in best),
    )  # fmt: skip


def width_table(analysis: Analysis) -> ReportTable:
    """Return the median regret within every width of the main searching methods and the parameter-count front."""
    found = analysis.within[analysis.final]
    methods = families(analysis.searching, analysis.default)[0].methods
    base = analysis.baseline
    rows, bold = [], set()
    for i, unit in enumerate(found.units):
        values = [found.median(unit, m) for m in methods]
        values.append(last_medians(analysis.scores, unit).get(base, float("nan")))
        cost = median_cost(analysis.scores, unit, base)
        rows.append((analysis.labels[unit.case], unit.panel.replace("n_embd=", ""), *map(percent_digits, values),
                     whole_cell(cost)))  # fmt: skip
        if np.isfinite(values).any():
            bold |= {(i, j + 2) for j in np.flatnonzero(np.array(values) <= np.nanmin(values) + ROUNDING).tolist()}
    return ReportTable(
        "within", f"Median regret within each width after {analysis.final} evaluations",
        "In %, against the best known front of that width. The last columns: the front of counting, at any cost. "
        f"{BUDGET_NOTE}",
        ("case", "width", *(method_label(m) for m in methods), method_label(base), "its evaluations"), tuple(rows),
        frozenset(bold), 2,
    )  # fmt: skip
