"""Take a sub-network out of its supernet: a dense, independent litgpt model (layers may differ)."""

from __future__ import annotations

import litgpt
import litgpt.model
import torch
from litgpt.config import Config
from torch import nn

from supernet.architecture import Architecture
from supernet.blocks import build_block
from supernet.model import Supernet, without_blocks
from supernet.selection import layer_shapes, subnet_config


def build_gpt(config: Config, arch: Architecture, *, device: torch.device | str | None = None) -> litgpt.GPT:
    """Return a freshly initialised litgpt GPT of the sub-network's shape, without a supernet.

    Args:
        config: litgpt's Config of the supernet.
        arch: the sub-network; its layers may differ in heads, groups and MLP width, and lack attention or MLP.
        device: where to build it ("meta" gives a model without data).
    """
    whole = subnet_config(config, arch)
    with torch.device(device or "cpu"):
        gpt = litgpt.GPT(without_blocks(whole))
        gpt.config = whole
        gpt.transformer["h"] = nn.ModuleList(
            litgpt.model.Block(whole, i) if arch.is_uniform else build_block(whole, shape, i)
            for i, shape in enumerate(layer_shapes(arch))
        )
    return gpt


def extract(supernet: Supernet, arch: Architecture) -> litgpt.GPT:
    """Return the sub-network as a dense, independent litgpt GPT.

    Its logits equal `supernet(idx, arch)` bit for bit in float32; its memory is its own; tied embeddings stay tied.

    Raises:
        ValueError: the supernet does not contain `arch`.
    """
    plan = supernet.plan(arch)
    own = dict(supernet.named_parameters(remove_duplicate=False))
    names = plan.subnet_names
    with torch.no_grad():
        tensors = {
            names[name]: selection.select(own[name]).clone(memory_format=torch.contiguous_format)
            for name, selection in plan.parameters.items()
        }
    gpt = build_gpt(supernet.config, arch, device="meta")
    gpt.load_state_dict(tensors, strict=True, assign=True)
    if supernet.tie_embeddings:
        gpt.lm_head.weight = gpt.transformer.wte.weight
    gpt._max_seq_length = supernet._max_seq_length
    gpt.cos, gpt.sin = supernet.cos.clone(), supernet.sin.clone()
    return gpt.train(supernet.training)
