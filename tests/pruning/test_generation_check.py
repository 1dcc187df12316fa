import pytest
import torch
from pruning_supernets import build_supernet, largest_arch
from torch import nn

from pruning.generation_check import check_hf_cache, check_litgpt_cache
from supernet import export as export_module
from supernet.export import export_hf, largest_difference
from supernet.extract import extract


class Doubling(nn.Module):
    """Doubles its input; wrong by `error` in every precision and by `rounding` in float32."""

    def __init__(self, *, error: float = 0.0, rounding: float = 0.0) -> None:
        super().__init__()
        self.error, self.rounding = error, rounding
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self) -> torch.Tensor:
        x = torch.arange(3).to(self.weight.dtype)
        return x * self.weight + self.error + (self.rounding if x.dtype == torch.float32 else 0.0)


def compared(own, other):
    return own(), other()


def test_what_only_rounding_does_is_reported_and_no_error():
    assert largest_difference(compared, Doubling(rounding=0.01), Doubling()) == pytest.approx(0.01, abs=1e-6)
    assert largest_difference(compared, Doubling(error=1e-5), Doubling()) == pytest.approx(1e-5, abs=1e-6)


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_a_difference_that_float64_has_too_is_an_error(error):
    with pytest.raises(ValueError, match=r"^these differ by .*; nothing was exported"):
        largest_difference(compared, Doubling(error=error, rounding=1.0), Doubling(), what="these differ")


def transformers_model(folder, family):
    """Return a family's network as a model of transformers."""
    from transformers import AutoModelForCausalLM

    supernet = build_supernet(family)
    arch = largest_arch(supernet.config)
    gpt = extract(supernet, arch)
    export_hf(folder, gpt, arch)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", ["llama-gqa", "pythia", "qwen3"])
def test_networks_whose_rounding_is_above_the_tolerance_are_checked_in_float64(family, tmp_path, monkeypatch):
    supernet = build_supernet(family)
    gpt = extract(supernet, largest_arch(supernet.config)).eval()
    model = transformers_model(tmp_path / "hf", family)
    monkeypatch.setattr(export_module, "TOLERANCE", 1e-7)  # `generate` gives logits in float32
    for found in (check_litgpt_cache(gpt), check_hf_cache(model, block_size=64)):
        assert 1e-6 < found < 1e-2  # what float32 says; the largest logits are about 6
    assert {p.dtype for p in (*gpt.parameters(), *model.parameters())} == {torch.float32}


def test_a_cache_that_is_wrong_is_an_error(tmp_path, monkeypatch):
    supernet = build_supernet("llama-gqa")
    gpt = extract(supernet, largest_arch(supernet.config)).eval()
    forward = type(gpt).forward

    def wrong(self, idx, input_pos=None, **given):
        later = None if input_pos is None else (input_pos - 1).clamp(min=0)
        return forward(self, idx, input_pos=later, **given)

    monkeypatch.setattr(type(gpt), "forward", wrong)
    with pytest.raises(ValueError, match=r"^generation with a KV cache and without one .* nothing was exported"):
        check_litgpt_cache(gpt)
