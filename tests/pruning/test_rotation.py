import pytest
import torch
from pruning_supernets import STORIES, blocks_for, calm_supernet

from pruning.collection import collect_moments
from pruning.rotation import principal_rotation, rotate
from supernet.architecture import Architecture
from supernet.checkpoint import load_supernet

RMS_FAMILIES = ("llama-gqa6", "llama-mha", "llama-bias", "qwen2", "qwen3", "mistral", "phi3", "gemma")


def assert_same_logits(one, other, idx):
    with torch.no_grad():
        expected = one(idx)
        assert (other(idx) - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max())


def rotation_of(supernet):
    return principal_rotation(collect_moments(supernet, blocks_for(supernet), extras=("residual",)))


@pytest.mark.parametrize("family", RMS_FAMILIES)
def test_rotating_keeps_the_logits(family):
    supernet = calm_supernet(family)
    rotated = rotate(supernet, rotation_of(supernet))
    assert_same_logits(supernet, rotated, blocks_for(supernet, seed=5))
    for name, parameter in rotated.named_parameters():
        if "norm_1" in name or "norm_2" in name or "ln_f" in name:
            assert torch.equal(parameter, torch.full_like(parameter, 0.0 if family == "gemma" else 1.0))


@pytest.mark.parametrize("family", ["llama-gqa6", "gemma"])
def test_tied_embeddings_stay_tied_where_the_last_norm_has_one_scale(family):
    supernet = calm_supernet(family, tied=True)
    with torch.no_grad():
        supernet.transformer.ln_f.weight.fill_(0.7)
    rotated = rotate(supernet, rotation_of(supernet))
    assert rotated.lm_head.weight is rotated.transformer.wte.weight
    assert_same_logits(supernet, rotated, blocks_for(supernet))


def test_tied_embeddings_with_scales_of_the_last_norm_must_be_untied():
    supernet = calm_supernet("llama-gqa", tied=True)
    rotation = rotation_of(supernet)
    with pytest.raises(ValueError, match="Give untie=True"):
        rotate(supernet, rotation)
    rotated = rotate(supernet, rotation, untie=True)
    assert not rotated.tie_embeddings and rotated.lm_head.weight is not rotated.transformer.wte.weight
    assert_same_logits(supernet, rotated, blocks_for(supernet))
    assert supernet.tie_embeddings


@pytest.mark.parametrize(
    ("family", "reason"), [("pythia", "norms of class LayerNorm"), ("gemma2", "norms after"), ("olmo2", "norms after")]
)
def test_families_that_a_rotation_would_change_are_refused(family, reason):
    supernet = calm_supernet(family)
    with pytest.raises(ValueError, match=reason):
        rotate(supernet, torch.eye(32))


def test_the_principal_directions_come_first_and_are_uncorrelated():
    supernet = calm_supernet("llama-gqa6")
    blocks = blocks_for(supernet)
    found = collect_moments(rotate(supernet, rotation_of(supernet)), blocks, extras=("residual",)).residual
    strengths = found.diagonal()
    assert (strengths.diff() < 1e-4).all() and strengths[0] > 2 * strengths[-1]
    assert (found - strengths.diag()).abs().max() < 1e-3


def test_a_matrix_that_is_not_orthogonal_is_refused():
    supernet = calm_supernet("llama-gqa")
    for wrong in (torch.eye(31), 2 * torch.eye(32)):
        with pytest.raises(ValueError, match="give an orthogonal matrix of shape \\(32, 32\\)"):
            rotate(supernet, wrong)
    with pytest.raises(ValueError, match="no second moments of the residual stream"):
        principal_rotation(collect_moments(supernet, blocks_for(supernet)))


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not there")
def test_a_real_network_loses_less_in_its_principal_directions_than_without_an_order():
    supernet = load_supernet(STORIES).supernet.eval()
    blocks = blocks_for(supernet, n=4, length=64)
    moments = collect_moments(supernet, blocks, extras=("residual",))
    rotated = rotate(supernet, principal_rotation(moments), untie=True)
    assert_same_logits(supernet, rotated, blocks)
    config = supernet.config
    arch = Architecture.uniform(
        n_embd=config.n_embd - 8, n_layer=config.n_layer, n_head=config.n_head, n_query_groups=config.n_query_groups,
        intermediate_size=config.intermediate_size, bias=False,
    )  # fmt: skip
    with torch.no_grad():
        expected = supernet(blocks).log_softmax(-1)

        def divergence(network):
            found = network(blocks, arch).log_softmax(-1)
            return (expected.exp() * (expected - found)).sum(-1).mean()

        assert divergence(rotated) < divergence(supernet)
