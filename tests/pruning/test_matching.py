"""Families grown or shrunk to equal latency or equal parameters."""

import pytest
from pruning_supernets import blocks_for, calm_supernet

from pruning.baselines import baseline
from pruning.families import Family, trunk_parameters
from pruning.matching import match_latency, match_params
from pruning.prepared import prepare
from supernet.architecture import Architecture
from supernet.cost import parameter_count


def wide(size):
    return Architecture.uniform(n_embd=8, n_layer=1, n_head=1, intermediate_size=size[0])


def family_of(*ladders):
    return Family("made up", tuple(tuple((n,) for n in ladder) for ladder in ladders), wide, lambda size: None)


def hundredths(arch):
    return arch.intermediate_size[0] / 100


@pytest.mark.parametrize("target", [0.10, 0.255, 0.5, 0.734, 0.99])
def test_the_match_is_the_largest_network_within_a_point(target):
    sizes = range(10, 101)
    match = match_latency(family_of(sizes), target, hundredths)
    assert match.size[0] == max(n for n in sizes if n / 100 <= target + 0.01 + 1e-9)
    assert match.within and match.ratio == match.size[0] / 100
    assert len(match.tried) <= 9  # bisection, not a scan
    assert dict(match.tried)[match.size] == match.ratio


def test_coarse_steps_give_the_network_below_and_name_the_one_above():
    match = match_latency(family_of((60, 70, 80, 90, 100)), 0.75, hundredths)
    assert match.size == (70,) and not match.within
    assert match.above == ((80,), 0.8)


def test_a_later_ladder_is_used_only_where_the_first_does_not_reach():
    family = family_of((60, 80, 100), (20, 55, 79))
    assert match_latency(family, 0.82, hundredths).size == (80,)
    assert match_latency(family, 0.57, hundredths).size == (55,)


def test_an_unreachable_target_names_the_smallest_ratio():
    with pytest.raises(ValueError, match=r"smallest network \(20,\) is at 0\.200"):
        match_latency(family_of((60, 100), (20, 50)), 0.1, hundredths)


def test_a_target_of_the_dense_network_gives_the_dense_network():
    match = match_latency(family_of((60, 100)), 1.0, hundredths)
    assert match.size == (100,) and match.above is None


def test_parameters_are_those_of_the_trunk():
    supernet = calm_supernet("llama-gqa6").eval()
    prepared = prepare(supernet, blocks_for(supernet))
    family, config = baseline("magnitude", prepared), supernet.config
    match = match_params(family, 0.75, config)
    dense = trunk_parameters(config, prepared.whole)
    assert dense == parameter_count(config, prepared.whole).decoder
    found = sum(p.numel() for n, p in family.at(match.size).gpt.named_parameters() if "wte" not in n and "lm_" not in n)
    assert match.ratio == found / dense <= 0.751
    assert match.above[1] > 0.751
