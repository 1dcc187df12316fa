import json
from dataclasses import replace

import numpy as np
import pytest
from report_data import target_test
from scipy import stats

from surrogates.accuracy_report import (
    Goal,
    ceiling_goal,
    coverage_goals,
    mean_kendall,
    report_target,
)
from surrogates.accuracy_tables import (
    accuracy_table,
    ceiling_table,
    goals_table,
    interval_table,
    markdown_table,
    width_table,
)
from surrogates.validation import parameter_count_scores, scores


def report(**changes: object) -> object:
    return report_target(target_test(**changes), rng=np.random.default_rng(0))  # type: ignore[arg-type]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


# --- reports ------------------------------------------------------------------------------------------------------


def test_a_report_scores_raw_and_adjusted_measurements_with_their_own_intervals() -> None:
    test = target_test(drift=0.1)
    found = report_target(test, rng=np.random.default_rng(0))
    assert found.raw.kendall == scores(test.raw, test.predicted).kendall
    assert found.adjusted.kendall == scores(test.adjusted, test.predicted).kendall > found.raw.kendall
    for scored in (found.raw, found.adjusted):
        assert [i.nominal for i in scored.intervals] == [0.5, 0.8, 0.9]
        assert scored.intervals[2].coverage == pytest.approx(0.9, abs=0.07)  # a sine is not normal
        assert [len(part.intervals) for part in scored.within_width] == [3, 3, 3]
    assert found.raw.intervals[2].width > 3 * found.adjusted.intervals[2].width
    assert found.drift == pytest.approx(1.4826 * 0.1 * np.sqrt(0.5), rel=0.15)  # median of |sine|


def test_a_ceiling_is_of_the_repeats_and_drift_lowers_that_of_adjusted_values_only_by_its_own_share() -> None:
    found = report(drift=0.0)
    assert found.ceiling.half_kendall == pytest.approx(found.adjusted_ceiling.half_kendall)
    assert found.adjusted.kendall < found.ceiling.half_kendall < found.ceiling.full_kendall
    drifting = report(drift=0.3)
    assert drifting.ceiling.half_kendall_within > drifting.adjusted_ceiling.half_kendall_within
    single = report(repeats=1)
    assert np.isnan(single.ceiling.half_kendall) and np.isnan(single.adjusted_ceiling.full_kendall)


def test_baselines_and_the_parameter_count_are_scored_beside_the_surrogate() -> None:
    test = target_test(drift=0.05)
    found = report_target(test, rng=np.random.default_rng(0))
    assert list(found.baselines) == ["parameter_count", "linear"]
    assert found.baselines["linear"].mape == pytest.approx(scores(test.adjusted, test.predicted * 1.05).mape)
    assert found.raw_baselines["linear"].mape == pytest.approx(scores(test.raw, test.predicted * 1.05).mape)
    expected = parameter_count_scores(test.adjusted, test.parameters).kendall
    assert found.baselines["parameter_count"].kendall == expected


def test_a_report_is_json_without_nan() -> None:
    saved = report(repeats=1).to_dict()
    text = json.dumps(saved, allow_nan=False)
    again = json.loads(text)
    assert again["ceiling"]["half_kendall"] is None
    assert again["adjusted"]["intervals"][0]["nominal"] == 0.5
    assert again["baselines"]["linear"]["within_width"][0]["n"] > 0
    assert again["adjusted"]["mape"] == float(f"{again['adjusted']['mape']:.5g}")


def test_arrays_that_do_not_fit_are_named() -> None:
    test = target_test()
    with pytest.raises(ValueError, match=r"gpt-x latency_ms a100: widths has shape \(599,\), measurements \(600,\)"):
        replace(test, widths=test.widths[1:])
    with pytest.raises(ValueError, match=r"linear has shape \(3,\)"):
        replace(test, baselines={"linear": np.ones(3)})


# --- goals --------------------------------------------------------------------------------------------------------


def test_goals_compare_the_rounded_value_with_their_limits() -> None:
    assert Goal("x", "s", 0.9916, at_least=0.992).reached
    assert not Goal("x", "s", 0.9914, at_least=0.992).reached
    assert not Goal("x", "s", float("nan"), at_least=0.5).reached
    assert Goal("x", "s", 0.9, 0.88, 0.92).reached and not Goal("x", "s", 0.93, 0.88, 0.92).reached


