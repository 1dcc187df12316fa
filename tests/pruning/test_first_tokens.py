from dataclasses import replace

import pytest
import torch
from pruning_supernets import blocks_for, build_supernet, calm_supernet, recorded_inputs

from pruning.collection import collect_moments
from pruning.first_tokens import first_tokens, with_first_tokens
from pruning.moments import load_moments, save_moments
from pruning.realise import realise
from pruning.structure import PARTS
from supernet.litgpt_config import whole_architecture


def test_first_tokens_are_every_sixteenth_token_of_each_block():
    ids = torch.arange(6 * 16).view(6, 16)
    assert first_tokens(ids).tolist() == [[0], [16], [32], [48], [64], [80]]
    assert first_tokens(ids.view(3, 32)[:, :31]).tolist() == [[0], [16], [32], [48], [64], [80]]
    assert first_tokens(torch.tensor([[7, 8], [5, 6]])).tolist() == [[7], [5]]


@pytest.mark.parametrize("family", ["llama-gqa6", "pythia"])
def test_means_and_second_moments_are_those_of_blocks_and_first_tokens_together(family):
    supernet = build_supernet(family)
    blocks = blocks_for(supernet, n=8)
    plain = collect_moments(supernet, blocks)
    found = with_first_tokens(supernet, plain, blocks, batch_size=3)
    for layer in range(supernet.config.n_layer):
        for part in PARTS:
            block = supernet.transformer.h[layer]
            module = block.attn.proj if part == "attention" else block.mlp.proj
            texts = (blocks, first_tokens(blocks))
            rows = torch.cat([recorded_inputs(supernet, ids, module).flatten(0, 1) for ids in texts]).double()
            own = found.of(layer, part)
            assert len(rows) == 8 * 16 + 8 and own.n_tokens == 8 * 16
            torch.testing.assert_close(own.second.double(), rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(own.mean, rows.mean(0), rtol=1e-4, atol=1e-6)
            for field in ("variance", "activation"):
                assert torch.equal(getattr(own, field), getattr(plain.of(layer, part), field))
    assert torch.equal(found.influence, plain.influence) and found.n_tokens == plain.n_tokens


def test_saved_moments_are_those_that_were_saved(tmp_path):
    supernet = build_supernet("llama-gqa6")
    blocks = blocks_for(supernet, n=8)
    moments = with_first_tokens(supernet, collect_moments(supernet, blocks), blocks)
    again = load_moments(save_moments(tmp_path / "moments.safetensors", moments))
    for key, own in moments.inputs.items():
        other = again.inputs[key]
        assert own.n_tokens == other.n_tokens
        assert torch.equal(own.second, other.second) and torch.equal(own.mean, other.mean)


def test_unseen_first_tokens_are_nearer_to_what_the_dense_network_makes_of_them():
    supernet = calm_supernet("llama-gqa6")
    blocks = blocks_for(supernet, n=64, length=24)
    unseen = blocks_for(supernet, n=96, length=1, seed=9)
    whole = whole_architecture(supernet.config)
    arch = replace(whole, intermediate_size=(20,) * whole.n_layer)
    wanted = recorded_inputs(supernet, unseen, supernet.transformer.ln_f)

    def distance(network):
        return (recorded_inputs(network, unseen, network.transformer.ln_f) - wanted).square().mean().item()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pruning.realise.first_tokens", lambda ids: ids[:1, :1])
        without = distance(realise(supernet, arch, blocks, target="dense").gpt)
    assert distance(realise(supernet, arch, blocks, target="dense").gpt) < without
