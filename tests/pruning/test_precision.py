import pytest
import torch
from pruning_supernets import build_supernet

from pruning import precision
from pruning.precision import has_bfloat16, resolved_precision
from pruning.settings import PruneSettings

CAPABILITIES = "get_capabilities"


@pytest.fixture
def small():
    return build_supernet("llama-gqa6")


@pytest.mark.parametrize(("flag", "expected"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512_f", False)])
def test_a_cpu_has_bfloat16_where_it_has_instructions_for_it(monkeypatch, flag, expected):
    monkeypatch.setattr(torch.cpu, CAPABILITIES, lambda: {flag: True, "avx2": True}, raising=False)
    assert has_bfloat16("cpu") is expected


def test_a_torch_that_does_not_say_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, CAPABILITIES, raising=False)
    assert not has_bfloat16("cpu")


def test_auto_is_bf16_for_large_networks_where_the_device_has_it(monkeypatch, small):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: True)
    assert resolved_precision("auto", small, "cpu") == "32"
    monkeypatch.setattr(precision, "_LARGE", sum(p.numel() for p in small.parameters()))
    assert resolved_precision("auto", small, "cpu") == "bf16"
    assert PruneSettings().resolved(small).precision == "bf16"
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: False)
    assert resolved_precision("auto", small, "cpu") == "32"


def test_what_is_asked_for_is_taken(small):
    assert resolved_precision("bf16", small, "cpu") == "bf16"
    assert PruneSettings(precision="32").resolved(small).precision == "32"
    with pytest.raises(ValueError, match="precision = '16'; allowed: auto, 32, bf16"):
        PruneSettings(precision="16")
