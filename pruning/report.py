"""The report of a pruning run: one HTML file that needs nothing else, its figures as PNG files, its data as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from pruning.report_data import PruneReport
from pruning.report_figures import FIGURES
from pruning.report_view import budget_rows, columns, duration, headline, key_figures, network_rows
from search.figure_style import DARK, LIGHT, to_png
from search.number_format import NONE, number
from search.report import DrawnFigure, WrittenReport
from supernet.artifacts import atomic_path, write_text

REPORT, DATA, FIGURES_FOLDER, TEMPLATE = "report.html", "report.json", "figures", "prune_report.html.jinja"


def write_report(folder: str | Path, report: PruneReport) -> WrittenReport:
    """Write report.html, report.json and figures/*.png into a folder, each whole or not at all."""
    folder = Path(folder)
    figures = draw_figures(report)
    paths = []
    for figure in figures:
        path = folder / FIGURES_FOLDER / f"{figure.name}.png"
        with atomic_path(path) as temporary:
            temporary.write_bytes(figure.light)
        paths.append(path)
    report.save(folder / DATA)
    page = write_text(folder / REPORT, render(report, figures))
    return WrittenReport(page, tuple(paths), headline(report))


def draw_figures(report: PruneReport) -> list[DrawnFigure]:
    """Draw every figure that the report has something for, for light and for dark pages."""
    drawn = []
    for spec in FIGURES:
        light, dark = spec.draw(report, LIGHT), spec.draw(report, DARK)
        if light is not None and dark is not None:
            drawn.append(DrawnFigure(spec.name, spec.alt, to_png(light), to_png(dark)))
    return drawn


def render(report: PruneReport, figures: Sequence[DrawnFigure] | None = None) -> str:
    """Return the HTML of a report; `figures` are drawn where they are not given."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "duration": duration}
    template = environment.from_string(resources.files("pruning").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    drawn = draw_figures(report) if figures is None else figures
    return template.render(
        report=report,
        headline=headline(report),
        keys=key_figures(report),
        budget=budget_rows(report),
        columns=columns(report),
        rows=network_rows(report),
        figures={figure.name: figure for figure in drawn},
        captions={spec.name: spec.caption for spec in FIGURES},
        none=NONE,
    )
