from itertools import count
from types import SimpleNamespace

import litgpt
import numpy as np
import pytest
import torch
from pruning_supernets import FAMILIES, build_supernet, largest_arch, random_arch, random_tokens

from hw_profiles.device import Workload
from pruning import latency_check
from pruning.latency_check import measure_ratios, median_interval
from pruning.random_networks import like_layers, random_network, small_vocabulary, without_blocks
from pruning.ratio_log import RatioLog
from supernet.extract import build_gpt, extract

PREFILL, DECODE = Workload(1, 8), Workload(2, 1, phase="decode", cache_len=5)
CONFIG = litgpt.Config(**FAMILIES["llama-gqa6"])


class DriftingMeter:
    """A clock on a machine that slows down and has spikes: ms = layers x drift; counts its samples."""

    def __init__(self, device="cpu"):
        self.device, self.seed, self.now, self.log = device, 0, 0, []
        self.rng = np.random.default_rng(0)

    def sample(self, step):
        self.now += 1
        depth = step()
        self.log.append(depth)
        spike = 5.0 if self.rng.random() < 0.1 else 1.0
        return depth * (1 + 0.01 * self.now) * spike * 1e3


@pytest.fixture
def meter(monkeypatch):
    """Replace the clock and the step: a step returns how many blocks its network has."""
    one = DriftingMeter()
    monkeypatch.setattr(latency_check, "_LOCKSTEP_FROM_MS", float("inf"))
    monkeypatch.setattr(latency_check, "LatencyMeter", lambda device: one)
    monkeypatch.setattr(latency_check, "workload_step", lambda model, workload, seed: lambda: len(model.transformer.h))
    return one


def networks_of(*depths):
    return [build_gpt(CONFIG, like_layers(CONFIG, depth)) for depth in depths]


def test_drift_and_spikes_do_not_move_the_ratios(meter):
    dense, *networks = networks_of(4, 1, 2, 3, 4)
    found = measure_ratios(networks, dense, PREFILL, repeats=21)
    assert [one.ratio for one in found] == pytest.approx([0.25, 0.5, 0.75, 1.0], rel=0.02)
    for one in found:
        assert one.low <= one.ratio <= one.high and one.n_repeats == 21


def test_each_sample_has_the_dense_model_before_and_after_it(meter):
    dense, *networks = networks_of(4, 1, 2, 3)
    measure_ratios(networks, dense, PREFILL, repeats=2, warmup=0, at_once=2)
    after_setup = meter.log[3:13]  # first samples of dense and of two networks, then two rounds
    assert after_setup == [4, 1, 4, 2, 4, 4, 2, 4, 1, 4]


def test_measuring_stops_when_the_median_is_known(meter):
    meter.rng = np.random.default_rng(3)
    dense, network = networks_of(4, 2)
    (sure,) = measure_ratios([network], dense, PREFILL, repeats=500, precision=0.05)
    assert 5 <= sure.n_repeats < 100


def test_what_is_not_known_precisely_is_sampled_for_some_seconds_more(meter, monkeypatch):
    ticks = count()
    monkeypatch.setattr(latency_check, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    dense, *networks = networks_of(4, 1, 2)
    unsure = measure_ratios(networks, dense, PREFILL, repeats=3, seconds=10)
    assert [one.n_repeats for one in unsure] == [
        22,
        22,
    ]  # the clock is read after round 3, and 19 rounds later it says 20
    sure = measure_ratios(networks, dense, PREFILL, repeats=3, precision=0.9, least=7, seconds=10)
    assert [one.n_repeats for one in sure] == [7, 7]


def test_builders_are_called_when_their_turn_comes(meter):
    built = []

    def builder(depth):
        return lambda: built.append(depth) or networks_of(depth)[0]

    seen = []
    measure_ratios(
        [builder(1), builder(2), builder(3)], builder(4), PREFILL, repeats=1, at_once=1,
        on_result=lambda i, one: seen.append((i, list(built))),
    )  # fmt: skip
    assert seen == [(0, [4, 1]), (1, [4, 1, 2]), (2, [4, 1, 2, 3])]


@pytest.mark.parametrize("workload", [PREFILL, DECODE, Workload(1, 8, dtype="bfloat16")])
def test_real_networks_are_timed_and_left_as_they_were(workload):
    torch.set_num_threads(2)
    dense, small = networks_of(4, 1)
    found = measure_ratios([small, lambda: networks_of(2)[0]], dense, workload, repeats=3, warmup=1, threads=1)
    assert torch.get_num_threads() == 2
    assert len(found) == 2 and all(one.ms > 0 and one.dense_ms > 0 and one.n_repeats == 3 for one in found)
    assert small.lm_head.weight.dtype == torch.float32
    assert small.mask_cache is None and all(block.attn.kv_cache is None for block in dense.transformer.h)


def test_threads_are_put_back_after_an_error():
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="block_size"):
        measure_ratios(networks_of(1), networks_of(1)[0], Workload(1, 999), threads=1)
    assert torch.get_num_threads() == 2


