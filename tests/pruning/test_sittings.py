"""An export that misses its budget is measured again later, and replaced where it misses it then, too."""

import json
from itertools import count

import pytest
import torch
from fake_machine import FakeMachine, block_sizes
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from hw_profiles.device import Workload
from pruning import verification
from pruning.command import JobSettings, run_job
from pruning.latency_check import LatencyRatio
from pruning.settings import PruneSettings, SearchSettings, VerifySettings
from pruning.texts import CalibrationSettings
from supernet.export import write_byte_level

LIMIT = 0.7


def test_pairs_of_several_sittings_are_one_measurement():
    first, second = LatencyRatio.of([(7.0, 10.0)] * 3), LatencyRatio.of([(16.0, 20.0)] * 2)
    both = LatencyRatio.of((*first.pairs, *second.pairs))
    assert (both.ratio, both.low, both.high, both.n_repeats) == (0.7, 0.7, 0.8, 5)
    assert (both.ms, both.dense_ms) == (7.0, 10.0)
    assert "pairs" not in both.to_dict() and LatencyRatio(**both.to_dict()) == both
    with pytest.raises(ValueError, match="needs pairs"):
        LatencyRatio.of([])


def _ms(gpt):
    return 1.0 + sum(0.5 * h + 0.5 * g + f / 64 for h, g, f, _ in block_sizes(gpt))


def _machine(factor):
    """Return a `measure_ratios` whose networks take `factor(sizes, nth time)` times what their parts do."""
    seen: dict[str, count] = {}

    def measured(networks, dense, workload, *, on_result=lambda i, one: None, **_):
        found = []
        for network in networks:
            gpt = network if isinstance(network, torch.nn.Module) else network()
            sizes = str(block_sizes(gpt))
            ms = factor(sizes, next(seen.setdefault(sizes, count()))) * _ms(gpt)
            found.append(LatencyRatio.of([(ms, _ms(dense))] * 9))
            on_result(len(found) - 1, found[-1])
        return found

    return measured


def _run(folder, monkeypatch, factor):
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=256, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=128, hidden_act="gelu",
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder / "neox")
    write_byte_level(folder / "neox")
    text = folder / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    verify = VerifySettings(n_networks=8, repeats=3, final_repeats=5, rounds=2, top=3, seconds=0)
    monkeypatch.setattr(verification, "measure_ratios", _machine(factor))
    with FakeMachine(_ms).installed(monkeypatch):
        return run_job(
            folder / "neox", {"latency": f"x{LIMIT}"}, workload=Workload(1, 32),
            calibration=CalibrationSettings(
                text=text, seq_len=32, n_blocks=8, n_search_blocks=3, n_held_out_blocks=4, cache_dir=folder / "cache"
            ),
            settings=PruneSettings(
                mode="heterogeneous", local_distillation=0, search=SearchSettings(12, 20), verify=verify
            ),
            job=JobSettings(prompts=(), compare=False), folder=folder / "run",
        )  # fmt: skip


def test_a_slow_half_minute_does_not_break_the_promise(tmp_path, monkeypatch, capsys):
    """A network takes a fifth longer when it is measured a third time, which is the export's first."""
    done = _run(tmp_path, monkeypatch, lambda sizes, time: 1.2 if time == 2 else 1.0)
    assert done.met and done.measured.ratio <= LIMIT
    assert done.measured.n_repeats == 27  # slow, and two that say otherwise
    assert "missed" not in capsys.readouterr().err


def test_an_export_that_misses_the_budget_is_replaced(tmp_path, monkeypatch, capsys):
    """One network takes a tenth longer from its third measurement on; the next one is exported in its place."""
    slow: list[str] = []

    def factor(sizes, time):
        if time == 2 and not slow:
            slow.append(sizes)
        return 1.1 if time >= 2 and sizes in slow else 1.0

    done = _run(tmp_path, monkeypatch, factor)
    assert done.met and done.measured.ratio <= LIMIT
    assert str(block_sizes(done.pruned.gpt)) not in slow
    assert "missed, so the next network is taken" in capsys.readouterr().err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["architecture"] == done.result.final.selection.id
    assert len(result["notes"]) == 1 and "took" in result["notes"][0]
    again = _run(tmp_path, monkeypatch, lambda sizes, time: 1.0)  # it is known: not tried again
    assert again.result.final.selection == done.result.final.selection
    assert again.met


def test_a_machine_on_which_nothing_holds_ends_with_a_miss(tmp_path, monkeypatch):
    """Every network is a third slower once it is exported: three attempts, then the nearest one is returned."""
    done = _run(tmp_path, monkeypatch, lambda sizes, time: 1.33 if time >= 2 else 1.0)
    assert not done.met and done.measured.ratio > LIMIT
    assert "BUDGET MISSED" in str(done)
    assert done.measured.n_repeats == 36
