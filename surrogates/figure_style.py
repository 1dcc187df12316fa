"""How figures of surrogates look: the Okabe-Ito palette, axes, PNG bytes. matplotlib without pyplot.

The palette (Okabe and Ito 2008, "Color Universal Design") stays distinct for people with colour-vision deficiencies.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 130
INK, MUTED, GRID = "#1d2129", "#5c6370", "#e8eaee"
BLUE, ORANGE, GREEN, PURPLE, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00"
_SUBS: tuple[Any, ...] = (
    (1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), np.arange(10, 100, 2) / 10, np.arange(1000, 10000) / 1000,
)  # fmt: skip


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches, whose layout keeps labels inside."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


@contextmanager
def styled() -> Iterator[None]:
    """Draw inside this block in the house style; settings outside stay as they are."""
    import matplotlib as mpl

    settings: Any = {
        "figure.facecolor": "#ffffff", "axes.facecolor": "#ffffff", "savefig.facecolor": "#ffffff",
        "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9,
        "axes.titlelocation": "left", "axes.titleweight": "bold", "text.color": INK, "axes.labelcolor": INK,
        "axes.titlecolor": INK, "axes.edgecolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
        "xtick.labelsize": 7.5, "ytick.labelsize": 7.5, "axes.linewidth": 0.8, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.8,
        "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 8, "axes.formatter.useoffset": False,
    }  # fmt: skip
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(settings)
        yield


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes with 256 colours, the same for the same figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    FigureCanvasAgg(figure)
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi="figure")
    image = Image.open(full).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)  # a third of the bytes
    return small.getvalue()


def plain_ticks(axes: Axes, *, y: bool = False) -> None:
    """Label a logarithmic x axis (and y axis) with a few plain round numbers; limits are final."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    for axis in (axes.xaxis, axes.yaxis) if y else (axes.xaxis,):
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(FixedLocator(round_ticks(low, high)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}"))


def round_ticks(low: float, high: float) -> list[float]:
    """Return two to five round numbers between two positive ones, for a logarithmic axis.

    Example:
        >>> round_ticks(0.02, 40)
        [0.1, 1.0, 10.0]
        >>> round_ticks(3, 70)
        [3.0, 10.0, 30.0]
    """
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for subs in _SUBS:
        ticks = [float(t) for t in np.outer(decades, subs).ravel().round(12) if low <= t <= high]
        if len(ticks) >= 3:
            break
    kept = ticks[:1]
    for tick in ticks[1:]:
        if np.log(tick / kept[-1]) >= 0.22 * np.log(high / low):  # room for a label
            kept.append(tick)
    return kept
