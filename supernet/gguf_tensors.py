"""The tensors of GGUF's Llama-like architectures by litgpt's names, and back.

llama.cpp rotates neighbouring entries of a head where litgpt and Hugging Face rotate its halves, so `llama` and `deci`
store the rows of q and k in another order; qwen2 and qwen3 keep litgpt's.

Shapes: C n_embd, D head_size; a block's shape is (heads, groups, MLP neurons).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from litgpt.config import Config
from torch import Tensor

from supernet.gguf_layout import ROPE_FACTORS, Shape, Tensors, rope_factors, tensor_of

_PERMUTED = ("llama", "deci")
_BLOCK = {
    "norm_1": "attn_norm", "attn.proj": "attn_output", "attn.norm_q": "attn_q_norm", "attn.norm_k": "attn_k_norm",
    "norm_2": "ffn_norm", "mlp.fc_1": "ffn_gate", "mlp.fc_2": "ffn_up", "mlp.proj": "ffn_down",
}  # fmt: skip
_SHARED = {"transformer.wte": "token_embd", "transformer.ln_f": "output_norm", "lm_head": "output"}
_ATTENTION, _MLP = ("norm_1", "attn.proj"), ("norm_2", "mlp.fc_1", "mlp.fc_2", "mlp.proj")


# --- reading ---------------------------------------------------------------------------------------------------------


def read_weights(tensors: Tensors, config: Config, shapes: Sequence[Shape], name: str) -> dict[str, Tensor]:
    """Return the tensors by litgpt's names, q and k in litgpt's order; biases that litgpt wants besides are zero.

    Blocks without any part are left out.

    Args:
        tensors: by GGUF's names.
        config: of `read_config`.
        shapes: of the blocks, without dummy parts (`real_shapes`).
        name: the GGUF architecture.
    """
    found = {f"{lit}.weight": tensors[f"{own}.weight"] for lit, own in _SHARED.items() if f"{own}.weight" in tensors}
    kept = [i for i, shape in enumerate(shapes) if any(shape)]
    for position, i in enumerate(kept):
        heads, _, neurons = shapes[i]
        parts = (_ATTENTION if heads else ()) + (_MLP if neurons else ())
        block = {f"{lit}.weight": tensor_of(tensors, f"blk.{i}.{_BLOCK[lit]}.weight") for lit in parts}
        if heads and config.norm_qk:
            block |= {f"attn.norm_{n}.weight": tensor_of(tensors, f"blk.{i}.attn_{n}_norm.weight") for n in "qk"}
        if heads:
            block["attn.qkv.weight"] = torch.cat([_read_part(tensors, i, n, config, name, "weight") for n in "qkv"])
        if heads and (config.bias or config.attn_bias):
            block["attn.qkv.bias"] = torch.cat([_read_part(tensors, i, n, config, name, "bias") for n in "qkv"])
        if config.bias:
            block |= {f"{lit}.bias": _bias(tensors, f"blk.{i}.{_BLOCK[lit]}") for lit in parts if "norm" not in lit}
        found |= {f"transformer.h.{position}.{lit}": tensor for lit, tensor in block.items()}
    return found


def _bias(tensors: Tensors, module: str) -> Tensor:
    weight = tensor_of(tensors, f"{module}.weight")
    return tensors.get(f"{module}.bias", weight.new_zeros(weight.shape[0]))


def _read_part(tensors: Tensors, block: int, part: str, config: Config, name: str, kind: str) -> Tensor:
    module = f"blk.{block}.attn_{part}"
    tensor = tensor_of(tensors, f"{module}.weight") if kind == "weight" else _bias(tensors, module)
    return halves(tensor, config.head_size or 0) if part != "v" and name in _PERMUTED else tensor


def real_shapes(shapes: Sequence[Shape], tensors: Tensors, name: str) -> list[Shape]:
    """Return the shapes without parts of zeros, which `deci` needs where a block has none (`write_tensors`)."""
    if name != "deci":
        return list(shapes)
    return [
        (h * (real := _adds(tensors, f"blk.{i}.attn_output")), g * real, f * _adds(tensors, f"blk.{i}.ffn_down"))
        for i, (h, g, f) in enumerate(shapes)
    ]


def _adds(tensors: Tensors, module: str) -> bool:
    return any(bool(tensors[name].any()) for name in (f"{module}.weight", f"{module}.bias") if name in tensors)


# --- the order of q and k --------------------------------------------------------------------------------------------


def halves(rows: Tensor, head_size: int) -> Tensor:
    """Return rows of neighbouring pairs, as llama.cpp rotates, as halves of each head, as litgpt rotates."""
    return rows.unflatten(0, (-1, head_size // 2, 2)).transpose(1, 2).flatten(0, 2)


def pairs(rows: Tensor, head_size: int) -> Tensor:
    """The inverse of `halves`."""
    return rows.unflatten(0, (-1, 2, head_size // 2)).transpose(1, 2).flatten(0, 2)


# --- writing ---------------------------------------------------------------------------------------------------------


def write_tensors(weights: Tensors, config: Config, shapes: Sequence[Shape], *, tied: bool) -> dict[str, Tensor]:
    """Return a network's tensors under GGUF's names, q and k in llama.cpp's order; the inverse of `read_weights`.

    Args:
        weights: by litgpt's names.
        config: litgpt's Config of the network.
        shapes: of `written_shapes` for `deci`: absent parts that it names become zeros.
        tied: leave lm_head out.
    """
    found = {
        f"{own}.weight": weights[f"{lit}.weight"] for lit, own in _SHARED.items() if not (tied and lit == "lm_head")
    }
    for i, shape in enumerate(shapes):
        for kind in ("weight", "bias"):
            block = {own: weights.get(f"transformer.h.{i}.{lit}.{kind}") for lit, own in _BLOCK.items()}
            qkv = weights.get(f"transformer.h.{i}.attn.qkv.{kind}")
            if qkv is not None:
                block |= _split_qkv(qkv, shape, config.head_size or 0)
            found |= {f"blk.{i}.{own}.{kind}": tensor for own, tensor in block.items() if tensor is not None}
        found |= {name: t for name, t in _zero_parts(i, shape, config).items() if name not in found}
    scaling = config.rope_adjustments or {}
    if "low_freq_factor" in scaling:
        found[ROPE_FACTORS] = rope_factors(scaling, config.head_size or 0, config.rope_base)
    return found


def _split_qkv(qkv: Tensor, shape: Shape, head_size: int) -> dict[str, Tensor]:
    heads, groups, _ = shape
    q, k, v = qkv.split([heads * head_size, groups * head_size, groups * head_size])
    return {"attn_q": pairs(q, head_size), "attn_k": pairs(k, head_size), "attn_v": v}


def _zero_parts(i: int, shape: Shape, config: Config) -> dict[str, Tensor]:
    """Return the weights of the parts that `shape` names, all zero but the norms: used where the block has none."""
    (heads, groups, neurons), C, D = shape, config.n_embd, config.head_size or 0
    sizes = {"ffn_gate": (neurons, C), "ffn_up": (neurons, C), "ffn_down": (C, neurons)}
    if heads:
        sizes |= {"attn_q": (heads * D, C), "attn_k": (groups * D, C), "attn_v": (groups * D, C),
                  "attn_output": (C, heads * D)}  # fmt: skip
    norms = ["ffn_norm", *(["attn_norm"] if heads else [])]
    parts = {name: torch.zeros(size) for name, size in sizes.items()} | {name: torch.ones(C) for name in norms}
    return {f"blk.{i}.{name}.weight": tensor for name, tensor in parts.items()}
