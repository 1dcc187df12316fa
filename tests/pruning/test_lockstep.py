"""Networks that take turns block by block: the same outputs, times that belong to each."""

import time

import pytest
import torch
from litgpt.config import Config
from pruning_supernets import FAMILIES, build_supernet

import pruning.latency_check as latency_check
from hw_profiles.device import Workload
from pruning.latency_check import measure_ratios
from pruning.lockstep import lockstep_ms
from pruning.random_networks import like_layers
from supernet.extract import build_gpt

CONFIG = Config(**FAMILIES["llama-gqa6"])


def slept(gpt, log, name, seconds=0.002):
    """Let every block of a network sleep, and log that it ran."""

    def slow(i):
        time.sleep(seconds)
        log.append((name, i))

    for i, block in enumerate(gpt.transformer.h):
        block.register_forward_hook(lambda *_, i=i: slow(i))
    return gpt


def test_blocks_take_turns_and_outputs_are_those_of_a_plain_forward():
    log, out = [], {}
    deep, flat = (build_gpt(CONFIG, like_layers(CONFIG, n)).eval() for n in (4, 2))
    idx = torch.randint(0, 50, (1, 7))
    with torch.inference_mode():
        expected = {"deep": deep(idx), "flat": flat(idx)}
    slept(deep, log, "deep")
    slept(flat, log, "flat")
    steps = [lambda: out.update(deep=deep(idx)), lambda: out.update(flat=flat(idx))]
    ms = lockstep_ms([deep, flat], steps)
    assert [name for name, _ in log] == ["deep", "flat", "deep", "deep", "flat", "deep"]
    assert all(torch.equal(out[name], expected[name]) for name in out) and len(out) == 2
    assert ms[0] >= 8 and ms[1] >= 4  # what each slept, and not what the other did
    before = len(log)
    deep(idx)
    assert len(log) == before + 4 and not deep.transformer.h[0]._forward_pre_hooks


def test_a_supernet_and_a_network_without_blocks_run_too():
    supernet = build_supernet("llama-gqa6").eval()
    empty = build_gpt(CONFIG, like_layers(CONFIG, 1))
    empty.transformer["h"] = torch.nn.ModuleList()
    idx = torch.randint(0, 50, (1, 7))
    turns = []
    for block in supernet.transformer.h:
        block.register_forward_pre_hook(lambda *_: turns.append(1))
    ms = lockstep_ms([supernet, empty], [lambda: supernet(idx), lambda: empty(idx)])
    assert all(value > 0 for value in ms) and len(turns) == len(supernet.transformer.h)


def test_an_error_in_a_network_comes_out_and_no_hook_stays():
    one, other = (build_gpt(CONFIG, like_layers(CONFIG, 2)) for _ in range(2))
    idx = torch.randint(0, 50, (1, 7))

    def broken(*_):
        raise RuntimeError("out of memory")

    other.transformer.h[1].register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        lockstep_ms([one, other], [lambda: one(idx), lambda: other(idx)])
    assert not one.transformer.h[0]._forward_pre_hooks and not torch.is_inference_mode_enabled()
    with pytest.raises(ValueError, match="each model once"):
        lockstep_ms([one, one], [lambda: one(idx), lambda: one(idx)])


def test_long_forwards_are_measured_in_lockstep(monkeypatch):
    monkeypatch.setattr(latency_check, "_LOCKSTEP_FROM_MS", 0.0)
    asked = []

    def fake(models, steps):
        asked.append([len(model.transformer.h) for model in models])
        return [100.0 * len(model.transformer.h) for model in models]

    monkeypatch.setattr(latency_check, "lockstep_ms", fake)
    dense, *networks = (build_gpt(CONFIG, like_layers(CONFIG, n)) for n in (4, 1, 2))
    found = measure_ratios(networks, dense, Workload(1, 7), repeats=3, warmup=0)
    assert [one.ratio for one in found] == [0.25, 0.5] and found[0].n_repeats == 3
    assert asked == [[4, 1, 2], [2, 1, 4], [4, 1, 2]]
