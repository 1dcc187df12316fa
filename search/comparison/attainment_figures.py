"""Figures of attainment: where most runs of a method get, and where two methods differ. Two objectives, real units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from search.comparison.analysis import Analysis
from search.comparison.attainment import attainment_difference, attainment_surfaces, run_fronts
from search.comparison.method_styles import method_label, method_style
from search.comparison.records import ALL
from search.comparison.regret_figures import grid, legend_handles
from search.figure_style import BLUE, LIGHT, VERMILLION, axis_label, styled
from search.pareto import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure


def flat_cases(analysis: Analysis) -> list[str]:
    """Return the main cases with two objectives, which attainment can be drawn for."""
    return [case for case in analysis.main if len(analysis.references[case].names) == 2]


def attainment_figure(analysis: Analysis, methods: Sequence[str], *, columns: int) -> Figure | None:
    """Draw the 50 % surface of each method over a band from 25 to 75 %, a panel a case; None without a case."""
    cases = flat_cases(analysis)
    found = {(c, m): _fronts(analysis, c, m) for c in cases for m in methods}
    shown = [m for m in methods if any(found[c, m] for c in cases)]
    if not shown:
        return None
    with styled(LIGHT):
        figure, panels = grid(len(cases), columns, share=False, height=2.5)
        for axes, case in zip(panels, cases, strict=True):
            window = _window(analysis, case)
            front = analysis.references[case].panels[ALL].front
            axes.plot(front[:, 1], front[:, 0], color=LIGHT.muted, lw=0.8, ls=(0, (1, 1)))
            for method in shown:
                if found[case, method]:
                    _draw_surfaces(axes, list(found[case, method].values()), method, window)
            _label(axes, analysis, case, window)
        figure.legend(handles=_handles(shown), loc="outside upper left", ncols=4)
        return figure


def difference_figure(analysis: Analysis, first: str, second: str, *, columns: int) -> Figure | None:
    """Draw by how much more of the runs of one method than of another attain each region; None without pairs."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    found = {case: _paired(analysis, case, first, second) for case in flat_cases(analysis)}
    cases = [case for case, (a, _) in found.items() if a]
    if not cases:
        return None
    colors = LinearSegmentedColormap.from_list("difference", [BLUE, "#ffffff", VERMILLION])
    scale = ScalarMappable(Normalize(-1, 1), colors)
    with styled(LIGHT):
        figure, panels = grid(len(cases), columns, share=False, height=2.5)
        for axes, case in zip(panels, cases, strict=True):
            window = _window(analysis, case)
            _draw_difference(axes, *found[case], window, scale)
            _label(axes, analysis, case, window)
        bar = figure.colorbar(scale, ax=panels, shrink=0.6, aspect=30, location="top", pad=0.02)
        bar.set_label(f"share of runs that attain it: {method_label(first)} minus {method_label(second)}")
        bar.outline.set_visible(False)
        return figure


def _fronts(analysis: Analysis, case: str, method: str) -> Mapping[int, Floats]:
    return run_fronts(analysis.records, case, method, at=analysis.final)


def _paired(analysis: Analysis, case: str, first: str, second: str) -> tuple[list[Floats], list[Floats]]:
    """Return the fronts of two methods of the seeds that both have."""
    a, b = (_fronts(analysis, case, method) for method in (first, second))
    seeds = sorted(a.keys() & b.keys())
    return [a[seed] for seed in seeds], [b[seed] for seed in seeds]


def _window(analysis: Analysis, case: str) -> Floats:
    """Return lower and upper limits (2, 2) of the objectives: the front and a little of what lies beyond."""
    known = analysis.references[case].panels[ALL]
    low, high = np.asarray(known.ideal, float), np.asarray(known.nadir, float)
    span = np.where(high > low, high - low, 1.0)
    return np.stack([low - 0.04 * span, high + 0.1 * span])


def staircase(surface: Floats, x: Floats) -> Floats:
    """Return the lowest second objective of a surface at a first one of at most x; infinity left of it.

    Example:
        >>> staircase(np.array([[1.0, 5.0], [3.0, 2.0]]), np.array([0.0, 1.0, 4.0])).tolist()
        [inf, 5.0, 2.0]
    """
    lowest = np.concatenate([[np.inf], np.minimum.accumulate(surface[:, 1])])
    return np.asarray(lowest[np.searchsorted(surface[:, 0], x, side="right")])


def _draw_surfaces(axes: Axes, fronts: Sequence[Floats], method: str, window: Floats) -> None:
    style = method_style(method)
    surfaces = attainment_surfaces([front[:, ::-1][np.argsort(front[:, 1])] for front in fronts])
    (y_low, x_low), (y_high, x_high) = window
    breaks = np.unique(np.concatenate([*(s[:, 0] for s in surfaces.values()), [x_low, x_high]]))
    x = breaks[(breaks >= x_low) & (breaks <= x_high)]
    low, middle, high = (np.minimum(staircase(surfaces[level], x), 2 * y_high - y_low) for level in (25, 50, 75))
    axes.fill_between(x, low, high, step="post", color=style.color, alpha=0.25, lw=0)
    axes.plot(x, middle, drawstyle="steps-post", color=style.color, lw=1.3, ls=style.line)


def _draw_difference(
    axes: Axes, first: Sequence[Floats], second: Sequence[Floats], window: Floats, scale: ScalarMappable
) -> None:
    from matplotlib.collections import PolyCollection

    found = attainment_difference(first, second)
    far = window[1] + (window[1] - window[0])
    y0, x0, y1, x1 = np.minimum(found.corners, np.tile(far, 2)).T
    corners = np.stack([np.column_stack(pair) for pair in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))], axis=1)
    colors = scale.to_rgba(found.shares)
    axes.add_collection(PolyCollection(list(corners), facecolors=colors, edgecolors=colors, linewidths=0.2))
    axes.grid(visible=False)


def _label(axes: Axes, analysis: Analysis, case: str, window: Floats) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    names = analysis.references[case].names
    y, x = (axis_label(name.partition("@")[0]) for name in names)
    axes.set(xlim=window[:, 1], ylim=window[:, 0], title=analysis.labels[case], xlabel=x, ylabel=y)
    for axis, (low, high) in ((axes.xaxis, window[:, 1]), (axes.yaxis, window[:, 0])):
        axis.set_major_locator(FixedLocator([t for t in MaxNLocator(4).tick_values(low, high) if low <= t <= high]))


def _handles(methods: Sequence[str]) -> list[object]:
    from matplotlib.lines import Line2D

    reference = Line2D([], [], color=LIGHT.muted, lw=0.8, ls=(0, (1, 1)), label="frozen reference front")
    handles = legend_handles(methods, ())
    for handle in handles:
        handle.set_marker("")
    return [*handles, reference]
