import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from benchmark_fakes import fake_space
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_profiles.importers.hwgpt_protocol import canonical, hwgpt_from_architecture
from supernet.cost import mac_counts, parameter_counts
from supernet.encoding import from_genes, gene_names, gene_sizes, one_hot, to_genes
from supernet.spaces import load_space
from surrogates.exact_costs import ExactCosts
from surrogates.gene_ids import GeneIds
from surrogates.measurement_noise import gene_hashes, normal_draws
from surrogates.prediction_cache import PredictionCache
from surrogates.queries import GeneReader

SPACE = load_space("gpt-s")
READER = GeneReader(SPACE)


def sampled(n, seed=0, space=SPACE):
    rng = np.random.default_rng(seed)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(n - 2))]


ARCHS = sampled(40)
GENES = to_genes(SPACE, ARCHS)  # the independent reference


def hwgpt_frame(archs):
    rows = []
    for arch in archs:
        fields = hwgpt_from_architecture(arch)
        absent = [0] * (12 - arch.n_layer)
        heads, ratios = [*fields["sample_n_head"], *absent], [*fields["sample_mlp_ratio"], *absent]
        rows.append(
            {"embed_dim": arch.n_embd, "n_layer": arch.n_layer, "bias": arch.bias}
            | {f"n_head_{i:02}": h for i, h in enumerate(heads)}
            | {f"mlp_ratio_{i:02}": r for i, r in enumerate(ratios)}
        )
    return pd.DataFrame(rows)


def text_bias(arch):
    return {**hwgpt_from_architecture(arch), "sample_bias": str(arch.bias)}


MANY = {
    "architectures": list,
    "ids": lambda archs: [arch.id for arch in archs],
    "json": lambda archs: [arch.to_json() for arch in archs],
    "dicts": lambda archs: [arch.to_dict() for arch in archs],
    "sample dicts": lambda archs: [hwgpt_from_architecture(arch) for arch in archs],
    "sample dicts with text bias": lambda archs: [text_bias(arch) for arch in archs],
    "canonical strings": lambda archs: [canonical("s", arch) for arch in archs],
    "gene dicts": lambda archs: [dict(zip(gene_names(SPACE), row, strict=True)) for row in GENES],
    "genes": lambda archs: GENES,
    "genes of another type": lambda archs: GENES.astype(np.int8),
    "whole floats": lambda archs: GENES.astype(float),
    "lists of genes": lambda archs: GENES.tolist(),
    "generator": lambda archs: (arch for arch in archs),
    "column of ids": lambda archs: pd.DataFrame({"architecture": [arch.id for arch in archs], "x": 0}),
    "series": lambda archs: pd.Series([arch.id for arch in archs]),
    "hwgpt columns": hwgpt_frame,
    "gene columns": lambda archs: pd.DataFrame(GENES[:, ::-1], columns=gene_names(SPACE)[::-1]),
    "object array": lambda archs: np.array([arch.id for arch in archs], object),
    "mixed": lambda archs: [
        form
        for i, arch in enumerate(archs)
        for form in [[arch, arch.id, arch.to_dict(), hwgpt_from_architecture(arch), GENES[i], GENES[i].tolist()][i % 6]]
    ],
}


@pytest.mark.parametrize("form", MANY)
def test_every_form_of_many_architectures_gives_the_same_genes(form):
    found = READER.genes(MANY[form](ARCHS))
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, GENES)


@pytest.mark.parametrize(
    "form", [name for name in MANY if name not in ("generator", "series", "object array", "mixed")]
)
def test_every_form_of_one_architecture_gives_one_row(form):
    values = MANY[form](ARCHS)
    for i in (0, 1, 5):
        one = values.iloc[[i]] if isinstance(values, pd.DataFrame) else values[i]
        np.testing.assert_array_equal(READER.genes(one), GENES[i : i + 1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["gpt-s", "gpt-m", "gpt-l"]))
def test_genes_of_blocks_that_are_not_kept_are_ignored(seed, name):
    space = load_space(name)
    rng = np.random.default_rng(seed)
    arch = space.sample(rng)
    genes = to_genes(space, [arch])
    noisy = genes.copy()
    L, depth = space.max_layer, arch.n_layer
    for start in (3, 3 + L):
        noisy[0, start + depth : start + L] = rng.integers(-3, 9, L - depth)
    given_array = noisy.copy()
    np.testing.assert_array_equal(GeneReader(space).genes(noisy), genes)
    np.testing.assert_array_equal(noisy, given_array)  # the caller's array is as it was


