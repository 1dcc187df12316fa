"""The report: it says what the run holds, no more; what is missing or damaged is named; the file needs nothing else."""

import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from report_fakes import SPACE, write_training

from search.final import picks_by_search
from search.number_format import NONE
from search.picks import load_picks, save_picks
from search.report import draw_figures, readme_figure, render, write_report
from search.report_data import PARTS, ReportData, load_report_data
from search.report_findings import (
    BASELINE,
    headline,
    measured_contest,
    measured_networks,
    rank_table,
    searched_contest,
)
from search.report_view import export_commands, key_figures, pick_rows, search_rows
from supernet.architecture import Architecture
from supernet.artifacts import write_json


@pytest.fixture(scope="module")
def page(report_data):
    return render(report_data)


class Tags(HTMLParser):
    VOID = {"meta", "img", "source", "link", "br", "hr", "input"}  # noqa: RUF012

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# --- the file -----------------------------------------------------------------------------------------------------


def test_report_is_well_formed_and_loads_nothing_from_elsewhere(page):
    tags = Tags(page)
    assert tags.open == []
    assert not {"script", "link", "iframe"} & set(tags.seen)
    sources = [value for _, name, value in tags.attributes if name in ("src", "srcset", "href")]
    assert len(sources) == 12 and all(value.startswith("data:image/png;base64,") for value in sources)
    assert "http" not in page and "@import" not in page and "url(" not in page


def test_every_picture_has_a_text_alternative(page):
    tags = Tags(page)
    alternatives = [value for tag, name, value in tags.attributes if (tag, name) == ("img", "alt")]
    assert len(alternatives) == tags.seen.count("img") == 6 and all(alternatives)


