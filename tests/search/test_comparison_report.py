"""The report of a small comparison: valid HTML that holds every picture, tables that agree with the scores."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from comparison_fakes import CASE, case_reference, made_up, run_record

from search import figure_style
from search.comparison.analysis import analyse
from search.comparison.rank_figures import rank_figure
from search.comparison.report import write_comparison_report, write_markdown
from search.comparison.report_tables import report_tables
from search.figure_style import to_png

CASES = [CASE.format(device) for device in ("a100", "h100")]
METHODS = {"random": 0.4, "nsga2": 0.15, "model-guided": 0.05}
VOID = {"meta", "img", "link", "br", "hr"}


class Checker(HTMLParser):
    """Collects pictures and addresses; fails where tags do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.pictures, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.pictures += [value for name, value in attrs if name == "src"]
        self.addresses += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def inputs():
    records, references = made_up(CASES, METHODS, 4, n=30, point=0.2)
    case = f"{CASES[0]} energy_mj@a100"
    records += [run_record(case, m, s, distance=d, n=30, m=3, offset=i)
                for i, (m, d) in enumerate(METHODS.items()) for s in range(4)]  # fmt: skip
    return records, references | {case: case_reference(case, m=3)}


@pytest.fixture(scope="module")
def written(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure_style, "DOTS_PER_INCH", 70)  # quick
        return write_comparison_report(*inputs, folder, how={"command": "paretolm <compare>", "seeds": [0, 1, 2, 3]})


def test_html_is_whole_and_needs_no_network(written):
    checker = Checker()
    text = written.html.read_text(encoding="utf-8")
    checker.feed(text)
    assert checker.open == []
    assert all(a.startswith(("data:image/png;base64,", "#")) for a in checker.addresses)
    assert "paretolm &lt;compare&gt;" in text and written.headline in text
    assert not re.search(r"\bnan\b|\binf\b", re.sub(r"base64,[^\"]*", "", text))


def test_html_holds_every_picture(written):
    checker = Checker()
    checker.feed(written.html.read_text(encoding="utf-8"))
    embedded = {base64.b64decode(uri.partition(",")[2]) for uri in checker.pictures}
    assert embedded == {path.read_bytes() for path in written.figures}
    assert {path.stem for path in written.figures} == {
        "overall", "regret_main", "regret_within_gpt-s", "regret_special", "attainment", "attainment_gap", "ranks",
        "ranks_within", "spread", "attainment_model-guided_against_lts", "attainment_nsga2_against_lts",
    }  # fmt: skip


def test_summary_is_json_that_agrees_with_the_scores(written):
    summary = json.loads(written.summary.read_text(encoding="utf-8"))
    scores = pd.read_parquet(written.summary.parent / "scores.parquet")
    assert summary["headline"] == written.headline
    assert (summary["budgets"]["common"], summary["budgets"]["final"]) == (30, 30)
    for row in summary["standings"]["whole"]["30"]["regrets"]:
        own = scores[(scores["case"] == row["case"]) & (scores["panel"] == "all") & (scores["method"] == row["method"])]
        assert row["median"] == pytest.approx(own[own["is_last"]]["regret"].median(), abs=1e-8)
        assert row["n"] == 4
    table = pd.read_csv(written.summary.parent / "summary.csv")
    assert len(table) == len(scores.drop_duplicates(["case", "panel", "method", "n_evaluations"]))
    tests = pd.read_csv(written.summary.parent / "tests.csv")
    assert set(tests["group"]) == {"whole", "within", "special"}
    assert (tests["p_holm"] >= tests["p"] - 1e-12).all()


def test_every_table_says_what_the_budget_is(inputs):
    tables = report_tables(analyse(*inputs))
    assert len(tables) >= 12
    for table in tables:
        assert "Hardware metrics are free" in table.note
        assert {len(row) for row in table.rows} == {len(table.head)}
        assert all(i < len(table.rows) and j < len(table.head) for i, j in table.bold)


def test_markdown_has_the_conclusions_and_all_tables(inputs, tmp_path):
    found = analyse(*inputs)
    path = write_markdown(found, tmp_path / "compare.md", how={"date": "today"}, figures={"x.png": "A picture"})
    text = path.read_text(encoding="utf-8")
    assert "![A picture](x.png)" in text and "- date: today" in text
    for table in report_tables(found):
        assert f"## {table.title}" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_pictures_are_the_same_again(inputs):
    first, second = (to_png(rank_figure(analyse(*inputs))) for _ in range(2))
    assert first == second
    assert np.frombuffer(first[16:24], ">u4").min() > 300
