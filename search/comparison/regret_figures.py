"""Figures of the regret over evaluations: medians and quartiles over seeds, fronts of counting as points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.analysis import Analysis
from search.comparison.indicators import FLOOR
from search.comparison.method_styles import Family, method_style
from search.comparison.records import ALL
from search.comparison.scores import Entry, MethodScores
from search.comparison.standings import Unit, median_cost
from search.comparison.statistics import quartiles
from search.comparison.wording import counted
from search.figure_style import LIGHT, label_ends, laid_out, new_figure, styled
from search.pareto import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 500, 1000, 2000, 5000)
_EVALUATIONS = "Evaluations of perplexity"


def regret_grid(analysis: Analysis, units: Sequence[Unit], titles: Sequence[str], family: Family, *,
                columns: int) -> Figure | None:  # fmt: skip
    """Draw one panel a unit with the lines of a family; None where none of its methods has a run there."""
    lines = [m for m in family.methods if any(Entry(*unit, m) in analysis.scores.methods for unit in units)]
    if not lines or not units:
        return None
    last = max(analysis.length(method) for method in lines) or analysis.final
    left = first_shown(last)
    with styled(LIGHT):
        figure, panels = grid(len(units), columns)
        for axes, unit, title in zip(panels, units, titles, strict=True):
            for method in (*family.context, *lines):
                _draw_method(axes, analysis.scores.methods.get(Entry(*unit, method)), method, (left, last),
                             is_context=method in family.context)  # fmt: skip
            for method in shown_points(analysis, units, left):
                _draw_point(axes, analysis.scores.methods.get(Entry(*unit, method)), method)
            axes.set_title(wrapped(title), fontsize=8.5)
        _scale(panels, left, _right_end(panels, last))
        handles = legend_handles((*lines, *family.context), shown_points(analysis, units, left))
        figure.legend(handles=handles, loc="outside upper left", ncols=min(6, len(handles)))
        figure.supxlabel(_EVALUATIONS, fontsize=9)
        figure.supylabel("Hypervolume regret", fontsize=9)
        return figure


def overall_figure(analysis: Analysis, family: Family) -> Figure | None:
    """Draw the geometric mean over cases of the median regret, whole space beside within width, lines labelled."""
    groups = [("Whole space", analysis.whole), ("Within one width", analysis.within)]
    shown = [(title, found[analysis.final].units) for title, found in groups if found[analysis.final].units]
    last = max((analysis.length(m) for m in family.methods), default=0)
    if not last or not shown:
        return None
    left = first_shown(last)
    with styled(LIGHT):
        figure = new_figure(5.6 * len(shown), 4.4)
        panels = list(figure.subplots(1, len(shown), squeeze=False)[0])
        ends = []
        for axes, (title, units) in zip(panels, shown, strict=True):
            ends.append(_draw_overall(axes, analysis, units, family, (left, last)))
            axes.set_title(f"{title}, {counted(len(units), 'case' if units[0].panel == ALL else 'panel')}")
            axes.set(xlabel=_EVALUATIONS, ylabel="Hypervolume regret, geometric mean of medians")
            _scale([axes], left, last * (last / left) ** 0.45, last=last)
        points = shown_points(analysis, shown[0][1], left)
        if points:
            handles = legend_handles((), points)
            figure.legend(handles=handles, loc="outside upper left", ncols=len(handles))
        laid_out(figure)
        for axes, labels in zip(panels, ends, strict=True):
            label_ends(axes, labels)
        return figure


def _draw_overall(
    axes: Axes, analysis: Analysis, units: Sequence[Unit], family: Family, window: tuple[int, int]
) -> list[tuple[float, float, str, str]]:
    left, last = window
    ends, labels_at = [], float(last)
    for method in family.methods:
        style, curve = method_style(method), mean_curve(analysis, units, method, last)
        if len(curve) >= left:
            x = np.arange(left, len(curve) + 1)
            axes.plot(x, curve[left - 1 :], color=style.color, ls=style.line)
            axes.plot(x[-1:], curve[-1:], style.marker, color=style.color, ms=5)
            ends.append((float(curve[-1]), style.label, style.color))
    for method in shown_points(analysis, units, left):
        found = [analysis.scores.methods.get(Entry(*unit, method)) for unit in units]
        known = [scores for scores in found if scores is not None]
        if len(known) == len(units):
            style = method_style(method)
            middles = [max(quartiles(list(scores.last().values())).median, FLOOR) for scores in known]
            cost = float(np.mean([np.median(scores.lengths) for scores in known]))
            axes.plot([cost], [np.exp(np.log(middles).mean())], style.marker, color=style.color, ms=8, zorder=5)
            labels_at = max(labels_at, 1.06 * cost)  # to the right of every marker
    return [(labels_at, *end) for end in ends]


def mean_curve(analysis: Analysis, units: Sequence[Unit], method: str, last: int) -> Floats:
    """Return the geometric mean over units of a method's median regret (n,), up to where every unit has one."""
    curves = []
    for unit in units:
        known = analysis.scores.methods.get(Entry(*unit, method))
        if known is None:
            return np.empty(0)
        curves.append(median_curve(known)[1])
    n = min(last, *(len(curve) for curve in curves))
    return np.asarray(np.exp(np.log([curve[:n] for curve in curves]).mean(axis=0)))


