"""Cases, methods and settings of a comparison: names in, checked values out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from search.budget import Budget
from search.comparison import methods as methods_module
from search.comparison.cases import Case, benchmark_of, find_case
from search.comparison.methods import METHODS, find_methods
from search.comparison.settings import KEYS, read_settings
from search.comparison.training_free import PROXIES, proxy_objective, training_free_genes
from supernet.cost import parameter_counts
from supernet.encoding import from_genes
from surrogates.campaign import TargetKey

CONF = Path(__file__).parents[2] / "conf"
SMALL = {"scales": ["gpt-s"], "devices": ["a100"], "methods": ["random"], "seeds": 2}


@pytest.fixture(scope="module")
def benchmark():
    return benchmark_of("gpt-s")


@pytest.fixture(scope="module")
def genes(benchmark):
    return benchmark.genes(benchmark.space.sample_unique(50, np.random.default_rng(0)))


def test_a_case_has_a_name_that_says_it_all(benchmark):
    case = find_case(benchmark, objectives=["ppl", "latency"], device="rtx2080", budgets={"memory": 900})
    assert case.name == "gpt-s perplexity latency_ms@rtx2080 | memory_mib@rtx2080<=900"
    assert case.slug == "gpt-s-perplexity-latency_ms@rtx2080-memory_mib@rtx2080-max-900"
    assert case.budgets == (Budget("memory_mib", 900.0, "rtx2080"),)
    assert case.units == ("1", "ms")
    noisy = replace(case, is_noisy=True)
    assert (noisy.name, noisy.clean_name) == (case.name + " noisy", case.name)


def test_objectives_may_name_their_own_device(benchmark):
    case = find_case(benchmark, objectives=["accuracy", "latency@h100", "n_params"], device="a100")
    assert case.names == ("-accuracy", "latency_ms@h100", "n_params")
    assert case.targets[1] == TargetKey("latency_ms", "h100")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"objectives": ["perplexity", "latensy"]}, KeyError, "near matches: latency"),
        ({"objectives": ["perplexity", "latency"], "device": "a10"}, KeyError, "near matches: a100"),
        ({"objectives": ["perplexity", "latency"], "device": None}, ValueError, "needs a device"),
        ({"objectives": ["perplexity"]}, ValueError, "at least two"),
        ({"objectives": ["perplexity", "ppl"]}, ValueError, "each once"),
        ({"objectives": ["perplexity", "latency"], "budgets": {"accuracy": 0.3}}, ValueError, "better when lower"),
        ({"objectives": ["perplexity", "latency"], "budgets": {"memori": 1}}, KeyError, "memory"),
        ({"objectives": ["perplexity", "memory"], "device": "h100"}, ValueError, "devices that have it: a100"),
    ],
)
def test_wrong_names_are_told_with_what_there_is(benchmark, arguments, error, message):
    with pytest.raises(error, match=message):
        find_case(benchmark, **({"device": "a100"} | arguments))


def test_a_case_measures_what_the_benchmark_says(benchmark, genes):
    case = find_case(benchmark, objectives=["accuracy", "latency"], device="a100", budgets={"memory": 600, "ppl": 41})
    values, violation = case.measure(benchmark, genes)
    frame = benchmark.query(genes, metrics=["accuracy", "latency", "memory", "ppl"], devices="a100")
    columns = {metric: frame[metric].to_numpy()[:, 0] for metric in ("accuracy", "latency_ms", "memory_mib")}
    assert np.array_equal(values, np.column_stack([-columns["accuracy"], columns["latency_ms"]]))
    missed = (columns["memory_mib"] > 600) | (frame["perplexity"].to_numpy()[:, 0] > 41)
    assert missed.any() and not missed.all()
    assert np.array_equal(violation > 0, missed)
    scored = case.scored_values(benchmark, genes)
    assert np.array_equal(np.isnan(scored).any(axis=1), missed)
    assert np.array_equal(scored[~missed], values[~missed])


def test_only_noisy_cases_show_noise_to_optimizers(benchmark, genes):
    clean = find_case(benchmark, objectives=["perplexity", "latency"], device="a100")
    noisy = replace(clean, is_noisy=True)

    def latency(case: Case, seed: int) -> np.ndarray:
        return case.objectives(benchmark, seed)[1].of_genes(genes)

    truth = clean.measure(benchmark, genes)[0][:, 1]
    assert np.array_equal(latency(clean, 3), truth)
    assert np.array_equal(noisy.measure(benchmark, genes)[0][:, 1], truth)
    assert np.array_equal(latency(noisy, 3), latency(noisy, 3))
    assert (latency(noisy, 3) != truth).all() and (latency(noisy, 3) != latency(noisy, 4)).all()
    assert np.abs(np.log(latency(noisy, 3) / truth)).max() < 0.5


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(METHODS) & {path.stem for path in (CONF / "algorithm").glob("*.yaml")}))
def test_methods_are_what_search_runs_under_the_same_name(name):
    method = METHODS[name]
    if method.is_point:
        return
    found = yaml.safe_load((CONF / "algorithm" / f"{name}.yaml").read_text())
    assert found.pop("_target_").rpartition(".")[::2] == tuple(method.algorithm.split(":"))
    assert found.pop("_partial_") is True
    assert dict(method.settings).items() <= found.items()


def test_methods_without_their_library_are_left_out_unless_named(monkeypatch):
    real = methods_module.find_spec
    monkeypatch.setattr(methods_module, "find_spec", lambda name: None if name == "pymoo" else real(name))
    found, left_out = find_methods("all")
    assert {"nsga3", "sms-emoa"} <= set(left_out) and not set(left_out) & {method.name for method in found}
    assert "paretolm[pymoo]" in left_out["nsga3"]
    with pytest.raises(ValueError, match=r"method 'nsga3' needs pymoo, not installed: pip install 'paretolm\[pymoo\]'"):
        find_methods(["random", "nsga3"])


def test_unknown_methods_are_told_with_near_ones():
    with pytest.raises(KeyError, match="near matches: nsga2"):
        find_methods(["nsga-2"])
    with pytest.raises(ValueError, match="each once"):
        find_methods(["random", "random"])


@pytest.mark.parametrize("name", PROXIES)
def test_proxies_are_the_sizes_they_are_named_after(benchmark, genes, name):
    space = benchmark.space
    archs = [from_genes(space, row) for row in genes]
    counts = parameter_counts(space.model_config, archs)
    widths = np.array([arch.n_embd for arch in archs])
    expected = {
        "n_params_decoder": counts.decoder,
        "n_params_non_embedding": counts.total - space.model_config.padded_vocab_size * widths,
        "flops": benchmark.query(genes, metrics="flops", out="numpy")[:, 0],
        "n_embd": widths,
    }[name]
    proxy = proxy_objective(name, space)
    assert np.array_equal(proxy(archs), expected)
    if hasattr(proxy, "of_genes"):
        assert np.array_equal(proxy.of_genes(genes), expected)


def test_ranking_by_width_alone_gives_the_fastest_network_of_each_width(benchmark):
    case = find_case(benchmark, objectives=["perplexity", "latency"], device="a100")
    genes = training_free_genes(
        benchmark.space, case.objectives(benchmark, 0), (), proxy="n_embd", n_free=5000,
        rng=np.random.default_rng(0), front="hull",
    )  # fmt: skip
    assert sorted(genes[:, 0]) == [0, 1, 2]
    latency = dict(zip(genes[:, 0].tolist(), case.measure(benchmark, genes)[0][:, 1], strict=True))
    others = benchmark.genes(benchmark.space.sample_unique(3000, np.random.default_rng(1)))
    for width, seconds in zip(others[:, 0].tolist(), case.measure(benchmark, others)[0][:, 1], strict=True):
        assert latency[width] <= seconds


# --- settings ---------------------------------------------------------------------------------------------------------


def test_grids_of_cases_take_from_the_first_what_they_do_not_say():
    settings = read_settings(
        SMALL | {"devices": ["a100", "h100"], "more_cases": [
            {"devices": ["a100"], "noise": True},
            {"devices": ["rtx2080"], "budgets": {"memory": 900}},
            {"metrics": ["perplexity", "latency", "energy"]},
            {"devices": ["h100"]},
        ]}
    )  # fmt: skip
    assert [case.name.removeprefix("gpt-s perplexity ") for case in settings.cases] == [
        "latency_ms@a100", "latency_ms@h100", "latency_ms@a100 noisy",
        "latency_ms@rtx2080 | memory_mib@rtx2080<=900",
        "latency_ms@a100 energy_mj@a100", "latency_ms@h100 energy_mj@h100",
    ]  # fmt: skip
    assert len(settings.plans()) == 6 * 1 * 2


def test_budgets_of_evaluations_go_by_method():
    settings = read_settings(SMALL | {"methods": ["random", "nsga2"], "n_evaluations": {"default": 50, "nsga2": 20}})
    assert settings.n_evaluations == {"random": 50, "nsga2": 20}
    assert read_settings(SMALL).n_evaluations == {"random": 300}
    assert read_settings(SMALL | {"n_evaluations": 7}).n_evaluations == {"random": 7}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"scales": ["gpt-x"]}, ValueError, "near matches: gpt-"),
        ({"devices": []}, ValueError, "there are no cases"),
        ({"devises": ["a100"]}, ValueError, "no setting 'devises'"),
        ({"more_cases": [{"device": "a100"}]}, ValueError, "no setting of more_cases 'device'"),
        ({"seeds": 0}, ValueError, "seeds = 0"),
        ({"seeds": [1, 1]}, ValueError, "different integers"),
        ({"n_evaluations": {"random": 0}}, ValueError, "at least 1"),
        ({"n_evaluations": {"randon": 5}}, KeyError, "near matches: random"),
        ({"n_free": 0}, ValueError, "n_free = 0"),
    ],
)
def test_wrong_settings_are_told_with_what_is_allowed(change, error, message):
    with pytest.raises(error, match=message):
        read_settings(SMALL | change)


def test_one_seed_gives_a_warning():
    with pytest.warns(UserWarning, match="statistics need two"):
        read_settings(SMALL | {"seeds": 1})


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "compare").glob("*.yaml")))
def test_every_configuration_is_read(name):
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("supernet.conf", version_base="1.3"):
        values = OmegaConf.to_container(compose("compare", [f"compare={name}", "methods=[random]"]))
    settings = read_settings({key: values[key] for key in KEYS})
    expected = {"main": 12, "more": 5, "full": 17, "smoke": 1}[name]
    assert len(settings.cases) == len({case.slug for case in settings.cases}) == expected
