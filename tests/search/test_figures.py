"""Figures: what is drawn is what the data says, every label is inside the picture, ticks are round."""

import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import image

from search.architecture_drawings import architectures_figure
from search.figure_style import DARK, LIGHT, new_figure, round_ticks, search_styles, spaced, styled, to_png
from search.figures import FIGURES, drift_figure, hypervolume_figure, prediction_figure, training_figure
from search.front_figure import front_figure, searched_front
from search.report_data import ReportData
from search.report_findings import shared_by

DRAWERS = [*(spec.draw for spec in FIGURES), architectures_figure]


@pytest.fixture(scope="module", params=DRAWERS, ids=lambda draw: draw.__name__)
def figure(request, report_data):
    drawn = request.param(report_data, LIGHT)
    to_png(drawn)
    return drawn


def test_nothing_is_clipped(figure):
    pixels = image.imread(io.BytesIO(to_png(figure)))
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert all((edge == pixels[0, 0]).all() for edge in edges)


def test_axes_have_labels(figure):
    for axes in figure.axes:
        if axes.axison and axes.get_visible():
            assert axes.get_xlabel() and axes.get_ylabel()


def test_pictures_have_the_background_of_their_theme(report_data):
    for theme, value in ((LIGHT, 0xFF / 255), (DARK, 0x1B / 255)):
        pixels = image.imread(io.BytesIO(to_png(drift_figure(report_data, theme))))
        assert pixels[0, 0, 0] == pytest.approx(value, abs=1e-3)


def test_drawing_leaves_matplotlibs_settings_alone(report_data):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 17.0}):
        drift_figure(report_data, DARK)
        assert mpl.rcParams["font.size"] == 17.0


@pytest.mark.parametrize("draw", DRAWERS, ids=lambda draw: draw.__name__)
def test_nothing_to_draw_gives_no_figure(draw, tmp_path):
    assert draw(ReportData(tmp_path), LIGHT) is None


def test_error_bars_of_the_front_are_the_measured_spreads(report_data):
    pick = next(p for p in report_data.picks if p.search == "nsga2")
    alone = replace(report_data, picks=(pick,), searches={}, measurements=None)
    axes = front_figure(alone).axes[0]
    horizontal, vertical = axes.containers[0].lines[2]
    assert np.diff(horizontal.get_segments()[0][:, 0]) == pytest.approx(pick.latency_iqr_ms)
    assert np.diff(vertical.get_segments()[0][:, 1]) == pytest.approx(2 * pick.perplexity_stderr)


def test_searched_front_falls_from_left_to_right(report_data):
    for result in report_data.searches.values():
        points = searched_front(result)
        assert len(points) == len(result.front)
        assert (np.diff(points[:, 0]) > 0).all() and (np.diff(points[:, 1]) < 0).all()


def test_hypervolume_figure_ends_at_the_searches_hypervolumes(report_data):
    normalisation = shared_by(report_data.searches)
    texts = {t.get_text() for t in hypervolume_figure(report_data).axes[0].texts}
    assert f"NSGA-II {report_data.searches['nsga2'].hypervolume(normalisation):.3f}" in texts
    assert f"Random search {report_data.searches['random'].hypervolume(normalisation):.3f}" in texts


def test_prediction_figure_shows_the_surrogate_and_the_linear_baseline_once_each(report_data):
    for axes in prediction_figure(report_data).axes:
        labels = [line.get_label() for line in axes.get_lines() if not line.get_label().startswith("_")]
        assert sum("surrogate" in label for label in labels) == 1
        assert sum("Linear" in label for label in labels) == 1


def test_training_figure_ends_each_curve_at_its_last_value(report_data):
    last = report_data.training["val/ppl_largest"].dropna().iloc[-1]
    texts = [t.get_text() for t in training_figure(report_data).axes[1].texts]
    assert f"largest {last:.3g}" in texts
    assert any(text.startswith("4 random ") for text in texts)


def test_a_picture_is_the_same_when_drawn_again(report_data):
    assert to_png(drift_figure(report_data)) == to_png(drift_figure(report_data))


@pytest.mark.parametrize(("low", "high"), [(1.01, 1.06), (0.02, 3000.0), (4.9, 7.4), (95.0, 105.0)])
def test_ticks_are_inside_and_ascending(low, high):
    ticks = round_ticks(low, high, count=4)
    assert 2 <= len(ticks) <= 9
    assert low <= ticks[0] and ticks[-1] <= high and (np.diff(ticks) > 0).all()


def test_labels_are_moved_apart_and_keep_their_order():
    places = spaced([0.0, 0.1, 0.2, 50.0], 10.0)
    assert (np.diff(places) >= 10.0 - 1e-9).all()
    assert places[-1] == 50.0 and np.mean(places[:3]) == pytest.approx(0.1)


def test_a_search_keeps_its_colour_whatever_else_there_is():
    alone, among = search_styles(["nsga2"], LIGHT), search_styles(["lts", "nsga2", "random"], LIGHT)
    assert alone["nsga2"] == among["nsga2"]
    assert len({style.color for style in among.values()}) == len({style.marker for style in among.values()}) == 3


def test_a_new_figure_has_the_asked_size():
    with styled(LIGHT):
        assert tuple(new_figure(4, 3).get_size_inches()) == (4, 3)
