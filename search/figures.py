"""The figures of a report: pure functions from its data to matplotlib figures; None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.figure_style import (
    LIGHT,
    SeriesStyle,
    Theme,
    axis_label,
    label_ends,
    laid_out,
    new_figure,
    plain_ticks,
    round_ticks,
    search_styles,
    styled,
)
from search.front_figure import drawing_order, front_figure
from search.number_format import number
from search.report_data import ReportData
from search.report_findings import (
    comparable_searches,
    primary_latency,
    shared_by,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

    from search.report_predictions import Predictions

# --- training -----------------------------------------------------------------------------------------------------


def training_figure(data: ReportData, theme: Theme = LIGHT) -> Figure | None:
    """Draw training loss and validation perplexity of each network over steps."""
    frame = data.training
    if frame is None:
        return None
    losses = {c.removeprefix("train/loss_"): c for c in frame.columns if c.startswith("train/loss_")}
    losses = losses or {c.removeprefix("train/"): c for c in frame.columns if c == "train/loss"}
    scores = {c.removeprefix("val/ppl_"): c for c in frame.columns if c.startswith("val/ppl_")}
    panels = [p for p in ((losses, "Training loss", "Cross-entropy (nats per token)"),
                          (scores, "Validation", "Perplexity")) if p[0]]  # fmt: skip
    if not panels:
        return None
    with styled(theme):
        figure = new_figure(9.4, 3.6)
        for axes, (columns, title, label) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            _curves(axes, data, columns, theme)
            axes.set(title=title, xlabel="Step", ylabel=label)
            axes.set_xlim(0, frame["step"].max() * 1.44)
            axes.xaxis.set_major_locator(_whole_steps(frame["step"].max()))
            if label == "Perplexity":
                axes.set_yscale("log")
                plain_ticks(axes, y=True)
            laid_out(figure)
            label_ends(axes, _curve_ends(data, columns, theme))
        return laid_out(figure)


def _whole_steps(last: float) -> Locator:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    ticks = MaxNLocator(5, integer=True).tick_values(0, last)
    return FixedLocator([t for t in ticks if 0 <= t <= last])


def _net_color(name: str, theme: Theme) -> str:
    return {"largest": theme.series[0], "smallest": theme.series[1]}.get(
        name, theme.muted if name.startswith("random_") else theme.series[2]
    )


def _curves(axes: Axes, data: ReportData, columns: Mapping[str, str], theme: Theme) -> None:
    assert data.training is not None
    for name, column in columns.items():
        rows = data.training[["step", column]].dropna()
        color, is_one_of_many = _net_color(name, theme), name.startswith("random_")
        smooth = rows[column].ewm(span=max(1, len(rows) / 25)).mean()
        if column.startswith("train/") and len(rows) > 40:
            axes.plot(rows["step"], rows[column], color=color, lw=0.6, alpha=0.25)
        line = smooth if column.startswith("train/") else rows[column]
        axes.plot(
            rows["step"], line, color=color, lw=1.0 if is_one_of_many else 1.8, marker=_marker(rows, column), ms=3
        )


def _marker(rows: object, column: str) -> str:
    return "o" if column.startswith("val/") and len(rows) <= 25 else ""  # type: ignore[arg-type]


def _curve_ends(data: ReportData, columns: Mapping[str, str], theme: Theme) -> list[tuple[float, float, str, str]]:
    """Return where each curve ends and what it is; the fixed random networks share one label."""
    assert data.training is not None
    ends, randoms = [], []
    for name, column in columns.items():
        rows = data.training[["step", column]].dropna()
        if rows.empty:
            continue
        tail = rows[column].ewm(span=max(1, len(rows) / 25)).mean() if column.startswith("train/") else rows[column]
        end = float(rows["step"].iloc[-1]), float(tail.iloc[-1])
        if name.startswith("random_"):
            randoms.append(end)
        else:
            ends.append((*end, f"{name} {end[1]:.3g}", _net_color(name, theme)))
    if randoms:
        x, values = max(x for x, _ in randoms), sorted(y for _, y in randoms)
        text = f"{len(randoms)} random" + (f" {values[0]:.3g} to {values[-1]:.3g}" if len(randoms) > 1 else "")
        ends.append((x, float(np.median(values)), text, theme.muted))
    return ends


# --- hypervolume --------------------------------------------------------------------------------------------------


def hypervolume_figure(data: ReportData, theme: Theme = LIGHT) -> Figure | None:
    """Draw the hypervolume of searches of the same objectives over their evaluations, on one normalisation."""
    results = comparable_searches(data)
    normalisation = shared_by(results) if results else None
    if normalisation is None:
        return None
    from matplotlib.ticker import FixedLocator, NullLocator

    styles = search_styles(sorted(results, key=drawing_order), theme)
    with styled(theme):
        figure = new_figure(9.4, 3.6)
        axes = figure.subplots()
        ends, last = [], max(len(result.evaluations) for result in results.values())
        left = max(1.0, min(5.0, last / 10))  # the first few networks say nothing
        for name, result in results.items():
            curve, style = result.hypervolume_curve(normalisation), styles[name]
            x, y = curve["n_evaluations"].to_numpy(), curve["hypervolume"].to_numpy()
            axes.plot(x, y, color=style.color, drawstyle="steps-post")
            axes.plot([x[-1], last], [y[-1], y[-1]], color=style.color, lw=1, ls=(0, (2, 2)))
            axes.plot(x[-1:], y[-1:], style.marker, color=style.color, ms=6)
            ends.append((float(last), float(y[-1]), f"{style.label} {y[-1]:.3f}", style.color))
        axes.set(xlabel="Evaluated networks", ylabel="Hypervolume (normalised)", xscale="log")
        axes.set_xlim(left, last * (last / left) ** 0.38)
        axes.set_ylim(*_volume_limits(axes, left))
        axes.xaxis.set_major_locator(FixedLocator(round_ticks(left, last * 1.01, count=5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}")
        laid_out(figure)
        label_ends(axes, ends)
        return figure


def _volume_limits(axes: Axes, left: float) -> tuple[float, float]:
    """Return limits of the y axis that show every line from x = `left` on."""
    points = np.concatenate([np.column_stack(line.get_data()) for line in axes.get_lines()]).astype(float)
    shown = points[points[:, 0] >= left, 1]
    low, high = float(shown.min()), float(shown.max())
    margin = 0.06 * (high - low) or 0.05
    return max(0.0, low - margin), high + margin


# --- predictions --------------------------------------------------------------------------------------------------


def prediction_figure(data: ReportData, theme: Theme = LIGHT) -> Figure | None:
    """Draw predicted against measured values, one panel a metric: out-of-fold, and the picks."""
    metrics = prediction_metrics(data)
    if not metrics:
        return None
    with styled(theme):
        columns = min(len(metrics), 3)
        rows = -(-len(metrics) // columns)
        figure = new_figure(9.4, 4.4 * rows if columns == 2 else 3.5 * rows + (0.8 if columns == 1 else 0))
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, metric in zip(panels, metrics, strict=False):
            draw_prediction(axes, data, metric, theme)
        for axes in panels[len(metrics) :]:
            axes.set_visible(False)
        return laid_out(figure)


def prediction_metrics(data: ReportData) -> list[str]:
    """Return the metrics of which there are predictions to compare, latency and perplexity first."""
    known = dict.fromkeys(p.metric for p in data.predictions)
    picked = [m for m in ("latency_ms", "perplexity") if _pick_pairs(data, m)[0].size]
    return sorted(dict.fromkeys([*known, *picked]), key=lambda m: {"latency_ms": 0, "perplexity": 1}.get(m, 2))


def draw_prediction(axes: Axes, data: ReportData, metric: str, theme: Theme) -> None:
    """Draw one metric's predictions into axes; see `prediction_figure`."""
    shown = [p for p in data.predictions if p.metric == metric and (p.is_winner or p.is_baseline)]
    shown = sorted(shown, key=lambda p: p.is_winner)  # the surrogate on top
    for p in shown:
        style = _prediction_style(p, theme)
        axes.plot(p.measured, p.predicted, style.marker, ms=4.5, mew=0.9, color=style.color,
                  mfc=style.color if p.is_winner else "none", alpha=0.85, label=style.label)  # fmt: skip
    measured, predicted = _pick_pairs(data, metric)
    if measured.size:
        axes.plot(measured, predicted, "*", ms=9, color=theme.ink, mec=theme.background, mew=0.6,
                  label=f"Picks, measured again ({measured.size})")  # fmt: skip
    values = np.concatenate([*(np.concatenate([p.measured, p.predicted]) for p in shown), measured, predicted])
    positive = values[values > 0]
    low, high = positive.min() / 1.08, positive.max() * 1.08
    axes.plot([low, high], [low, high], color=theme.muted, lw=0.9, ls=(0, (4, 3)), zorder=0)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    label = axis_label(metric)
    axes.set(title=label.split(" (")[0], xlabel=f"Measured: {label}", ylabel=f"Predicted: {label}")
    plain_ticks(axes, x=True, y=True, count=4)
    axes.legend(loc="upper left", handletextpad=0.2, borderaxespad=0.1)


