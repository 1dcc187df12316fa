"""config.json <-> litgpt's Config, and which transformers class holds a network. No torch, no transformers.

The keys written are the ones that transformers 4 and 5 both read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from supernet.hf_layouts import ATTENTION, LAYOUTS, Fields, Layout, layer_windows
from supernet.litgpt_config import ModelConfig

_GELU = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}
_GELU_NAMES = {"gelu": "none", "gelu_pytorch_tanh": "tanh", "gelu_new": "tanh", "gelu_fast": "tanh"}


def _residual(config: ModelConfig) -> str:
    if not config.parallel_residual:
        return "sequential"
    return "parallel-shared" if config.shared_attention_norm else "parallel"


def _bias_groups(config: ModelConfig) -> set[str]:
    """Return which linear layers of a litgpt config have a bias."""
    groups = ATTENTION | {"mlp"} if config.bias else {"qkv"} if config.attn_bias else set()
    return groups | {"lm_head"} if config.lm_head_bias else groups


def _rope_scaling(config: Any) -> Fields | None:
    """Return litgpt's RoPE adjustment as Hugging Face's rope_scaling; None for the default."""
    adjustments = config.rope_adjustments or {}
    if config.rope_condense_ratio != 1:
        return {"rope_type": "linear" if not adjustments else "condensed", "factor": float(config.rope_condense_ratio)}
    if "low_freq_factor" in adjustments:
        kept = {name: adjustments[name] for name in ("factor", "low_freq_factor", "high_freq_factor")}
        return {"rope_type": "llama3", **kept, "original_max_position_embeddings": adjustments["original_max_seq_len"]}
    if "beta_fast" in adjustments:
        return {"rope_type": "yarn"}
    return {"rope_type": "linear", "factor": float(adjustments["factor"])} if "factor" in adjustments else None


def refusals(layout: Layout, config: Any) -> list[str]:
    """Return, in words, what of a uniform litgpt config this class cannot hold (empty: it holds all)."""
    scaling = (_rope_scaling(config) or {}).get("rope_type")
    scalar = config.attention_scores_scalar
    windows = layer_windows(config)
    extra_biases = sorted(_bias_groups(config) - set().union(*layout.biases.values()))
    softcaps = (config.attention_logit_softcapping, config.final_logit_softcapping)
    rms, layer_norm = config.norm_class_name == "RMSNorm", config.norm_class_name == "LayerNorm"
    found = {
        f"norm_class_name {config.norm_class_name}": config.norm_class_name != layout.norm,
        "Gemma's norm weights (1 + w)": rms and ("Gemma" in config.name) != layout.unit_offset,
        "norms with or without weights": layer_norm and ("OLMo" in config.name) == layout.affine,
        f"norm_eps {config.norm_eps} (it has 1e-5)": layout.norm_eps_field is None and config.norm_eps != 1e-5,
        f"mlp_class_name {config.mlp_class_name}": config.mlp_class_name != layout.mlp,
        f"a {_residual(config)} residual": _residual(config) not in layout.residuals,
        f"a bias of {', '.join(extra_biases)}": bool(extra_biases),
        f"n_head {config.n_head} that does not divide n_embd {config.n_embd}": layout.heads == "divides"
        and config.n_embd % config.n_head != 0,
        f"n_embd {config.n_embd} != n_head {config.n_head} x head_size {config.head_size}": layout.heads == "square"
        and config.n_embd != config.n_head * config.head_size,
        f"n_query_groups {config.n_query_groups} != n_head {config.n_head}": layout.multi_head_only
        and config.n_query_groups != config.n_head,
        "q/k norms of this kind": (config.norm_qk_type if config.norm_qk else None) != layout.norm_qk,
        "these norms before attention and MLP": not config.norm_1 == config.norm_2 == layout.pre_norms,
        "these norms after attention and MLP": not (
            config.post_attention_norm == config.post_mlp_norm == layout.post_norms
        ),
        f"rotary_percentage {config.rotary_percentage}": layout.partial_rotary_field is None
        and config.rotary_percentage != 1.0,
        f"RoPE scaling {scaling}": scaling is not None and scaling not in layout.rope_scaling,
        "interleaved RoPE": config.rope_interleave,
        "a RoPE of its own for local layers": config.rope_local_base_freq is not None
        and (not layout.local_rope or [bool(i) for i in config.rope_indices] != windows),
        "sliding windows": any(windows) and layout.sliding == "none",
        "sliding windows in some layers only": any(windows) and not all(windows) and layout.sliding == "all",
        f"attention_scores_scalar {scalar}": scalar not in (None, config.head_size) and not layout.scores_scalar,
        "logit softcapping": any(softcaps) and not layout.softcapping,
        "scaled or unscaled embeddings": config.scale_embeddings != layout.scaled_embeddings,
    }
    return [what for what, wrong in found.items() if wrong]


def layout_for(config: Any) -> Layout:
    """Return the transformers class that holds a uniform litgpt config.

    Raises:
        ValueError: no class does; says what the nearest class lacks, and what to do.
    """
    reasons = [(layout, refusals(layout, config)) for layout in LAYOUTS]
    fitting = [layout for layout, found in reasons if not found]
    if fitting:
        return min(fitting, key=lambda layout: len(zero_biases(layout, config)))
    nearest, found = min(reasons, key=lambda pair: (_differs_in_kind(pair[0], config), len(pair[1])))
    raise ValueError(
        f"no stock Hugging Face class holds this network; the nearest, {nearest.class_name}, "
        f"cannot have: {'; '.join(found)}. Export it with format=litgpt."
    )


def _differs_in_kind(layout: Layout, config: ModelConfig) -> bool:
    mine = (config.norm_class_name, config.mlp_class_name, _residual(config) in layout.residuals)
    return mine != (layout.norm, layout.mlp, True)


def hf_config(layout: Layout, config: Any, *, tied: bool, dtype: str = "float32") -> Fields:
    """Return config.json of a uniform litgpt config in this class (no special tokens).

    Args:
        layout: a class without `refusals` of `config`.
        config: litgpt's Config.
        tied: whether lm_head and the embedding are one parameter.
        dtype: of the weights.
    """
    fields: Fields = {
        "architectures": [layout.class_name], "model_type": layout.model_type, "vocab_size": config.padded_vocab_size,
        "hidden_size": config.n_embd, "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.n_layer, "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_query_groups, "max_position_embeddings": config.block_size,
        layout.rope_theta_field: float(config.rope_base), "rope_scaling": _rope_scaling(config),
        "tie_word_embeddings": tied, "torch_dtype": dtype, "use_cache": True,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    activation = "silu" if config.mlp_class_name == "LLaMAMLP" else _GELU[config.gelu_approximate]
    fields |= {"hidden_act": activation, layout.activation_field: activation}
    if layout.heads != "square":
        fields["head_dim"] = config.head_size
    if layout.norm_eps_field is not None:
        fields[layout.norm_eps_field] = config.norm_eps
    if layout.partial_rotary_field is not None:
        fields[layout.partial_rotary_field] = config.rotary_percentage
    if layout.sliding == "all":
        fields["sliding_window"] = config.sliding_window_size if any(layer_windows(config)) else None
    wanted = _bias_groups(config)
    fields |= {flag: bool(groups & wanted) for flag, groups in layout.biases.items() if flag}
    return fields | dict(layout.fixed) | layout.residuals[_residual(config)] | layout.write(config)


def zero_biases(layout: Layout, config: ModelConfig) -> set[str]:
    """Return the linear layers whose bias the class has and the network has not: they are written as zeros."""
    wanted = _bias_groups(config)
    present = set().union(*(groups for flag, groups in layout.biases.items() if not flag or groups & wanted))
    return present - wanted


@dataclass(frozen=True)
class HFNetwork:
    """A Hugging Face config in litgpt's words.

    Attributes:
        layout: its class.
        arguments: of litgpt's Config.
        zero_biases: linear layers that get a bias of zeros, since litgpt's Config has one flag for several.
    """

    layout: Layout
    arguments: Fields
    zero_biases: set[str]


def litgpt_arguments(hf: Any) -> HFNetwork:
    """Read a Hugging Face config object (`transformers.AutoConfig`).

    Raises:
        ValueError: a model type or a feature that is not supported (named).
    """
    hf = getattr(hf, "text_config", hf) if hf.model_type == "gemma3" else hf
    layouts = [layout for layout in LAYOUTS if layout.model_type == hf.model_type]
    if not layouts:
        known = ", ".join(dict.fromkeys(layout.model_type for layout in LAYOUTS))
        raise ValueError(f"model_type {hf.model_type!r} is not supported; supported: {known}")
    extra = layouts[0].read(hf)
    residual = extra.pop("residual", None)
    layout = next((layout for layout in layouts if residual in layout.residuals), layouts[0])
    for name, value in layout.fixed.items():
        if getattr(hf, name, value) != value:
            raise ValueError(f"a {hf.model_type} with {name} = {getattr(hf, name)} is not supported (only {value})")
    present = set().union(*(groups for flag, groups in layout.biases.items() if not flag or getattr(hf, flag)))
    bias = bool(present & {"proj", "mlp"})
    head_size = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    arguments = {
        "name": layout.litgpt_name, "block_size": hf.max_position_embeddings, "n_layer": hf.num_hidden_layers,
        "n_embd": hf.hidden_size, "n_head": hf.num_attention_heads, "head_size": head_size,
        "n_query_groups": getattr(hf, "num_key_value_heads", None) or hf.num_attention_heads,
        "intermediate_size": getattr(hf, "intermediate_size", None), "vocab_size": hf.vocab_size,
        "padded_vocab_size": hf.vocab_size, "bias": bias, "attn_bias": "qkv" in present and not bias,
        "lm_head_bias": "lm_head" in present, "norm_class_name": layout.norm, "mlp_class_name": layout.mlp,
        "norm_eps": getattr(hf, layout.norm_eps_field) if layout.norm_eps_field else 1e-5,
        "norm_qk": layout.norm_qk is not None, "norm_qk_type": layout.norm_qk or "default",
        "norm_1": layout.pre_norms, "norm_2": layout.pre_norms, "post_attention_norm": layout.post_norms,
        "post_mlp_norm": layout.post_norms, "scale_embeddings": layout.scaled_embeddings,
        **_read_activation(layout, hf), **_read_residual(layout, hf, residual), **_read_rope(layout, hf),
        **_read_windows(layout, hf), **extra,
    }  # fmt: skip
    implied = (ATTENTION | {"mlp"}) if bias else set()
    return HFNetwork(layout, arguments, implied - present)


def _read_activation(layout: Layout, hf: Any) -> Fields:
    name = getattr(hf, layout.activation_field, None)
    if layout.mlp == "GemmaMLP":  # old Gemma files say "gelu" and mean the tanh form
        return {"gelu_approximate": "tanh"}
    allowed = ["silu", "swish"] if layout.mlp == "LLaMAMLP" else list(_GELU_NAMES)
    if name not in allowed:
        raise ValueError(f"{hf.model_type} with {layout.activation_field} = {name!r} is not supported; use {allowed}")
    return {"gelu_approximate": _GELU_NAMES.get(name, "none")}


def _read_residual(layout: Layout, hf: Any, residual: str | None) -> Fields:
    kinds = [residual] if residual else [
        kind for kind, fields in layout.residuals.items() if all(getattr(hf, f) == v for f, v in fields.items())
    ]  # fmt: skip
    return {"parallel_residual": kinds[0] != "sequential", "shared_attention_norm": kinds[0] == "parallel-shared"}


def _read_rope(layout: Layout, hf: Any) -> Fields:
    """Read both forms: rope_parameters (transformers 5) and rope_theta with rope_scaling (4)."""
    rope = dict(getattr(hf, "rope_parameters", None) or {})
    rope = dict(rope.get("full_attention", rope)) or dict(getattr(hf, "rope_scaling", None) or {})
    base = rope.get("rope_theta") or getattr(hf, layout.rope_theta_field, None) or 10000
    kind = rope.get("rope_type") or rope.get("type") or "default"
    found: Fields = {"rope_base": int(base) if float(base).is_integer() else base, "rotary_percentage": 1.0}
    if layout.partial_rotary_field is not None:
        stored = getattr(hf, layout.partial_rotary_field, 1.0)
        found["rotary_percentage"] = float(rope.get("partial_rotary_factor", stored))
    if kind == "llama3" and kind in layout.rope_scaling:
        kept = {name: rope[name] for name in ("factor", "low_freq_factor", "high_freq_factor")}
        found["rope_adjustments"] = kept | {"original_max_seq_len": rope["original_max_position_embeddings"]}
    elif kind == "linear" and kind in layout.rope_scaling:
        found["rope_adjustments"] = {"factor": rope["factor"]}
    elif kind != "default":
        raise ValueError(
            f"{hf.model_type} with RoPE scaling {kind!r} is not supported; supported: default, linear, llama3"
        )
    return found


def _read_windows(layout: Layout, hf: Any) -> Fields:
    size = getattr(hf, "sliding_window", None)
    if layout.sliding == "none" or size is None:
        return {}
    kinds = getattr(hf, "layer_types", None) if layout.sliding == "any" else None
    if kinds is None:
        return {"sliding_window_size": size, "sliding_window_indices": [1] * hf.num_hidden_layers}
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown:
        raise ValueError(f"{hf.model_type} with layers of type {sorted(unknown)} is not supported")
    if "sliding_attention" not in kinds:
        return {}
    return {"sliding_window_size": size, "sliding_window_indices": [int(k == "sliding_attention") for k in kinds]}
