"""The report of a comparison: one HTML file that needs nothing else, its PNGs, and tables for machines and for git."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from search.comparison.analysis import BASELINE, BUDGET_NOTE, DEFAULT, Analysis, analyse
from search.comparison.conclusions import findings, headline
from search.comparison.figures import DrawnFigure, draw_figures
from search.comparison.records import CaseReference, RunRecord
from search.comparison.report_tables import report_tables
from search.comparison.standings import Standings
from search.comparison.statistics import quartiles
from supernet.artifacts import atomic_path, write_json, write_text
from surrogates.accuracy_tables import markdown_table

REPORT, FIGURES_FOLDER, TEMPLATE = "report.html", "figures", "comparison.html.jinja"
SUMMARY, SUMMARY_TABLE, TESTS_TABLE = "summary.json", "summary.csv", "tests.csv"
SECTIONS = {
    "bar": "The bar",
    "whole": "Whole space",
    "within": "Within one width",
    "special": "Other cases",
    "attainment": "Attainment",
    "ranks": "Ranks and spreads",
    "tests": "Tests",
    "runs": "Runs",
}


@dataclass(frozen=True)
class ReportPaths:
    """What was written, and the result in a sentence."""

    html: Path
    headline: str
    summary: Path
    figures: tuple[Path, ...]


def write_comparison_report(
    records: Iterable[RunRecord], references: Mapping[str, CaseReference], folder: str | Path, *,
    how: Mapping[str, Any], default: str = DEFAULT, baseline: str = BASELINE,
) -> ReportPaths:  # fmt: skip
    """Compare runs and write everything into a folder.

    Files: report.html, figures/*.png, scores.parquet, run_scores.parquet, summary.csv, tests.csv, summary.json.

    Args:
        records: one a case, method and seed.
        references: by the name of the case.
        folder: is made when needed.
        how: what was run, for the last section: command, date, machine, versions; values are written as text.
        default: the method that the bar is for.
        baseline: the front of counting parameters.

    Raises:
        ValueError: as `analyse`.
    """
    return write_report_of(analyse(records, references, default=default, baseline=baseline), folder, how=how)


def write_report_of(analysis: Analysis, folder: str | Path, *, how: Mapping[str, Any]) -> ReportPaths:
    """Write the report of a comparison that is worked out already; see `write_comparison_report`."""
    folder = Path(folder)
    figures = draw_figures(analysis)
    paths = write_figures(figures, folder / FIGURES_FOLDER)
    analysis.scores.save(folder)
    summary = write_summary(analysis, folder, how=how)
    html = write_text(folder / REPORT, render(analysis, figures, how=how))
    return ReportPaths(html, headline(analysis), summary, paths)


def write_figures(figures: Sequence[DrawnFigure], folder: str | Path, *, prefix: str = "") -> tuple[Path, ...]:
    """Write figures as PNG files and return their paths."""
    paths = []
    for figure in figures:
        path = Path(folder) / f"{prefix}{figure.name}.png"
        with atomic_path(path) as temporary:
            temporary.write_bytes(figure.png)
        paths.append(path)
    return tuple(paths)


def render(analysis: Analysis, figures: Sequence[DrawnFigure], *, how: Mapping[str, Any]) -> str:
    """Return the HTML of a report."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("search").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    tables = report_tables(analysis)
    drawn = [(f, "data:image/png;base64," + base64.b64encode(f.png).decode("ascii")) for f in figures]
    sections = [
        (title, [item for item in drawn if item[0].section == name], [t for t in tables if t.section == name])
        for name, title in SECTIONS.items()
    ]
    return template.render(
        headline=headline(analysis),
        findings=findings(analysis),
        budget_note=BUDGET_NOTE,
        sections=[section for section in sections if section[1] or section[2]],
        how={str(key): _plain(value) for key, value in how.items()},
    )


def write_markdown(
    analysis: Analysis, path: str | Path, *, how: Mapping[str, Any], figures: Mapping[str, str] | None = None
) -> Path:
    """Write the conclusions and all tables as Markdown and return the path.

    Args:
        analysis: what it says.
        path: of the file.
        how: as for the report.
        figures: captions of pictures by their paths relative to the file.
    """
    lines = ["# Search methods compared", "", headline(analysis), "", BUDGET_NOTE, "", "## How", ""]
    lines += [f"- {key}: {_plain(value)}" for key, value in how.items()]
    lines += ["", "## Conclusions", ""]
    lines += [f"- **{finding.topic}.** {finding.text}" for finding in findings(analysis)]
    for link, caption in (figures or {}).items():
        lines += ["", f"![{caption}]({link})"]
    for table in report_tables(analysis):
        cells = [
            [f"**{cell}**" if (i, j) in table.bold else cell for j, cell in enumerate(row)]
            for i, row in enumerate(table.rows)
        ]
        lines += ["", f"## {table.title}", "", table.note, "", markdown_table(table.head, cells, left=table.left)]
    return write_text(path, "\n".join(lines) + "\n")


def write_summary(analysis: Analysis, folder: str | Path, *, how: Mapping[str, Any]) -> Path:
    """Write summary.csv (medians and quartiles), tests.csv (pairs) and summary.json; return the last."""
    import pandas as pd

    folder = Path(folder)
    groups = {"whole": analysis.whole, "within": analysis.within, "special": analysis.special}
    pairs = [
        {"group": name, "n_evaluations": at, **p.unit._asdict(), "first": p.first, "second": p.second, "n": p.n,
         "median_difference": p.difference, "p": p.p, "p_holm": p.p_holm, "winner": p.winner}
        for name, found in groups.items() for at, standing in found.items() for p in standing.pairs
    ]  # fmt: skip
    write_text(folder / TESTS_TABLE, pd.DataFrame(pairs).to_csv(index=False))
    write_text(folder / SUMMARY_TABLE, summary_frame(analysis).to_csv(index=False))
    return write_json(folder / SUMMARY, summary_dict(analysis, how=how))


def summary_frame(analysis: Analysis) -> Any:
    """Return a table of medians and quartiles over seeds by case, panel, method and evaluations."""
    import pandas as pd

    keys = ["case", "panel", "method", "is_point", "n_evaluations"]
    rows = []
    for key, group in analysis.scores.table.groupby(keys, sort=False):
        row = {**dict(zip(keys, key, strict=True)), "n_seeds": len(group)}
        for name in ("regret", "igd_plus", "epsilon", "mean_log_regret"):
            found = quartiles(group[name].to_numpy())
            row |= {f"{name}_q1": found.low, f"{name}_median": found.median, f"{name}_q3": found.high}
        rows.append(row)
    return pd.DataFrame(rows)


def summary_dict(analysis: Analysis, *, how: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison as JSON types; NaN and infinities as None."""
    groups = {"whole": analysis.whole, "within": analysis.within, "special": analysis.special}
    value = {
        "headline": headline(analysis),
        "conclusions": [asdict(finding) for finding in findings(analysis)],
        "budget": BUDGET_NOTE,
        "default": analysis.default,
        "baseline": analysis.baseline,
        "cases": {"main": analysis.main, "others": analysis.others},
        "budgets": {"all": analysis.budgets, "common": analysis.common, "final": analysis.final},
        "bars": [
            {"method": bar.method, "at": bar.at, "passes": bar.passes, "n_best": bar.n_best, "n_needed": bar.n_needed,
             "n_above_baseline": bar.n_above_baseline,
             "cases": [{**asdict(row), "unit": row.unit._asdict(), "is_best": row.is_best,
                        "beats_baseline": row.beats_baseline} for row in bar.rows]}
            for bar in analysis.bars
        ],
        "standings": {name: {str(at): _standing(one) for at, one in found.items()} for name, found in groups.items()},
        "against_baseline": {"whole": [asdict(row) for row in analysis.against_whole],
                             "within": [asdict(row) for row in analysis.against_within]},
        "catch_up": [{**asdict(row), "unit": row.unit._asdict()} for row in analysis.catch_ups],
        "how": {str(key): _plain(item) for key, item in how.items()},
    }  # fmt: skip
    return dict(_jsonable(value))


def _standing(found: Standings) -> dict[str, Any]:
    medians = [{**unit._asdict(), "method": method, **asdict(cell)} for (unit, method), cell in found.cells.items()]
    return {"methods": [asdict(m) for m in found.methods], "regrets": medians, "n_tests": len(found.pairs)}


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), 9) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _plain(value: Any) -> str:
    """Return a value of `how` as one line of text."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_plain(item)}" for key, item in value.items() if item not in (None, {}, []))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return re.sub(r"\s+", " ", str(value)).strip()
