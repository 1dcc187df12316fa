"""SearchSpace: every operation stays inside, counts are exact, and errors name the gene."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from supernet.architecture import Architecture
from supernet.space import SearchSpace
from supernet.spaces import load_space

SIZES = {"head_size": 8, "padded_vocab_size": 64}


def make(**changes) -> SearchSpace:
    fields = {
        "name": "test", "n_embd": (16, 32), "n_layer": (1, 2, 3), "n_head": (2, 4), "mlp_ratio": (1, 2, 4),
        "config": SIZES,
    }  # fmt: skip
    return SearchSpace(**(fields | changes))


SMALL = {
    "prefix": make(n_layer=(1, 2), bias=(False, True)),
    "subset": make(n_layer=(1, 2), layer_choice="subset", n_query_groups=(1, 2)),
    "subset of far depths": make(n_embd=(16,), n_layer=(1, 3), layer_choice="subset", mlp_ratio=(1, 2)),
    "grouped": make(n_layer=(2,), n_head=(2, 4, 8), n_query_groups=(1, 2), mlp_ratio=None, intermediate_size=(8, 24)),
    "multi-query": make(n_layer=(2, 1), config=SIZES | {"n_query_groups": 1}),
    "shared": make(per_layer=False, bias=(False, True)),
    "shared subset": make(per_layer=False, n_layer=(1, 3, 4), layer_choice="subset"),
    "single": make(n_embd=16, n_layer=2, n_head=2, mlp_ratio=4),
}
SHIPPED = ("gpt-s", "gpt-l-wide", "tiny", "tiny-gqa", "smollm2-135m", "gemma-2b")


@pytest.fixture(params=SMALL)
def small(request) -> SearchSpace:
    return SMALL[request.param]


# --- counting and enumeration -------------------------------------------------------------------------------------


def test_enumeration_yields_each_architecture_once(small):
    archs = list(small.enumerate())
    assert len(archs) == len(set(archs)) == small.num_architectures
    assert all(arch in small for arch in archs)


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("gpt-s", (10, 11, 12)), ("gpt-m", (22, 23, 24)), ("gpt-l", (34, 35, 36)),
        ("gpt-s-wide", (3, 6, 12)), ("gpt-m-wide", (6, 12, 24)), ("gpt-l-wide", (9, 18, 36)),
    ],
)  # fmt: skip
def test_counts_of_hwgpt_spaces_are_the_closed_form(name, depths):
    assert load_space(name).num_architectures == 2 * 3 * sum(9**depth for depth in depths)


def test_count_of_a_subset_space_is_the_closed_form():
    space = make(n_layer=(2, 5), layer_choice="subset")
    assert space.num_architectures == 2 * (10 * 6**2 + 1 * 6**5)


def test_enumeration_starts_in_a_space_of_many_layers():
    first = next(load_space("gpt-l").enumerate())
    assert first.n_layer == 34


# --- sampling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_samples_of_shipped_spaces_are_legal(name):
    space, rng = load_space(name), np.random.default_rng(0)
    config = space.model_config
    for _ in range(100):
        arch = space.validate(space.sample(rng))
        for h, g in zip(arch.n_head, arch.n_query_groups, strict=True):
            assert h % g == 0
            assert h // g <= config.n_head // config.n_query_groups
            assert g <= config.n_query_groups


def test_samples_are_legal_in_small_spaces(small):
    rng = np.random.default_rng(1)
    members = set(small.enumerate())
    assert all(small.sample(rng) in members for _ in range(300))


def assert_uniform(values: list, choices: int) -> None:
    counts = Counter(values)
    assert len(counts) == choices
    assert chisquare(list(counts.values())).pvalue > 1e-4


def test_every_gene_is_drawn_uniformly():
    space, rng = SMALL["subset"], np.random.default_rng(2)
    archs = [space.sample(rng) for _ in range(4000)]
    assert_uniform([arch.n_embd for arch in archs], 2)
    assert_uniform([arch.n_layer for arch in archs], 2)
    assert_uniform([arch.layers for arch in archs if arch.n_layer == 1], 2)
    assert_uniform([(arch.n_head[0], arch.n_query_groups[0]) for arch in archs], len(space.attention_choices))
    assert_uniform([arch.intermediate_size[-1] / arch.n_embd for arch in archs], 3)


def test_layers_of_a_sample_are_drawn_independently():
    rng = np.random.default_rng(3)
    archs = [SMALL["grouped"].sample(rng) for _ in range(4000)]
    assert_uniform([arch.intermediate_size for arch in archs], 4)


def test_same_seed_gives_the_same_architectures(small):
    first, second = (np.random.default_rng(7) for _ in range(2))
    for _ in range(20):
        a, b = small.sample(first), small.sample(second)
        assert a == b
        assert small.mutate(a, first) == small.mutate(b, second)


def test_sample_unique_can_exhaust_a_space(small):
    rng = np.random.default_rng(0)
    known = list(small.enumerate())[:1]
    drawn = small.sample_unique(min(200, small.num_architectures - 1), rng, exclude=known)
    assert len(set(drawn)) == len(drawn) == min(200, small.num_architectures - 1)
    assert known[0] not in drawn


def test_sample_unique_counts_only_excluded_members():
    space, foreign = SMALL["single"], Architecture.uniform(n_embd=8, n_layer=1, n_head=1, intermediate_size=8)
    assert space.sample_unique(1, np.random.default_rng(0), exclude=[foreign]) == [space.largest()]


def test_sample_unique_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="has 1 architectures: cannot draw 2"):
        SMALL["single"].sample_unique(2, np.random.default_rng(0))


# --- particular members -------------------------------------------------------------------------------------------


def test_largest_is_the_supernet_and_smallest_is_least(small):
    largest, smallest, config = small.largest(), small.smallest(), small.model_config
    shape = (
        largest.n_embd,
        largest.n_layer,
        largest.n_head[0],
        largest.n_query_groups[0],
        largest.intermediate_size[0],
    )
    assert shape == (config.n_embd, config.n_layer, config.n_head, config.n_query_groups, config.intermediate_size)
    assert largest.is_uniform
    assert largest.bias == config.bias
    for arch in small.enumerate():
        assert smallest.n_embd <= arch.n_embd <= largest.n_embd
        assert smallest.n_layer <= arch.n_layer <= largest.n_layer
        assert smallest.n_head[0] <= min(arch.n_head) <= max(arch.n_head) <= largest.n_head[0]


# --- variation ----------------------------------------------------------------------------------------------------


def changed_genes(space: SearchSpace, a: Architecture, b: Architecture) -> set[str]:
    """Name the genes in which two members differ, comparing layers that both keep."""
    x, y = space.genome(a), space.genome(b)
    changed = {name for name in ("n_embd", "bias", "layers") if getattr(x, name) != getattr(y, name)}
    for name in ("attention", "mlp"):
        first, second = (dict(zip(z.layers, getattr(z, name), strict=True)) for z in (x, y))
        slots = {i for i in first.keys() & second.keys() if first[i] != second[i]}
        changed |= {f"{name}_{i}" for i in slots} if space.per_layer else {name for _ in slots}
    return changed


def test_mutation_changes_exactly_one_gene(small):
    if small.num_architectures == 1:
        return
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(400):
        arch = small.sample(rng)
        child = small.validate(small.mutate(arch, rng))
        changed = changed_genes(small, arch, child)
        assert len(changed) == 1, (arch, child)
        seen |= changed
    assert {gene.split("_")[0] for gene in seen} >= {"attention", "mlp"}


def test_mutation_of_several_genes_changes_that_many():
    rng = np.random.default_rng(5)
    for space in (load_space("gpt-s"), SMALL["shared"], SMALL["subset"]):
        for _ in range(100):
            arch = space.sample(rng)
            changed = changed_genes(space, arch, space.validate(space.mutate(arch, rng, n_genes=2)))
            assert len(changed) <= 2
            assert len(changed) == 2 or "layers" in changed  # a changed layer may be one that is then dropped


def test_mutation_reaches_the_whole_space(small):
    rng, arch = np.random.default_rng(6), small.smallest()
    reached = {arch}
    for _ in range(40 * small.num_architectures):
        arch = small.mutate(arch, rng)
        reached.add(arch)
        if len(reached) == small.num_architectures:
            break
    assert len(reached) > 0.9 * small.num_architectures
    assert small.largest() in reached or small.num_architectures > 1000


def test_mutation_leaves_a_space_of_one_unchanged():
    space = SMALL["single"]
    assert space.mutate(space.largest(), np.random.default_rng(0)) == space.largest()


def test_mutation_of_no_gene_is_refused():
    with pytest.raises(ValueError, match="n_genes = 0"):
        SMALL["prefix"].mutate(SMALL["prefix"].largest(), np.random.default_rng(0), n_genes=0)


def brute_force_neighbours(space: SearchSpace, arch: Architecture) -> set[Architecture]:
    """Look at every member; where the kept layers differ, all else must be equal and new layers copy the last."""
    found, own = set(), space.genome(arch)
    for other in space.enumerate():
        changed = changed_genes(space, arch, other)
        if len(changed) != 1:
            continue
        genome = space.genome(other)
        if "layers" in changed:
            new = set(genome.layers) - set(own.layers)
            at = {i: k for k, i in enumerate(genome.layers)}
            if any(genome.attention[at[i]] != own.attention[-1] or genome.mlp[at[i]] != own.mlp[-1] for i in new):
                continue
            if space.layer_choice == "subset":
                steps = abs(space.n_layer.index(len(genome.layers)) - space.n_layer.index(len(own.layers)))
                gone = set(own.layers) - set(genome.layers)
                if steps > 1 or (steps == 1 and new and gone) or (steps == 0 and len(new) > 1):
                    continue
        found.add(other)
    return found


def test_neighbours_are_those_of_brute_force(small):
    rng = np.random.default_rng(8)
    for _ in range(10):
        arch = small.sample(rng)
        found = list(small.neighbours(arch))
        assert len(found) == len(set(found))
        assert set(found) == brute_force_neighbours(small, arch)


def test_neighbours_connect_the_space(small):
    reached, frontier = {small.smallest()}, [small.smallest()]
    while frontier:
        new = {arch for arch in small.neighbours(frontier.pop()) if arch not in reached}
        reached |= new
        frontier += new
    assert len(reached) == small.num_architectures


def test_crossover_takes_every_gene_from_a_parent(small):
    rng = np.random.default_rng(9)
    for _ in range(200):
        a, b = small.sample(rng), small.sample(rng)
        parents = [small.genome(a), small.genome(b)]
        child = small.genome(small.validate(small.crossover(a, b, rng)))
        assert child.layers in {p.layers for p in parents}
        assert child.n_embd in {p.n_embd for p in parents}
        for slot, layer in enumerate(child.layers):
            donors = [(p, p.layers.index(layer)) for p in parents if layer in p.layers]
            assert child.attention[slot] in {p.attention[k] for p, k in donors} or not small.per_layer
            assert child.mlp[slot] in {p.mlp[k] for p, k in donors} or not small.per_layer
        if not small.per_layer:
            assert child.attention[0] in {p.attention[0] for p in parents}


def test_crossover_mixes_both_parents():
    space, rng = load_space("gpt-s"), np.random.default_rng(10)
    a, b = space.smallest(), space.largest()
    children = [space.crossover(a, b, rng) for _ in range(200)]
    heads = [h for child in children for h in child.n_head[:10]]
    assert 0.4 < heads.count(4) / len(heads) < 0.6
    assert a not in children
    assert {child.n_layer for child in children} == {10, 12}


# --- validation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": 24}, "n_embd = 24 .* allowed: 16, 32"),
        ({"n_head": (3, 4), "n_query_groups": (3, 4)}, r"n_head\[0\] = 3 .* allowed: 2, 4"),
        ({"n_query_groups": (2, 1)}, r"\(n_head\[1\], n_query_groups\[1\]\) = \(4, 1\) .* allowed: \(2, 2\), \(4, 4\)"),
        ({"intermediate_size": (32, 33)}, r"intermediate_size\[1\] = 33 .* allowed: 16, 32, 64"),
        ({"layers": (0, 2)}, r"layers = \(0, 2\) .* allowed: the first n_layer blocks"),
        ({"bias": False}, "bias = False .* allowed: True"),
    ],
)
def test_foreign_architectures_are_refused_by_gene(change, message):
    fields = {"n_embd": 16, "n_head": (2, 4), "n_query_groups": (2, 4), "intermediate_size": (16, 32), "layers": (0, 1)}
    assert Architecture(**fields) in make()
    with pytest.raises(ValueError, match=message):
        make().validate(Architecture(**(fields | change)))
    assert Architecture(**(fields | change)) not in make()


def test_too_deep_an_architecture_is_refused():
    with pytest.raises(ValueError, match=r"n_layer = 4 .* allowed: 1, 2, 3"):
        make().validate(Architecture.uniform(n_embd=16, n_layer=4, n_head=2, intermediate_size=16))
    subset = make(layer_choice="subset")
    with pytest.raises(ValueError, match=r"layers = .* allowed: block indices 0 to 2"):
        subset.validate(Architecture(16, (2,), (2,), (16,), (3,)))


def test_layers_that_differ_are_refused_where_they_may_not():
    with pytest.raises(ValueError, match="one shape for all layers"):
        SMALL["shared"].validate(Architecture(16, (2, 4), (2, 4), (16, 16), (0, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": ()}, "n_embd = .* at least one choice"),
        ({"n_embd": (16, 16)}, "n_embd = .* each once"),
        ({"n_embd": (16, -1)}, "n_embd = .* positive integers"),
        ({"n_embd": (16.5,)}, "n_embd = .* positive integers"),
        ({"n_head": ("4",)}, "n_head = .* positive integers"),
        ({"mlp_ratio": (float("nan"),)}, "mlp_ratio = .* positive numbers"),
        ({"mlp_ratio": (1, 1.01)}, "mlp_ratio = .* n_embd = 16; .* distinct"),
        ({"mlp_ratio": (0.01, 1)}, "mlp_ratio = .* at least 1"),
        ({"mlp_ratio": None}, "exactly one of mlp_ratio and intermediate_size"),
        ({"intermediate_size": (32,)}, "exactly one of mlp_ratio and intermediate_size"),
        ({"bias": ("False",)}, "bias = .* true and false"),
        ({"layer_choice": "any"}, "layer_choice = 'any'; allowed: 'prefix', 'subset'"),
        ({"n_query_groups": (1, 3)}, "largest n_head = 4 is no multiple of the largest n_query_groups = 3"),
        ({"n_query_groups": (4,), "n_head": (2, 4)}, "n_head = 2 is in no legal"),
        ({"n_query_groups": (3, 4), "n_head": (4,)}, "n_query_groups = 3 is in no legal"),
        ({"config": SIZES | {"n_embd": 64}}, "config has n_embd = 64, but the largest choice is 32"),
        ({"config": SIZES | {"bias": False}, "bias": (True,)}, "config has bias = False"),
        ({"config": {}, "n_head": (3,)}, "n_embd = 32 is no multiple of n_head = 3; give head_size"),
        ({"config": SIZES | {"n_expert": 4, "mlp_class_name": "LLaMAMoE"}}, "mixture of experts"),
        ({"config": SIZES | {"nonsense": 1}}, "litgpt.Config does not take .*nonsense"),
    ],
)
def test_contradictory_spaces_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make(**change)


# --- in and out ---------------------------------------------------------------------------------------------------


def test_dict_round_trip(small):
    assert SearchSpace.from_dict(small.to_dict()) == small


def test_unknown_fields_are_named():
    with pytest.raises(ValueError, match=r"unknown fields \['depth'\]"):
        SearchSpace.from_dict({"name": "x", "depth": [1]})


def test_choices_are_sorted_so_that_their_order_means_nothing():
    assert make(n_embd=(32, 16), n_layer=[3, 1, 2], mlp_ratio=(4, 1.0, 2)) == make()


def test_equal_networks_are_equal_whatever_the_path():
    space = load_space("tiny-gqa")
    arch = space.sample(np.random.default_rng(0))
    again = space.architecture(space.genome(Architecture.from_id(arch.id)))
    assert again == arch
    assert len({arch, again}) == 1


def test_renamed_changes_only_the_name():
    space = make()
    assert space.renamed("other") == replace(space, name="other")
    assert space.renamed("other").to_dict() | {"name": "test"} == space.to_dict()
