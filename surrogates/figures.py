"""Figures of how good surrogates are: predictions, calibration, devices beside each other, errors by width. No torch.

Pure functions from held-out tests to matplotlib figures; `figure_style.to_png` gives the bytes. Every width has a
colour and a marker of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from surrogates.accuracy_report import TargetReport, TargetTest
from surrogates.figure_style import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    VERMILLION,
    new_figure,
    plain_ticks,
    styled,
)
from surrogates.validation import central_interval, interval_score, kendall

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTHS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"), (VERMILLION, "v"))
NOMINAL = np.arange(0.05, 0.951, 0.05)
_UNITS = {"latency_ms": "ms", "energy_mj": "J", "host_energy_mj": "J", "memory_mib": "MiB", "accuracy": "share"}
_FACTORS = {"energy_mj": 1e-3, "host_energy_mj": 1e-3}  # to the unit that is shown
_LABELS = {"latency_ms": "Latency", "energy_mj": "Energy", "host_energy_mj": "Energy of the whole host",
           "memory_mib": "Memory", "perplexity": "Perplexity", "accuracy": "Next-token accuracy"}  # fmt: skip


def metric_label(metric: str) -> str:
    """Return what a metric is called in a figure, with the unit that is shown there (energy in J)."""
    name, unit = _LABELS.get(metric, metric.replace("_", " ")), _UNITS.get(metric)
    return f"{name} ({unit})" if unit else name


def predicted_figure(tests: Sequence[TargetTest], *, title: str, columns: int = 4) -> Figure:
    """Draw predicted against measured (drift-adjusted) values on logarithmic axes, a panel for each target.

    Raises:
        ValueError: no targets.
    """
    _check(tests)
    rows, several = -(-len(tests) // columns), len({test.metric for test in tests}) > 1
    with styled():
        figure = new_figure(2.55 * min(columns, len(tests)), 2.45 * rows + 0.75)
        grid = figure.subplots(rows, min(columns, len(tests)), squeeze=False).ravel()
        for axes, test in zip(grid, tests, strict=False):
            _scatter(axes, test)
            axes.set_title(_panel_title(test, with_metric=several), fontsize=9)
        for axes in grid[len(tests) :]:
            axes.axis("off")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), markerscale=2.2, handletextpad=0.1)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
        figure.supxlabel("Measured, drift of the hour divided out", fontsize=9)
        figure.supylabel("Predicted", fontsize=9)
    return figure


def calibration_figure(tests: Mapping[str, Sequence[TargetTest]], *, title: str) -> Figure:
    """Draw observed against nominal coverage: a panel for each entry, a thin line for each target, their mean thick.

    Args:
        tests: by panel, e.g. the targets of each space.
        title: of the figure.

    Raises:
        ValueError: no targets.
    """
    for group in tests.values():
        _check(group)
    with styled():
        figure = new_figure(max(3.1 * len(tests), 5.2), 3.5)
        for axes, (name, group) in zip(figure.subplots(1, len(tests), squeeze=False)[0], tests.items(), strict=True):
            curves = np.array([coverage_curve(test) for test in group])
            axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=5)
            for curve in curves:
                axes.plot(NOMINAL, curve, color=BLUE, alpha=0.25, linewidth=0.8)
            axes.plot(NOMINAL, curves.mean(axis=0), color=BLUE, linewidth=2.4)
            off, mean = np.abs(curves - NOMINAL).max(), np.abs(curves.mean(axis=0) - NOMINAL).max()
            text = f"{len(group)} targets\nmean off by up to {mean:.3f}\nany by up to {off:.3f}"
            axes.text(0.05, 0.95, text, transform=axes.transAxes, va="top", fontsize=8, color=MUTED)
            axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", title=name, xlabel="Nominal coverage")
        figure.axes[0].set_ylabel("Share of held-out networks inside")
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    return figure


def device_figure(tests: Sequence[TargetTest], *, title: str) -> Figure:
    """Draw Kendall's tau between the measurements of every pair of targets: all networks above, same width below.

    Targets are ordered by hierarchical clustering, so that those that rank alike stand together. They must be of the
    same held-out networks.

    Raises:
        ValueError: fewer than 2 targets, or other networks.
    """
    from matplotlib.colors import LinearSegmentedColormap

    if len(tests) < 2 or any(len(t.raw) != len(tests[0].raw) or (t.widths != tests[0].widths).any() for t in tests):
        raise ValueError("give at least 2 targets, measured for the same networks")
    matrix = rank_matrix(tests)
    order = cluster_order(np.minimum(matrix, matrix.T))
    names, shown = [tests[i].device for i in order], _reordered(matrix, order)
    with styled():
        size = 0.52 * len(names)
        figure = new_figure(size + 2.3, size + 1.9)
        axes = figure.subplots()
        colors = LinearSegmentedColormap.from_list("blues", ["#f4f7fa", "#8fc1de", BLUE, "#013a5c"])
        low = float(np.floor(10 * np.nanmin(shown)) / 10)
        image = axes.imshow(np.where(np.eye(len(names), dtype=bool), np.nan, shown), cmap=colors, vmin=low, vmax=1.0)
        for (i, j), value in np.ndenumerate(shown):
            if i != j:
                dark = value > low + 0.55 * (1 - low)
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7.5, color="white" if dark else INK)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("Kendall's tau")
        axes.set_title("Above the diagonal: all held-out networks. Below: those of the same width.", fontsize=8.5,
                       fontweight="normal", color=MUTED)  # fmt: skip
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    return figure


def error_figure(reports: Sequence[TargetReport], *, title: str) -> Figure:
    """Draw the mean absolute relative error in each width: a row for each target, a marker for each width.

    Filled markers are of drift-adjusted measurements, open ones of measurements as published.

    Raises:
        ValueError: no targets.
    """
    _check(reports)
    metrics = list(dict.fromkeys(report.metric for report in reports))
    counts = [sum(report.metric == metric for report in reports) for metric in metrics]
    with styled():
        figure = new_figure(7.2, 0.24 * len(reports) + 0.5 * len(metrics) + 1.2)
        panels = figure.subplots(
            len(metrics), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": [n + 0.6 for n in counts]}
        )
        for axes, metric in zip(panels.ravel(), metrics, strict=True):
            _errors(axes, [report for report in reports if report.metric == metric])
            axes.set_title(_LABELS.get(metric, metric), fontsize=9)
        last = panels.ravel()[-1]
        last.set_xscale("log")
        last.set_xlabel("Mean absolute error of held-out networks (percent)")
        plain_ticks(last)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), handletextpad=0.2)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    return figure


def coverage_curve(test: TargetTest, nominal: np.ndarray = NOMINAL) -> np.ndarray:
    """Return the share of adjusted measurements inside the central intervals of nominal coverages, shaped like them."""
    found = []
    for c in nominal.tolist():
        low, high = central_interval(test.levels, test.quantiles, c)
        found.append(interval_score(test.adjusted, test.predicted, low, high, nominal=c).coverage)
    return np.array(found)


def rank_matrix(tests: Sequence[TargetTest]) -> np.ndarray:
    """Return Kendall's tau between measurements (t, t): over all networks above the diagonal, inside widths below."""
    matrix = np.eye(len(tests))
    widths = tests[0].widths
    for i in range(len(tests)):
        for j in range(i + 1, len(tests)):
            a, b = tests[i].adjusted, tests[j].adjusted
            inside = [(widths == w) for w in np.unique(widths)]
            known = [(kendall(a[rows], b[rows]), rows.sum()) for rows in inside if rows.sum() > 2]
            matrix[i, j] = kendall(a, b)
            matrix[j, i] = np.average([tau for tau, _ in known], weights=[n for _, n in known])
    return matrix


