"""Figures of all methods at once: heat maps of ranks by case, and the spread of every method's regret over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from search.comparison.analysis import Analysis
from search.comparison.indicators import FLOOR
from search.comparison.method_styles import method_label, method_style
from search.comparison.records import ALL
from search.comparison.regret_figures import grid, wrapped
from search.comparison.scores import Entry
from search.comparison.standings import Standings
from search.comparison.statistics import quartiles
from search.figure_style import LIGHT, new_figure, plain_ticks, styled
from search.pareto import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def rank_figure(analysis: Analysis, *, within: bool = False) -> Figure | None:
    """Draw the rank of every method's median regret in every case, at the common and at the final budget.

    Args:
        analysis: what is drawn.
        within: whether ranks are the mean over the widths of a case instead of those in the whole space.
    """
    group = analysis.within if within else analysis.whole
    budgets = sorted({analysis.common, analysis.final})
    tables = {at: rank_table(group[at], analysis.main, analysis.methods) for at in budgets}
    methods = [m for i, m in enumerate(analysis.methods) if any(np.isfinite(t[i]).any() for t in tables.values())]
    if not methods:
        return None
    rows = [analysis.methods.index(m) for m in methods]
    labels = [analysis.labels[case] for case in analysis.main]
    worst = max(float(np.nanmax(table)) for table in tables.values())
    with styled(LIGHT):
        figure = new_figure(2.4 + 0.42 * len(labels) * len(budgets), 1.9 + 0.26 * len(methods))
        for axes, at in zip(figure.subplots(1, len(budgets), sharey=True, squeeze=False)[0], budgets, strict=True):
            _draw_ranks(axes, tables[at][rows], worst, "{:.1f}" if within else "{:.3g}")
            axes.set_title(f"{at} evaluations")
            axes.set_xticks(range(len(labels)), labels, rotation=60, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(methods)), [method_label(m) for m in methods])
        return figure


def rank_table(found: Standings, cases: Sequence[str], methods: Sequence[str]) -> Floats:
    """Return ranks (methods, cases), averaged over the units of a case; NaN where a method lacks one."""
    from scipy.stats import rankdata

    table = np.full((len(methods), len(cases)), np.nan)
    for j, case in enumerate(cases):
        units = [unit for unit in found.units if unit.case == case]
        if units:
            medians = np.array([[found.median(unit, method) for method in methods] for unit in units])
            ranks = rankdata(np.round(medians, 12), axis=1, nan_policy="omit")
            table[:, j] = ranks.mean(axis=0)
    return table


def _draw_ranks(axes: Axes, table: Floats, worst: float, form: str) -> None:
    from matplotlib import colormaps

    axes.imshow(table, cmap=colormaps["Blues_r"], vmin=1, vmax=max(2.0, 1.15 * worst), aspect="auto")
    for (i, j), rank in np.ndenumerate(table):
        if np.isfinite(rank):
            color = "#ffffff" if rank < 0.55 * worst else LIGHT.ink
            axes.text(j, i, form.format(rank), ha="center", va="center", fontsize=7, color=color,
                      fontweight="bold" if rank == 1 else "normal")  # fmt: skip
        else:
            axes.text(j, i, "\N{MIDDLE DOT}", ha="center", va="center", fontsize=7, color=LIGHT.muted)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def spread_figure(analysis: Analysis, *, columns: int) -> Figure | None:
    """Draw the regret of every run, its quartiles and median, a row a method and a panel a case, at the final budget.

    Methods with fewer evaluations are drawn at the end of their runs; the label has the number.
    """
    methods, cases = analysis.methods, analysis.main
    with styled(LIGHT):
        figure, panels = grid(len(cases), columns, height=0.7 + 0.15 * len(methods))
        shown = [value for axes, case in zip(panels, cases, strict=True)
                 for value in _draw_spreads(axes, analysis, case, methods)]  # fmt: skip
        if not shown:
            return None
        for axes, case in zip(panels, cases, strict=True):
            axes.set(xscale="log", xlim=(min(shown) / 1.2, max(shown) * 1.2))
            axes.set_title(wrapped(analysis.labels[case]), fontsize=8.5)
            axes.set_yticks(range(len(methods)), [_spread_label(analysis, m) for m in methods])
            axes.set_ylim(len(methods) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0, labelsize=7)
            plain_ticks(axes, x=True, count=4)
        figure.supxlabel("Hypervolume regret", fontsize=9)
        return figure


def _spread_label(analysis: Analysis, method: str) -> str:
    label = method_label(method)
    if method in analysis.points:
        return label
    length = analysis.length(method)
    return label if length >= analysis.final else f"{label}, {length} eval."


def _draw_spreads(axes: Axes, analysis: Analysis, case: str, methods: Sequence[str]) -> list[float]:
    drawn: list[float] = []
    for row, method in enumerate(methods):
        known = analysis.scores.methods.get(Entry(case, ALL, method))
        if known is None:
            continue
        found = known.last() if known.is_point else known.at(analysis.final) or known.last()
        values = np.maximum(list(found.values()), FLOOR)
        q, color = quartiles(values), method_style(method).color
        axes.plot(values, np.full(len(values), row), ".", ms=3, color=color, alpha=0.35, mew=0)
        axes.plot([q.low, q.high], [row, row], color=color, lw=3.2, alpha=0.75, solid_capstyle="butt")
        axes.plot([q.median], [row], "|", ms=8, mew=1.6, color=LIGHT.ink)
        drawn += values.tolist()
    return drawn
