"""What a comparison says, in sentences made from its numbers: where the default fails, what counting is worth, ties.

Nothing is claimed that a number does not show: "better" means a lower median, "significantly" a paired Wilcoxon test
with p < 0.05 after Holm's correction over all pairs and panels of a case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.comparison.analysis import RANDOM, Analysis
from search.comparison.bar import AgainstBaseline, Bar
from search.comparison.data_notes import data_texts
from search.comparison.method_styles import method_label
from search.comparison.other_indicators import indicator_text
from search.comparison.records import ALL
from search.comparison.standings import Outcomes, Standings, median_cost
from search.comparison.wording import counted, listed, percents, span


@dataclass(frozen=True)
class Finding:
    """One conclusion.

    Attributes:
        topic: what it is about, one or two words.
        text: a sentence or more.
    """

    topic: str
    text: str


def findings(analysis: Analysis) -> list[Finding]:
    """Return the conclusions, the bar first, what is missing from the data last."""
    out = [Finding("The bar", bar_text(analysis))]
    for name, rows, found in (
        ("Counting or searching, whole space", analysis.against_whole, analysis.whole),
        ("Counting or searching, within a width", analysis.against_within, analysis.within),
    ):
        if rows and found[analysis.final].units:
            out.append(Finding(name, counting_text(analysis, rows)))
    out += [Finding("Catching up", text) for text in [catch_up_text(analysis)] if text]
    out += [Finding("Fronts of counting", text) for text in [variants_text(analysis)] if text]
    out += [Finding("Against random search", text) for text in random_texts(analysis)]
    for name, group in (("whole space", analysis.whole), ("within a width", analysis.within)):
        text = leader_text(group[analysis.final], analysis.default)
        out += [Finding(f"Average ranks, {name}", text)] if text else []
    out += [Finding("Other cases", text) for text in special_texts(analysis)]
    out += [Finding("Other indicators", text) for text in [indicator_text(analysis)] if text]
    out += [Finding("The data", text) for text in data_texts(analysis)]
    return out


def headline(analysis: Analysis) -> str:
    """Return the result in a sentence or two."""
    return bar_text(analysis, with_losses=False)


# --- the bar ------------------------------------------------------------------------------------------------------


def bar_text(analysis: Analysis, *, with_losses: bool = True) -> str:
    """Say whether the default clears the bar, what does if not, and where it fails."""
    if not analysis.bars:
        return f"No searching method has {analysis.final} evaluations."
    first = analysis.bars[0]
    if first.method != analysis.default:
        name = method_label(analysis.default)
        return f"{name} has no runs of {analysis.final} evaluations. {_best_of(analysis.bars)}"
    text = f"{_score(first)}: it {'clears' if first.passes else 'does not clear'} the bar ({_needed(first)})."
    if not first.passes and len(analysis.bars) > 1:
        text += f" {_best_of(analysis.bars)}"
    return f"{text} {_losses(analysis, first)}".strip() if with_losses else text


def _score(bar: Bar) -> str:
    n = len(bar.rows)
    return (
        f"After {bar.at} evaluations {method_label(bar.method)} has a lower median regret than every other method on "
        f"{bar.n_best} of {counted(n, 'case')}, and than the parameter-count front on {bar.n_above_baseline} of {n}"
    )


def _needed(bar: Bar) -> str:
    return f"at least {bar.n_needed} of {len(bar.rows)}, and every front"


def _best_of(bars: Sequence[Bar]) -> str:
    best = max(bars, key=lambda bar: (bar.passes, bar.n_best, bar.n_above_baseline))
    if not best.n_best:
        return "No method is the best on any case."
    verdict = "clears it" if best.passes else "does not clear it either"
    return (
        f"The method that is the best on most cases is {method_label(best.method)}: on {best.n_best} of "
        f"{len(best.rows)}, above the front on {best.n_above_baseline}; it {verdict}."
    )


def _losses(analysis: Analysis, bar: Bar) -> str:
    lost = [
        f"{analysis.labels[row.unit.case]} to {method_label(row.rival)} ({percents(row.regret, row.rival_regret)})"
        for row in bar.rows
        if not row.is_best
    ]
    level = [analysis.labels[row.unit.case] for row in bar.rows if not row.beats_baseline]
    text = f"It is not the best on {listed(lost)}." if lost else ""
    return f"{text} It is not better than the front on {listed(level)}.".strip() if level else text


# --- counting or searching ----------------------------------------------------------------------------------------


def counting_text(analysis: Analysis, rows: Sequence[AgainstBaseline]) -> str:
    """Say at every budget how the default and the best other method stand against the parameter-count front."""
    said: dict[tuple[str, str], list[str]] = {}
    for at in analysis.budgets:
        here = [row for row in rows if row.at == at]
        if here:
            n, paid = here[0].n_units, here[0].n_affordable
            cost = "" if paid == n else f" (fewer than the front costs on {n - paid} of {n})"
            said.setdefault((cost, _standing_text(here, analysis.default)), []).append(str(at))
    return " ".join(f"At {listed(budgets)} evaluations{cost}: {text}." for (cost, text), budgets in said.items())


def _standing_text(here: Sequence[AgainstBaseline], default: str) -> str:
    if not any(row.lower for row in here):
        return f"no method is better than the front on any of {here[0].n_units}"
    own = [row for row in here if row.method == default]
    others = sorted((row for row in here if row.method != default),
                    key=lambda row: (-row.lower, -row.better, row.worse, row.method))  # fmt: skip
    parts = [_against(row) for row in own]
    if others:
        parts.append(f"of the others {_against(others[0])}" if others[0].lower else "no other method on any")
    return "; ".join(parts)


def _against(row: AgainstBaseline) -> str:
    return (
        f"{method_label(row.method)} is better than the front on {row.lower} of {row.n_units} "
        f"(significantly better on {row.better}, worse on {row.worse})"
    )


def catch_up_text(analysis: Analysis) -> str:
    """Say when searching methods are as good as the parameter-count front in the whole space."""
    whole = set(analysis.whole[analysis.final].units)
    parts = []
    for method in analysis.searching:
        found = [c for c in analysis.catch_ups if c.method == method and c.unit in whole]
        if found and analysis.length(method) >= analysis.final:
            reached = [c.median for c in found if np.isfinite(c.median)]
            when = f", after {span(reached)}" if reached else ""
            parts.append(f"{method_label(method)} on {len(reached)} of {len(found)}{when}")
    costs = [median_cost(analysis.scores, unit, analysis.baseline) for unit in whole]
    costs = [cost for cost in costs if np.isfinite(cost)]
    if not parts or not costs:
        return ""
    return (
        f"The front costs {span(costs)} evaluations. Within {analysis.final} the median run is as good as it: "
        f"{'; '.join(parts)}."
    )


def variants_text(analysis: Analysis) -> str:
    """Say which front of counting is the best over the main cases, at what it costs."""
    units = analysis.whole[analysis.final].units
    rows = []
    for method in analysis.points:
        known = [k for unit in units for entry, k in analysis.scores.methods.items() if entry == (*unit, method)]
        if len(known) == len(units):
            regret = float(np.mean([np.median(list(k.last().values())) for k in known]))
            rows.append((regret, method, [float(np.median(k.lengths)) for k in known]))
    if len(rows) < 2:
        return ""
    parts = [f"{method_label(m)} {percents(regret)} at {span(costs)} evaluations" for regret, m, costs in sorted(rows)]
    return f"Mean over the cases of the median regret, whole space: {'; '.join(parts)}."


# --- random search, ranks, other cases ----------------------------------------------------------------------------


def random_texts(analysis: Analysis) -> list[str]:
    """Say which searching methods are not told apart from random search, or are worse, at two budgets."""
    out = []
    for name, group in (("whole space", analysis.whole), ("within a width", analysis.within)):
        for at in sorted({analysis.common, analysis.final}):
            found = group[at]
            rivals = [m.method for m in found.methods if m.method != RANDOM and m.method not in analysis.points]
            counts = {m: found.outcomes(m, RANDOM) for m in rivals}
            counts = {m: outcome for m, outcome in counts.items() if sum(outcome)}
            if counts:
                out.append(f"{at} evaluations, {name}: {_random_text(counts)}")
    return out


def _random_text(counts: Mapping[str, Outcomes]) -> str:
    n = max(sum(outcome) for outcome in counts.values())
    always = [method_label(m) for m, outcome in counts.items() if outcome.better == sum(outcome)]
    partly = [f"{method_label(m)} ({outcome.better} of {sum(outcome)})" for m, outcome in counts.items()
              if 0 < outcome.better < sum(outcome)]  # fmt: skip
    never = [method_label(m) for m, outcome in counts.items() if not outcome.better]
    worse = [f"{method_label(m)} ({outcome.worse} of {sum(outcome)})" for m, outcome in counts.items() if outcome.worse]
    parts = [f"significantly better than random search on all {n}: {listed(always) or 'none'}"]
    parts += [f"on some: {listed(partly)}"] if partly else []
    parts += [f"nowhere: {listed(never)}"] if never else []
    parts += [f"significantly worse on some: {listed(worse)}"] if worse else []
    return "; ".join(parts) + "."


def leader_text(found: Standings, default: str) -> str:
    """Say who has the best average rank, and where the default stands."""
    if not found.units or not found.ranked:
        return ""
    best = found.ranked[0]
    text = (
        f"After {found.at} evaluations {method_label(best.method)} has the best average rank, {best.rank:.1f} "
        f"({best.rank_low:.1f} to {best.rank_high:.1f}) of {len(found.ranked)}, and the lowest median regret on "
        f"{best.wins} of {counted(len(found.units), 'case' if found.units[0].panel == ALL else 'panel')}"
    )
    own = next((m for m in found.ranked if m.method == default), None)
    if own is None or own.method == best.method:
        return f"{text}."
    outcome = found.outcomes(own.method, best.method)
    return (
        f"{text}; {method_label(own.method)} has rank {own.rank:.1f} ({own.rank_low:.1f} to {own.rank_high:.1f}) and "
        f"{own.wins}: against {method_label(best.method)} it is significantly better on {outcome.better}, worse on "
        f"{outcome.worse}, and not told apart on {outcome.open}."
    )


def special_texts(analysis: Analysis) -> list[str]:
    """Say who is the best on every other case, and who is not told apart from it."""
    found = analysis.special[analysis.final]
    out = []
    for unit in found.units:
        order = found.order(unit)
        if not order:
            continue
        best, regret = order[0]
        level = [method_label(m) for m, _ in order[1:] if not _told_apart(found, unit.case, best, m)]
        text = f"{analysis.labels[unit.case]}: {method_label(best)} has the lowest median regret, {percents(regret)}"
        text += (
            f"; not told apart from it: {listed(level, most=6)}."
            if level
            else ", significantly below every other method."
        )
        out.append(text)
    return out


def _told_apart(found: Standings, case: str, a: str, b: str) -> bool:
    return any(p.winner for p in found.pairs if p.unit.case == case and {p.first, p.second} == {a, b})