def cluster_order(similarity: np.ndarray) -> np.ndarray:
    """Return an order of rows that puts similar ones side by side: average linkage of 1 - similarity."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(similarity) < 3:
        return np.arange(len(similarity))
    distance = 1 - similarity
    np.fill_diagonal(distance, 0.0)
    condensed = squareform(distance, checks=False)
    return np.asarray(leaves_list(linkage(condensed, method="average", optimal_ordering=True)))


# --- parts --------------------------------------------------------------------------------------------------------


def _scatter(axes: Axes, test: TargetTest) -> None:
    factor = _FACTORS.get(test.metric, 1.0)
    measured, predicted = factor * test.adjusted, factor * test.predicted
    ends = np.array([min(measured.min(), predicted.min()), max(measured.max(), predicted.max())])
    axes.plot(ends, ends, color=MUTED, linewidth=0.8, zorder=1)
    for (color, marker), width in zip(_WIDTHS, np.unique(test.widths), strict=False):
        rows = test.widths == width
        axes.scatter(
            measured[rows], predicted[rows], s=5, marker=marker, color=color, alpha=0.55, linewidths=0,
            label=f"width {width:g}", zorder=2,
        )  # fmt: skip
    tau, error = kendall(measured, predicted), np.abs(predicted / measured - 1)
    axes.text(0.05, 0.95, f"tau {tau:.3f}\nMAPE {100 * error.mean():.2f} %", transform=axes.transAxes, va="top",
              fontsize=7.5, color=MUTED)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=ends * [0.94, 1.06], ylim=ends * [0.94, 1.06])
    axes.set_aspect("equal", adjustable="box")
    plain_ticks(axes, y=True)


def _panel_title(test: TargetTest, *, with_metric: bool) -> str:
    if test.device == "any":
        return metric_label(test.metric)
    return f"{metric_label(test.metric)}, {test.device}" if with_metric else test.device


def _errors(axes: Axes, reports: Sequence[TargetReport]) -> None:
    for row, report in enumerate(reports):
        axes.axhline(row, color=GRID, linewidth=0.8, zorder=0)
        for (color, marker), raw, adjusted in zip(
            _WIDTHS, report.raw.within_width, report.adjusted.within_width, strict=False
        ):
            label = f"width {adjusted.width:g}" if row == 0 else None
            axes.plot(adjusted.mape, row, marker, color=color, markersize=5, markeredgewidth=0, label=label, zorder=3)
            axes.plot(raw.mape, row, marker, color=color, markersize=5, fillstyle="none", markeredgewidth=0.9, zorder=2)
    axes.plot([], [], "o", color=MUTED, markersize=5, fillstyle="none", label="as published")
    axes.set_yticks(range(len(reports)), [r.device if r.device != "any" else "" for r in reports])
    axes.set_ylim(len(reports) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _reordered(matrix: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the matrix in another order, what is above the diagonal staying above."""
    upper = np.triu(matrix, 1)
    lower = np.tril(matrix, -1).T
    both = [(part + part.T)[np.ix_(order, order)] for part in (upper, lower)]
    return np.asarray(np.triu(both[0], 1) + np.tril(both[1], -1) + np.eye(len(matrix)))


def _check(items: Sequence[object]) -> None:
    if not len(items):
        raise ValueError("there are no targets to draw")
