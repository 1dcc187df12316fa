"""What the data lack, in sentences: short runs, seeds, results; and runs that beat the frozen fronts."""

from __future__ import annotations

from collections import Counter

from search.comparison.analysis import Analysis
from search.comparison.method_styles import method_label
from search.comparison.records import ALL
from search.comparison.statistics import LEVEL
from search.comparison.wording import listed, percents


def data_texts(analysis: Analysis) -> list[str]:
    """Say what is missing: short runs, seeds, results; and which runs beat the frozen fronts."""
    out = []
    short = [f"{method_label(m)} ({analysis.length(m)})" for m in analysis.searching
             if analysis.length(m) < analysis.final]  # fmt: skip
    if short:
        out.append(f"Compared after {analysis.common} evaluations, which all methods have, and after "
                   f"{analysis.final}, without {listed(short)}.")  # fmt: skip
    found = [(e, k) for e, k in analysis.scores.methods.items() if e.panel == ALL]
    seeds = {entry: len(known.seeds) for entry, known in found if len(known.seeds) > 1 or not known.is_point}
    most = max(seeds.values())
    fewer = [f"{method_label(e.method)} on {analysis.labels[e.case]} ({n})" for e, n in seeds.items() if n < most]
    if fewer:
        out.append(f"Fewer than {most} seeds: {listed(fewer, most=8)}. Tests use the seeds that both methods have.")
    for name, found_there in (("in the whole space", analysis.whole), ("within widths", analysis.within)):
        tests = found_there[analysis.final].pairs
        n = max((test.n for test in tests), default=0)
        least = min(Counter(test.unit.case for test in tests).values(), default=0)
        if n and least * 0.5 ** (n - 1) >= LEVEL:
            out.append(f"With {n} seeds and {least} tests a case, {name} no difference can be significant.")
    few = [d for found in (*analysis.whole.values(), *analysis.special.values()) for d in found.dropped]
    if few:
        named = [f"{method_label(m)} on {analysis.labels[unit.case]} ({n})" for unit, m, n in dict.fromkeys(few)]
        out.append(f"Left out for having fewer than half of the seeds: {listed(named, most=8)}.")
    runs = analysis.scores.run_table
    whole = runs[runs["panel"] == ALL]
    if int(whole["n_invalid"].sum()):
        out.append(f"{int(whole['n_invalid'].sum()):,} of {int(whole['n_evaluations'].sum()):,} evaluations gave no "
                   "result or missed a budget; they cost budget and add nothing.")  # fmt: skip
    below = runs[runs["is_below_zero"]]
    if len(below):
        counted = Counter((str(row.case), str(row.panel)) for row in below.itertuples())
        where = [f"{analysis.labels[case]} {panel} ({n})" for (case, panel), n in counted.items()]
        out.append(f"{len(below)} runs end with a larger hypervolume than the frozen front (regret below 0, lowest "
                   f"{percents(float(below['regret'].min()))}); they are kept: {listed(where, most=8)}.")  # fmt: skip
    return out
