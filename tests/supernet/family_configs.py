"""Tiny random litgpt configs of every supported family, and random sub-networks of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from litgpt.config import Config

from supernet.architecture import Architecture
from supernet.model import Supernet

SIZES: dict[str, Any] = {
    "n_layer": 4, "n_embd": 32, "n_head": 4, "head_size": 8, "block_size": 24, "vocab_size": 61,
    "padded_vocab_size": 64,
}  # fmt: skip
_LLAMA: dict[str, Any] = {
    **SIZES, "norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "intermediate_size": 48, "bias": False,
    "parallel_residual": False, "rotary_percentage": 1.0,
}  # fmt: skip
_NEOX: dict[str, Any] = {**SIZES, "intermediate_size": 64, "rotary_percentage": 0.25}
_GEMMA: dict[str, Any] = {
    **_LLAMA, "mlp_class_name": "GemmaMLP", "gelu_approximate": "tanh", "scale_embeddings": True, "head_size": 16,
    "n_query_groups": 2,
}  # fmt: skip
_GEMMA2: dict[str, Any] = {
    **_GEMMA, "name": "Gemma-2", "post_attention_norm": True, "post_mlp_norm": True, "attention_scores_scalar": 24,
    "sliding_window_size": 7, "sliding_window_indices": [1, 0, 1, 0], "attention_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
}  # fmt: skip
_LLAMA3_ROPE = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_seq_len": 16}

# name -> arguments of litgpt.Config
FAMILIES: dict[str, dict[str, Any]] = {
    "pythia": {**_NEOX, "name": "pythia"},
    "neox-sequential-tanh": {**_NEOX, "name": "neox", "parallel_residual": False, "gelu_approximate": "tanh"},
    "gpt-gqa": {**_NEOX, "name": "gpt-gqa", "n_query_groups": 2},
    "starcoder": {**_NEOX, "name": "starcoder", "n_query_groups": 2, "parallel_residual": False,
                  "rotary_percentage": 1.0},
    "llama-mha": {**_LLAMA, "name": "Llama-mha"},
    "llama-gqa": {**_LLAMA, "name": "Llama-gqa", "n_query_groups": 2, "rope_adjustments": _LLAMA3_ROPE},
    "llama-mqa": {**_LLAMA, "name": "Llama-mqa", "n_query_groups": 1, "rope_condense_ratio": 2},
    "llama-bias": {**_LLAMA, "name": "Llama-bias", "n_query_groups": 2, "bias": True},
    "llama-gqa6": {**_LLAMA, "name": "Llama-6", "n_head": 6, "n_query_groups": 2},
    "mistral": {**_LLAMA, "name": "Mistral", "n_query_groups": 2, "sliding_window_size": 6},
    "qwen2": {**_LLAMA, "name": "Qwen2.5", "n_query_groups": 2, "attn_bias": True},
    "qwen3": {**_LLAMA, "name": "Qwen3", "n_query_groups": 2, "head_size": 16, "norm_qk": True},
    "phi": {**_NEOX, "name": "phi-2", "shared_attention_norm": True, "lm_head_bias": True, "gelu_approximate": "tanh",
            "rotary_percentage": 0.5},
    "phi3": {**_LLAMA, "name": "Phi-3", "n_query_groups": 2, "rotary_percentage": 0.5},
    "gemma": {**_GEMMA, "name": "Gemma"},
    "gemma2": _GEMMA2,
    "gemma3": {**_GEMMA2, "name": "Gemma-3", "attention_logit_softcapping": None, "final_logit_softcapping": None,
               "norm_qk": True, "rope_local_base_freq": 100.0, "rope_base": 1000000, "rope_indices": [1, 0, 1, 0],
               "rope_adjustments": {"factor": 4.0}},
    "olmo": {**_LLAMA, "name": "OLMo", "norm_class_name": "LayerNorm"},
    "olmo2": {**_LLAMA, "name": "OLMo-2-", "norm_qk": True, "norm_qk_type": "olmo2", "norm_1": False, "norm_2": False,
              "post_attention_norm": True, "post_mlp_norm": True, "n_query_groups": 2},
    "stablelm": {**_LLAMA, "name": "stablelm", "norm_class_name": "LayerNorm", "rotary_percentage": 0.25},
    "falcon-7b": {**_NEOX, "name": "falcon-7b", "bias": False, "shared_attention_norm": True, "n_query_groups": 1,
                  "rotary_percentage": 1.0},
    "falcon-40b": {**_NEOX, "name": "falcon-40b", "bias": False, "n_query_groups": 2, "rotary_percentage": 1.0},
}  # fmt: skip
# families that stock transformers holds at their full size, and the class that holds them
HF_CLASSES = {
    "pythia": "GPTNeoXForCausalLM", "neox-sequential-tanh": "GPTNeoXForCausalLM", "starcoder": "Starcoder2ForCausalLM",
    "llama-mha": "LlamaForCausalLM", "llama-gqa": "LlamaForCausalLM", "llama-mqa": "LlamaForCausalLM",
    "llama-bias": "LlamaForCausalLM", "llama-gqa6": "MistralForCausalLM", "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "phi": "PhiForCausalLM", "phi3": "Phi3ForCausalLM",
    "gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM", "gemma3": "Gemma3ForCausalLM",
    "olmo": "OlmoForCausalLM", "olmo2": "Olmo2ForCausalLM", "stablelm": "StableLmForCausalLM",
    "falcon-7b": "FalconForCausalLM", "falcon-40b": "FalconForCausalLM",
}  # fmt: skip


def build_supernet(family: str, *, seed: int = 0, tied: bool = False, **changes: Any) -> Supernet:
    """Return a supernet of a family, all of whose parameters (norms and biases too) are random."""
    supernet = Supernet(Config(**{**FAMILIES[family], **changes}), tie_embeddings=tied)
    randomise(supernet, seed)
    return supernet.eval()


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """Give every parameter random values: weights that let attention and MLP matter, norms around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.2 * noise if is_norm else 0.3 * noise)


def random_tokens(config: Config, *, batch: int = 2, length: int = 12, seed: int = 0) -> torch.Tensor:
    """Return (batch, length) token indices."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.padded_vocab_size, (batch, length), generator=generator)


def random_arch(config: Config, rng: np.random.Generator, *, uniform: bool = False) -> Architecture:
    """Draw any sub-network in the supernet of `config`: layer subsets, heads and groups, odd widths, bias."""
    depth = int(rng.integers(1, config.n_layer + 1))
    layers = tuple(sorted(int(i) for i in rng.permutation(config.n_layer)[:depth]))
    heads_per_group = config.n_head // config.n_query_groups
    shapes = []
    for _ in layers:
        groups = int(rng.integers(1, config.n_query_groups + 1))
        heads = groups * int(rng.integers(1, heads_per_group + 1))
        shapes.append((heads, groups, int(rng.integers(1, config.intermediate_size + 1))))
    shapes = [shapes[0]] * depth if uniform else shapes
    return Architecture(
        n_embd=int(rng.integers(1, config.n_embd + 1)),
        n_head=tuple(h for h, _, _ in shapes),
        n_query_groups=tuple(g for _, g, _ in shapes),
        intermediate_size=tuple(f for _, _, f in shapes),
        layers=layers,
        bias=bool(rng.integers(2)) if config.bias else False,
    )


def largest_arch(config: Config) -> Architecture:
    """Return the architecture of the whole supernet."""
    return Architecture.uniform(
        n_embd=config.n_embd,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_query_groups=config.n_query_groups,
        intermediate_size=config.intermediate_size,
        bias=config.bias,
    )
