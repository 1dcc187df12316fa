"""The Pareto plot of a pruning report: perplexity against measured latency, or against what the budget counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pruning.report_data import DENSE, OURS, Network, PruneReport
from search.figure_style import LIGHT, Theme, laid_out, new_figure, plain_ticks, styled
from search.number_format import number

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "d", "8")
CANDIDATES = "candidates"
_OFF_SCALE = 12.0  # times the dense perplexity: what is worse is shown at the upper edge


@dataclass(frozen=True)
class _Cost:
    """The horizontal axis: a cost relative to the dense model's.

    Attributes:
        of: network -> ratio, with the ends of its interval where it was measured; None where it is not known.
        name: in the legend's title.
        label: of the axis.
        limit: the budget as a ratio; None without one.
    """

    of: Callable[[Network], tuple[float, float | None, float | None] | None]
    name: str
    label: str
    limit: float | None


_COUNTED = (("KV cache", "kv_cache_mib", "KV cache"), ("memory", "memory_mib", "Memory of the weights"),
            ("", "n_params", "Parameters"))  # fmt: skip


def _cost(report: PruneReport) -> _Cost:
    """Return latency where two networks were measured, else what the budget counts."""
    if sum(network.latency_ratio is not None for network in report.networks) >= 2:
        label = "Latency, measured (ratio to the dense model)"
        return _Cost(_latency, "latency ratio", label, report.latency_limit)
    asked = report.budget[0].metric if report.budget else ""
    key, title = next((key, title) for start, key, title in _COUNTED if asked.startswith(start))
    dense = report.of_series(DENSE)
    whole = getattr(dense, key) if dense is not None else None
    exact = asked == "parameters" or key == "kv_cache_mib"  # decoder parameters and memory count something else

    def ratio(network: Network) -> tuple[float, None, None] | None:
        value = getattr(network, key)
        return (value / whole, None, None) if value and whole else None

    limit = report.budget[0].limit / whole if exact and whole else None
    return _Cost(ratio, f"{title.lower()} ratio".replace("kv", "KV"), f"{title} (ratio to the dense model)", limit)


def _latency(network: Network) -> tuple[float, float | None, float | None] | None:
    if network.latency_ratio is None:
        return None
    return network.latency_ratio, network.latency_low, network.latency_high


@dataclass(frozen=True)
class _Point:
    """A network of the plot: cost ratio, its interval, perplexity."""

    network: Network
    x: float
    low: float | None
    high: float | None
    y: float


def pareto_figure(report: PruneReport, theme: Theme = LIGHT) -> Figure | None:
    """Draw perplexity on the first text against measured latency, or against what the budget counts.

    None without two networks of which both are known.
    """
    cost = _cost(report)
    points = [
        _Point(n, *x, y) for n in report.networks
        if (x := cost.of(n)) is not None and (y := _quality(n, report)) is not None
    ]  # fmt: skip
    if len(points) < 2:
        return None
    dense = next((p.y for p in points if p.network.series == DENSE), min(p.y for p in points))
    ours = [p.y for p in points if p.network.series == OURS]
    top = max(_OFF_SCALE * dense, *(1.5 * y for y in ours), 0)
    shown = [p.y for p in points if p.y <= top]
    ceiling = min(top, 1.18 * max(shown)) if len(shown) < len(points) else 1.12 * max(shown)
    with styled(theme):
        figure = new_figure(9.4, 4.6)
        axes = figure.subplots()
        axes.set_yscale("log")
        styles = _styles(report, theme)
        _joined(axes, [p for p in points if p.network.series == OURS], theme)
        for point in points:
            _draw(axes, point, ceiling, styles[point.network.name], theme)
        if cost.limit is not None:
            axes.axvline(cost.limit, color=theme.muted, lw=1, ls=(0, (4, 3)), zorder=1)
        ratios = [r for p in points for r in (p.x, p.low, p.high, cost.limit) if r is not None]
        margin = 0.06 * (max(ratios) - min(ratios)) or 0.05
        axes.set_xlim(min(ratios) - margin, max(ratios) + margin)
        axes.set_ylim(min(shown) / 1.12, ceiling * (1.16 if len(shown) < len(points) else 1.0))
        axes.set(xlabel=cost.label, ylabel=f"Perplexity{_on_text(report)}")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2f}")
        plain_ticks(axes, y=True)
        figure.legend(handles=_legend(points, ceiling, styles, cost, theme), loc="outside right upper",
                      labelspacing=0.75, handletextpad=0.6, title=f"perplexity at {cost.name}", alignment="left",
                      title_fontsize=8)  # fmt: skip
        return laid_out(figure)


def _quality(network: Network, report: PruneReport) -> float | None:
    value = network.perplexity.get(report.texts[0]) if report.texts else None
    return value if value is not None and np.isfinite(value) and value > 0 else None


def _on_text(report: PruneReport) -> str:
    return f", {report.texts[0]}" if report.texts else ""


def _styles(report: PruneReport, theme: Theme) -> dict[str, tuple[str, str, float]]:
    """Return colour, marker and size of each network; a series keeps its style whatever the others are."""
    found, others = (
        {},
        list(dict.fromkeys(n.series for n in report.networks if n.series not in (DENSE, OURS, CANDIDATES))),
    )
    for network in report.networks:
        if network.series == DENSE:
            found[network.name] = (theme.ink, "*", 12.0)
        elif network.series == OURS:
            found[network.name] = (theme.series[0], "o", 8.0)
        elif network.series == CANDIDATES:
            found[network.name] = (theme.faint, "o", 3.5)
        else:
            i = others.index(network.series)
            found[network.name] = (theme.series[1 + i % (len(theme.series) - 1)], MARKERS[i % len(MARKERS)], 7.0)
    return found


def _joined(axes: Axes, points: Sequence[_Point], theme: Theme) -> None:
    """Join the results of several budgets by a line."""
    if len(points) > 1:
        line = sorted((p.x, p.y) for p in points)
        axes.plot(*zip(*line, strict=True), color=theme.series[0], lw=1.2, alpha=0.6, zorder=2)


def _draw(axes: Axes, point: _Point, ceiling: float, style: tuple[str, str, float], theme: Theme) -> None:
    color, marker, size = style
    x, y = point.x, point.y
    if y > ceiling:  # an arrow at the upper edge; the legend has the number
        axes.plot(x, ceiling, marker, ms=size, color=color, mec=theme.background, mew=0.8, zorder=4)
        arrow = {"arrowstyle": "-|>", "color": color, "lw": 1.2, "shrinkA": 5, "shrinkB": 0}
        axes.annotate("", (x, ceiling * 1.15), (x, ceiling), zorder=3, arrowprops=arrow)
        return
    if point.low is not None and point.high is not None:
        axes.hlines(y, point.low, point.high, color=color, lw=1.4, zorder=3)
    order = 5 if point.network.series == OURS else 4
    axes.plot(x, y, marker, ms=size, color=color, mec=theme.background, mew=0.8, zorder=order)


def _legend(
    points: Sequence[_Point], ceiling: float, styles: dict[str, tuple[str, str, float]], cost: _Cost, theme: Theme
) -> list[Artist]:
    """Return an entry a network, best first, candidates together."""
    from matplotlib.lines import Line2D

    entries: list[Artist] = []
    named = [p for p in points if p.network.series != CANDIDATES]
    for p in sorted(named, key=lambda p: (p.network.series != DENSE, p.network.series != OURS, p.y)):
        color, marker, size = styles[p.network.name]
        text = f"{p.network.name}\n{number(p.y)} at {p.x:.3f}" + (" (off scale)" if p.y > ceiling else "")
        entries.append(
            Line2D([], [], lw=0, marker=marker, ms=min(size, 9), color=color, mec=theme.background, label=text)
        )
    n_candidates = len(points) - len(named)
    if n_candidates:
        text = f"{n_candidates} candidates of the search"
        entries.append(Line2D([], [], lw=0, marker="o", ms=3.5, color=theme.faint, label=text))
    if cost.limit is not None:
        text = f"budget: {cost.limit:.3f}"
        entries.append(Line2D([], [], color=theme.muted, lw=1, ls=(0, (4, 3)), label=text))
    return entries
