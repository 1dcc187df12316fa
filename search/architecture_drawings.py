"""Drawings of sub-networks: one small diagram each, a row a layer, attention heads to the left and MLP to the right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.figure_style import LIGHT, Theme, laid_out, new_figure, pick_label, search_styles, styled
from search.number_format import number
from search.picks import Pick
from search.report_data import ReportData
from supernet.architecture import Architecture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 6
MOST = 24  # drawings; more do not fit a page


def architectures_figure(data: ReportData, theme: Theme = LIGHT) -> Figure | None:
    """Draw the picks, fastest first, on one scale of heads, of neurons and of layers."""
    picks = sorted(data.picks, key=lambda pick: pick.latency_ms)[:MOST]
    if not picks:
        return None
    archs = [pick.architecture for pick in picks] + ([data.space.largest()] if data.space else [])
    n_blocks = max(arch.layers[-1] for arch in archs) + 1
    heads, neurons = max(max(a.n_head) for a in archs), max(max(a.intermediate_size) for a in archs)
    rows = -(-len(picks) // COLUMNS)
    styles = search_styles(sorted({pick.search for pick in picks}), theme)
    with styled(theme):
        figure = new_figure(9.4, rows * (0.85 + 0.14 * n_blocks) + 0.35)
        panels = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
        for axes, pick in zip(panels, picks, strict=False):
            color = styles[pick.search].color if pick.search else theme.ink
            _draw(axes, pick.architecture, (n_blocks, heads, neurons), color, theme)
            _title(axes, pick, color, theme)
        for axes in panels[len(picks) :]:
            axes.set_visible(False)
        figure.supxlabel(
            f"left: attention heads (at most {heads})      right: MLP neurons (at most {neurons:,})      "
            f"first block on top; a dot is a block left out",
            fontsize=8, color=theme.muted,
        )  # fmt: skip
        return laid_out(figure)


def _draw(axes: Axes, arch: Architecture, scale: tuple[int, int, int], color: str, theme: Theme) -> None:
    n_blocks, most_heads, most_neurons = scale
    gap = 0.06
    for block in range(n_blocks):
        if block not in arch.layers:
            axes.plot(0, block, ".", ms=2.5, color=theme.muted)
            continue
        i = arch.layers.index(block)
        width = 1 / most_heads
        for head in range(arch.n_head[i]):
            axes.barh(block, 0.8 * width, left=-gap - (head + 0.9) * width, height=0.62, color=color, alpha=0.55)
        axes.barh(block, arch.intermediate_size[i] / most_neurons, left=gap, height=0.62, color=color)
    axes.set(xlim=(-1 - 2 * gap, 1 + 2 * gap), ylim=(n_blocks - 0.4, -0.6))
    axes.set_axis_off()


def _title(axes: Axes, pick: Pick, color: str, theme: Theme) -> None:
    arch = pick.architecture
    axes.set_title(pick_label(pick), fontsize=8.5, color=color, loc="center", pad=24)
    text = f"{number(pick.latency_ms)} ms · ppl {number(pick.perplexity)}\n{arch.n_layer} layers · width {arch.n_embd}"
    axes.annotate(text, (0.5, 1), xycoords="axes fraction", xytext=(0, 2), textcoords="offset points", ha="center",
                  va="bottom", fontsize=7, color=theme.muted, linespacing=1.25)  # fmt: skip
