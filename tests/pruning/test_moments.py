import pytest
import torch
from pruning_supernets import blocks_for, build_supernet

from pruning.collection import collect_moments
from pruning.moments import load_moments, save_moments


@pytest.mark.parametrize("extras", [(), ("angles", "residual")])
def test_saved_moments_come_back_bit_for_bit(extras, tmp_path):
    supernet = build_supernet("llama-gqa6")
    moments = collect_moments(supernet, blocks_for(supernet), extras=extras)
    found = load_moments(save_moments(tmp_path / "moments.safetensors", moments))
    assert found.n_tokens == moments.n_tokens and list(found.inputs) == list(moments.inputs)
    for key, value in moments.inputs.items():
        for field in ("second", "mean", "variance", "activation"):
            assert torch.equal(getattr(found.inputs[key], field), getattr(value, field))
    for field in ("channels", "influence", "angles", "residual"):
        one, other = getattr(found, field), getattr(moments, field)
        assert one is other is None or torch.equal(one, other)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no moments at"):
        load_moments(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"half a fi")
    with pytest.raises(ValueError, match=r"bad\.safetensors holds no moments"):
        load_moments(tmp_path / "bad.safetensors")


def test_reordered_moments_are_those_of_reordered_inputs():
    supernet = build_supernet("llama-gqa6")
    inputs = collect_moments(supernet, blocks_for(supernet), dtype=torch.float64).of(1, "mlp")
    index = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    found = inputs.reordered(index)
    for i, j in [(0, 5), (7, 7), (47, 2)]:
        assert found.second[i, j] == inputs.second[index[i], index[j]]
        assert found.mean[i] == inputs.mean[index[i]] and found.variance[j] == inputs.variance[index[j]]
