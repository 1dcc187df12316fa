"""The figures of a pruning report: what was kept of each block, latency against perplexity, predicted latencies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pruning.report_data import PruneReport
from pruning.report_pareto import MARKERS, pareto_figure
from search.figure_style import LIGHT, Theme, laid_out, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_WIDTH, _DIGIT_WIDTH, _CELL_MARGIN = 7.7, 0.052, 0.045  # inches, of the heat map at 6 points


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the report: file name, how it is drawn, its text alternative, and what a reader must know."""

    name: str
    draw: Callable[[PruneReport, Theme], Figure | None]
    alt: str
    caption: str


# --- what was kept -------------------------------------------------------------------------------------------------


def blocks_figure(report: PruneReport, theme: Theme = LIGHT) -> Figure:
    """Draw heads, key/value groups and neurons of every dense block: numbers, coloured by the part kept."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    kept, whole, names = _kept(report)
    n_blocks = kept.shape[1]
    most = int(_PANEL_WIDTH / (_DIGIT_WIDTH * len(str(whole.max())) + _CELL_MARGIN))
    n_panels = -(-n_blocks // most)
    columns = -(-n_blocks // n_panels)
    with styled(theme):
        figure = new_figure(9.4, 0.55 + 1.15 * n_panels)
        colors = LinearSegmentedColormap.from_list("kept", _ramp(theme))
        image = None
        for panel, axes in enumerate(figure.subplots(n_panels, 1, squeeze=False)[:, 0]):
            first, last = panel * columns, min((panel + 1) * columns, n_blocks)
            share = kept[:, first:last] / whole[:, None]
            image = axes.imshow(
                np.where(share > 0, share, np.nan), cmap=colors, norm=Normalize(0, 1), aspect="auto",
                extent=(first - 0.5, last - 0.5, len(names) - 0.5, -0.5),
            )  # fmt: skip
            _cells(axes, kept, whole, range(first, last), theme)
            axes.set_xlim(first - 0.5, first + columns - 0.5)
            axes.set_yticks(range(len(names)), names)
            axes.set_xticks(range(first, last, 1 if columns <= 20 else 2))
            axes.grid(visible=False)
            axes.tick_params(length=0)
            for spine in axes.spines.values():
                spine.set_visible(False)
            if panel == n_panels - 1:
                axes.set_xlabel("Block of the dense model")
        assert image is not None
        bar = figure.colorbar(image, ax=figure.axes, fraction=0.03, pad=0.01, ticks=[0, 0.5, 1], format="{x:.0%}")
        bar.outline.set_visible(False)  # type: ignore[operator]
        bar.set_label("kept", fontsize=8)
        return laid_out(figure)


def _kept(report: PruneReport) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return what each dense block keeps (parts, blocks), the largest sizes (parts,), and the parts' names."""
    parts = [("n_head", "query heads"), ("n_query_groups", "KV heads"), ("intermediate_size", "MLP neurons")]
    if report.dense.n_head == report.dense.n_query_groups and report.pruned.n_head == report.pruned.n_query_groups:
        parts = [("n_head", "heads"), parts[2]]
    n_blocks = report.dense.layers[-1] + 1
    kept = np.zeros((len(parts), n_blocks), dtype=np.int64)
    for row, (name, _) in enumerate(parts):
        kept[row, list(report.pruned.layers)] = getattr(report.pruned, name)
    whole = np.array([max(getattr(report.dense, name)) for name, _ in parts])
    names = [f"{text}\n(of {size:,})" for (_, text), size in zip(parts, whole, strict=True)]
    return kept, whole, names


def _ramp(theme: Theme) -> list[str]:
    """Return colours from little to all: one hue, so that brightness alone tells."""
    return ["#edf3f8", "#7fb2d6", "#00527f"] if theme.name == "light" else ["#20303c", "#2b7fb4", "#b5dcf5"]


