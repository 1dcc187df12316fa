"""GGUF's Llama-like architectures in litgpt's words: metadata <-> Config.

Facts are from llama.cpp: `llama` has one shape for all blocks, `deci` takes heads, groups and MLP width of each block
from arrays. A shape is (heads, groups, neurons) of one block; D is head_size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from litgpt.config import Config
from torch import Tensor

from supernet.hf_layouts import LAYOUTS
from supernet.huggingface import refusals

Metadata = Mapping[str, Any]
Tensors = Mapping[str, Tensor]
Shape = tuple[int, int, int]

# general.architecture -> arguments of litgpt's Config
_NAMES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"name": "Llama"}, "deci": {"name": "Llama"}, "qwen2": {"name": "Qwen2.5"},
    "qwen3": {"name": "Qwen3", "norm_qk": True},
}  # fmt: skip
ARCHITECTURES = tuple(_NAMES)
ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}  # of all Llama 3 models; GGUF has no place for others
_DUMMY_NEURONS = 32  # rows of whole quantisation blocks
_NEEDED = (
    "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
    "attention.layer_norm_rms_epsilon",
)  # fmt: skip
_BIASES = ("attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")  # litgpt's Config.bias
# metadata that changes the result and has no counterpart here
_UNSUPPORTED = (
    "expert_count", "attention.scale", "attention.sliding_window", "logit_scale", "residual_scale", "embedding_scale",
)  # fmt: skip


# --- reading ---------------------------------------------------------------------------------------------------------


def architecture_metadata(metadata: Metadata) -> tuple[str, dict[str, Any]]:
    """Return the architecture of a GGUF file, and its metadata without the architecture's prefix.

    Raises:
        ValueError: an unsupported architecture or feature (named), or a key that is missing.
    """
    if metadata.get("split.count", 1) > 1:
        raise ValueError(f"this is one part of {metadata['split.count']}: merge them with llama-gguf-split --merge")
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        raise ValueError(f"GGUF architecture {name!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    own = {key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")}
    for key in _NEEDED:
        if key not in own:
            raise ValueError(f"the file has no {name}.{key}: it is no whole model")
    for key in _UNSUPPORTED:
        if own.get(key):
            raise ValueError(f"a {name} model with {name}.{key} = {own[key]} is not supported")
    kind = own.get("rope.scaling.type", "none")
    if kind not in ("none", "linear"):
        raise ValueError(f"RoPE scaling {kind!r} is not supported; supported: linear, and Llama 3's factors")
    return name, own


def read_config(name: str, own: Metadata, tensors: Tensors) -> Config:
    """Return litgpt's Config of a GGUF model; where blocks differ, of the widest block.

    Args:
        name: the architecture.
        own: its metadata (`architecture_metadata`).
        tensors: by GGUF's names, dequantised.

    Raises:
        ValueError: an unsupported feature (named), or a tensor that is missing.
    """
    shapes = block_shapes(own)
    heads, groups, _ = max((1, 1, 0), *shapes)
    head_size = own.get("attention.key_length") or own["embedding_length"] // heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.get(key, head_size) != head_size:
            raise ValueError(f"{name}.{key} = {own[key]} with heads of {head_size} is not supported")
    vocabulary = tensor_of(tensors, "token_embd.weight").shape[0]
    bias = any(
        tensor.endswith(("attn_output.bias", "ffn_gate.bias", "ffn_up.bias", "ffn_down.bias")) for tensor in tensors
    )
    base = _plain(own.get("rope.freq_base", 10000.0))
    return Config(
        **_NAMES[name], block_size=own["context_length"], n_layer=len(shapes), n_embd=own["embedding_length"],
        n_head=heads, n_query_groups=groups, head_size=head_size, intermediate_size=max(f for _, _, f in shapes),
        vocab_size=vocabulary, padded_vocab_size=vocabulary, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        norm_eps=_plain(own["attention.layer_norm_rms_epsilon"]), parallel_residual=False, rotary_percentage=1.0,
        bias=bias, attn_bias=not bias and any(tensor.endswith("attn_q.bias") for tensor in tensors),
        rope_base=int(base) if base.is_integer() else base, rope_adjustments=_read_rope(own, tensors, head_size, base),
    )  # fmt: skip


def tensor_of(tensors: Tensors, name: str) -> Tensor:
    """Return a tensor by its name in the file; raises ValueError where there is none."""
    if name not in tensors:
        raise ValueError(f"the file has no tensor {name}: it is no whole model")
    return tensors[name]


def block_shapes(own: Metadata) -> list[Shape]:
    """Return heads, groups and MLP neurons of each block; `own` is the metadata without the architecture's prefix."""

    def of_each(key: str, default: Any = None) -> list[int]:
        value = own.get(key, default)
        return [int(v) for v in value] if isinstance(value, Sequence) else [int(value)] * own["block_count"]

    heads = of_each("attention.head_count")
    shapes = zip(heads, of_each("attention.head_count_kv", heads), of_each("feed_forward_length"), strict=True)
    found = [(h, g, f) for h, g, f in shapes]
    for i, (h, g, _) in enumerate(found):
        if h and not g:
            raise ValueError(f"block {i} has {h} heads and no key/value heads (linear attention): not supported")
    return found


