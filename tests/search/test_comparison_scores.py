"""Scores: panels, checkpoints, points, what is missing; standings, the bar and catching up from known winners."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from comparison_fakes import CASE, case_reference, curved_front, made_up, run_record

from search.comparison.analysis import analyse
from search.comparison.bar import bar_of
from search.comparison.case_names import CaseName, case_labels
from search.comparison.records import ALL, RunRecord
from search.comparison.scores import Entry, score
from search.comparison.standings import Unit, standings
from search.pareto import Normalisation, normalised_hypervolume

CASES = [CASE.format("a100"), CASE.format("h100")]


def test_regrets_are_those_of_the_normalised_hypervolume():
    records, references = made_up(CASES[:1], {"random": 0.3}, 2)
    known = score(records, references).methods[Entry(CASES[0], ALL, "random")]
    front = references[CASES[0]].panels[ALL].front
    scale = Normalisation.of(front)
    for run, row in zip(records, known.regrets, strict=True):
        for n in (1, 7, 40):
            volume = normalised_hypervolume(run.values[:n], scale) / normalised_hypervolume(front, scale)
            assert row[n - 1] == pytest.approx(1 - volume)


def test_inside_a_width_only_its_networks_count_and_all_evaluations_cost():
    record, reference = run_record(CASES[0], "random", 0), case_reference(CASES[0])
    panel = "n_embd=384"
    scores = score([record], {reference.case: reference})
    regrets = scores.methods[Entry(CASES[0], panel, "random")].regrets[0]
    front = reference.panels[panel].front
    scale = Normalisation.of(front)
    own = record.values[:30][record.widths[:30] == 384]
    expected = 1 - normalised_hypervolume(own, scale) / normalised_hypervolume(front, scale)
    assert regrets[29] == pytest.approx(expected)
    rows = scores.run_table.set_index("panel")
    assert rows.loc[panel, "n_in_panel"] == (record.widths == 384).sum()
    assert rows.loc[panel, "n_evaluations"] == 40


def test_a_point_has_a_score_at_its_own_cost_only():
    records, references = made_up(CASES[:1], {"random": 0.3}, 3, point=0.1)
    scores = score(records, references, checkpoints=(10, 20, 30))
    rows = scores.table[(scores.table["method"] == "lts") & (scores.table["panel"] == ALL)]
    assert rows["n_evaluations"].unique().tolist() == [25]
    known = scores.methods[Entry(CASES[0], ALL, "lts")]
    assert known.at(24) == {}
    assert known.at(25) == known.at(300) == known.last()


def test_checkpoints_and_the_end_are_rows():
    records, references = made_up(CASES[:1], {"random": 0.3}, 1)
    table = score(records, references, checkpoints=(10, 20, 100)).table
    whole = table[table["panel"] == ALL]
    assert whole["n_evaluations"].tolist() == [10, 20, 40]
    assert whole["is_last"].tolist() == [False, False, True]
    for name in ("regret", "igd_plus", "epsilon"):
        assert (whole[name].diff().dropna() <= 0).all()


def test_regret_below_zero_is_kept_and_counted_and_nan_rows_too():
    values = np.concatenate([curved_front(40, -0.1), np.full((5, 2), np.nan)])
    record = RunRecord(CASES[0], "lucky", 0, values, np.full(45, 192), False, 0.1)
    scores = score([record], {CASES[0]: case_reference(CASES[0])})
    row = scores.run_table.set_index("panel").loc[ALL]
    assert row["regret"] < 0 and row["is_below_zero"]
    assert (row["n_invalid"], row["n_evaluations"], row["n_in_panel"]) == (5, 45, 40)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs, refs: ([], refs), "no run to score"),
        (lambda runs, refs: (runs + runs[:1], refs), "two runs with seed 0"),
        (lambda runs, refs: (runs, {CASES[1]: refs[CASES[1]]}), "no reference for the case"),
        (lambda runs, refs: (runs, refs | {CASES[0]: case_reference(CASES[0], m=3)}), "2 values a row"),
    ],
)
def test_what_cannot_be_scored_is_refused(change, message):
    runs, references = made_up(CASES, {"random": 0.3}, 1)
    with pytest.raises(ValueError, match=message):
        score(*change(runs, references))


def test_scores_are_written_as_parquet(tmp_path):
    records, references = made_up(CASES[:1], {"random": 0.3}, 2)
    scores = score(records, references)
    scores.save(tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), scores.table)
    assert len(pd.read_parquet(tmp_path / "run_scores.parquet")) == 2 * 3


# --- standings ----------------------------------------------------------------------------------------------------


def test_a_method_that_is_better_everywhere_wins_everywhere():
    records, references = made_up(CASES, {"random": 0.4, "good": 0.05, "middle": 0.2}, 12)
    units = [Unit(case, ALL) for case in CASES]
    found = standings(score(records, references), units, 40, np.random.default_rng(0))
    assert [m.method for m in found.methods] == ["good", "middle", "random"]
    assert [m.rank for m in found.methods] == [1, 2, 3]
    assert [m.wins for m in found.methods] == [2, 0, 0]
    assert found.outcomes("good", "random") == (2, 0, 0)
    assert found.outcomes("random", "good") == (0, 2, 0)
    best = next(p for p in found.pairs if {p.first, p.second} == {"good", "random"})
    assert best.winner == "good" and best.n == 12


def test_equal_distributions_are_not_told_apart():
    records, references = made_up(CASES, dict.fromkeys(["a", "b", "c", "d"], 0.2), 10)
    units = [Unit(case, ALL) for case in CASES]
    found = standings(score(records, references), units, 40, np.random.default_rng(0))
    assert not any(p.winner for p in found.pairs)
    assert all(p.p_holm >= p.p for p in found.pairs)


def test_methods_are_compared_where_they_have_the_evaluations_and_the_seeds():
    records, references = made_up(CASES[:1], {"random": 0.4, "good": 0.05}, 8)
    records = [r for r in records if r.method != "good" or r.seed < 3]  # fewer than half
    records += [run_record(CASES[0], "short", s, n=20) for s in range(8)]
    scores, rng = score(records, references), np.random.default_rng(0)
    units = [Unit(CASES[0], ALL)]
    late, early = (standings(scores, units, at, rng) for at in (40, 20))
    assert [m.method for m in late.methods] == ["random"]
    assert {m.method for m in early.methods} == {"random", "short"}
    assert late.dropped == ((units[0], "good", 3),)


def test_the_single_run_of_a_point_stands_for_every_seed():
    records, references = made_up(CASES[:1], {"random": 0.4}, 8, point=0.02)
    records = [r for r in records if not r.is_point or r.seed == 0]
    found = standings(score(records, references), [Unit(CASES[0], ALL)], 40, np.random.default_rng(0))
    assert found.outcomes("lts", "random") == (1, 0, 0)
    assert found.pairs[0].n == 8


# --- the bar ------------------------------------------------------------------------------------------------------


def test_the_bar_needs_ten_of_twelve_and_every_front():
    cases = [CASE.format(i) for i in range(12)]
    records, references = made_up(cases, {"mine": 0.02, "other": 0.3}, 1, n=30, point=2.5)

    def judged(n_lost, n_above_front):
        def shift(record):
            number = int(record.case.rpartition("@")[2])
            if record.method == "mine" and number < n_lost:
                return 0.5
            return -3.0 if record.method == "lts" and number >= n_above_front else 0.0

        runs = [replace(record, values=record.values + shift(record)) for record in records]
        units = [Unit(case, ALL) for case in cases]
        return bar_of(score(runs, references), units, 30, method="mine", baseline="lts")

    assert judged(2, 12).passes and judged(2, 12).n_best == 10
    assert not judged(3, 12).passes and judged(3, 12).n_best == 9
    lost_to_a_front = judged(0, 11)
    assert (lost_to_a_front.n_best, lost_to_a_front.n_above_baseline) == (11, 11)
    assert not lost_to_a_front.passes
    assert lost_to_a_front.rows[11].rival == "lts" and lost_to_a_front.rows[11].rival_n == 25


def test_budgets_are_the_common_one_and_that_of_most():
    records, references = made_up(CASES, {"random": 0.4, "good": 0.1}, 3, n=60)
    records += [run_record(case, "slow", s, n=30) for case in CASES for s in range(3)]
    found = analyse(records, references, default="good")
    assert (found.common, found.final, found.budgets) == (30, 60, (20, 30, 50, 60))
    assert {m.method for m in found.whole[60].methods} == {"random", "good"}
    assert {m.method for m in found.whole[30].methods} == {"random", "good", "slow"}


def test_catching_up_is_when_the_curve_reaches_the_fronts_regret():
    records, references = made_up(CASES, {"random": 0.4, "good": 0.02}, 5, n=60, point=0.3)
    found = analyse(records, references, default="good")
    regrets = found.scores.methods[Entry(CASES[0], ALL, "good")].regrets
    target = found.scores.methods[Entry(CASES[0], ALL, "lts")].last()
    times = [next(i + 1 for i, r in enumerate(row) if r <= target[s]) for s, row in enumerate(regrets)]
    own = next(c for c in found.catch_ups if c.unit == (CASES[0], ALL) and c.method == "good")
    assert own.median == np.median(times)
    assert (own.front_cost, own.n_runs, own.n_reached) == (25, 5, 5)
    against = {(row.method, row.at): row for row in found.against_whole}
    assert against["good", 60].lower == 2 and against["random", 20].n_affordable == 0
    assert against["good", 60].n_affordable == 2


def test_case_names_are_short_and_stay_distinct():
    names = ["gpt-s perplexity latency_ms@a100", "gpt-s perplexity latency_ms@a100 noisy",
             "gpt-s perplexity latency_ms@a100 energy_mj@a100", "gpt-s perplexity energy_mj@a100",
             "gpt-m perplexity latency_ms@rtx2080 | memory_mib@rtx2080<=3000"]  # fmt: skip
    assert list(case_labels(names).values()) == [
        "gpt-s a100", "gpt-s a100, noisy", "gpt-s a100, 3 objectives", "gpt-s a100, perplexity x energy_mj",
        "gpt-m rtx2080, memory_mib ≤ 3000",
    ]  # fmt: skip
    assert [CaseName.of(name).is_main for name in names] == [True, False, False, True, False]
    assert case_labels(["x  y", "x y"]) == {"x  y": "x  y", "x y": "x y"}