def test_write_report_writes_the_page_and_its_figures_beside(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    written = write_report(folder)
    assert written.path == folder / "report.html" and written.path.stat().st_size > 100_000
    assert {path.name for path in written.figures} == {
        "front.png", "hypervolume.png", "prediction.png", "training.png", "drift.png", "architectures.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written.figures)
    assert not list(folder.rglob("*.tmp*"))


def test_text_of_the_run_is_escaped(page):
    assert "self.name = &lt;name&gt;" in page and "<name>" not in page


def test_every_pick_and_every_command_is_on_the_page(report_data, page):
    for pick in report_data.picks:
        assert pick.architecture.id in page
    assert "paretolm demo run_dir=runs/demo" in page and "paretolm train space=tiny" in page
    assert "AMD EPYC 7B13" in page


# --- missing and damaged parts ------------------------------------------------------------------------------------


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_report_data(tmp_path / "nowhere")


def test_a_folder_without_any_part_is_refused_with_the_list_of_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match="holds nothing to report") as error:
        load_report_data(tmp_path)
    assert all(where in str(error.value) for where in PARTS.values())


def test_training_alone_makes_a_report_that_names_the_missing_parts(tmp_path):
    write_training(tmp_path / "train" / "metrics.csv", np.random.default_rng(0), steps=300)
    data = load_report_data(tmp_path)
    page = render(data)
    assert set(data.absent) == set(PARTS) - {"training"}
    assert "Not in this report" in page and all(f"<b>{part}</b>" in page for part in data.absent)
    assert headline(data).verdict == "A supernet was trained."
    assert page.count("<img") == 1


def test_a_damaged_part_is_named_and_the_others_are_shown(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    (folder / "picks.parquet").write_bytes(b"PAR1 cut off")
    (folder / "search" / "nsga2" / "summary.json").write_text("{")
    data = load_report_data(folder)
    assert "picks.parquet is damaged" in data.absent["picks"]
    assert "summary.json is damaged" in data.absent["searches"]
    assert data.predictions and data.training is not None
    assert "picks.parquet is damaged" in render(data, [])


def test_a_metrics_file_cut_off_by_a_kill_is_read_up_to_there(tmp_path):
    path = tmp_path / "metrics.csv"
    write_training(path, np.random.default_rng(0), steps=300)
    whole = load_report_data(tmp_path).training
    path.write_text(path.read_text()[:-30])
    cut = load_report_data(tmp_path).training
    assert len(cut) in (len(whole), len(whole) - 1)
    pd.testing.assert_frame_equal(cut.iloc[:-1], whole.iloc[: len(cut) - 1])


# --- findings -----------------------------------------------------------------------------------------------------


def scaled(data, search, factor):
    picks = [replace(p, latency_ms=p.latency_ms * factor) if p.search == search else p for p in data.picks]
    return replace(data, picks=tuple(picks))


def same_picks(data):
    """Return data in which the baseline's picks measured exactly what the search's did."""
    own = [p for p in data.picks if p.search == "nsga2"]
    return replace(data, picks=(*own, *(replace(p, name=f"b {p.name}", search=BASELINE) for p in own)))


def test_equal_picks_are_called_level(report_data):
    data = same_picks(report_data)
    assert headline(data).verdict.startswith("NSGA-II is level with the parameter-count baseline")
    assert "does as well here" in headline(data).verdict


def test_a_slower_baseline_is_beaten_and_a_faster_one_wins(report_data):
    data = same_picks(report_data)
    assert "% ahead of the parameter-count baseline" in headline(scaled(data, BASELINE, 1.3)).verdict
    assert "is the better choice here" in headline(scaled(data, BASELINE, 0.7)).verdict


def test_latency_noise_makes_a_small_difference_level(report_data):
    data = scaled(same_picks(report_data), BASELINE, 1.06)
    assert "ahead of" in headline(data).verdict
    noisy = tuple(replace(p, latency_iqr_ms=p.latency_ms, n_repeats=3) for p in data.picks)
    assert "is level with" in headline(replace(data, picks=noisy)).verdict


def test_random_search_that_is_best_is_named_in_the_headline(report_data):
    data = scaled(report_data, "random", 0.5)
    assert re.search(r"random search is .* % ahead of NSGA-II", headline(data).verdict)


def test_searches_are_compared_at_equal_numbers_of_picks(report_data):
    groups = picks_by_search(report_data.picks)
    fewer = [p for p in report_data.picks if p.search != BASELINE] + groups[BASELINE][:3]
    contest = measured_contest(replace(report_data, picks=tuple(fewer)))
    assert contest.counts == (3, 3, 3)
    assert measured_contest(replace(report_data, picks=tuple(groups["nsga2"]))) is None


def test_without_picks_the_headline_says_that_nothing_was_measured_again(report_data):
    data = replace(report_data, picks=())
    assert measured_contest(data) is None
    assert "nothing was measured again" in headline(data).detail
    contest = searched_contest(data)
    assert dict(zip(contest.names, contest.counts, strict=True))["nsga2"] == 150


def test_a_search_without_baseline_says_so(report_data):
    one = {"nsga2": report_data.searches["nsga2"]}
    assert "no other search" in headline(replace(report_data, picks=(), searches=one)).detail


def test_rank_table_agrees_with_scipy(report_data):
    from scipy.stats import kendalltau, spearmanr

    networks = measured_networks(report_data)
    rows = {(r.metric, r.predictor): r for r in rank_table(report_data)}
    size = rows["perplexity", "decoder parameters"]
    assert size.n == len(networks) == 60
    assert size.kendall == pytest.approx(-kendalltau(networks["n_params_decoder"], networks["perplexity"]).statistic)
    best = next(p for p in report_data.predictions if p.metric == "latency_ms" and p.is_winner)
    row = rows["latency_ms", best.label]
    assert row.spearman == pytest.approx(spearmanr(best.predicted, best.measured).statistic)
    assert row.kendall > 0.8


def test_speed_up_and_change_are_against_the_measured_largest_network(report_data):
    rows = {row.name: row for row in pick_rows(report_data)}
    assert rows["largest"].speed_up.startswith("1.00") and rows["largest"].change == "+0.0 %"
    pick = next(p for p in report_data.picks if p.name == "nsga2 1")
    assert rows["NSGA-II 1"].speed_up.startswith(f"{report_data.largest.latency_ms / pick.latency_ms:.2f}")
    without = replace(report_data, picks=tuple(p for p in report_data.picks if p.search))
    assert {row.speed_up for row in pick_rows(without)} == {NONE}
    assert "The largest network was not measured" in render(without, [])


def test_key_figures_only_hold_what_the_run_has(report_data, tmp_path):
    assert len(key_figures(report_data)) == 6
    assert key_figures(ReportData(tmp_path)) == []


def test_search_rows_name_each_search_once_best_first(report_data):
    rows = search_rows(report_data)
    assert {row.slug for row in rows} == {"nsga2", "random", "parameter_count"}
    assert rows[0].slug == measured_contest(report_data).names[0]


def test_export_commands_name_the_supernet_and_each_architecture_once(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    assert export_commands(load_report_data(folder)) == []
    write_json(folder / "train" / "supernet" / "space.json", SPACE.to_dict())
    data = load_report_data(folder)
    lines = [command.line for command in export_commands(data)]
    assert len(lines) == len({pick.architecture for pick in data.picks})
    for line in lines:
        words = dict(word.split("=", 1) for word in line.split()[2:])
        arch = Architecture.from_id(words["arch"])
        assert words["format"] == ("hf" if arch.is_uniform else "litgpt")
        assert words["supernet"] == str(folder / "train" / "supernet")


# --- picks --------------------------------------------------------------------------------------------------------


def test_picks_read_back_as_they_were_written(report_data, tmp_path):
    again = load_picks(save_picks(tmp_path / "picks.parquet", report_data.picks))
    for a, b in zip(again, report_data.picks, strict=True):
        assert a.architecture == b.architecture and a.parameters == b.parameters and a.latency_ms == b.latency_ms
        assert math.isnan(a.predicted_latency_ms) == math.isnan(b.predicted_latency_ms)


def test_bad_picks_are_refused(report_data, tmp_path):
    pick = report_data.picks[0]
    with pytest.raises(ValueError, match="latency_ms = nan"):
        replace(pick, latency_ms=math.nan)
    with pytest.raises(ValueError, match="each name once"):
        save_picks(tmp_path / "picks.parquet", [pick, pick])
    pd.DataFrame({"name": ["a"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="lacks the columns"):
        load_picks(tmp_path / "other.parquet")


# --- command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_report_and_ends_with_one_line(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "run")
    done = paretolm(f"run={folder}", f"readme_figure={tmp_path / 'readme.png'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 and str(folder / "report.html") in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"run", "readme.png"}


def test_the_command_refuses_a_folder_without_parts_in_one_message(tmp_path):
    done = paretolm(f"run={tmp_path}", cwd=tmp_path)
    assert done.returncode == 1 and "Looked for" in done.stderr and "Traceback" not in done.stderr


def paretolm(*words, cwd):
    code = "import sys; from supernet.dispatch import main; sys.exit(main(['report', *sys.argv[1:]]))"
    return subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, check=False)


def test_readme_figure_needs_predictions_and_a_front(report_data, tmp_path):
    assert readme_figure(report_data, tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no front or no predictions"):
        readme_figure(ReportData(tmp_path), tmp_path / "none.png")


def test_reports_import_no_torch():
    code = "import sys, search.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pictures_are_drawn_for_light_and_dark_pages(report_data):
    figures = draw_figures(replace(report_data, searches={}, picks=(), training=None, predictions=()))
    assert [figure.name for figure in figures] == ["drift"]
    assert figures[0].light != figures[0].dark
