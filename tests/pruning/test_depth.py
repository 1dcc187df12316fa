import pytest
import torch
from pruning_supernets import blocks_for, build_supernet, largest_arch

from pruning.collection import collect_moments
from pruning.depth import angular_distances, block_influence, without_blocks, without_least_influential
from supernet.architecture import Architecture


def test_a_block_that_does_nothing_has_no_influence_and_goes_first():
    supernet = build_supernet("llama-gqa")
    with torch.no_grad():
        for part in ("attn", "mlp"):
            getattr(supernet.transformer.h[2], part).proj.weight.zero_()
    moments = collect_moments(supernet, blocks_for(supernet), extras=("angles",))
    for of in ("block", "attention", "mlp"):
        influence = block_influence(moments, of)
        assert influence[2] == pytest.approx(0, abs=1e-6) and influence[[0, 1, 3]].min() > 0.01
    assert angular_distances(moments, 1).argmin() == 2
    arch = without_least_influential(largest_arch(supernet.config), moments, 1)
    assert arch.layers == (0, 1, 3)


def test_angular_distances_of_runs_compare_the_streams_around_them():
    supernet = build_supernet("pythia")
    moments = collect_moments(supernet, blocks_for(supernet), extras=("angles",))
    for n in (1, 2, 4):
        found = angular_distances(moments, n)
        assert found.tolist() == [moments.angles[i, i + n].item() for i in range(5 - n)]


def test_blocks_are_left_out_at_their_positions():
    arch = Architecture(8, (1, 2, 4), (1, 1, 2), (5, 6, 7), (0, 2, 3))
    assert without_blocks(arch, [1]) == Architecture(8, (1, 4), (1, 2), (5, 7), (0, 3))


def test_bad_requests_say_what_is_allowed():
    supernet = build_supernet("llama-gqa")
    moments = collect_moments(supernet, blocks_for(supernet))
    with pytest.raises(ValueError, match="allowed: block, attention, mlp"):
        block_influence(moments, "head")
    with pytest.raises(ValueError, match="no angles"):
        angular_distances(moments, 1)
    with pytest.raises(ValueError, match="0 to 3"):
        without_least_influential(largest_arch(supernet.config), moments, 4)
