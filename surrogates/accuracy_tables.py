"""Accuracy reports as Markdown tables. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from surrogates.accuracy_report import Goal, TargetReport
from surrogates.validation import COVERAGES, Scores

_Column = tuple[str, Callable[[TargetReport], str]]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a table whose first `left` columns are text and whose others are numbers.

    Example:
        >>> print(markdown_table(["a", "n"], [["x", "1"]]))
        | a | n |
        | --- | ---: |
        | x | 1 |
    """
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def goals_table(goals: Sequence[Goal]) -> str:
    """Return goals, what was reached, and whether that is enough."""
    rows = [[g.name, g.space, _limits(g), _number(g.value), _number(g.first), "yes" if g.reached else "**no**", g.note]
            for g in goals]  # fmt: skip
    return markdown_table(["goal", "space", "to reach", "reached", "first fit", "ok", "note"], rows, left=2)


def accuracy_table(reports: Sequence[TargetReport], *, adjusted: bool) -> str:
    """Return point scores: whole and, for ranks, R2 and errors, inside widths (mean weighted by rows)."""

    def of(report: TargetReport) -> Scores:
        return report.adjusted if adjusted else report.raw

    columns: list[_Column] = [
        ("rows", lambda r: str(r.n_train)), ("test", lambda r: str(of(r).n)),
        ("R2", lambda r: _number(of(r).r2, 4)), ("Kendall", lambda r: _number(of(r).kendall)),
        ("Spearman", lambda r: _number(of(r).spearman)), ("MAPE %", lambda r: _number(of(r).mape, 2)),
        ("< 5 %", lambda r: _number(of(r).within_5)), ("< 10 %", lambda r: _number(of(r).within_10)),
        ("CRPS %", lambda r: _number(of(r).crps, 2)),
    ]  # fmt: skip
    return _by_target(reports, columns)


def width_table(reports: Sequence[TargetReport], *, adjusted: bool) -> str:
    """Return R2, Kendall, MAPE and 90 % coverage inside each width, narrow to wide, parted by slashes."""

    def parts(report: TargetReport, pick: Callable[[Scores], float], digits: int) -> str:
        inside = (report.adjusted if adjusted else report.raw).within_width
        return " / ".join(_number(pick(part), digits) for part in inside)

    columns: list[_Column] = [
        ("n", lambda r: " / ".join(str(part.n) for part in r.adjusted.within_width)),
        ("R2", lambda r: parts(r, lambda s: s.r2, 3)), ("Kendall", lambda r: parts(r, lambda s: s.kendall, 3)),
        ("MAPE %", lambda r: parts(r, lambda s: s.mape, 2)), ("< 5 %", lambda r: parts(r, lambda s: s.within_5, 3)),
        ("cover 90", lambda r: parts(r, lambda s: coverage(s, 0.9)[0], 3)),
        ("width 90 %", lambda r: parts(r, lambda s: 100 * coverage(s, 0.9)[1], 2)),
        ("CRPS %", lambda r: parts(r, lambda s: s.crps, 2)),
    ]  # fmt: skip
    return _by_target(reports, columns)


def interval_table(reports: Sequence[TargetReport]) -> str:
    """Return coverage and median relative width (percent) of intervals, of adjusted values and of raw ones."""
    columns: list[_Column] = []
    for kind in ("adjusted", "raw"):
        for c in COVERAGES:
            columns.append((f"{kind} {100 * c:.0f}", lambda r, k=kind, c=c: _number(coverage(getattr(r, k), c)[0])))  # type: ignore[misc]
            columns.append(("width %", lambda r, k=kind, c=c: _number(100 * coverage(getattr(r, k), c)[1], 2)))  # type: ignore[misc]
    return _by_target(reports, columns)


def ceiling_table(reports: Sequence[TargetReport], baselines: Sequence[str]) -> str:
    """Return Kendall of surrogate, ceilings and baselines, whole and inside widths, against raw and adjusted values."""
    columns: list[_Column] = [
        ("drift %", lambda r: _number(100 * r.drift, 2)),
        ("raw", lambda r: _pair(r.raw.kendall, r.raw.kendall_within_width)),
        ("split-half", lambda r: _pair(r.ceiling.half_kendall, r.ceiling.half_kendall_within)),
        ("all repeats", lambda r: _pair(r.ceiling.full_kendall, r.ceiling.full_kendall_within)),
        ("adjusted", lambda r: _pair(r.adjusted.kendall, r.adjusted.kendall_within_width)),
        ("split-half adj.", lambda r: _pair(r.adjusted_ceiling.half_kendall, r.adjusted_ceiling.half_kendall_within)),
    ]
    for name in baselines:
        columns.append((name.replace("_", " "), lambda r, n=name: _baseline(r, n)))  # type: ignore[misc]
    return _by_target(reports, columns)


def coverage(scored: Scores, nominal: float) -> tuple[float, float]:
    """Return coverage and median relative width of an interval; NaN where it was not predicted."""
    found = next((i for i in scored.intervals if i.nominal == nominal), None)
    return (float("nan"), float("nan")) if found is None else (found.coverage, found.width)


def _by_target(reports: Sequence[TargetReport], columns: Sequence[_Column]) -> str:
    rows = [[report.metric, report.device, *(cell(report) for _, cell in columns)] for report in reports]
    return markdown_table(["metric", "device", *(name for name, _ in columns)], rows, left=2)


def _baseline(report: TargetReport, name: str) -> str:
    found = report.baselines.get(name)
    return "-" if found is None else _pair(found.kendall, found.kendall_within_width)


def _pair(whole: float, inside: float) -> str:
    return "-" if not np.isfinite(whole) else f"{_number(whole)} ({_number(inside)})"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "-"


def _limits(goal: Goal) -> str:
    if np.isfinite(goal.at_least) and np.isfinite(goal.at_most):
        return f"{goal.at_least:.3g} to {goal.at_most:.3g}"
    return f">= {goal.at_least:.3f}" if np.isfinite(goal.at_least) else f"<= {goal.at_most:.3f}"
