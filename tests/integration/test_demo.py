"""`paretolm demo --smoke`: every stage for real, twice."""

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import torch

from search.demo import DemoSettings, Stage, stages
from supernet.artifacts import write_json

SCRIPT = Path(sysconfig.get_path("scripts")) / "paretolm"


def demo(cwd, *arguments):
    return subprocess.run([SCRIPT, "demo", "--smoke", *arguments], cwd=cwd, capture_output=True, text=True, timeout=550)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = demo(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "demo", done.stdout


@pytest.mark.slow
def test_the_demo_leaves_a_report_models_a_sample_and_every_number(run):
    folder, output = run
    summary = json.loads((folder / "summary.json").read_text())
    assert output.strip().splitlines()[-1].startswith("demo: nsga2")
    assert (folder / "report.html").stat().st_size > 50_000
    assert (folder / "sample.txt").read_text().startswith("def ")
    assert set(summary["surrogates"]) == {"latency_ms", "perplexity"}
    assert {s["name"] for s in summary["measured_picks"]} == {"nsga2", "random", "parameter_count"}
    assert all(p["latency_ms"] > 0 and p["perplexity"] > 1 for p in summary["picks"])
    assert summary["training"]["steps"] == 6
    assert all((folder / model / "card.json").is_file() for model in summary["models"].values())


@pytest.mark.slow
def test_the_exported_largest_network_is_the_supernet(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from supernet.checkpoint import load_supernet

    folder, _ = run
    model = AutoModelForCausalLM.from_pretrained(folder / "models" / "largest-hf")
    tokenizer = AutoTokenizer.from_pretrained(folder / "models" / "largest-hf")
    idx = torch.tensor([tokenizer("def f(x):").input_ids])
    assert idx[0].tolist() == list(b"def f(x):")
    supernet = load_supernet(folder / "train" / "supernet").supernet
    torch.testing.assert_close(model(idx).logits, supernet(idx), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_second_run_reuses_every_stage_and_a_lost_stage_is_made_again(run):
    folder, _ = run
    shutil.rmtree(folder / "fit")
    again = demo(folder.parent.parent)
    assert again.returncode == 0, again.stderr[-3000:]
    for stage in ("train", "profile", "evaluate", "search"):
        assert f"[{stage}] done before" in again.stdout
    assert "[fit] $ paretolm fit" in again.stdout


def test_a_stage_is_done_for_the_same_command_only(tmp_path):
    stage = Stage("fit", tmp_path / "fit", ("seed=1",))
    assert not stage.is_done()
    write_json(stage.folder / "done.json", {"arguments": stage.arguments, "seconds": 1.0})
    assert stage.is_done()
    assert not Stage("fit", tmp_path / "fit", ("seed=2",)).is_done()


def test_stages_hand_their_results_on(tmp_path):
    settings = DemoSettings("tiny", 64, ["a=1"], [], [], [], [], "def ")
    found = {stage.command: stage for stage in stages(settings, tmp_path)}
    assert list(found) == ["train", "profile", "evaluate", "fit", "search"]
    assert "a=1" in found["train"].overrides
    made = f"supernet={found['train'].folder / 'supernet'}"
    assert made in found["evaluate"].overrides
    assert made in found["search"].overrides
    assert f"surrogates={found['fit'].folder / 'surrogates'}" in found["search"].overrides
