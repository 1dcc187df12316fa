"""The acceptance run: its arithmetic, and the whole of it on a tiny network."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from pruning_supernets import STORIES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHARED = STORIES.parents[1]


@pytest.fixture(scope="module", autouse=True)
def benchmarks_on_path():
    sys.path.append(str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def one_shot(method, losses, *, draw=0, goal="prefill -25%", **more):
    return {
        "method": method,
        "goal": goal,
        "draw": draw,
        "target": 0.75,
        "ratio": 0.75,
        "losses": {"a": losses},
        **more,
    }


def test_a_ratio_is_that_of_perplexities_and_pairing_removes_what_both_share():
    from pruning_gates import ratio

    hard = np.array([[1.0, 5.0, 2.0, 3.0], [1.1, 5.1, 2.1, 3.1]])  # blocks differ a lot, networks by a constant
    found, stderr = ratio(hard - math.log(2), hard)
    assert found == pytest.approx(0.5) and stderr == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (1, 400))
    assert ratio(np.zeros((1, 400)), noise)[1] == pytest.approx(0.1 / 20, rel=0.15)


def test_coarse_methods_are_interpolated_at_the_target():
    from pruning_gates import losses_at_target

    record = one_shot("shortgpt", [4.0]) | {"ratio": 0.70, "above": {"ratio": 0.80, "losses": {"a": [3.0]}}}
    assert losses_at_target(record, "a") == pytest.approx([3.5])
    assert losses_at_target(one_shot("ours", [4.0]), "a") == pytest.approx([4.0])


def test_gates_say_pass_miss_and_not_measured():
    from pruning_gates import contract_gates, one_shot_gates, recovery_gates

    dense = {"losses": {"a": [3.0, 3.0]}}
    records = [one_shot("ours", [3.5, 3.5]), one_shot("shortgpt", [4.0, 4.0]), one_shot("wanda-sp", [4.0, 4.0])]
    gates = {gate.what: gate for gate in one_shot_gates(records, dense, "a")}
    assert gates["prefill -25%: ours / shortgpt"].passed is True  # exp(-0.5) = 0.61 <= 0.70
    assert gates["prefill -25%: ours / wanda-sp"].passed is False  # > 0.50
    assert gates["prefill -25%: ours / dense"].found == pytest.approx(math.exp(0.5))
    assert gates["prefill -25%: ours / flap or flap-global"].passed is None
    said = {"measured": {"ratio": 0.70, "low": 0.69, "high": 0.71}}
    kept, used = contract_gates([{"goal": "x", "target": 0.75, "said": said}])
    assert kept.passed and not used.passed and used.found == pytest.approx(0.70 / 0.75)
    recovered = [
        {"method": name, "losses": {"a": [loss]}} for name, loss in (("ours", 3.0), ("flap", 3.1), ("dense", 2))
    ]
    (gate,) = recovery_gates(recovered, "a")
    assert gate.what.endswith("flap") and gate.passed and gate.found == pytest.approx(math.exp(-0.1))
    with_our_table = [*recovered, {"method": "parameter-choice", "losses": {"a": [3.02]}}]
    first, second = recovery_gates(with_our_table, "a")
    assert first.found == pytest.approx(math.exp(-0.02)) and not first.passed
    assert "flap" in second.what and second.found == gate.found and second.passed


def test_a_record_is_made_once_and_a_folder_belongs_to_its_settings(tmp_path):
    from dataclasses import replace

    from pruning_study import Study, smoke_settings

    settings = smoke_settings()
    study = Study(tmp_path, settings, progress=False)
    assert study.record("a/b", lambda: [1]) == study.record("a/b", lambda: [2]) == [1]
    with pytest.raises(FileNotFoundError, match="run the stage"):
        study.record("a/c")
    Study(tmp_path, replace(settings, n_draws=5))  # more draws are no other study
    with pytest.raises(ValueError, match="other seq_len"):
        Study(tmp_path, replace(settings, seq_len=32))


def test_what_another_machine_measured_is_taken_over_once_and_marked(tmp_path):
    from dataclasses import replace

    from pruning_report import write_report
    from pruning_study import Study, smoke_settings

    settings = smoke_settings()
    losses = {name: [1.0, 2.0] for name in settings.scored}
    there = Study(tmp_path / "there", settings, progress=False)
    there.record("dense", lambda: {"method": "dense", "trunk": 1.0, "losses": losses})
    there.record("one-shot/x/draw-0/flap", lambda: one_shot("flap", [1.0]) | {"losses": losses, "trunk": 1, "arch": ""})
    there.record("latency/x/1", lambda: {"ratio": 1.0})
    there.record("removal/draw-0", lambda: [2, 0])
    _, report = write_report(there, tmp_path / "report.md")
    here = Study(tmp_path / "here", replace(settings, calibration=f"/elsewhere/{Path(settings.calibration).name}"))
    here.record("dense", lambda: {"method": "dense", "trunk": 1.0, "losses": losses, "own": True})
    assert here.adopt(report) == ["one-shot/x/draw-0/flap", "removal/draw-0"] and here.adopt(report) == []
    assert here.record("removal/draw-0") == [2, 0]
    assert here.record("dense")["own"] and here.record("one-shot/x/draw-0/flap")["adopted"]["from"] == "report.json"
    markdown, _ = write_report(here, tmp_path / "again.md")
    assert "From report.json (" in markdown.read_text() and ": one-shot/x/draw-0/flap." in markdown.read_text()
    with pytest.raises(ValueError, match="other seq_len"):
        Study(tmp_path / "short", replace(settings, seq_len=32)).adopt(report)


@pytest.mark.slow
@pytest.mark.skipif(
    not all((SHARED / name).is_dir() for name in ("models/stories260K", "text", "eval")), reason="no shared data"
)
def test_the_smoke_run_writes_a_report_and_makes_nothing_twice(tmp_path):
    from run_pruning import main

    arguments = ["--smoke", "--folder", str(tmp_path), "--threads", "1", "--quiet", "--learning-rates", "1e-3"]
    arguments += ["--methods", "wanda-sp", "flap-global", "shortgpt", "obs-ls", "--recovered-baselines", "1"]
    main(arguments)
    report, text = json.loads((tmp_path / "report.json").read_text()), (tmp_path / "report.md").read_text()
    assert not [value for value in report["settings"].values() if str(SHARED) in str(value)]
    records = [json.loads(path.read_text()) for path in (tmp_path / "records" / "one-shot").rglob("*.json")]
    failed = {record["method"] for record in records if "failed" in record}  # so small here it cannot be made that fast
    unknown = [gate["what"] for gate in report["gates"] if gate["passed"] is None]
    assert all(any(method in what for method in failed) for what in unknown)
    assert {row["method"] for row in report["one_shot"] if "perplexity" in row} >= {"ours", "wanda-sp", "obs-ls"}
    assert len(report["contract"]) == 2 and len(report["recovery"]) == 3 and len(report["zero_shot"]) >= 5
    assert {row["route"] for row in report["supernet"][0]["rows"]} == {"one-shot", "supernet"}
    for part in ("thresholds passed", "## Budget contract", "## After equal recovery", "## Zero-shot accuracy"):
        assert part in text
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.json")}
    main(arguments)  # all there already
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.json")}
    again = tmp_path / "again"  # our architectures with new weights, everything else as it was measured
    main([*arguments, "--folder", str(again), "--adopt", str(tmp_path / "report.json"),
          "--remake", str(tmp_path / "report.json"), "--stages", "report"])  # fmt: skip
    before, after = (json.loads((folder / "report.json").read_text())["records"] for folder in (tmp_path, again))
    assert not any(name.startswith(("contract", "supernet")) for name in after)
    for name, record in after.items():
        if name.endswith("/ours"):
            assert record["architecture_from"] == "report.json" and "adopted" not in record
            assert {k: record[k] for k in ("arch", "ratio")} == {k: before[name][k] for k in ("arch", "ratio")}
        else:
            assert record["adopted"]["from"] == "report.json"
    assert sum(name.endswith("/ours") for name in after) == 3
