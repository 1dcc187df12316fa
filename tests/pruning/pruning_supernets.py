"""Tiny random supernets for tests of pruning; the families are those of the supernet's own tests."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "supernet"))
from family_configs import FAMILIES, build_supernet, largest_arch, random_arch, random_tokens

from supernet.cost import kv_cache_elements

STORIES = Path(__file__).parents[2].parent / "shared" / "models" / "stories260K"
MAIN_FAMILIES = ("llama-gqa6", "llama-mha", "qwen2", "qwen3", "pythia", "gemma", "gemma2", "olmo2", "phi", "llama-bias")

__all__ = [
    "FAMILIES", "MAIN_FAMILIES", "STORIES", "blocks_for", "build_supernet", "calm_supernet", "kv_cache_ratio",
    "largest_arch", "random_arch", "random_tokens", "recorded_inputs",
]  # fmt: skip


def calm_supernet(family, **changes):
    """Return a random supernet with weights as small as a trained one's, which does not amplify rounding."""
    supernet = build_supernet(family, **changes)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.mul_(0.4 if parameter.dim() == 2 else 1)
    return supernet


def blocks_for(supernet, *, n=6, length=16, seed=0):
    """Return (n, length) random calibration ids."""
    return random_tokens(supernet.config, batch=n, length=length, seed=seed)


def kv_cache_ratio(config, dense, *, seq_len):
    """Return the cost function that counts the KV cache of `seq_len` tokens."""

    def predict(archs):
        values = kv_cache_elements(config, [dense, *archs], seq_len=seq_len)
        return values[1:] / values[0]

    return predict


def recorded_inputs(model, blocks, module):
    """Run a model on all blocks at once and return what `module` gets, (n, T, inputs) float64."""
    found = []
    handle = module.register_forward_pre_hook(lambda _, args: found.append(args[0].detach().double()))
    with torch.no_grad():
        model(blocks)
    handle.remove()
    return torch.cat(found)
