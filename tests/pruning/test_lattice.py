import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_supernets import FAMILIES

from pruning.lattice import (
    MOST_ATTENTION_LEVELS,
    Lattice,
    attention_candidates,
    fastest_for_their_size,
    grid,
    lower_envelope,
    neuron_candidates,
)
from supernet.architecture import Architecture
from supernet.litgpt_config import check_fits, model_config

SMOLLM2 = {
    "n_layer": 30, "n_embd": 576, "n_head": 9, "n_query_groups": 3, "head_size": 64, "intermediate_size": 1536,
    "padded_vocab_size": 49152, "norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "bias": False,
}  # fmt: skip
LLAMA_8B = {**SMOLLM2, "n_layer": 32, "n_embd": 4096, "n_head": 32, "n_query_groups": 8, "head_size": 128,
            "intermediate_size": 14336}  # fmt: skip
MHA = {**LLAMA_8B, "n_query_groups": 32, "intermediate_size": 11008}


@pytest.mark.parametrize("arguments", [SMOLLM2, LLAMA_8B, MHA, *FAMILIES.values()])
def test_coarse_lattice_is_inside_the_network_and_ends_with_it(arguments):
    config = model_config(arguments)
    lattice = Lattice.coarse(config)
    lattice.check(config)
    assert 4 <= len(lattice.neurons) <= 14
    assert 1 <= len(lattice.attention) <= MOST_ATTENTION_LEVELS
    assert len(lattice.embd) <= 9 and lattice.embd[0] >= config.n_embd / 2
    for heads, groups in lattice.attention:
        check_fits(config, Architecture(config.n_embd, (heads,), (groups,), (lattice.neurons[0],), (0,), config.bias))


def test_smollm2_has_every_number_of_heads_and_groups():
    lattice = Lattice.coarse(model_config(SMOLLM2))
    assert lattice.attention == tuple(sorted((q * g, g) for g in (1, 2, 3) for q in (1, 2, 3)))
    assert lattice.neurons == tuple(range(128, 1537, 128))
    assert lattice.embd == (320, 384, 448, 512, 576)


def test_heads_are_spread_where_there_are_many():
    levels = attention_candidates(model_config(LLAMA_8B))
    assert levels[-1] == (32, 8) and len(levels) <= MOST_ATTENTION_LEVELS
    assert {heads // groups for heads, groups in levels} == {2, 3, 4}
    assert len(attention_candidates(model_config(MHA))) == MOST_ATTENTION_LEVELS


@given(st.integers(1, 30000), st.integers(1, 20))
def test_grids_and_candidates_are_ascending_and_end_with_the_whole(whole, n):
    for widths in (grid(whole, n), neuron_candidates(whole, n_widths=n)):
        assert widths == sorted(set(widths)) and widths[-1] == whole and widths[0] >= 1
    assert len(grid(whole, n)) <= n


def test_candidates_try_multiples_around_each_position():
    assert {1536, 1408, 1472, 1440, 1056, 1024, 992} <= set(neuron_candidates(1536))
    near = neuron_candidates(14336)
    assert any(w % 128 for w in near) and any(w % 128 == 0 for w in near)
    assert len(near) <= 80


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=12, unique=True), st.data())
@settings(max_examples=60)
def test_envelope_is_what_its_definition_says(levels, data):
    costs = data.draw(st.lists(st.floats(0.1, 2), min_size=len(levels), max_size=len(levels)))
    kept = lower_envelope(levels, costs, noise=0.05)
    for i, (a, cost) in enumerate(zip(levels, costs, strict=True)):
        beaten = any(
            b != a and b[0] >= a[0] and b[1] >= a[1] and other <= 1.05 * cost
            for b, other in zip(levels, costs, strict=True)
        )
        assert (i in kept) != beaten


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60, unique=True), st.integers(2, 14), st.integers(0, 99))
@settings(max_examples=60)
def test_thinning_keeps_the_largest_and_one_in_a_stretch(widths, n, seed):
    widths = sorted(widths)
    costs = np.random.default_rng(seed).uniform(0.5, 1.5, len(widths)) * np.array(widths)
    kept = [widths[i] for i in fastest_for_their_size(widths, costs, n_widths=n)]
    assert kept[-1] == widths[-1] and kept == sorted(set(kept))
    assert len(kept) <= max(n, 2)


def test_thinning_prefers_the_width_that_is_fast_for_its_size():
    widths, costs = [100, 190, 200, 290, 300], [1.0, 1.9, 1.7, 2.9, 3.0]
    assert [widths[i] for i in fastest_for_their_size(widths, costs, n_widths=3)] == [100, 200, 300]


def test_lattice_survives_its_file(tmp_path):
    lattice = Lattice.coarse(model_config(SMOLLM2))
    assert Lattice.load(lattice.save(tmp_path / "lattice.json")) == lattice
    (tmp_path / "lattice.json").write_text('{"neurons": [1]}')
    with pytest.raises(ValueError, match="not a lattice"):
        Lattice.load(tmp_path / "lattice.json")


@pytest.mark.parametrize(
    ("neurons", "attention", "embd"),
    [((), ((1, 1),), (8,)), ((8, 4), ((1, 1),), (8,)), ((8,), ((3, 2), (4, 2)), (8,)), ((0, 8), ((1, 1),), (8,)),
     ((8,), ((4, 1), (6, 3)), (8,))],
)  # fmt: skip
def test_lattices_that_make_no_sense_are_refused(neurons, attention, embd):
    with pytest.raises(ValueError, match=r"ascending|contains"):
        Lattice(neurons, attention, embd)


def test_a_lattice_of_another_network_is_refused():
    with pytest.raises(ValueError, match="another network"):
        Lattice((8, 16), ((2, 2),), (32,)).check(model_config(SMOLLM2))
