"""How figures look: themes for light and dark pages, the Okabe-Ito palette, PNG bytes. matplotlib without pyplot.

The palette (Okabe and Ito 2008, "Color Universal Design") stays distinct for people with colour-vision deficiencies;
every series also has a marker of its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from search.picks import Pick

DOTS_PER_INCH = 180
BLUE, SKY, GREEN, ORANGE, VERMILLION, PURPLE, YELLOW = (
    "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#F0E442",
)  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """Colours of a figure.

    Attributes:
        name: of the theme.
        background: of the page behind the figure.
        ink: text and important marks.
        muted: secondary text and axes.
        faint: background points.
        grid: grid lines.
        series: colours of series in order.
    """

    name: str
    background: str
    ink: str
    muted: str
    faint: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme("light", "#ffffff", "#1d2129", "#5c6370", "#b9bfc9", "#e8eaee", (BLUE, VERMILLION, GREEN, PURPLE, ORANGE))
DARK = Theme("dark", "#1b1e24", "#e8eaee", "#a2a9b5", "#5d6470", "#31353d", (SKY, ORANGE, "#2fc79b", PURPLE, YELLOW))


@dataclass(frozen=True)
class SeriesStyle:
    """How one series is drawn and what it is called."""

    label: str
    color: str
    marker: str


_KNOWN = {"nsga2": ("NSGA-II", 0, "o"), "parameter_count": ("Parameter-count baseline", 1, "s")}
_MARKERS = ("^", "P", "X", "v", "D")


def search_label(name: str) -> str:
    """Return what a search is called in text."""
    known = {"random": "Random search", **{key: value[0] for key, value in _KNOWN.items()}}
    return known.get(name, name.replace("_", " ") or "Reference")


def pick_label(pick: Pick) -> str:
    """Return what a pick is called in text: "NSGA-II 3" for one named "nsga2 3"."""
    if pick.search and pick.name.startswith(pick.search):
        return (
            search_label(pick.search).split(" search")[0].split(" baseline")[0] + pick.name[len(pick.search) :]
        ).strip()
    return pick.name.replace("_", " ")


def search_styles(names: Sequence[str], theme: Theme) -> dict[str, SeriesStyle]:
    """Return a style for each search; a name keeps its style whichever others there are."""
    styles, others = {}, 0
    for name in names:
        if name in _KNOWN:
            _, index, marker = _KNOWN[name]
            styles[name] = SeriesStyle(search_label(name), theme.series[index], marker)
        elif name == "random":
            styles[name] = SeriesStyle(search_label(name), theme.muted, "D")
        else:
            color = theme.series[2 + others % (len(theme.series) - 2)]
            styles[name] = SeriesStyle(search_label(name), color, _MARKERS[others % len(_MARKERS)])
            others += 1
    return styles


AXIS_LABELS: Mapping[str, str] = {
    "latency_ms": "Latency (ms)", "perplexity": "Perplexity", "loss": "Loss (nats per token)",
    "bits_per_byte": "Bits per byte", "memory_mib": "Peak memory (MiB)", "energy_mj": "Energy (mJ)",
    "tokens_per_s": "Throughput (tokens/s)", "n_params": "Parameters", "n_params_decoder": "Decoder parameters",
    "macs": "Multiply-adds", "flops": "FLOPs", "kv_cache_mib": "KV cache (MiB)",
}  # fmt: skip


def axis_label(metric: str) -> str:
    """Return what an axis of a metric is called, with its unit."""
    return AXIS_LABELS.get(metric, metric.replace("_", " "))


def _settings(theme: Theme) -> Any:
    return {
        "figure.facecolor": theme.background, "axes.facecolor": theme.background, "savefig.facecolor": theme.background,
        "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9,
        "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlepad": 9,
        "text.color": theme.ink, "axes.labelcolor": theme.ink, "axes.titlecolor": theme.ink,
        "axes.edgecolor": theme.muted, "xtick.color": theme.muted, "ytick.color": theme.muted,
        "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.linewidth": 0.8,
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.color": theme.grid, "grid.linewidth": 0.8, "axes.axisbelow": True,
        "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.8, "axes.formatter.useoffset": False,
    }  # fmt: skip


@contextmanager
def styled(theme: Theme) -> Iterator[None]:
    """Draw inside this block in the colours of a theme; settings outside stay as they are."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_settings(theme))
        yield


