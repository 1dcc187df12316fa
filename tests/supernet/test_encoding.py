"""Integer genes, one-hot and engineered features against plain Python references."""

import time

import numpy as np
import pytest

from supernet import encoding
from supernet.architecture import Architecture
from supernet.cost import kv_cache_bytes, macs, parameter_count
from supernet.encoding import from_genes, gene_names, gene_sizes, one_hot, one_hot_names, repair_genes, to_genes
from supernet.engineered import engineered, engineered_names
from supernet.space import SearchSpace
from supernet.spaces import load_space

SPACES = {
    "gpt-s": load_space("gpt-s"),
    "tiny": load_space("tiny"),
    "tiny-gqa": load_space("tiny-gqa"),
    "gemma-2b": load_space("gemma-2b"),
    "shared": SearchSpace(
        name="shared", n_embd=(16, 32), n_layer=(1, 3), n_head=(2, 4), mlp_ratio=(1, 2), bias=(False, True),
        per_layer=False, config={"head_size": 8, "padded_vocab_size": 64},
    ),
    "shared subset": SearchSpace(
        name="shared subset", n_embd=(16,), n_layer=(1, 3), n_head=(2, 4), n_query_groups=(1, 2),
        intermediate_size=(8, 9), per_layer=False, layer_choice="subset",
        config={"head_size": 8, "padded_vocab_size": 64},
    ),
}  # fmt: skip


@pytest.fixture(params=SPACES)
def space(request) -> SearchSpace:
    return SPACES[request.param]


@pytest.fixture
def archs(space) -> list[Architecture]:
    rng = np.random.default_rng(0)
    return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(60))]


# --- integer genes ------------------------------------------------------------------------------------------------


def reference_genes(space: SearchSpace, arch: Architecture) -> dict[str, int]:
    """Return the active genes by name, from the space's own genome."""
    genome = space.genome(arch)
    genes = {"n_embd": genome.n_embd, "bias": genome.bias}
    if space.layer_choice == "subset":
        genes |= {f"keep_{layer:02}": 1 for layer in genome.layers}
    else:
        genes["n_layer"] = space.n_layer.index(len(genome.layers))
    for slot, layer in enumerate(genome.layers):
        suffix = f"_{layer:02}" if space.per_layer else ""
        genes |= {f"attention{suffix}": genome.attention[slot], f"mlp{suffix}": genome.mlp[slot]}
    return genes


def test_genes_are_the_genome_with_inactive_ones_zero(space, archs):
    genes, names = to_genes(space, archs), gene_names(space)
    assert genes.dtype == np.int64
    assert genes.shape == (len(archs), len(names)) == (len(archs), len(gene_sizes(space)))
    for row, arch in zip(genes, archs, strict=True):
        expected = reference_genes(space, arch)
        assert dict(zip(names, row.tolist(), strict=True)) == {name: expected.get(name, 0) for name in names}


def test_genes_round_trip(space, archs):
    assert [from_genes(space, row) for row in to_genes(space, archs)] == archs
    assert space.decode(space.encode(archs)[2]) == archs[2]


def test_equal_genes_mean_equal_networks(space):
    rng = np.random.default_rng(1)
    archs = [space.sample(rng) for _ in range(300)]
    genes = to_genes(space, archs)
    assert len({arch.id for arch in archs}) == len(np.unique(genes, axis=0))


def test_inactive_genes_are_ignored_and_encoded_as_zero():
    space = SPACES["tiny"]
    genes = to_genes(space, [space.smallest()])[0]
    noisy = genes.copy()
    noisy[gene_names(space).index("mlp_05")] = 3
    assert from_genes(space, noisy) == space.smallest()
    assert (to_genes(space, [from_genes(space, noisy)])[0] == genes).all()


def test_gene_sizes_are_the_largest_genes_plus_one(space):
    rng = np.random.default_rng(2)
    genes = to_genes(space, [space.largest(), *(space.sample(rng) for _ in range(400))])
    assert (genes.max(axis=0) == gene_sizes(space) - 1).all()


def test_no_architectures_give_no_rows(space):
    assert to_genes(space, []).shape == (0, len(gene_names(space)))
    assert one_hot(space, []).shape == (0, len(one_hot_names(space)))
    assert engineered(space, []).shape == (0, len(engineered_names(space)))


@pytest.mark.parametrize(
    ("gene", "value", "message"),
    [
        ("n_embd", 4, r"gene n_embd = 4 .* allowed: 0 \(64\), 1 \(96\), 2 \(128\), 3 \(160\)"),
        ("attention_02", -1, r"gene attention_02 = -1 .* 3 \(4 heads, 4 groups\)"),
        ("mlp_05", 9, r"gene mlp_05 = 9 .* allowed: 0 \(1\), 1 \(1.5\)"),
        ("n_layer", 5, "gene n_layer = 5"),
    ],
)
def test_genes_outside_are_refused_by_name(gene, value, message):
    space = SPACES["tiny"]
    genes = to_genes(space, [space.largest()])[0]
    genes[gene_names(space).index(gene)] = value
    with pytest.raises(ValueError, match=message):
        from_genes(space, genes)


def test_a_wrong_number_of_kept_blocks_is_refused():
    space = SPACES["tiny-gqa"]
    genes = to_genes(space, [space.smallest()])[0]
    genes[gene_names(space).index("keep_01")] = 0
    with pytest.raises(ValueError, match="keep 1 blocks .* allowed: 2, 3, 4"):  # noqa: RUF043
        from_genes(space, genes)


