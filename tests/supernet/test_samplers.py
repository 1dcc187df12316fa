from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from supernet.cost import parameter_count
from supernet.samplers import (
    FullOnly,
    Phase,
    ProgressiveShrinking,
    RandomK,
    Sandwich,
    SinglePath,
    StratifiedByParameters,
    draw,
)
from supernet.space import SearchSpace
from supernet.spaces import load_space

SPACE = load_space("tiny")
SAMPLERS = [
    FullOnly(SPACE),
    SinglePath(SPACE),
    RandomK(SPACE, n_random=3),
    Sandwich(SPACE, n_random=2),
    StratifiedByParameters(SPACE, n_random=2, sandwich=True),
    ProgressiveShrinking(SPACE, total_steps=100),
]


def ids(samplers: list) -> list[str]:
    return [type(sampler).__name__ for sampler in samplers]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=ids(SAMPLERS))
def test_a_step_is_a_function_of_seed_and_step(sampler) -> None:
    assert [draw(sampler, seed=3, step=s) for s in range(5)] == [draw(sampler, seed=3, step=s) for s in range(5)]
    if not isinstance(sampler, FullOnly):
        late = [draw(sampler, seed=seed, step=90) for seed in range(4)]
        assert any(nets != late[0] for nets in late)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=ids(SAMPLERS))
def test_a_steps_networks_are_distinct_members_of_the_space_with_the_largest_first(sampler) -> None:
    for step in range(0, 100, 7):
        nets = draw(sampler, seed=0, step=step)
        assert nets
        assert len(set(nets)) == len(nets)
        assert all(net in SPACE and net != SPACE.largest() for net in nets if net is not None)
        assert None not in nets[1:]


def test_full_only_trains_the_largest() -> None:
    assert draw(FullOnly(SPACE), seed=0, step=0) == [None]


def test_single_path_trains_one() -> None:
    assert all(len(draw(SinglePath(SPACE), seed=0, step=step)) == 1 for step in range(20))


def test_the_sandwich_holds_both_ends_and_so_many_random_networks() -> None:
    nets = draw(Sandwich(SPACE, n_random=3), seed=0, step=0)
    assert nets[:2] == [None, SPACE.smallest()]
    assert len(nets) == 5


def test_a_space_with_two_members_gives_no_more_than_two_networks() -> None:
    config = {"head_size": 8, "vocab_size": 32, "padded_vocab_size": 32}
    space = SearchSpace(name="two", n_embd=(8, 16), n_layer=(1,), n_head=(1,), mlp_ratio=(1,), config=config)
    assert draw(Sandwich(space, n_random=2), seed=0, step=0) == [None, space.smallest()]


def test_quantile_bins_are_trained_equally_often() -> None:
    sampler = StratifiedByParameters(SPACE, n_random=2, n_bins=4)
    bins = Counter(sampler.bin_of(net or SPACE.largest()) for s in range(150) for net in draw(sampler, seed=0, step=s))
    assert sorted(bins) == [0, 1, 2, 3]
    assert min(bins.values()) > 0.75 * 300 / 4  # 75 each are expected


def test_linear_bins_train_rare_sizes_as_often_as_common_ones() -> None:
    sampler = StratifiedByParameters(SPACE, n_random=4, n_bins=4, spacing="linear")
    widths = np.diff(sampler.edges)
    np.testing.assert_allclose(widths, widths[0])
    counts = [parameter_count(SPACE.model_config, SPACE.sample(np.random.default_rng(i))).total for i in range(300)]
    uniform = np.histogram(counts, bins=sampler.edges)[0]
    assert uniform.min() < 0.5 * 300 / 4  # the space itself is far from uniform over these bins
    trained = Counter(
        sampler.bin_of(net or SPACE.largest()) for s in range(50) for net in draw(sampler, seed=0, step=s)
    )
    assert min(trained.values()) == 50


def test_networks_of_one_step_come_from_different_bins() -> None:
    sampler = StratifiedByParameters(SPACE, n_random=4, n_bins=8)
    for step in range(10):
        bins = [sampler.bin_of(net or SPACE.largest()) for net in draw(sampler, seed=1, step=step)]
        assert len(set(bins)) == 4


def test_stratification_works_where_all_networks_are_of_one_size() -> None:
    config = {"head_size": 8, "vocab_size": 32, "padded_vocab_size": 32}
    space = SearchSpace(name="one", n_embd=(8,), n_layer=(1,), n_head=(1,), mlp_ratio=(1,), config=config)
    assert draw(StratifiedByParameters(space), seed=0, step=0) == [None]


def test_progressive_shrinking_opens_depth_before_width() -> None:
    sampler = ProgressiveShrinking(SPACE, total_steps=100, n_random=4)
    largest = SPACE.largest()
    assert draw(sampler, seed=0, step=0) == [None]
    for step in range(20, 35):
        for net in draw(sampler, seed=0, step=step)[1:]:
            assert net.n_layer == 5  # the second largest choice
            assert (net.n_embd, set(net.n_head)) == (largest.n_embd, {4})
    for step in range(50, 80):
        assert all(net.n_embd == largest.n_embd for net in draw(sampler, seed=0, step=step)[1:])
    late = [net for step in range(80, 100) for net in draw(sampler, seed=0, step=step)[1:]]
    assert {net.n_embd for net in late} == set(SPACE.n_embd)
    assert {net.n_layer for net in late} == set(SPACE.n_layer)


def test_every_phase_only_adds_networks() -> None:
    sampler = ProgressiveShrinking(SPACE, total_steps=100)
    sizes = [sampler.space_at(step).num_architectures for step in range(100)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == SPACE.num_architectures


def test_phases_keep_grouped_query_attention_legal() -> None:
    space = load_space("tiny-gqa")
    sampler = ProgressiveShrinking(space, total_steps=50, n_random=3)
    for step in range(50):
        assert all(net in space for net in draw(sampler, seed=0, step=step) if net is not None)


def test_phases_are_read_from_mappings() -> None:
    sampler = ProgressiveShrinking(SPACE, total_steps=10, phases=[{"start": 0.0}, {"start": 0.5, "n_layer": 0}])
    assert sampler.phases == (Phase(0.0), Phase(0.5, n_layer=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomK(SPACE, n_random=0), "n_random = 0: give an integer of at least 1"),
        (lambda: Sandwich(SPACE, n_random=-1), "n_random = -1"),
        (lambda: StratifiedByParameters(SPACE, spacing="log"), "allowed: 'quantile', 'linear'"),
        (lambda: ProgressiveShrinking(SPACE, total_steps=10, phases=[Phase(0.3)]), "the first is 0"),
        (lambda: ProgressiveShrinking(SPACE, total_steps=10, phases=[Phase(0.0), Phase(0.0)]), "ascend"),
        (lambda: Phase(1.0), r"phase start = 1.0"),
    ],
)
def test_illegal_settings_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
