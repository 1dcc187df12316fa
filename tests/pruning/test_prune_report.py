"""The pruning report: JSON both ways, what its page says, pictures that are drawn for what is there."""

import json
import re
from dataclasses import fields, replace

import pytest
from prune_reports import DENSE, example_report

from pruning.report import draw_figures, render, write_report
from pruning.report_data import BudgetLine, Network, PredictedLatency, PruneReport
from pruning.report_figures import blocks_figure, prediction_figure
from pruning.report_pareto import pareto_figure
from pruning.report_view import budget_rows, columns, headline, key_figures, network_rows
from search.figure_style import to_png
from supernet.architecture import Architecture


def test_a_report_is_json_both_ways():
    report = example_report()
    assert PruneReport.from_json(report.to_json()) == report
    bare = PruneReport("net", DENSE, DENSE)
    assert PruneReport.from_json(bare.to_json()) == bare
    assert {f.name for f in fields(PruneReport)} == set(json.loads(report.to_json()))


def test_numbers_that_are_not_finite_become_null_and_are_left_out():
    network = Network("a", "ours", perplexity={"t": float("inf")}, latency_ratio=0.5)
    report = PruneReport("net", DENSE, DENSE, networks=(network,), texts=("t",))
    back = PruneReport.from_json(report.to_json())
    assert back.networks[0].perplexity == {"t": None}
    assert [cell.cells for cell in network_rows(back)] == [(("0.500", ""), ("\N{EN DASH}", ""))]


def test_fields_that_are_wrong_are_named():
    data = json.loads(example_report().to_json())
    data["networks"][3]["latnecy_ms"] = 3
    with pytest.raises(ValueError, match=r"report\.networks\[3\]: unknown latnecy_ms; a Network has in_table, "):
        PruneReport.from_json(json.dumps(data))
    del data["networks"][3]["latnecy_ms"], data["model"]
    with pytest.raises(ValueError, match=r"report: .*'model'"):
        PruneReport.from_json(json.dumps(data))
    with pytest.raises(ValueError, match=r"same name twice: \['a'\]"):
        PruneReport("net", DENSE, DENSE, networks=(Network("a", "ours"), Network("a", "FLAP")))


def test_limits_hold_from_their_own_side():
    assert BudgetLine("latency (ms)", "-25%", 75, 74, 74.9).holds
    assert not BudgetLine("latency (ms)", "-25%", 75, 74, 75.1).holds
    fast = BudgetLine("throughput (tokens/s)", "100", 100, 90, 125, higher_is_better=True)
    assert fast.holds and fast.used == pytest.approx(0.8)
    assert replace(fast, measured=99.0).holds is False
    assert replace(fast, measured=None).holds is None
    verdicts = [
        row.verdict for row in budget_rows(replace(example_report(), budget=(fast, replace(fast, measured=99.0))))
    ]
    assert verdicts == ["holds", "missed"]


def test_the_headline_says_asked_predicted_measured_and_the_perplexities():
    assert headline(example_report()).startswith(
        "smollm2-135m: asked -25% latency (ms) (limit 62.60), predicted 62.10, measured 61.90; "
    )
    assert headline(example_report()).endswith("perplexity 22.08 before, 44.30 after (WikiText-2 test)")
    assert headline(PruneReport("net", DENSE, DENSE)) == "net: pruned to 30 blocks"


def test_the_table_has_columns_that_some_network_fills_and_ratios_to_the_dense_model():
    report = example_report()
    assert [title for title, _ in columns(report)] == [
        "Parameters", "Weights", "KV cache", "Latency", "Latency", "Throughput", "Perplexity", "Perplexity",
    ]  # fmt: skip
    rows = network_rows(report)
    assert [row.name for row in rows[:3]] == ["dense", "ours", "uniform OBS + LS"]
    assert len(rows) == 9
    assert rows[1].cells[0] == ("98.3 M", "0.73\N{MULTIPLICATION SIGN}") and rows[0].cells[0] == ("135 M", "")
    assert rows[1].cells[4] == ("0.742", "0.735 to 0.751")
    only = replace(report, networks=(Network("dense", "dense", n_params=5),))
    assert [title for title, _ in columns(only)] == ["Parameters"]
    assert key_figures(only) == [] and len(key_figures(report)) == 5