@pytest.mark.parametrize("genes", [[0, 1], ["a"] * 15, [[0]] * 15])
def test_genes_of_a_wrong_shape_are_refused(genes):
    with pytest.raises(ValueError, match="has 15 genes"):
        from_genes(SPACES["tiny"], genes)


def test_fractional_genes_are_refused():
    with pytest.raises(ValueError, match="not all integers"):
        from_genes(SPACES["tiny"], [0.5] * 15)


def test_foreign_architectures_are_refused_by_gene():
    space, rng = SPACES["tiny"], np.random.default_rng(0)
    inside = space.sample(rng)
    for change, message in [
        (Architecture.uniform(n_embd=65, n_layer=2, n_head=2, intermediate_size=65, bias=False), "n_embd = 65"),
        (Architecture.uniform(n_embd=64, n_layer=7, n_head=2, intermediate_size=64, bias=False), "n_layer = 7"),
        (Architecture.uniform(n_embd=64, n_layer=2, n_head=2, intermediate_size=240, bias=False), "intermediate_size"),
        (
            Architecture.uniform(n_embd=64, n_layer=2, n_head=4, n_query_groups=2, intermediate_size=64, bias=False),
            "n_q",
        ),
        (Architecture(64, (1, 1), (1, 1), (64, 64), (0, 2), False), "layers"),
        (Architecture.uniform(n_embd=64, n_layer=2, n_head=2, intermediate_size=64), "bias = True"),
    ]:
        with pytest.raises(ValueError, match=message):
            to_genes(space, [inside, change])
        assert change not in space
    with pytest.raises(ValueError, match="one shape for all layers"):
        to_genes(SPACES["shared"], [Architecture(16, (2, 2, 4), (2, 2, 4), (16,) * 3, (0, 1, 2))])


def test_repair_makes_any_numbers_legal(space):
    rng = np.random.default_rng(3)
    sizes = gene_sizes(space)
    for _ in range(100):
        repaired = repair_genes(space, rng.normal(scale=4, size=len(sizes)), rng)
        arch = space.validate(from_genes(space, repaired))
        assert (to_genes(space, [arch])[0] == repaired).all()


def test_repair_leaves_legal_genes_alone(space, archs):
    rng = np.random.default_rng(4)
    for row in to_genes(space, archs):
        assert (repair_genes(space, row + 0.2, rng) == row).all()


def test_repair_refuses_what_is_no_number():
    with pytest.raises(ValueError, match="finite"):
        repair_genes(SPACES["tiny"], [float("nan")] * 15, np.random.default_rng(0))
    with pytest.raises(ValueError, match="has 15 genes"):
        repair_genes(SPACES["tiny"], [0.0], np.random.default_rng(0))


# --- one-hot ------------------------------------------------------------------------------------------------------


def test_one_hot_has_one_column_for_each_active_choice(space, archs):
    table, names = one_hot(space, archs), one_hot_names(space)
    assert table.shape == (len(archs), len(names))
    assert table.dtype == np.float32
    assert len(set(names)) == len(names)
    choices = {gene.name: gene.choices for gene in encoding.genes_of(space)}
    for row, arch in zip(table, archs, strict=True):
        genes = reference_genes(space, arch)
        hot = {gene if gene.startswith("keep_") else f"{gene}={choices[gene][value]}" for gene, value in genes.items()}
        assert {name for name, value in zip(names, row, strict=True) if value} == hot
        assert set(row.tolist()) <= {0.0, 1.0}


# --- engineered features ------------------------------------------------------------------------------------------


def test_engineered_features_are_what_their_names_say(space, archs):
    table, names = engineered(space, archs), engineered_names(space)
    assert table.shape == (len(archs), len(names))
    assert table.dtype == np.float64
    assert np.isfinite(table).all()
    config = space.model_config
    for values, arch in zip(table, archs, strict=True):
        row = dict(zip(names, values, strict=True))
        count = parameter_count(config, arch)
        assert (row["n_embd"], row["n_layer"], row["bias"]) == (arch.n_embd, arch.n_layer, arch.bias)
        for size in ("n_head", "n_query_groups", "intermediate_size"):
            layers = getattr(arch, size)
            assert row[f"sum_{size}"] == sum(layers)
            assert row[f"mean_{size}"] == pytest.approx(np.mean(layers))
            assert row[f"std_{size}"] == pytest.approx(np.std(layers), abs=1e-3)
            assert (row[f"min_{size}"], row[f"max_{size}"]) == (min(layers), max(layers))
            assert row[f"n_embd*sum_{size}"] == arch.n_embd * sum(layers)
            if space.per_layer:
                upto = [v for i, v in zip(arch.layers, layers, strict=True) if i <= 1]
                assert row[f"sum_{size}_to_01"] == sum(upto)
        assert row["mean_block"] == pytest.approx(np.mean(arch.layers))
        assert (row["params_attention"], row["params_mlp"]) == (count.attention, count.mlp)
        assert (row["params_decoder"], row["params_total"]) == (count.decoder, count.total)
        assert row["macs_total"] == macs(config, arch, seq_len=config.block_size)
        cache = kv_cache_bytes(config, arch, seq_len=config.block_size, bytes_per_element=1)
        assert row["kv_cache_elements"] == cache


def test_encodings_of_a_hundred_thousand_architectures_take_seconds():
    space, rng = SPACES["gpt-s"], np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(2000)] * 50
    for encode in (to_genes, one_hot, engineered):
        start = time.process_time()
        assert len(encode(space, archs)) == 100_000
        assert time.process_time() - start < 5  # measured: 0.3, 0.5 and 1.0 s