def test_mean_kendall_is_over_the_named_devices_and_nan_when_one_is_missing() -> None:
    reports = [report(device=d, seed=i, error=0.02 * (i + 1)) for i, d in enumerate(("a100", "h100", "cpu"))]
    both = mean_kendall(reports, "gpt-x", "latency_ms", ["a100", "h100"], adjusted=True)
    assert both == pytest.approx(np.mean([r.adjusted.kendall for r in reports[:2]]))
    assert np.isnan(mean_kendall(reports, "gpt-x", "latency_ms", ["a100", "v100"], adjusted=True))
    assert np.isnan(mean_kendall(reports, "gpt-s", "latency_ms", ["a100"], adjusted=True))


def test_the_ceiling_goal_counts_devices_with_repeats_only() -> None:
    reports = [report(device="a"), report(device="b", seed=1), report(device="c", seed=2, repeats=1)]
    goal = ceiling_goal(reports, "gpt-x", "latency_ms", ["a", "b", "c"], name="near", margin=0.02)
    top = np.mean([r.ceiling.half_kendall for r in reports[:2]])
    assert goal.at_least == round(top - 0.02, 3)
    assert goal.value == pytest.approx(np.mean([r.adjusted.kendall for r in reports]))
    assert "over 2 of 3 devices" in goal.note


def test_coverage_goals_name_the_targets_outside() -> None:
    good, narrow = report(device="good"), report(device="narrow", spread=0.012)
    few = report(device="few", n=60, spread=0.001)
    lowest, highest = coverage_goals(
        [good, narrow, few], "gpt-x", name="90 %", nominal=0.9, margin=0.02, least_rows=500
    )
    assert lowest.value == narrow.adjusted.intervals[2].coverage and not lowest.reached
    assert highest.value == good.adjusted.intervals[2].coverage
    assert lowest.note.startswith("1 of 2 targets; not latency_ms narrow 0.")
    assert coverage_goals([few], "gpt-x", name="90 %", nominal=0.9, margin=0.02, least_rows=500) == []


# --- tables -------------------------------------------------------------------------------------------------------


def test_every_table_has_a_row_for_each_target_and_as_many_cells_as_its_head() -> None:
    reports = [report(drift=0.05), report(device="any", metric="perplexity", repeats=1)]
    tables = [accuracy_table(reports, adjusted=adjusted) for adjusted in (True, False)]
    tables += [width_table(reports, adjusted=True), interval_table(reports), ceiling_table(reports, ["linear", "none"])]
    for table in tables:
        rows = cells(table)
        assert len(rows) == 4 and len({len(row) for row in rows}) == 1
        assert rows[2][:2] == ["latency_ms", "a100"] and rows[3][:2] == ["perplexity", "any"]
        assert "nan" not in table


def test_numbers_in_tables_are_those_of_the_reports() -> None:
    found = report(drift=0.05)
    head, _, row = cells(accuracy_table([found], adjusted=False))
    assert row[head.index("Kendall")] == f"{found.raw.kendall:.3f}"
    assert row[head.index("CRPS %")] == f"{found.raw.crps:.2f}"
    head, _, row = cells(interval_table([found]))
    assert row[head.index("adjusted 90")] == f"{found.adjusted.intervals[2].coverage:.3f}"
    assert row[head.index("raw 50")] == f"{found.raw.intervals[0].coverage:.3f}"
    head, _, row = cells(width_table([found], adjusted=True))
    assert row[head.index("Kendall")] == " / ".join(f"{part.kendall:.3f}" for part in found.adjusted.within_width)
    head, _, row = cells(ceiling_table([found], ["linear", "none"]))
    assert row[head.index("split-half")].startswith(f"{found.ceiling.half_kendall:.3f} (")
    assert row[head.index("none")] == "-"


def test_the_goals_table_says_what_was_missed() -> None:
    table = goals_table([Goal("a", "s", 0.95, at_least=0.9, first=0.89), Goal("b", "m", 0.5, 0.88, 0.92, note="why")])
    rows = cells(table)
    assert rows[2] == ["a", "s", ">= 0.900", "0.950", "0.890", "yes", ""]
    assert rows[3] == ["b", "m", "0.88 to 0.92", "0.500", "-", "**no**", "why"]


def test_a_markdown_table_aligns_numbers() -> None:
    assert markdown_table(["a", "b"], [["x", "1"]], left=1).splitlines()[1] == "| --- | ---: |"


def test_scores_of_the_synthetic_target_are_as_made() -> None:
    found = report(error=0.03)
    assert found.adjusted.crps == pytest.approx(100 * 0.03 / np.sqrt(np.pi), rel=0.1)
    assert found.adjusted.intervals[1].width == pytest.approx(2 * 0.03 * stats.norm.ppf(0.9), rel=0.05)
