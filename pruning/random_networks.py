"""Networks of any shape with random weights, built fast: latency does not depend on what the weights are.

Weights are tiles of one small random block, not zeros: on GPUs multiplying zeros takes less power and runs faster.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import litgpt
import torch
from litgpt.config import Config
from torch import Tensor, nn

from hw_profiles.device import Workload
from supernet.architecture import Architecture
from supernet.extract import build_gpt

SMALL_VOCABULARY = 64  # of networks whose head is not to be timed
_TILE = 2**18
_SCALE = 0.02


def random_network(
    config: Config, arch: Architecture, workload: Workload, *, device: str = "cpu", tied: bool = False
) -> litgpt.GPT:
    """Return a network of this shape in the workload's dtype, with random weights.

    Args:
        config: litgpt's Config of the supernet.
        arch: the sub-network.
        workload: says the dtype.
        device: torch's name of the device.
        tied: let embedding and head share one matrix.
    """
    dtype = getattr(torch, workload.dtype)
    gpt = build_gpt(config, arch, device="meta").to(dtype=dtype).to_empty(device=device)
    if tied:
        gpt.lm_head.weight = gpt.transformer.wte.weight
    gpt.cos, gpt.sin = (table.to(dtype) for table in gpt.rope_cache(device=torch.device(device)))
    for name, parameter in gpt.named_parameters():
        parameter.requires_grad_(False)
        if parameter.dim() > 1:
            _fill(parameter, _tile(str(parameter.device), dtype))
        else:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return gpt.eval()


def without_blocks(config: Config, arch: Architecture, workload: Workload, *, device: str = "cpu") -> litgpt.GPT:
    """Return the same network with no block at all: embedding, final norm and head."""
    one = replace(
        arch, n_head=arch.n_head[:1], n_query_groups=arch.n_query_groups[:1],
        intermediate_size=arch.intermediate_size[:1], layers=arch.layers[:1],
    )  # fmt: skip
    gpt = random_network(config, one, workload, device=device)
    gpt.transformer["h"] = nn.ModuleList()
    return gpt


def small_vocabulary(config: Config) -> Config:
    """Return the config of the same network with a vocabulary so small that the head costs next to nothing."""
    size = min(SMALL_VOCABULARY, config.padded_vocab_size or SMALL_VOCABULARY)
    return replace(config, vocab_size=size, padded_vocab_size=size)


def like_layers(
    config: Config, n_layer: int, *, attention: tuple[int, int] | None = None, neurons: int | None = None,
    n_embd: int | None = None,
) -> Architecture:  # fmt: skip
    """Return the first `n_layer` blocks, all of one shape; what is not given is whole, (0, 0) and 0 are absent."""
    heads, groups = (config.n_head, config.n_query_groups) if attention is None else attention
    width = config.intermediate_size if neurons is None else neurons
    return Architecture(
        n_embd=n_embd or config.n_embd,
        n_head=(heads,) * n_layer,
        n_query_groups=(groups,) * n_layer,
        intermediate_size=(width,) * n_layer,
        layers=tuple(range(n_layer)),
        bias=config.bias,
    )


@cache
def _tile(device: str, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(_TILE, generator=generator) * _SCALE).to(device=device, dtype=dtype)


def _fill(parameter: Tensor, tile: Tensor) -> None:
    flat = parameter.detach().view(-1)
    for piece in flat.split(len(tile)):
        piece.copy_(tile[: len(piece)])
