"""Which arithmetic the forwards of a search use: bfloat16 where the device computes in it and the network is large.

Matrix products in bfloat16 take about half the time on CPUs that have instructions for them; elsewhere they are
emulated and slower. Weights, residual streams, sums and least squares stay float32 (autocast).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import litgpt
import torch

from supernet.evaluate import PRECISIONS

Precision: TypeAlias = Literal["auto", "32", "bf16"]
_CPU_HAS = ("avx512_bf16", "amx_bf16", "bf16")  # x86 and Arm
_LARGE = 20_000_000  # parameters; in smaller networks casting costs what the products save


def check_precision(asked: str) -> None:
    """Refuse an unknown precision.

    Raises:
        ValueError: names what is allowed.
    """
    if asked not in ("auto", *PRECISIONS):
        raise ValueError(f"precision = {asked!r}; allowed: auto, {', '.join(PRECISIONS)}")


def resolved_precision(asked: Precision, gpt: litgpt.GPT, device: str | torch.device) -> Literal["32", "bf16"]:
    """Return the precision itself, or what "auto" stands for: "bf16" where it is faster, else "32"."""
    check_precision(asked)
    if asked != "auto":
        return asked
    large = sum(parameter.numel() for parameter in gpt.parameters()) >= _LARGE
    return "bf16" if large and has_bfloat16(device) else "32"


def has_bfloat16(device: str | torch.device) -> bool:
    """Return whether a device multiplies matrices in bfloat16 by its own instructions."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.device(device).type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in _CPU_HAS)