def median_curve(known: MethodScores) -> Floats:
    """Return quartiles (3, n) of the regret over the runs, up to where at least half of them still run."""
    n = int(np.median(known.lengths))
    regrets = np.maximum(known.regrets[:, :n], FLOOR)
    quantile = np.nanquantile if np.isnan(regrets).any() else np.quantile  # the first is much slower
    return np.asarray(quantile(regrets, [0.25, 0.5, 0.75], axis=0))


def _draw_method(
    axes: Axes, known: MethodScores | None, method: str, window: tuple[int, int], *, is_context: bool
) -> None:
    if known is None or known.is_point:
        return
    left, last = window
    low, middle, high = median_curve(known)[:, :last]
    x, style = np.arange(1, len(middle) + 1), method_style(method)
    shown = slice(left - 1, None)
    if not is_context:
        axes.fill_between(x[shown], low[shown], high[shown], color=style.color, alpha=0.13, lw=0)
    axes.plot(x[shown], middle[shown], color=style.color, ls=style.line, lw=0.9 if is_context else 1.5,
              alpha=0.6 if is_context else 1.0)  # fmt: skip
    axes.plot(x[-1:], middle[-1:], style.marker, color=style.color, ms=4, alpha=0.6 if is_context else 1.0)


def _draw_point(axes: Axes, known: MethodScores | None, method: str) -> None:
    if known is None:
        return
    style, found = method_style(method), quartiles(list(known.last().values()))
    cost = float(np.median(known.lengths))
    low, middle, high = (max(value, FLOOR) for value in (found.low, found.median, found.high))
    axes.plot([cost, cost], [low, high], color=style.color, lw=1.0)
    axes.plot([cost], [middle], style.marker, color=style.color, ms=8 if style.marker == "*" else 5, zorder=5)


# --- axes ---------------------------------------------------------------------------------------------------------


def grid(
    n: int, columns: int, *, width: float = 2.75, height: float = 2.1, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure with n axes in rows of `columns`, those of a column and a row sharing theirs."""
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    figure = new_figure(max(6.4, width * columns + 0.6), height * rows + 1.0)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel().tolist()
    for axes in panels[n:]:
        axes.set_visible(False)
        axes.set_axis_off()
    for axes in panels[max(0, n - columns) : n]:
        axes.tick_params(labelbottom=True)
    return figure, panels[:n]


def first_shown(last: int) -> int:
    """Return the first evaluation that is drawn: the first few say nothing."""
    return max(1, min(10, last // 10))


def _right_end(panels: Sequence[Axes], last: int) -> float:
    """Return the right limit: the last evaluation, or the most expensive point."""
    drawn = [float(np.max(line.get_xdata())) for axes in panels for line in axes.get_lines()]
    return 1.08 * max([last, *drawn])


def _scale(panels: Sequence[Axes], left: float, right: float, *, last: float = np.inf) -> None:
    """Set limits and ticks; no tick is beyond `last`, where only labels are."""
    from matplotlib.ticker import FixedLocator, NullLocator

    ys = np.concatenate([np.asarray(line.get_ydata(), float) for axes in panels for line in axes.get_lines()])
    low, high = float(np.nanmin(ys)), float(np.nanmax(ys))
    for axes in panels:
        axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(low / 1.15, min(1.05, high * 1.1)))
        axes.xaxis.set_major_locator(FixedLocator([t for t in _TICKS if left <= t <= min(right, last)]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_locator(FixedLocator(decade_ticks(*axes.get_ylim())))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def decade_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 of each decade between two positive numbers; 1 and 3 where those are many, more where few.

    Example:
        >>> decade_ticks(0.015, 0.6)
        [0.02, 0.05, 0.1, 0.2, 0.5]
    """
    steps: tuple[float, ...] = (1, 3) if high > 100 * low else (1, 2, 5) if high > 12 * low else (1, 1.5, 2, 3, 5, 7)
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [float(f"{step}e{exponent}") for exponent in exponents for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def wrapped(title: str) -> str:
    """Return a long title in two lines."""
    return title.replace(", ", ",\n", 1) if len(title) > 34 else title


def shown_points(analysis: Analysis, units: Sequence[Unit], left: float) -> tuple[str, ...]:
    """Return the fronts of counting that are not cheaper than the first evaluation drawn."""
    costs = {m: [median_cost(analysis.scores, unit, m) for unit in units] for m in analysis.points}
    return tuple(m for m, found in costs.items() if any(cost >= left for cost in found))


def legend_handles(lines: Iterable[str], points: Iterable[str]) -> list[Any]:
    """Return what a legend shows of lines and of points."""
    from matplotlib.lines import Line2D

    def handle(method: str, *, is_point: bool) -> Line2D:
        style = method_style(method)
        line: Any = "none" if is_point else style.line
        size = 8 if style.marker == "*" else 5
        return Line2D([], [], color=style.color, marker=style.marker, ls=line, ms=size, lw=1.5, label=style.label)

    return [*(handle(m, is_point=False) for m in lines), *(handle(m, is_point=True) for m in points)]