def laid_out(figure: Figure) -> Figure:
    """Return the figure after its layout, ticks fixed.

    The layout measures labels while the axes still fill the figure; ticks that change as the axes shrink would have
    labels that it did not make room for.
    """
    from matplotlib.ticker import FixedLocator

    figure.draw_without_rendering()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axes.axison:
                axis.set_major_locator(FixedLocator(axis.get_majorticklocs().tolist()))
    figure.draw_without_rendering()
    return figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches, whose layout keeps labels inside."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes, the same for the same figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure", metadata={"Software": None})
    return buffer.getvalue()


def plain_ticks(axes: Axes, *, x: bool = False, y: bool = False, count: int = 5) -> None:
    """Label a logarithmic axis with a few round plain numbers. Call it when the limits are final."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    for axis, wanted in ((axes.xaxis, x), (axes.yaxis, y)):
        if wanted:
            axis.set_major_locator(FixedLocator(round_ticks(*sorted(axis.get_view_interval()), count=count)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))


def round_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Return about `count` round numbers between two positive ones, spaced for a logarithmic axis.

    Example:
        >>> round_ticks(1, 8, count=5)
        [1.0, 1.5, 2.0, 3.0, 5.0, 7.0]
    """
    candidates = (
        (1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), np.arange(10, 100, 5) / 10, np.arange(100, 1000, 10) / 100,
        np.arange(1000, 10000, 25) / 1000,
    )  # fmt: skip
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    gap = np.log(high / low) / (1.8 * count)
    kept: list[float] = []
    for subs in candidates:  # round numbers first; rounder ones are never pushed out by those between them
        for tick in np.outer(decades, subs).ravel().round(12):
            if low <= tick <= high and all(abs(np.log(tick / other)) >= gap for other in kept):
                kept.append(float(tick))
        if len(kept) >= count:
            break
    return sorted(kept)


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, color) labels to the right of the last points of lines, moved apart so that none overlap.

    Call it when the limits of the axes are final.
    """
    if not ends:
        return
    transform = axes.transData
    inverse = transform.inverted()
    height = axes.get_window_extent().height
    pixels = [float(transform.transform((x, y))[1]) for x, y, _, _ in ends]
    gap = max(10.5 * DOTS_PER_INCH / 72, 0.055 * height)  # a line of text
    for index, y in zip(np.argsort(pixels, kind="stable"), spaced(sorted(pixels), gap), strict=True):
        x, _, text, color = ends[index]
        at = inverse.transform((0, y))[1]
        axes.annotate(
            text, (x, at), xytext=(6, 0), textcoords="offset points", va="center", color=color, fontsize=8,
            annotation_clip=False,
        )  # fmt: skip


def spaced(positions: Sequence[float], gap: float) -> list[float]:
    """Return ascending positions at least `gap` apart, clusters centred on where they were.

    Example:
        >>> spaced([0.0, 1.0, 10.0], 4)
        [-1.5, 2.5, 10.0]
    """
    clusters: list[list[float]] = []  # [sum of positions, number]
    for position in positions:
        clusters.append([position, 1])
        while len(clusters) > 1:
            (s0, n0), (s1, n1) = clusters[-2:]
            if s1 / n1 - s0 / n0 >= gap * (n0 + n1) / 2:
                break
            clusters[-2:] = [[s0 + s1, n0 + n1]]
    return [s / n + gap * (i - (n - 1) / 2) for s, n in clusters for i in range(int(n))]