def _prediction_style(p: Predictions, theme: Theme) -> SeriesStyle:
    color, marker = (theme.series[0], "o") if p.is_winner else (theme.series[1], "s")
    return SeriesStyle(f"{p.label[0].upper()}{p.label[1:]}, mean error {p.error_percent:.1f} %", color, marker)


def _pick_pairs(data: ReportData, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return measured and predicted values of the picks that have both."""
    if metric not in ("latency_ms", "perplexity"):
        return np.empty(0), np.empty(0)
    pairs = np.array([(getattr(p, metric), getattr(p, f"predicted_{metric}")) for p in data.picks]).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    return pairs[:, 0], pairs[:, 1]


# --- the device ---------------------------------------------------------------------------------------------------


def drift_figure(data: ReportData, theme: Theme = LIGHT) -> Figure | None:
    """Draw the latency of the reference network over the measuring, relative to its median."""
    latency = primary_latency(data)
    rows = None if latency is None else latency.dropna(subset=["reference_median"]).sort_values("timestamp")
    if rows is None or rows.empty:
        return None
    minutes = (rows["timestamp"] - rows["timestamp"].iloc[0]).dt.total_seconds().to_numpy() / 60
    middle = rows["reference_median"].median()
    samples = [np.asarray(values) / middle * 100 for values in rows["reference_repeats"]]
    low, high = (np.array([np.percentile(s, q) for s in samples]) for q in (25, 75))
    with styled(theme):
        figure = new_figure(9.4, 2.7)
        axes = figure.subplots()
        axes.axhline(100, color=theme.muted, lw=0.9, ls=(0, (4, 3)))
        axes.vlines(minutes, low, high, color=theme.series[0], lw=1.2, alpha=0.35)
        axes.plot(minutes, rows["reference_median"].to_numpy() / middle * 100, "o-", ms=3, lw=1, color=theme.series[0])
        axes.set_xlabel(f"Minutes since the first measurement (100 % is {number(middle)} ms)")
        axes.set_ylabel("Reference network (%)")
        return laid_out(figure)


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the report: file name, how it is drawn, and its text alternative."""

    name: str
    draw: Callable[[ReportData, Theme], Figure | None]
    alt: str


FIGURES: tuple[FigureSpec, ...] = (
    FigureSpec("front", front_figure, "Pareto front of latency and perplexity: searches, baselines and measured picks"),
    FigureSpec("hypervolume", hypervolume_figure, "Hypervolume of the searches over evaluated networks"),
    FigureSpec("prediction", prediction_figure, "Predicted against measured values"),
    FigureSpec("training", training_figure, "Training loss and validation perplexity of each network over steps"),
    FigureSpec("drift", drift_figure, "Latency of the reference network over the time of measuring"),
)
