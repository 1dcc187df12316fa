import pytest
import torch
from pruning_supernets import MAIN_FAMILIES, blocks_for, calm_supernet

from pruning.lora import LoraLinear, LoraSettings, add_lora, merge_lora
from supernet.architecture import Architecture
from supernet.extract import extract


def uneven(supernet):
    """Return a pruned network of different layers, one of them without attention and one without an MLP."""
    G, Q = supernet.config.n_query_groups, supernet.config.n_head // supernet.config.n_query_groups
    arch = Architecture(32, (Q, 0, G * Q), (1, 0, G), (20, 30, 0), (0, 1, 3), bias=supernet.config.bias)
    return extract(supernet, arch)


def disturb(gpt, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in gpt.modules():
            if isinstance(module, LoraLinear):
                module.lora_b.copy_(0.1 * torch.randn(module.lora_b.shape, generator=generator))


@pytest.mark.parametrize("family", MAIN_FAMILIES)
def test_merging_changes_no_logit(family):
    supernet = calm_supernet(family)
    gpt, ids = uneven(supernet), blocks_for(supernet)
    names = [name for name, _ in gpt.named_parameters()]
    with torch.no_grad():
        plain = gpt(ids)
        add_lora(gpt, LoraSettings(rank=3))
        assert torch.equal(gpt(ids), plain)  # B is zero
        disturb(gpt)
        adapted = gpt(ids)
        assert (adapted - plain).abs().max() > 1e-3
        merge_lora(gpt)
        assert (gpt(ids) - adapted).abs().max() < 1e-5 * max(1.0, adapted.abs().max().item())
    assert [name for name, _ in gpt.named_parameters()] == names
    assert all(p.requires_grad for p in gpt.parameters())


def test_only_the_factors_are_trained_and_their_product_has_the_rank():
    gpt = add_lora(uneven(calm_supernet("llama-gqa6")), LoraSettings(rank=3))
    trained = [name for name, p in gpt.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    before = gpt.transformer.h[0].attn.qkv.linear.weight.clone()
    disturb(gpt)
    merge_lora(gpt)
    assert torch.linalg.matrix_rank(gpt.transformer.h[0].attn.qkv.weight - before, atol=1e-5) == 3


@pytest.mark.parametrize(("parts", "found"), [(("attention",), {"attn"}), (("mlp",), {"mlp"})])
def test_parts_choose_what_is_adapted(parts, found):
    gpt = add_lora(uneven(calm_supernet("pythia")), LoraSettings(rank=2, parts=parts))
    assert {name.split(".")[3] for name, m in gpt.named_modules() if isinstance(m, LoraLinear)} == found


def test_a_matrix_smaller_than_the_rank_gets_its_own_size():
    gpt = add_lora(uneven(calm_supernet("llama-gqa6")), LoraSettings(rank=1000))
    assert gpt.transformer.h[0].mlp.proj.lora_a.shape == (20, 20)


def test_the_seed_fixes_the_factors():
    a, b, c = (add_lora(uneven(calm_supernet("llama-mha")), LoraSettings(rank=2), seed=seed) for seed in (0, 0, 1))
    first = [gpt.transformer.h[0].mlp.proj.lora_a for gpt in (a, b, c)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank": 0}, "rank = 0"), ({"alpha": 0}, "alpha = 0"), ({"parts": ("head",)}, "allowed: attention, mlp")],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LoraSettings(**settings)
