"""Conclusions say what the numbers say: a known winner, a failed bar, no difference where there is none."""

import pytest
from comparison_fakes import CASE, case_reference, made_up, run_record

from search.comparison.analysis import analyse
from search.comparison.conclusions import findings, headline
from search.comparison.method_styles import families, method_style
from search.comparison.wording import listed, percent_digits
from search.number_format import NONE

CASES = [CASE.format(device) for device in ("a100", "h100")]


def texts(analysis):
    """Everything that is said, by topic."""
    found = {}
    for finding in findings(analysis):
        found[finding.topic] = f"{found.get(finding.topic, '')} {finding.text}"
    return found


def test_a_known_winner_clears_the_bar():
    found = analyse(*made_up(CASES, {"random": 0.4, "model-guided": 0.03}, 12, n=60, point=0.3))
    assert "Model-guided has a lower median regret than every other method on 2 of 2 cases" in headline(found)
    assert "it clears the bar" in headline(found)
    assert "significantly better than random search on all 2: Model-guided" in texts(found)["Against random search"]


def test_a_default_that_loses_is_said_to_lose_and_the_winner_is_named():
    found = analyse(*made_up(CASES, {"random": 0.4, "model-guided": 0.2, "nsga2": 0.03}, 8, n=60, point=0.3))
    assert "does not clear the bar" in headline(found)
    assert "NSGA-II: on 2 of 2" in headline(found) and "it clears it" in headline(found)
    assert "not the best on gpt-s a100 to NSGA-II" in texts(found)["The bar"]


def test_counting_that_wins_is_said_to_win():
    found = analyse(*made_up(CASES, {"random": 0.4, "nsga2": 0.3}, 12, n=60, point=0.01), default="nsga2")
    whole = texts(found)["Counting or searching, whole space"]
    assert "At 20 evaluations (fewer than the front costs on 2 of 2): no method is better" in whole
    assert "At 50 and 60 evaluations: no method is better than the front on any of 2" in whole
    assert all(row.worse == 2 and row.better == 0 for row in found.against_whole)
    assert "NSGA-II on 0 of 2" in texts(found)["Catching up"]


def test_equal_methods_are_not_told_apart():
    found = analyse(*made_up(CASES, dict.fromkeys(["random", "a", "b"], 0.2), 8), default="a")
    text = texts(found)["Against random search"]
    assert "better than random search on all 2: none" in text
    assert "nowhere: a and b" in text or "nowhere: b and a" in text
    assert "on some" not in text and "worse" not in text


def test_what_is_missing_is_said():
    records, references = made_up(CASES, {"random": 0.4, "nsga2": 0.2}, 6, n=60)
    records = [r for r in records if (r.case, r.method, r.seed) != (CASES[1], "nsga2", 5)]
    records += [run_record(case, "ehvi", s, n=30) for case in CASES for s in range(6)]
    data = " ".join(f.text for f in findings(analyse(records, references)) if f.topic == "The data")
    assert "after 30 evaluations, which all methods have, and after 60, without EHVI (30)" in data
    assert "Fewer than 6 seeds: NSGA-II on gpt-s h100 (5)" in data
    assert "Model-guided has no runs" in headline(analyse(records, references))


def test_other_cases_are_concluded_apart():
    records, references = made_up(CASES, {"random": 0.4, "nsga2": 0.03}, 8)
    case = "gpt-s perplexity latency_ms@a100 energy_mj@a100"
    records += [run_record(case, m, s, distance=d, m=3, offset=i) for s in range(8)
                for i, (m, d) in enumerate({"random": 0.4, "nsga2": 0.02}.items())]  # fmt: skip
    found = analyse(records, references | {case: case_reference(case, m=3)}, default="nsga2")
    assert found.others == (case,)
    assert len(found.bars[0].rows) == 2
    text = texts(found)["Other cases"]
    assert "gpt-s a100, 3 objectives: NSGA-II has the lowest median regret" in text
    assert "significantly below every other method" in text


def test_only_fronts_of_counting_cannot_be_compared():
    records, references = made_up(CASES, {}, 2, point=0.2)
    with pytest.raises(ValueError, match="only fronts of counting"):
        analyse(records, references)


@pytest.mark.parametrize("n", [1, 7, 30])
def test_every_method_is_in_a_family_of_at_most_eight_lines(n):
    methods = [*(f"mine-{i}" for i in range(n)), "random", "nsga2", "nsga2-100", "ehvi", "model-guided"]
    found = families(methods, "model-guided")
    assert {m for family in found for m in family.methods} == set(methods)
    assert all(len(f.methods) + len(f.context) <= 8 for f in found)
    assert all(method_style(m).label for m in methods)


def test_too_few_seeds_are_said_to_show_nothing():
    few, many = (analyse(*made_up(CASES, {"random": 0.4, "nsga2": 0.02}, n), default="nsga2") for n in (4, 12))
    assert "no difference can be significant" in texts(few)["The data"]
    assert "no difference can be significant" not in texts(many).get("The data", "")


def test_words():
    assert listed([]) == "" and listed(["a"]) == "a"
    assert [percent_digits(v) for v in (0.0312, 0.3, 0.001, 0.00001)] == ["3.12", "30.0", "0.100", "0.001"]
    assert percent_digits(float("nan")) == NONE