def test_nothing_to_measure_builds_nothing():
    assert measure_ratios([], lambda: pytest.fail("was built"), PREFILL) == []
    with pytest.raises(ValueError, match="repeats"):
        measure_ratios([], networks_of(1)[0], PREFILL, repeats=0)


@pytest.mark.parametrize("n", [6, 9, 20, 51])
def test_interval_of_the_median_covers_as_it_says(n):
    rng = np.random.default_rng(n)
    hits = [low <= 1.0 <= high for low, high in (median_interval(rng.lognormal(0, 0.3, n)) for _ in range(300))]
    assert np.mean(hits) >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)


def test_interval_of_few_samples_is_their_range():
    assert median_interval(np.array([3.0, 1.0, 2.0])) == (1.0, 3.0)


# --- random networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_random_networks_are_the_networks_that_extraction_gives(family):
    supernet = build_supernet(family)
    for arch in (largest_arch(supernet.config), random_arch(supernet.config, np.random.default_rng(1))):
        gpt, taken = random_network(supernet.config, arch, PREFILL), extract(supernet, arch)
        assert not any(p.is_meta for p in gpt.parameters())
        gpt.load_state_dict(taken.state_dict())
        idx = random_tokens(supernet.config)
        assert torch.equal(gpt(idx), taken(idx))


def test_random_networks_have_the_dtype_and_no_zeros_or_infinities():
    gpt = random_network(CONFIG, like_layers(CONFIG, 2, attention=(0, 0)), Workload(1, 8, dtype="bfloat16"), tied=True)
    assert {p.dtype for p in gpt.parameters()} == {torch.bfloat16} and gpt.cos.dtype == torch.bfloat16
    assert gpt.lm_head.weight is gpt.transformer.wte.weight
    logits = gpt(random_tokens(CONFIG))
    assert torch.isfinite(logits).all() and logits.std() > 0


def test_an_empty_network_and_a_small_vocabulary_run():
    config = small_vocabulary(litgpt.Config(**{**FAMILIES["gemma2"], "vocab_size": 500, "padded_vocab_size": 512}))
    assert config.padded_vocab_size == 64
    gpt = without_blocks(config, like_layers(config, 3), DECODE)
    assert len(gpt.transformer.h) == 0 and gpt(random_tokens(config)).shape[-1] == 64
    measure_ratios([gpt], random_network(config, like_layers(config, 2), DECODE), DECODE, repeats=1, warmup=0)


# --- the log --------------------------------------------------------------------------------------------------------


def test_log_keeps_results_and_drops_a_line_that_a_kill_cut(tmp_path):
    path, context = tmp_path / "sub" / "log.jsonl", {"workload": "a"}
    log = RatioLog(path, context)
    log.add("x", {"ratio": 0.5})
    log.add("y", {"ratio": 0.25})
    path.write_text(path.read_text()[:-8])
    log = RatioLog(path, context)
    assert log.known == {"x": {"ratio": 0.5}}
    log.add("z", {"ratio": 0.75})
    assert RatioLog(path, context).known == {"x": {"ratio": 0.5}, "z": {"ratio": 0.75}}


def test_log_of_something_else_or_damaged_is_refused(tmp_path):
    path = tmp_path / "log.jsonl"
    RatioLog(path, {"workload": "a"}).add("x", {"ratio": 0.5})
    with pytest.raises(ValueError, match="another network"):
        RatioLog(path, {"workload": "b"})
    path.write_text(path.read_text() + "rubbish\n")
    with pytest.raises(ValueError, match="damaged"):
        RatioLog(path, {"workload": "a"})
