import struct
from collections.abc import Callable
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from report_data import target_test

from surrogates.accuracy_report import report_target
from surrogates.figure_style import round_ticks, to_png
from surrogates.figures import (
    NOMINAL,
    calibration_figure,
    cluster_order,
    coverage_curve,
    device_figure,
    error_figure,
    metric_label,
    predicted_figure,
    rank_matrix,
)

TESTS = [target_test(name, seed=i, drift=0.05, n=150) for i, name in enumerate(("a100", "h100", "cpu_one", "cpu_two"))]
REPORTS = [report_target(test, rng=np.random.default_rng(0)) for test in TESTS]
QUALITY = target_test("any", metric="perplexity", repeats=1, n=150)


def errors() -> Figure:
    return error_figure([*REPORTS, report_target(QUALITY, rng=np.random.default_rng(0))], title="Errors")


FIGURES: dict[str, Callable[[], Figure]] = {
    "predicted": lambda: predicted_figure([*TESTS, QUALITY], title="Latency", columns=3),
    "calibration": lambda: calibration_figure({"gpt-x": TESTS, "gpt-y": [QUALITY]}, title="Coverage"),
    "devices": lambda: device_figure(TESTS, title="Devices"),
    "errors": errors,
}


def texts(figure: Figure) -> list[str]:
    found = [*figure.texts, *(t for axes in figure.axes for t in axes.texts)]
    found += [axes.title for axes in figure.axes] + [axes._left_title for axes in figure.axes]  # type: ignore[attr-defined]
    found += [t for axes in figure.axes for t in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    return [t.get_text() for t in found if t.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_the_same_png_each_time_and_leave_settings_alone(name: str) -> None:
    before = dict(mpl.rcParams)
    first, second = to_png(FIGURES[name]()), to_png(FIGURES[name]())
    assert first == second and first.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", first[16:24])
    assert 300 < width < 2500 and 300 < height < 2500
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_lies_outside_its_figure(name: str) -> None:
    figure = FIGURES[name]()
    to_png(figure)
    size = figure.bbox
    for axes in figure.axes:
        for label in (
            *axes.get_xticklabels(),
            *axes.get_yticklabels(),
            *axes.texts,
            axes.xaxis.label,
            axes.yaxis.label,
        ):
            if label.get_text() and label.get_visible() and axes.axison:
                box = label.get_window_extent()
                assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= size.x1 + 1 and box.y1 <= size.y1 + 1, label


def test_every_target_has_a_panel_with_its_name_and_scores() -> None:
    figure = FIGURES["predicted"]()
    found = texts(figure)
    for test, report in zip(TESTS, REPORTS, strict=True):
        assert f"Latency (ms), {test.device}" in found
        assert f"tau {report.adjusted.kendall:.3f}\nMAPE {report.adjusted.mape:.2f} %" in found
    assert "Perplexity" in found
    assert sum(axes.axison for axes in figure.axes) == 5


def test_a_calibration_curve_counts_what_lies_inside() -> None:
    test = target_test(n=4000)
    np.testing.assert_allclose(coverage_curve(test), NOMINAL, atol=0.035)
    narrow = coverage_curve(target_test(n=4000, spread=0.01))
    assert (narrow < NOMINAL).all() and narrow[-1] < 0.75
    by_hand = [
        np.mean([np.interp(0.05, test.levels, q) <= y <= np.interp(0.95, test.levels, q)
                 for y, q in zip(test.adjusted, test.quantiles, strict=True)])
    ]  # fmt: skip
    np.testing.assert_allclose(coverage_curve(test, np.array([0.9])), by_hand)


def test_the_device_figure_has_whole_correlations_above_and_those_within_widths_below() -> None:
    matrix = rank_matrix(TESTS)
    upper, lower = matrix[np.triu_indices(4, 1)], matrix.T[np.triu_indices(4, 1)]
    assert (upper > lower).all()  # the width alone orders most pairs
    found = texts(device_figure(TESTS, title="x"))
    assert sorted(t for t in found if t.startswith("0.")) == sorted(
        [f"{v:.2f}" for v in np.concatenate([upper, lower])]
        + [t for t in found if t in ("0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9")]
    )
    with pytest.raises(ValueError, match="at least 2 targets, measured for the same networks"):
        device_figure(TESTS[:1], title="x")
    with pytest.raises(ValueError, match="measured for the same networks"):
        device_figure([TESTS[0], target_test(n=60)], title="x")


def test_clustering_puts_similar_rows_side_by_side() -> None:
    groups = np.array([0, 1, 0, 1, 0, 1])
    similarity = np.where(groups[:, None] == groups, 0.95, 0.2)
    np.fill_diagonal(similarity, 1.0)
    order = groups[cluster_order(similarity)].tolist()
    assert order in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])


def test_nothing_to_draw_is_refused() -> None:
    for draw in (lambda: predicted_figure([], title=""), lambda: error_figure([], title="")):
        with pytest.raises(ValueError, match="no targets to draw"):
            draw()


@pytest.mark.parametrize(("low", "high"), [(10.2, 12.9), (0.013, 31.0), (2000.0, 11_000.0), (1.0, 1.02), (7.0, 7.1)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)


def test_metrics_are_called_by_name_and_unit() -> None:
    assert metric_label("latency_ms") == "Latency (ms)"
    assert metric_label("perplexity") == "Perplexity"
    assert metric_label("kv_cache_mib") == "kv cache mib"
    assert metric_label("energy_mj") == "Energy (J)"


def test_energy_is_drawn_in_joules_and_panels_of_one_metric_are_called_by_device() -> None:
    energy = replace(TESTS[0], metric="energy_mj")
    figure = predicted_figure([energy], title="x")
    assert "a100" in texts(figure)
    points = np.concatenate([np.asarray(c.get_offsets()) for c in figure.axes[0].collections])
    assert points[:, 0].max() == pytest.approx(1e-3 * energy.adjusted.max())
    assert points[:, 1].max() == pytest.approx(1e-3 * energy.predicted.max())