def _plain(value: float) -> float:
    """Return the shortest decimal number with the same float32: 1e-5, and not 9.99999974738e-06."""
    return float(str(torch.tensor(value, dtype=torch.float32).numpy()))


def _read_rope(own: Metadata, tensors: Tensors, head_size: int, base: float) -> dict[str, Any] | None:
    if own.get("rope.scaling.type") == "linear" and own.get("rope.scaling.factor", 1.0) != 1.0:
        return {"factor": _plain(own["rope.scaling.factor"])}
    factors = tensors.get(ROPE_FACTORS)
    if factors is None or bool((factors == 1).all()):
        return None
    context = int(own.get("rope.scaling.original_context_length", 8192))
    scaling = _LLAMA3 | {"factor": _plain(float(factors.max())), "original_max_seq_len": context}
    if not torch.allclose(rope_factors(scaling, head_size, base), factors.float(), rtol=1e-3):
        raise ValueError(f"the RoPE factors in {ROPE_FACTORS} are not Llama 3's: not supported")
    return scaling


def rope_factors(scaling: Mapping[str, float], head_size: int, base: float) -> Tensor:
    """Return what Llama 3's RoPE scaling divides each frequency by, (D / 2,) float32.

    Short waves are kept, long ones stretched by `factor`, those between interpolated by their number in the context.
    """
    frequencies = base ** -(torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    waves = scaling["original_max_seq_len"] * frequencies / (2 * math.pi)  # in the original context
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = ((waves - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - kept) / scaling["factor"] + kept)).float()


# --- writing ---------------------------------------------------------------------------------------------------------


def check_writable(config: Config) -> None:
    """Raise ValueError unless the `llama` and `deci` architectures hold networks of this config; says what not."""
    llama = next(layout for layout in LAYOUTS if layout.model_type == "llama")
    found = refusals(replace(llama, heads="free"), config)
    scaling = config.rope_adjustments or {}
    if any(scaling.get(key, value) != value for key, value in _LLAMA3.items()):
        found.append(f"RoPE scaling {scaling} (Llama 3's low and high factors are 1 and 4)")
    if found:
        raise ValueError(f"GGUF's llama architecture cannot have: {'; '.join(found)}. Export it with format=litgpt.")


def write_config(config: Config, shapes: Sequence[Shape], name: str) -> dict[str, Any]:
    """Return the metadata of a network under GGUF's keys.

    Args:
        config: litgpt's Config of the network.
        shapes: heads, groups and MLP neurons of each block, dummies included (`written_shapes`).
        name: "llama" when all are equal, "deci".
    """
    heads, groups, neurons = ([shape[i] for shape in shapes] for i in range(3))
    one = name == "llama"
    found: dict[str, Any] = {
        "vocab_size": config.padded_vocab_size, "context_length": config.block_size,
        "embedding_length": config.n_embd, "block_count": len(shapes),
        "feed_forward_length": neurons[0] if one else neurons, "attention.head_count": heads[0] if one else heads,
        "attention.head_count_kv": groups[0] if one else groups, "attention.key_length": config.head_size,
        "attention.value_length": config.head_size, "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.dimension_count": config.head_size, "rope.freq_base": float(config.rope_base),
    }  # fmt: skip
    scaling = config.rope_adjustments or {}
    linear = config.rope_condense_ratio if config.rope_condense_ratio != 1 else scaling.get("factor")
    if "low_freq_factor" in scaling:
        found["rope.scaling.original_context_length"] = int(scaling["original_max_seq_len"])
    elif linear:
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(linear)}
    return {f"{name}.{key}": value for key, value in found.items()}


def written_shapes(shapes: Sequence[Shape]) -> list[Shape]:
    """Return the shapes that llama.cpp's `deci` runs as meant: with a part of zeros where it would go wrong.

    It skips the rest of a block with no neurons, attention included, and takes the head size of a network whose first
    block has no heads for 0.
    """
    found = [(h, g, f or _DUMMY_NEURONS) for h, g, f in shapes]
    heads, groups, neurons = found[0]
    return [(heads or 1, groups or 1, neurons), *found[1:]]