def test_the_page_needs_nothing_else_and_says_everything(tmp_path):
    report = example_report()
    written = write_report(tmp_path / "run", report)
    assert sorted(p.name for p in written.figures) == ["blocks.png", "pareto.png", "prediction.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in written.figures)
    assert PruneReport.load(tmp_path / "run" / "report.json") == report
    page = written.path.read_text(encoding="utf-8")
    assert page.count("<section") == page.count("</section") and "data:image/png" in page
    assert not re.search(r'(src|href|srcset)="(?!data:)', page) and "<script" not in page
    for text in ("Paris, a city of &lt;light&gt; &amp; art.", "paretolm prune model=smollm2-135m", "torch 9.9.9",
                 "28 of 30", "Numbers are invented.", "2 h 1 min", "98,304,000", report.pruned.id,
                 "0.645", "holds"):  # fmt: skip
        assert text in page


def test_a_report_of_shapes_alone_has_their_picture_and_no_empty_sections():
    report = PruneReport("net", DENSE, DENSE)
    page = render(report)
    assert [figure.name for figure in draw_figures(report)] == ["blocks"]
    for heading in (
        "Budget",
        "Latency and perplexity",
        "Predicted",
        "Zero-shot",
        "Texts",
        "Exports",
        "How it was made",
    ):
        assert heading not in page


def texts_of(figure):
    figure.draw_without_rendering()
    return [text for axes in figure.axes for text in axes.texts if text.get_text()]


@pytest.mark.parametrize("n_layer", [1, 30, 41])
def test_the_heat_map_has_a_cell_for_every_part_of_every_block_and_none_overlap(n_layer):
    dense = Architecture.uniform(
        n_embd=64, n_layer=n_layer, n_head=32, n_query_groups=8, intermediate_size=14336, bias=False
    )
    figure = blocks_figure(PruneReport("net", dense, dense))
    boxes = [text.get_window_extent() for text in texts_of(figure)]
    assert len(boxes) == 3 * n_layer
    page = figure.bbox
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])


def test_dropped_blocks_and_parts_are_hatched():
    from matplotlib.patches import Rectangle

    figure = blocks_figure(example_report())
    hatched = [p for p in figure.axes[0].patches if isinstance(p, Rectangle) and p.get_hatch()]
    assert len(hatched) == 2 * 3 + 2 * 2 + 1  # two blocks, two attentions (heads and groups), an MLP


def test_what_is_off_the_scale_stays_in_the_legend_and_does_not_squash_the_rest():
    figure = pareto_figure(example_report())
    axes = figure.axes[0]
    assert axes.get_ylim()[1] < 400
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "magnitude\n1,000,000 at 0.744 (off scale)" in labels
    assert labels[0].startswith("dense") and labels[1].startswith("ours\n44.3 at 0.742")
    assert axes.get_xlabel().endswith("(ratio to the dense model)") and "WikiText-2 test" in axes.get_ylabel()


@pytest.mark.parametrize(("metric", "limit", "label", "title", "line"), [
    ("parameters", 101e6, "Parameters (ratio", "perplexity at parameters ratio", "budget: 0.751"),
    ("KV cache (MiB)", 18.0, "KV cache (ratio", "perplexity at KV cache ratio", "budget: 0.800"),
    ("decoder parameters", 80e6, "Parameters (ratio", "perplexity at parameters ratio", None),
])  # fmt: skip
def test_without_measured_latency_the_cost_is_what_the_budget_counts(metric, limit, label, title, line):
    report = example_report()
    networks = tuple(replace(n, latency_ratio=None, latency_low=None, latency_high=None) for n in report.networks)
    budget = (BudgetLine(metric, "x", limit, limit, limit),)
    figure = pareto_figure(replace(report, networks=networks, budget=budget, latency_limit=None))
    assert figure.axes[0].get_xlabel().startswith(label)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert legend.get_title().get_text() == title
    expected = 17.3 / 22.5 if "KV" in metric else 98_304_000 / 134_515_008
    assert f"ours\n44.3 at {expected:.3f}" in labels
    assert (line in labels) if line else not any(text.startswith("budget") for text in labels)


def test_figures_without_data_are_not_drawn():
    report = replace(example_report(), networks=example_report().networks[:1], predictions=())
    assert pareto_figure(report) is None and prediction_figure(report) is None
    one = replace(report, predictions=(PredictedLatency(0.7, 0.7),))
    assert to_png(prediction_figure(one)).startswith(b"\x89PNG")