def _cells(axes: Axes, kept: np.ndarray, whole: np.ndarray, blocks: range, theme: Theme) -> None:
    """Write the numbers; what is gone is hatched."""
    from matplotlib.patches import Rectangle

    dropped = (kept == 0).all(axis=0)
    size = 7.5 if len(blocks) <= 16 else 6.0
    for block in blocks:
        for row, value in enumerate(kept[:, block]):
            if value == 0:
                patch = Rectangle((block - 0.5, row - 0.5), 1, 1, fill=False, hatch="////", lw=0, ec=theme.faint)
                axes.add_patch(patch)
            if value == 0 and dropped[block]:
                continue
            ink = theme.ink if value / whole[row] < 0.62 else theme.background  # cells of much kept are far from it
            shown = str(value) if value else "\N{EN DASH}"
            text = axes.text(block, row, shown, ha="center", va="center", fontsize=size, color=ink)
            text.set_in_layout(False)  # they lie inside, and measuring each is slow
    axes.vlines(np.arange(blocks.start - 0.5, blocks.stop), -0.5, len(kept) - 0.5, color=theme.background, lw=1.2)
    axes.hlines(np.arange(0.5, len(kept) - 1), blocks.start - 0.5, blocks.stop - 0.5, color=theme.background, lw=1.2)


# --- predicted latency ---------------------------------------------------------------------------------------------


def prediction_figure(report: PruneReport, theme: Theme = LIGHT) -> Figure | None:
    """Draw predicted against measured latency ratios; None without any."""
    if not report.predictions:
        return None
    series = list(dict.fromkeys(p.series for p in report.predictions))
    values = np.array([(p.measured, p.predicted) for p in report.predictions])
    uppers = [p.upper for p in report.predictions if p.upper is not None]
    low, high = values.min(), max([values.max(), *uppers])
    margin = 0.08 * (high - low) or 0.05
    low, high = low - margin, high + margin
    with styled(theme):
        figure = new_figure(5.4, 5.0)
        axes = figure.subplots()
        line = np.array([low, high])
        axes.fill_between(line, 0.95 * line, 1.05 * line, color=theme.grid, lw=0, zorder=0, label="within 5 %")
        axes.plot(line, line, color=theme.muted, lw=0.9, ls=(0, (4, 3)), zorder=1)
        for i, name in enumerate(series):
            points = [p for p in report.predictions if p.series == name]
            color, marker, size = _prediction_style(name, i, theme)
            for p in points:
                if p.upper is not None:
                    axes.vlines(p.measured, p.predicted, p.upper, color=color, lw=0.9, alpha=0.45, zorder=2)
            error = 100 * float(np.mean([abs(p.predicted / p.measured - 1) for p in points]))
            axes.plot([p.measured for p in points], [p.predicted for p in points], marker, ms=size, color=color,
                      mec=theme.background, mew=0.6, zorder=4 if name == "result" else 3,
                      label=f"{name} ({len(points)}), mean error {error:.1f} %")  # fmt: skip
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="Measured latency (ratio to the dense model)",
                 ylabel="Predicted latency (ratio to the dense model)", aspect="equal")  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:.2f}")
        axes.legend(loc="upper left", handletextpad=0.6)
        return laid_out(figure)


def _prediction_style(name: str, place: int, theme: Theme) -> tuple[str, str, float]:
    known = {"held out": (theme.series[0], "o", 5.0), "candidate": (theme.series[4], "s", 5.5),
             "result": (theme.ink, "*", 12.0)}  # fmt: skip
    return known.get(name, (theme.series[1 + place % (len(theme.series) - 1)], MARKERS[place % len(MARKERS)], 5.5))


FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec(
        "pareto", pareto_figure, "Perplexity against cost: the result, the dense model, baselines",
        "Lower left is better. Latency is measured by turns with the dense model, with its 95 % interval; without a "
        "budget of time the cost is counted. The perplexity axis is logarithmic; an arrow marks what is off the scale.",
    ),
    FigureSpec(
        "blocks", blocks_figure, "Query heads, key/value heads and MLP neurons that each block keeps",
        "A column is a block of the dense model. A dash on hatching is a part that is gone; a column of hatching alone "
        "is a block that is gone.",
    ),
    FigureSpec(
        "prediction", prediction_figure, "Predicted against measured latency",
        "On the dashed line prediction and measurement agree. A thin line leads from a prediction to its upper bound.",
    ),
)  # fmt: skip
