"""All figures of a comparison as PNG bytes, in the order of the report. Those without data are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from search.comparison.analysis import Analysis
from search.comparison.attainment_figures import attainment_figure, difference_figure
from search.comparison.case_names import CaseName
from search.comparison.method_styles import families, method_label
from search.comparison.rank_figures import rank_figure, spread_figure
from search.comparison.records import ALL
from search.comparison.regret_figures import overall_figure, regret_grid
from search.comparison.standings import Unit
from search.figure_style import to_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ABOVE = "Upwards: the distance above the frozen reference front in percent of its range."
_BANDS = (
    "Median over seeds and the band between quartiles; fronts of counting are points at what they cost (those cheaper "
    "than the first evaluation shown are in the tables only). Regrets below 0.01 % are drawn there."
)


@dataclass(frozen=True)
class DrawnFigure:
    """A figure as PNG bytes.

    Attributes:
        name: the file's, without suffix.
        section: of the report that it belongs to: "whole", "within", "special", "attainment" or "ranks".
        caption: what it shows.
        png: the picture.
    """

    name: str
    section: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class _Plan:
    name: str
    section: str
    caption: str
    draw: Callable[[], Figure | None]


def draw_figures(analysis: Analysis) -> list[DrawnFigure]:
    """Draw every figure that the comparison has data for."""
    drawn = []
    for plan in _plans(analysis):
        figure = plan.draw()
        if figure is not None:
            drawn.append(DrawnFigure(plan.name, plan.section, plan.caption, to_png(figure)))
    return drawn


def columns_of(analysis: Analysis) -> int:
    """Return the columns of a grid of the main cases: a row a space where every space has as many cases, else four."""
    spaces = [CaseName.of(case).space for case in analysis.main]
    counts = {spaces.count(space) for space in spaces}
    return counts.pop() if len(counts) == 1 and max(counts) > 1 else min(4, len(spaces))


def _plans(analysis: Analysis) -> Iterator[_Plan]:
    groups = families(analysis.searching, analysis.default)
    columns = min(4, columns_of(analysis))
    main = [Unit(case, ALL) for case in analysis.main]
    titles = [analysis.labels[case] for case in analysis.main]
    yield _Plan("overall", "whole", "Regret over all cases of the main comparison: geometric mean of the medians.",
                lambda: overall_figure(analysis, groups[0]))  # fmt: skip
    for group in groups:
        caption = f"Hypervolume regret over evaluations, whole space. {_BANDS}"
        if group.context:
            caption += f" Thin: {', '.join(method_label(m) for m in group.context)}."
        yield _Plan(f"regret_{group.name}", "whole", caption,
                    partial(regret_grid, analysis, main, titles, group, columns=columns))  # fmt: skip
    yield from _width_plans(analysis, columns)
    others = [Unit(case, ALL) for case in analysis.others]
    yield _Plan("regret_special", "special", f"Cases with more objectives, a budget or noise. {_BANDS}",
                lambda: regret_grid(analysis, others, [analysis.labels[case] for case in analysis.others],
                                    groups[0], columns=3))  # fmt: skip
    yield from _attainment_plans(analysis, columns)
    yield _Plan("ranks", "ranks", "Rank of the median regret, whole space; 1 is the best. A dot: no result there.",
                lambda: rank_figure(analysis))  # fmt: skip
    yield _Plan("ranks_within", "ranks", "The same within widths: mean rank over the widths of a case.",
                lambda: rank_figure(analysis, within=True))  # fmt: skip
    yield _Plan("spread", "ranks",
                f"Regret of every run (dots), quartiles (bar) and median (tick) after {analysis.final} evaluations, "
                "or at the end of shorter runs (number after the name).",
                lambda: spread_figure(analysis, columns=columns))  # fmt: skip


def _width_plans(analysis: Analysis, columns: int) -> Iterator[_Plan]:
    """Give a figure a space: a column a width, a row a case."""
    group = families(analysis.searching, analysis.default)[0]
    for space in dict.fromkeys(CaseName.of(case).space for case in analysis.main):
        units = [unit for unit in analysis.within[analysis.final].units if CaseName.of(unit.case).space == space]
        widths = len({unit.panel for unit in units})
        titles = [f"{analysis.labels[unit.case]}, {unit.panel.replace('n_embd=', 'width ')}" for unit in units]
        caption = f"{space}: regret against the best known front of each width; every evaluation costs budget. {_BANDS}"
        yield _Plan(f"regret_within_{space}", "within", caption,
                    partial(regret_grid, analysis, units, titles, group, columns=widths or columns))  # fmt: skip


def _attainment_plans(analysis: Analysis, columns: int) -> Iterator[_Plan]:
    default, baseline = analysis.default, analysis.baseline
    rival = next((m for m in analysis.searching if m != default), "")
    shown = [m for m in (baseline, rival, default) if m]
    after = f"after {analysis.final} evaluations (fronts of counting at their own cost)"
    yield _Plan("attainment", "attainment",
                f"Empirical attainment {after}: half of the runs attain what lies above and right of the line; the "
                "band is from 25 to 75 %.", partial(attainment_figure, analysis, shown, columns=columns))  # fmt: skip
    yield _Plan("attainment_gap", "attainment",
                f"The same surfaces as distance above the frozen reference front, {after}, in percent of the front's "
                "range: 0 is the front.",
                partial(attainment_figure, analysis, shown, columns=columns, above_front=True))  # fmt: skip
    for method in (default, rival):
        if method:
            caption = (
                f"Orange: {method_label(method)} attains it in more runs; blue: {method_label(baseline)}. {_ABOVE}"
            )
            yield _Plan(f"attainment_{method}_against_{baseline}", "attainment", caption,
                        partial(difference_figure, analysis, method, baseline, columns=columns))  # fmt: skip
