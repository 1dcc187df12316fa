"""The report of a run: one HTML file that needs nothing else, and its figures as PNG files. No torch."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from search.architecture_drawings import architectures_figure
from search.figure_style import DARK, LIGHT, axis_label, new_figure, styled, to_png
from search.figures import FIGURES, FigureSpec, draw_prediction, prediction_metrics
from search.front_figure import draw_front
from search.number_format import count, number
from search.report_data import PARTS, ReportData, load_report_data
from search.report_findings import headline, measured_contest, rank_table
from search.report_view import (
    device_facts,
    export_commands,
    key_figures,
    pick_rows,
    search_colors,
    search_rows,
)
from supernet.artifacts import atomic_path, write_text

REPORT, FIGURES_FOLDER, TEMPLATE = "report.html", "figures", "report.html.jinja"
_DRAWINGS = FigureSpec("architectures", architectures_figure, "Heads and MLP width of every layer of the picks")


@dataclass(frozen=True)
class DrawnFigure:
    """A figure as PNG bytes, for light and for dark pages."""

    name: str
    alt: str
    light: bytes
    dark: bytes

    @property
    def light_uri(self) -> str:
        """The light picture as a data URI."""
        return _data_uri(self.light)

    @property
    def dark_uri(self) -> str:
        """The dark picture as a data URI."""
        return _data_uri(self.dark)


@dataclass(frozen=True)
class WrittenReport:
    """What `write_report` wrote, and the result of the run in a sentence."""

    path: Path
    figures: tuple[Path, ...]
    headline: str


def write_report(run_dir: str | Path) -> WrittenReport:
    """Write `report.html` and `figures/*.png` into a run folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds nothing to report; lists what was looked for.
    """
    data = load_report_data(run_dir)
    figures = draw_figures(data)
    paths = []
    for figure in figures:
        path = data.run_dir / FIGURES_FOLDER / f"{figure.name}.png"
        with atomic_path(path) as temporary:
            temporary.write_bytes(figure.light)
        paths.append(path)
    path = write_text(data.run_dir / REPORT, render(data, figures))
    return WrittenReport(path, tuple(paths), headline(data).verdict)


def draw_figures(data: ReportData) -> list[DrawnFigure]:
    """Draw every figure that the data has something for, in both themes."""
    drawn = []
    for spec in (*FIGURES, _DRAWINGS):
        light = spec.draw(data, LIGHT)
        dark = spec.draw(data, DARK)
        if light is not None and dark is not None:
            drawn.append(DrawnFigure(spec.name, spec.alt, to_png(light), to_png(dark)))
    return drawn


def render(data: ReportData, figures: Sequence[DrawnFigure] | None = None) -> str:
    """Return the HTML of a report; `figures` are drawn where they are not given."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "count": count}
    template = environment.from_string(resources.files("search").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    ranks = rank_table(data)
    drawn = draw_figures(data) if figures is None else figures
    return template.render(
        data=data,
        run_name=data.run_dir.resolve().name,
        headline=headline(data),
        key_figures=key_figures(data),
        figures={figure.name: figure for figure in drawn},
        absent=[(part, PARTS[part], reason) for part, reason in data.absent.items()],
        searches=search_rows(data),
        contest=measured_contest(data),
        picks=pick_rows(data),
        colors=search_colors(data),
        ranks=ranks,
        metric_names={row.metric: axis_label(row.metric) for row in ranks},
        device=device_facts(data),
        exports=export_commands(data),
    )


def readme_figure(data: ReportData, path: str | Path) -> Path:
    """Write one wide figure for a README: the Pareto front beside predicted against measured latency; return the path.

    Raises:
        ValueError: the run has no front and no picks, or no predictions.
    """
    metrics = prediction_metrics(data)
    if not metrics or not (data.picks or data.searches):
        raise ValueError(f"{data.run_dir} has no front or no predictions: run the search and the fit first")
    with styled(LIGHT):
        figure = new_figure(12.4, 4.9)
        left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
        draw_front(left, data, LIGHT)
        left.set_title("Pareto front")
        draw_prediction(right, data, metrics[0], LIGHT)
        right.set_title(f"{right.get_title(loc='left')}: predicted against measured")
        picture = to_png(figure)
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture)
    return Path(path)


def _data_uri(picture: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
