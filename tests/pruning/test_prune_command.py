"""`paretolm prune`, whole: a checkpoint in, folders that others load and a report out."""

import json
import os
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pruning_supernets import STORIES
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from hw_profiles.device import Workload
from pruning.command import JobSettings, run_job
from pruning.recovery_settings import RecoverySettings
from pruning.report_data import PruneReport
from pruning.settings import PruneSettings, SearchSettings, VerifySettings
from pruning.texts import CalibrationSettings
from supernet.checkpoint import load_subnet
from supernet.export import write_byte_level

SCRIPT = Path(sysconfig.get_path("scripts")) / "paretolm"
QUICK = [
    "calibration.seq_len=64", "calibration.n_blocks=8", "calibration.n_held_out_blocks=4", "search.n_evaluations=10",
    "search.seconds=10", "verify.n_networks=8", "verify.repeats=5", "verify.final_repeats=9", "verify.rounds=2",
    "verify.seconds=0.2", "device.threads=1", "workload=prefill-256", "progress=false", "prompts=['Once upon a time']",
]  # fmt: skip


def prune(*arguments, folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [SCRIPT, "prune", *arguments, f"run_dir={folder}"], capture_output=True, text=True, timeout=500,
        cwd=folder.parent, env=environment,
    )  # fmt: skip


def tiny_neox(folder):
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=256, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=128, hidden_act="gelu",
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    write_byte_level(folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not STORIES.is_dir(), reason="../shared/models/stories260K is absent")
@pytest.mark.parametrize("mode", ["uniform", "heterogeneous"])
def test_a_latency_budget_from_the_command_line(mode, tmp_path):
    done = prune(f"model={STORIES}", "budget.latency=-20%", f"mode={mode}", *QUICK, folder=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip().splitlines()[-1]
    assert line.startswith("prune: ")
    for word in ("asked latency -20%", "predicted", "measured", "perplexity"):
        assert word in line
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["met"] == (result["measured"]["ratio"] <= 0.8) == ("BUDGET MISSED" not in line)
    report = PruneReport.load(tmp_path / "run/report.json")
    assert {n.series for n in report.networks} >= {"dense", "ours"}
    assert (tmp_path / "run/report.html").stat().st_size > 50_000
    assert f"\nparetolm prune model={STORIES} budget.latency=-20%" in (tmp_path / "run/hf/README.md").read_text()
    for card in ("hf/card.json", "litgpt/card.json"):  # what was measured of the export, not of its shape before
        stated = json.loads((tmp_path / "run" / card).read_text())["data"]["measured"]
        assert stated["latency, of the dense model's"] == round(result["measured"]["ratio"], 4)
    gpt, arch = load_subnet(tmp_path / "run/litgpt")
    assert arch.is_uniform or mode == "heterogeneous"
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "run/hf", trust_remote_code=not arch.is_uniform).eval()
    ids = torch.randint(3, 500, (2, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(stock(ids).logits, gpt.eval()(ids), atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in stock.parameters()) == result["values"]["params"]
    again = prune(f"model={STORIES}", "budget.latency=-20%", f"mode={mode}", *QUICK, folder=tmp_path / "run")
    assert again.returncode == 0, again.stderr
    if result["met"]:  # what missed the budget is not taken again
        assert json.loads((tmp_path / "run/result.json").read_text())["architecture"] == result["architecture"]


@pytest.mark.slow
def test_gpt_neox_end_to_end_with_recovery(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    quick = PruneSettings(
        search=SearchSettings(8, 20), verify=VerifySettings(n_networks=8, repeats=3, final_repeats=5, seconds=0.2)
    )
    calibration = CalibrationSettings(
        text=text, seq_len=32, n_blocks=8, n_search_blocks=3, n_held_out_blocks=4, cache_dir=tmp_path / "cache"
    )
    recovery = RecoverySettings(max_steps=6, warmup_steps=1, check_every=3, learning_rate=1e-3)
    done = run_job(
        tiny_neox(tmp_path / "neox"), {"decoder_params": "-30%"}, workload=Workload(1, 32), calibration=calibration,
        settings=replace(quick, mode="uniform"),
        job=JobSettings(recovery=recovery, prompts=("the",), export=("hf", "litgpt")), folder=tmp_path / "run",
    )  # fmt: skip
    assert done.met
    assert done.measured is None
    assert done.recovered is not None
    assert done.recovered.after.loss <= done.recovered.before.loss
    arch = done.pruned.arch
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "run/hf", trust_remote_code=True).eval()
    gpt, _ = load_subnet(tmp_path / "run/litgpt")
    ids = torch.randint(256, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(stock(ids).logits, gpt.eval()(ids), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(gpt(ids), done.pruned.gpt(ids))
    assert arch.is_uniform


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=missing-folder", "budget.latency=-20%"], "no such folder"),
        (["model=x"], "no budget: give at least one of latency"),
        (["model=x", "budget.latency=0.75"], "write x0.75"),
        (["budget.params=-25%"], "add model="),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing_half_written(arguments, message, tmp_path):
    done = prune(*arguments, folder=tmp_path / "run")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/hf").exists()


def test_unknown_settings_are_named():
    with pytest.raises(ValueError, match="allowed: hf, litgpt, gguf"):
        JobSettings(export=("onnx",))
    with pytest.raises(ValueError, match="at least 8"):
        VerifySettings(n_networks=3)
    with pytest.raises(ValueError, match="must be positive"):
        SearchSettings(seconds=0)
