"""Figures of attainment: where most runs of a method get, and where two methods differ. Two objectives.

Fronts of good methods lie so close together that real units hide how they differ. So the distance above the reference
front is drawn too: at each value of the second objective, by how much the first is worse, in percent of its range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.comparison.analysis import Analysis
from search.comparison.attainment import (
    AttainmentDifference,
    attainment_difference,
    attainment_surfaces,
    run_fronts,
    staircase,
)
from search.comparison.method_styles import method_label, method_style
from search.comparison.records import ALL
from search.comparison.regret_figures import grid, legend_handles, wrapped
from search.figure_style import BLUE, LIGHT, VERMILLION, axis_label, plain_ticks, styled
from search.pareto import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS, _ROWS = 240, 120  # pixels of a difference


def flat_cases(analysis: Analysis) -> list[str]:
    """Return the main cases with two objectives, which attainment can be drawn for."""
    return [case for case in analysis.main if len(analysis.references[case].names) == 2]


def attainment_figure(
    analysis: Analysis, methods: Sequence[str], *, columns: int, above_front: bool = False
) -> Figure | None:
    """Draw the 50 % surface of each method over a band from 25 to 75 %, a panel a case; None without a case.

    Args:
        analysis: has the runs.
        methods: that are drawn.
        columns: of panels.
        above_front: draw the distance above the reference front instead of real units.
    """
    cases = flat_cases(analysis)
    found = {(c, m): list(_fronts(analysis, c, m).values()) for c in cases for m in methods}
    shown = [m for m in methods if any(found[c, m] for c in cases)]
    if not shown:
        return None
    with styled(LIGHT):
        figure, panels = grid(len(cases), columns, share=False, height=2.3)
        tops = []
        for axes, case in zip(panels, cases, strict=True):
            panel = _Panel(analysis, case, above_front=above_front)
            surfaces = {m: _surfaces(found[case, m]) for m in shown if found[case, m]}
            for method, levels in surfaces.items():
                _draw_surfaces(axes, panel, levels, method)
            if not above_front:
                axes.plot(panel.x, panel.floor, color=LIGHT.muted, lw=0.8, ls=(0, (1, 1)), drawstyle="steps-post")
            tops += [top for levels in surfaces.values() if np.isfinite(top := panel.usual(levels[75.0]))]
            panel.label(axes)
        if above_front:
            for axes in panels:
                axes.set_ylim(0, 1.3 * max(tops, default=1.0))
        handles = legend_handles(shown, ()) + ([] if above_front else [_reference_handle()])
        figure.legend(handles=handles, loc="outside upper left", ncols=4)
        return figure


def difference_figure(analysis: Analysis, first: str, second: str, *, columns: int) -> Figure | None:
    """Draw by how much more of the runs of one method than of another attain each region; None without pairs."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    found = {case: _paired(analysis, case, first, second) for case in flat_cases(analysis)}
    cases = [case for case, (a, _) in found.items() if a]
    if not cases:
        return None
    panels_of = {case: _Panel(analysis, case, above_front=True) for case in cases}
    tops = [panels_of[c].usual(_surfaces(fronts)[75.0]) for c in cases for fronts in found[c]]
    top = 1.5 * max((t for t in tops if np.isfinite(t)), default=1.0)
    colors = LinearSegmentedColormap.from_list("difference", [BLUE, "#ffffff", VERMILLION])
    norm = Normalize(-1, 1)
    scale = ScalarMappable(norm, colors)
    with styled(LIGHT):
        figure, panels = grid(len(cases), columns, share=False, height=2.3)
        for axes, case in zip(panels, cases, strict=True):
            panel = panels_of[case]
            heights = (np.arange(_ROWS) + 0.5) * top / _ROWS
            image = rasterised(attainment_difference(*found[case]), panel.x, panel.above(heights))
            axes.pcolormesh(panel.x, heights, image, cmap=colors, norm=norm, shading="nearest", rasterized=True)
            axes.grid(visible=False)
            panel.label(axes)
            axes.set_ylim(0, top)
        bar = figure.colorbar(scale, ax=panels, shrink=0.5, aspect=40, location="top", pad=0.03)
        bar.set_label(f"Share of runs that attain it: {method_label(first)} minus {method_label(second)}")
        return figure


