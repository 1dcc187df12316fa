import warnings

import numpy as np
import pytest
from benchmark_fakes import fake_files

import surrogates.benchmark as benchmark_module
from hw_profiles.importers.hwgpt_protocol import architecture_from_hwgpt
from supernet.spaces import load_space
from surrogates.campaign import TargetKey
from surrogates.hwgpt_api import DEVICES, HWGPT, METRICS

OURS = [*(name.lower() for name in DEVICES), "cpu_p100_host"]
TARGETS = (
    *(TargetKey("latency_ms", name) for name in OURS),
    *(TargetKey("energy_mj", name) for name in OURS[:-1]),
    TargetKey("memory_mib", "a100"), TargetKey("memory_mib", "rtx2080"), TargetKey("perplexity"), TargetKey("accuracy"),
)  # fmt: skip
PER_DEVICE = ("latencies", "energies")


@pytest.fixture
def make(monkeypatch):
    def load(name, **_):
        return fake_files(load_space(name), TARGETS)

    monkeypatch.setattr(benchmark_module, "load_benchmark", load)
    return HWGPT


@pytest.fixture
def api(make):
    api = make(search_space="s", use_supernet_surrogate=False)
    api.set_arch(api.sample_arch(np.random.default_rng(0)))
    return api


def test_the_published_example_runs(make):
    api = make(search_space="s", use_supernet_surrogate=False)
    random_arch = api.sample_arch()
    api.set_arch(random_arch)
    results = api.query()
    energy = api.query(metric="energies")
    rtx2080 = api.query(device="rtx2080")
    perplexity = api.query(metric="perplexity", predictor="mlp")
    assert set(results) == set(METRICS)
    assert list(results["latencies"]) == list(DEVICES) == list(energy["energies"])
    assert energy == {"energies": results["energies"]}
    assert rtx2080 == {name: {"rtx2080": results[name]["rtx2080"]} for name in PER_DEVICE}
    assert perplexity == {"perplexity": results["perplexity"]}


def test_values_are_the_benchmarks_in_upstreams_units(api):
    frame = api.benchmark.query(architecture_from_hwgpt(api.config)[1])
    results = api.query()
    for device in DEVICES:
        ours = "p100" if device == "P100" else device
        assert results["latencies"][device] == frame["latency_ms", ours, "median"].item()
        assert results["energies"][device] == pytest.approx(
            frame["energy_mj", ours, "median"].item() / 3.6e6, rel=1e-12
        )
    megabytes = frame["memory_mib", "a100", "median"].item() * 2**20 / 1e6
    assert results["bfloat16_memory"] == pytest.approx(megabytes, rel=1e-12)
    assert results["float16_memory"] != results["bfloat16_memory"]
    assert results["params"] == frame["n_params", "any", "median"].item() and isinstance(results["params"], int)
    assert results["flops"] == frame["flops", "any", "median"].item()
    assert results["perplexity"] == frame["perplexity", "any", "median"].item()


def test_lists_of_metrics_and_devices_are_answered_as_its_search_baselines_ask(api):
    found = api.query(metric=["latencies", "energies"], device=["a100", "P100"])
    pairs = [found[metric][device] for metric, device in zip(("latencies", "energies"), ("a100", "P100"), strict=True)]
    assert pairs == [api.compute_predictions_hw("latencies", "a100"), api.compute_predictions_hw("energies", "P100")]
    assert api.query(metric="flops", device="a100") == {"flops": api.get_flops()}
    assert api.query(metric="float16_memory")["float16_memory"] == api.get_memory("float16_memory")
    assert api.compute_predictions_ppl() == api.query(metric="perplexity")["perplexity"]
    assert api.get_params() == api.query()["params"]


def test_the_same_question_has_the_same_answer(api):
    first = api.query()
    api.sample_random_arch(np.random.default_rng(3))
    assert api.query() != first
    api.sample_random_arch(np.random.default_rng(0))
    assert api.query() == first == api.query(predictor="supernet")


def test_bias_is_read_as_a_bool_or_as_upstreams_string(api):
    with_bias = {**api.config, "sample_bias": True}
    answers = []
    for bias in (True, "True", False, "False"):
        api.set_arch({**with_bias, "sample_bias": bias})
        answers.append(api.query()["params"])
    assert answers[0] == answers[1] > answers[2] == answers[3]
    with pytest.raises(ValueError, match="sample_bias = 'true'"):
        api.set_arch({**with_bias, "sample_bias": "true"})


def test_samples_come_from_the_rng_and_are_in_the_space(make):
    api = make("m")
    first, second = (api.sample_arch(np.random.default_rng(7)) for _ in range(2))
    assert first == second
    for field, choices in (("sample_embed_dim", "embed_dim_choices"), ("sample_n_layer", "n_layer_choices")):
        assert first[field] in api.search_space[choices]
    assert set(first["sample_n_head"]) <= set(api.search_space["n_head_choices"])
    assert set(first["sample_mlp_ratio"]) <= set(api.cfg_model.model.mlp_ratio_choices)
    assert len(first["sample_n_head"]) == first["sample_n_layer"] and isinstance(first["sample_bias"], bool)
    assert len({str(api.sample_arch()) for _ in range(5)}) == 5


def test_choices_are_upstreams(make):
    assert make("l").search_space == {
        "embed_dim_choices": [320, 640, 1280], "n_layer_choices": [34, 35, 36], "mlp_ratio_choices": [2, 3, 4],
        "n_head_choices": [8, 16, 20], "bias_choices": [True, False],
    }  # fmt: skip


def test_mistakes_say_what_is_allowed(make, api):
    fresh = make("s")
    with pytest.raises(ValueError, match="call set_arch"):
        fresh.query()
    with pytest.raises(ValueError, match="measured are s, m, l"):
        make("xl")
    with pytest.raises(KeyError, match="near matches: latencies"):
        api.query(metric="latency")
    with pytest.raises(KeyError, match="near matches: a100"):
        api.query(device="a1000")
    with pytest.raises(ValueError, match="mlp, supernet"):
        api.query(predictor="gp")
    with pytest.raises(ValueError, match="no energy_mj of cpu_p100_host"):
        api.query(metric="energies", device="cpu_p100_host")
    with pytest.raises(ValueError, match="sample_embed_dim"):
        api.set_arch({"sample_n_layer": 10})
    with pytest.raises(ValueError, match="not in space 'gpt-s'"):
        api.set_arch(make("m").sample_arch())
    assert api.query()  # the architecture is still the one that was set before


def test_a_supernet_that_was_asked_for_is_not_silently_missing(make):
    with pytest.warns(UserWarning, match="no supernet is run"):
        make("s", use_supernet_surrogate=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make("s", base_path="anywhere")