def test_dicts_of_genes_may_leave_out_blocks_that_are_not_kept():
    fields = dict(zip(gene_names(SPACE), GENES[0].tolist(), strict=True))
    short = {name: value for name, value in fields.items() if name[-2:] not in ("10", "11")}
    np.testing.assert_array_equal(READER.genes(short), GENES[:1])
    with pytest.raises(ValueError, match="gene mlp_03 is missing"):
        READER.genes({name: value for name, value in fields.items() if name != "mlp_03"})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((2, 5), int), r"\(2, 5\).*\(n, 27\)"),
        (np.zeros((2, 27, 1), int), r"\(n, 27\)"),
        (np.full(27, 0.5), "integers"),
        (np.full((1, 27), 3), r"gene n_embd = 3 .*0 \(192\), 1 \(384\), 2 \(768\)"),
        (np.array([0, 0, 0, -1] + 23 * [0]), r"gene attention_00 = -1"),
        ([1, 2], r"\(2,\)"),
        (3.5, "3.5 is no architecture"),
        ([None], "architecture 0: None is no architecture"),
        ("e64-l0", "no architecture id"),
        ("gpt-s-10-192", "no architecture of HW-GPT-Bench"),
        (load_space("gpt-m").largest(), "n_embd = 1024 is not in space 'gpt-s'; allowed: 192, 384, 768"),
        ([SPACE.largest(), load_space("gpt-m").largest()], "architecture 1: n_embd = 1024"),
        (hwgpt_from_architecture(load_space("gpt-m").largest()), "1024"),
        ({"n_embd": 0, "biass": 1}, r"no gene 'biass'.*near matches: \['bias'\]"),
        ({**dict.fromkeys(gene_names(SPACE), 0), "mlp_00": 7}, r"gene mlp_00 = 7.*0 \(2\), 1 \(3\), 2 \(4\)"),
        ({**dict.fromkeys(gene_names(SPACE), 0), "mlp_00": "2"}, "gene mlp_00 = '2'"),
        (pd.DataFrame({"arch": ["x"]}), "column 'architecture'"),
        (pd.DataFrame({"architecture": [1.5]}), "architecture 0: 1.5"),
        ({**text_bias(SPACE.largest()), "sample_bias": "yes"}, "sample_bias = 'yes'"),
    ],
)  # fmt: skip
def test_what_is_no_architecture_of_the_space_is_refused_with_what_is_allowed(value, message):
    with pytest.raises(ValueError, match=message):
        READER.genes(value)


def test_json_that_is_no_object_is_refused():
    with pytest.raises(ValueError, match="no architecture"):
        READER.genes(json.dumps([1, 2]))


def test_spaces_of_another_form_are_refused():
    for changes in ({"layer_choice": "subset"}, {"per_layer": False}):
        space = type(SPACE).from_dict(fake_space().to_dict() | changes)
        for made in (GeneReader, ExactCosts):
            with pytest.raises(ValueError, match="layer_choice"):
                made(space)


# --- ids, costs, hashes ---------------------------------------------------------------------------------------------


GROUPED = dataclasses.replace(load_space("tiny-gqa"), name="grouped", layer_choice="prefix")


@pytest.mark.parametrize("space", ["gpt-s", "gpt-m", "gpt-l", "tiny", GROUPED])
def test_ids_and_costs_from_genes_are_those_of_the_architectures(space):
    space = load_space(space)
    archs = sampled(300, space=space)
    genes = to_genes(space, archs)
    ids = GeneIds(space)
    assert ids(genes) == [arch.id for arch in archs]
    assert [ids(row[None])[0] for row in genes[:40]] == [arch.id for arch in archs[:40]]
    costs, n_tokens = ExactCosts(space), space.model_config.block_size
    parameters = parameter_counts(space.model_config, archs)
    work = mac_counts(space.model_config, archs, seq_len=n_tokens).total
    expected = np.column_stack([parameters.total, parameters.decoder, work, 2 * work])
    np.testing.assert_array_equal(costs(genes), expected)
    np.testing.assert_array_equal(costs(genes[7:8]), expected[7:8])


def test_equal_networks_have_equal_hashes_and_different_ones_different_hashes():
    rng = np.random.default_rng(0)
    genes = READER.genes(rng.integers(0, gene_sizes(SPACE), (20_000, 27)))
    hashes = gene_hashes(genes)
    distinct = len(np.unique(genes, axis=0))
    assert len(np.unique(hashes)) == distinct
    np.testing.assert_array_equal(gene_hashes(genes[::-1])[::-1], hashes)  # not of the batch
    assert len(np.unique(hashes & np.uint64(0xFFFF))) > 0.2 * 2**16  # the low bits vary too


def test_draws_are_standard_normal_and_independent_of_neighbouring_seeds():
    hashes = gene_hashes(READER.genes(np.random.default_rng(1).integers(0, gene_sizes(SPACE), (20_000, 27))))
    first, second = (normal_draws(hashes, ["a", "b"], seed=seed) for seed in (0, 1))
    from scipy.stats import kstest

    for draws in (first, second):
        for column in draws.T:
            assert kstest(column, "norm").pvalue > 1e-4
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.03
    np.testing.assert_array_equal(normal_draws(hashes[:5], ["b"], seed=0)[:, 0], first[:5, 1])
    assert np.isfinite(normal_draws(hashes, ["a"], seed=10**30)).all()


def test_one_hot_of_decoded_genes_is_that_of_the_architectures():
    archs = [from_genes(SPACE, row) for row in READER.genes(GENES)]
    np.testing.assert_array_equal(one_hot(SPACE, archs), one_hot(SPACE, ARCHS))


def test_a_cache_of_no_rows_stays_empty():
    cache = PredictionCache(0)
    cache.put(b"x", np.zeros(1))
    assert len(cache) == 0 and cache.get(b"x") is None