def rasterised(difference: AttainmentDifference, x: Floats, y: Floats) -> Floats:
    """Return the difference (rows, columns) at points whose second objective is x (columns,) and first y (as many).

    Args:
        difference: of two methods.
        x: ascending.
        y: (rows, columns).
    """
    image = np.zeros(y.shape)
    for (y0, x0, y1, x1), share in zip(difference.corners, difference.shares, strict=True):
        if share:
            start, end = np.searchsorted(x, [x0, x1])
            block = y[:, start:end]
            image[:, start:end][(block >= y0) & (block < y1)] = share
    return image


class _Panel:
    """The axes of a case: second objective to the right, first upwards or its distance above the front."""

    def __init__(self, analysis: Analysis, case: str, *, above_front: bool) -> None:
        known = analysis.references[case].panels[ALL]
        low, high = np.asarray(known.ideal, float), np.asarray(known.nadir, float)
        self.span = np.where(high > low, high - low, 1.0)
        self.low, self.high = low - 0.04 * self.span, high + 0.1 * self.span
        self.title, self.names = wrapped(analysis.labels[case]), analysis.references[case].names
        self.above_front = above_front
        self.is_log = bool(low[1] > 0)
        left, right = float(low[1]), float(self.high[1])
        self.x = np.geomspace(left, right, _COLUMNS) if self.is_log else np.linspace(left, right, _COLUMNS)
        self.floor = staircase(_swapped(np.asarray(known.front, float)), self.x)

    def heights(self, surface: Floats) -> Floats:
        """Return what is drawn of a surface at every x."""
        y = staircase(surface, self.x)
        y = np.where(np.isfinite(y), y, self.high[0] + 10 * self.span[0])
        return np.asarray(100 * (y - self.floor) / self.span[0] if self.above_front else y)

    def above(self, heights: Floats) -> Floats:
        """Return the first objective (rows, columns) at heights (rows,) above the front."""
        return np.asarray(self.floor + heights[:, None] * self.span[0] / 100)

    def usual(self, surface: Floats) -> float:
        """Return the height above the front that three quarters of a surface stay below."""
        y = staircase(surface, self.x)
        excess = 100 * (y - self.floor) / self.span[0]
        return float(np.quantile(excess, 0.75, method="lower"))

    def label(self, axes: Axes) -> None:
        """Set limits, ticks, title and names of the axes."""
        from matplotlib.ticker import MaxNLocator

        y, x = (axis_label(name.partition("@")[0]) for name in self.names)
        what = f"{y.split(' (')[0]} above the front (%)" if self.above_front else y
        axes.set(xlim=(self.x[0], self.x[-1]), xlabel=x, ylabel=what)
        axes.set_title(self.title, fontsize=8.5)
        if not self.above_front:
            axes.set_ylim(self.low[0], self.high[0])
        if self.is_log:
            axes.set_xscale("log")
            plain_ticks(axes, x=True, count=4)
        axes.yaxis.set_major_locator(MaxNLocator(4))


def _fronts(analysis: Analysis, case: str, method: str) -> Mapping[int, Floats]:
    return run_fronts(analysis.records, case, method, at=analysis.final)


def _paired(analysis: Analysis, case: str, first: str, second: str) -> tuple[list[Floats], list[Floats]]:
    """Return the fronts of two methods of the seeds that both have."""
    a, b = (_fronts(analysis, case, method) for method in (first, second))
    seeds = sorted(a.keys() & b.keys())
    return [a[seed] for seed in seeds], [b[seed] for seed in seeds]


def _swapped(front: Floats) -> Floats:
    """Return points with the second objective first, ascending in it."""
    return front[np.argsort(front[:, 1], kind="stable")][:, ::-1]


def _surfaces(fronts: Sequence[Floats]) -> dict[float, Floats]:
    return attainment_surfaces([_swapped(front) for front in fronts])


def _draw_surfaces(axes: Axes, panel: _Panel, levels: Mapping[float, Floats], method: str) -> None:
    style = method_style(method)
    low, middle, high = (panel.heights(levels[level]) for level in (25.0, 50.0, 75.0))
    axes.fill_between(panel.x, low, high, step="post", color=style.color, alpha=0.22, lw=0)
    axes.plot(panel.x, middle, drawstyle="steps-post", color=style.color, lw=1.2, ls=style.line)


def _reference_handle() -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=LIGHT.muted, lw=0.8, ls=(0, (1, 1)), label="Frozen reference front")
