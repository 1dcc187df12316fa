"""The Pareto figure: fronts as searched, picks as measured with error bars, and every profiled network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from search.figure_style import (
    LIGHT,
    SeriesStyle,
    Theme,
    axis_label,
    laid_out,
    new_figure,
    plain_ticks,
    search_styles,
    styled,
)
from search.final import picks_by_search
from search.pareto import nondominated
from search.picks import Pick
from search.report_data import ReportData
from search.report_findings import BASELINE, RANDOM, measured_networks, objective_axes
from search.result import SearchResult

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def front_figure(data: ReportData, theme: Theme = LIGHT) -> Figure | None:
    """Draw the fronts that the searches saw, the picks as measured with error bars, and all profiled networks."""
    if not data.picks and not any(objective_axes(r) for r in data.searches.values()):
        return None
    with styled(theme):
        figure = new_figure(9.4, 5.2)
        draw_front(figure.subplots(), data, theme)
        return laid_out(figure)


def draw_front(axes: Axes, data: ReportData, theme: Theme) -> None:
    """Draw the Pareto figure into axes; see `front_figure`."""
    drawable = {name: result for name, result in data.searches.items() if objective_axes(result)}
    pairs = {_axis_names(result) for result in drawable.values()} or {("latency_ms", "perplexity")}
    x_name, y_name = ("latency_ms", "perplexity") if ("latency_ms", "perplexity") in pairs else sorted(pairs)[0]
    names = list(dict.fromkeys([*drawable, *picks_by_search(data.picks)]))
    styles = search_styles(sorted(names, key=drawing_order), theme)
    shows_picks = (x_name, y_name) == ("latency_ms", "perplexity")
    if shows_picks:
        _draw_measured(axes, data, theme)
    for name, result in drawable.items():
        if _axis_names(result) == (x_name, y_name):
            _draw_searched_front(axes, result, styles[name], is_main=name not in (BASELINE, RANDOM))
    if shows_picks:
        for name, picks in picks_by_search(data.picks).items():
            _draw_picks(axes, picks, styles[name])
        _draw_reference(axes, data, theme)
    axes.set(xlabel=axis_label(x_name), ylabel=axis_label(y_name), xscale="log", yscale="log")
    plain_ticks(axes, x=True, y=True)
    axes.legend(handles=_front_legend(axes, data, styles, drawable), loc="upper right", labelspacing=0.7)


def drawing_order(name: str) -> tuple[int, str]:
    """Return a sort key of search names: the search, its baseline, random search."""
    return ({"nsga2": 0, "parameter_count": 2, "random": 3}.get(name, 1), name)


def _axis_names(result: SearchResult) -> tuple[str, str]:
    indices = objective_axes(result)
    assert indices is not None
    return result.names[indices[0]], result.names[indices[1]]


def _draw_measured(axes: Axes, data: ReportData, theme: Theme) -> None:
    points = measured_networks(data).dropna(subset=["latency_ms", "perplexity"])
    if len(points):
        axes.plot(points["latency_ms"], points["perplexity"], "o", ms=3.5, mew=0, color=theme.faint,
                  label=f"Profiled sub-networks ({len(points)} measured)", zorder=1)  # fmt: skip


def searched_front(result: SearchResult) -> np.ndarray:
    """Return the front of a search in the plane of the figure, (n, 2), by the hardware objective."""
    x_name, y_name = _axis_names(result)
    values = result.values[:, [result.names.index(x_name), result.names.index(y_name)]]
    points = values[nondominated(values, duplicates=False)]
    return points[np.argsort(points[:, 0])]


def _draw_searched_front(axes: Axes, result: SearchResult, style: SeriesStyle, *, is_main: bool) -> None:
    """Draw the front as a staircase: what lies above or right of it is dominated."""
    points = searched_front(result)
    width, alpha = (1.6, 0.9) if is_main else (1.0, 0.7)
    axes.step(
        points[:, 0], points[:, 1], where="post", color=style.color, lw=width, alpha=alpha, zorder=2 + is_main / 2
    )


def _front_legend(
    axes: Axes, data: ReportData, styles: Mapping[str, SeriesStyle], drawable: Mapping[str, SearchResult]
) -> list[Artist]:
    """Return one entry a search, its line and its marker together, after the entry of the profiled networks."""
    from matplotlib.lines import Line2D

    entries: list[Artist] = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    picks = picks_by_search(data.picks)
    for name, style in styles.items():
        facts = [f"{len(searched_front(drawable[name])):,} on its front"] if name in drawable else []
        facts += [f"{len(picks[name])} measured again"] if name in picks else []
        entries.append(
            Line2D([], [], color=style.color, lw=1.4 if name in drawable else 0, ms=7, mec=axes.get_facecolor(),
                   marker=style.marker if name in picks else "", label=f"{style.label} ({', '.join(facts)})")
        )  # fmt: skip
    return entries


def _draw_picks(axes: Axes, picks: list[Pick], style: SeriesStyle) -> None:
    for pick in picks:
        if np.isfinite(pick.predicted_latency_ms) and np.isfinite(pick.predicted_perplexity):
            axes.plot([pick.predicted_latency_ms, pick.latency_ms], [pick.predicted_perplexity, pick.perplexity],
                      color=style.color, lw=0.7, alpha=0.6, zorder=3)  # fmt: skip
    axes.errorbar(
        [p.latency_ms for p in picks], [p.perplexity for p in picks],
        xerr=[p.latency_iqr_ms / 2 for p in picks], yerr=[p.perplexity_stderr for p in picks],
        fmt=style.marker, color=style.color, ms=7, mec=axes.get_facecolor(), mew=0.8, elinewidth=1.1, capsize=2.5,
        label="_", zorder=4,
    )  # fmt: skip


def _draw_reference(axes: Axes, data: ReportData, theme: Theme) -> None:
    for pick in data.picks:
        if pick.search:
            continue
        axes.errorbar(pick.latency_ms, pick.perplexity, xerr=pick.latency_iqr_ms / 2, yerr=pick.perplexity_stderr,
                      fmt="*", color=theme.ink, ms=11, elinewidth=1.1, capsize=2.5, zorder=5)  # fmt: skip
        axes.annotate(pick.name, (pick.latency_ms, pick.perplexity), xytext=(0, 9), textcoords="offset points",
                      ha="center", va="bottom", fontsize=8, color=theme.ink, zorder=6)  # fmt: skip
