"""The benchmark as it is shipped: what users are told about it holds."""

import subprocess
import sys

import numpy as np
import pytest

from hw_profiles.importers.hwgpt_devices import DEVICES
from supernet.cost import parameter_count
from supernet.encoding import from_genes, gene_sizes
from surrogates import Benchmark
from surrogates.benchmark_files import DATA, shipped_spaces
from surrogates.hwgpt_api import HWGPT

SPACES = ("gpt-s", "gpt-m", "gpt-l")
pytestmark = pytest.mark.skipif(set(shipped_spaces()) < set(SPACES), reason="the shipped surrogates are not built")


@pytest.fixture(scope="module", params=SPACES)
def b(request):
    return Benchmark(request.param)


def random_genes(b, n, seed=0):
    sizes = gene_sizes(b.space)
    return b.genes(np.random.default_rng(seed).integers(0, sizes, (n, len(sizes))))


def test_all_spaces_together_are_small_and_hold_no_pickle():
    files = [path for path in DATA.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert {path.suffix for path in files} <= {".json", ".npz", ".ubj"}


def test_everything_that_was_published_is_there(b):
    targets = set(b.columns().targets)
    for name, device in DEVICES.items():
        for metric in set(device.metrics) - {"host_energy_mj"}:
            assert (metric, name) in targets
    assert {
        (metric, "any") for metric in ("perplexity", "accuracy", "n_params", "n_params_decoder", "macs", "flops")
    } <= targets
    assert b.devices.loc["a100", ["kind", "vendor", "dtype", "seq_len"]].tolist() == ["gpu", "nvidia", "bfloat16", 1024]
    assert set(b.devices["kind"]) == {"gpu", "cpu"} and set(DEVICES) <= set(b.devices.index)


def test_answers_are_the_same_in_every_batch_and_of_the_right_size(b):
    genes = random_genes(b, 200)
    whole = b.query(genes, out="numpy")
    assert np.isfinite(whole).all() and (whole > 0).all()
    fresh = Benchmark(b.space.name, cache_size=0)
    for n in (1, 20, 70):
        np.testing.assert_array_equal(
            np.concatenate([fresh.query(genes[i : i + n], out="numpy") for i in range(0, 200, n)]), whole
        )
    few = fresh.query(genes, ("latency", "n_params"), ("h100", "cpu_xeon_gold"))
    column = few["n_params", "any", "median"]
    assert column.tolist() == [parameter_count(b.space.model_config, from_genes(b.space, row)).total for row in genes]


def test_larger_networks_take_longer_and_predict_better(b):
    frame = b.query([b.space.smallest(), b.space.largest()])
    for (metric, _, _), (small, large) in frame.T.iterrows():
        assert (small > large) == (metric == "perplexity")


def test_intervals_hold_the_median_and_those_of_published_values_are_wider_as_a_rule(b):
    ratios = []
    genes = random_genes(b, 50)
    asked = {"quantiles": (0.05, 0.5, 0.95)}
    device, published = (b.query(genes, **asked, drift=drift) for drift in (False, True))
    for target in b.columns().targets:
        low, middle, high = (device[(*target, stat)] for stat in ("q0.05", "q0.5", "q0.95"))
        assert ((low <= middle) & (middle <= high)).all()
        wide = published[(*target, "q0.95")] - published[(*target, "q0.05")]
        if (high > low).any():  # exact costs have no interval
            ratios.append(wide.sum() / (high - low).sum())
    assert np.median(ratios) > 1.1  # where a clock cannot touch a target, or on v100, drift changes nothing
    assert min(ratios) > 0.7


def test_frozen_bounds_belong_to_the_model(b):
    objective = b.objective(("perplexity", ("latency", "a100")))
    front = objective.reference_front
    np.testing.assert_allclose(objective(objective.reference_genes), front, rtol=1e-9)
    ideal, nadir = objective.bounds
    np.testing.assert_allclose(front.min(axis=0), ideal)
    np.testing.assert_allclose(front.max(axis=0), nadir)
    assert (np.diff(front[:, 0]) > 0).all() and (np.diff(front[:, 1]) < 0).all()
    values = objective(random_genes(b, 2000, seed=1))
    better = (values[:, None] <= front).all(axis=2) & (values[:, None] < front).any(axis=2)
    assert not better.any()  # no random network beats the front


def test_scores_are_those_that_the_card_tells(b):
    scores, text = b.evaluate(), b.card()
    assert (scores["kendall"] > 0.5).all() and scores.loc[("latency_ms", "a100"), "kendall"] > 0.97
    assert f"{scores.loc[('latency_ms', 'h100'), 'kendall']:.3f}" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_first_answer_needs_neither_torch_nor_xgboost():
    code = (
        "import sys; from surrogates import Benchmark; b = Benchmark('gpt-s'); "
        "b.query(b.space.largest(), out='records'); "
        "print([m for m in ('torch', 'xgboost', 'sklearn', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_published_api_answers_from_the_shipped_surrogates():
    api = HWGPT(search_space="s", use_supernet_surrogate=False)
    api.set_arch(api.sample_arch(np.random.default_rng(0)))
    results = api.query()
    assert len(results["latencies"]) == len(results["energies"]) == 13
    assert 0.1 < results["latencies"]["h100"] < results["latencies"]["P100"] < 1000  # ms
    assert 1e-5 < results["energies"]["a100"] < 1  # Wh
    assert 100 < results["bfloat16_memory"] < 5000  # MB
    assert 10 < results["perplexity"] < 200
