"""The causal language model classes of transformers, described by what they can hold. No torch, no transformers.

One `Layout` a class; reading, writing and refusing a network all follow from it (huggingface.py, weights.py).
Facts are from the modeling files of transformers 5.3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from supernet.litgpt_config import ModelConfig

Fields = dict[str, Any]

ATTENTION = {"qkv", "proj"}
_LLAMA = {
    "transformer.wte": "model.embed_tokens",
    "transformer.ln_f": "model.norm",
    "lm_head": "lm_head",
    "transformer.h.{}.norm_1": "model.layers.{}.input_layernorm",
    "transformer.h.{}.norm_2": "model.layers.{}.post_attention_layernorm",
    "transformer.h.{}.attn.proj": "model.layers.{}.self_attn.o_proj",
    "transformer.h.{}.attn.norm_q": "model.layers.{}.self_attn.q_norm",
    "transformer.h.{}.attn.norm_k": "model.layers.{}.self_attn.k_norm",
    "transformer.h.{}.mlp.fc_1": "model.layers.{}.mlp.gate_proj",
    "transformer.h.{}.mlp.fc_2": "model.layers.{}.mlp.up_proj",
    "transformer.h.{}.mlp.proj": "model.layers.{}.mlp.down_proj",
}
_GEMMA2 = _LLAMA | {
    "transformer.h.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "transformer.h.{}.norm_2": "model.layers.{}.pre_feedforward_layernorm",
    "transformer.h.{}.post_mlp_norm": "model.layers.{}.post_feedforward_layernorm",
}
_OLMO2 = {name: hf for name, hf in _LLAMA.items() if not name.endswith(("norm_1", "norm_2"))} | {
    "transformer.h.{}.post_attention_norm": "model.layers.{}.post_attention_layernorm",
    "transformer.h.{}.post_mlp_norm": "model.layers.{}.post_feedforward_layernorm",
}
_PLAIN_MLP = {name: hf for name, hf in _LLAMA.items() if ".mlp." not in name}
_PHI = _PLAIN_MLP | {
    "transformer.ln_f": "model.final_layernorm",
    "transformer.h.{}.attn.proj": "model.layers.{}.self_attn.dense",
    "transformer.h.{}.mlp.fc": "model.layers.{}.mlp.fc1",
    "transformer.h.{}.mlp.proj": "model.layers.{}.mlp.fc2",
}
_STARCODER = _PLAIN_MLP | {
    "transformer.h.{}.mlp.fc": "model.layers.{}.mlp.c_fc",
    "transformer.h.{}.mlp.proj": "model.layers.{}.mlp.c_proj",
}
_NEOX = {
    "transformer.wte": "gpt_neox.embed_in",
    "transformer.ln_f": "gpt_neox.final_layer_norm",
    "lm_head": "embed_out",
    "transformer.h.{}.norm_1": "gpt_neox.layers.{}.input_layernorm",
    "transformer.h.{}.norm_2": "gpt_neox.layers.{}.post_attention_layernorm",
    "transformer.h.{}.attn.proj": "gpt_neox.layers.{}.attention.dense",
    "transformer.h.{}.mlp.fc": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "transformer.h.{}.mlp.proj": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
}
_FALCON = {
    "transformer.wte": "transformer.word_embeddings",
    "transformer.ln_f": "transformer.ln_f",
    "lm_head": "lm_head",
    "transformer.h.{}.attn.proj": "transformer.h.{}.self_attention.dense",
    "transformer.h.{}.mlp.fc": "transformer.h.{}.mlp.dense_h_to_4h",
    "transformer.h.{}.mlp.proj": "transformer.h.{}.mlp.dense_4h_to_h",
}
_SPLIT = tuple(f"model.layers.{{}}.self_attn.{part}_proj" for part in "qkv")
_SEQUENTIAL: Mapping[str, Fields] = {"sequential": {}}


@dataclass(frozen=True)
class Layout:
    """A causal language model class of transformers, described by what it can hold.

    Attributes:
        model_type: of config.json.
        class_name: in transformers.
        litgpt_name: name of the litgpt Config it is read as (litgpt looks for "Gemma" and "OLMo" in names).
        names: litgpt module -> Hugging Face module, "{}" for the layer.
        qkv: the modules that hold litgpt's fused qkv: three, or one.
        grouped_qkv: the one module has q, k, v group by group instead of all q, all k, all v.
        fused_mlp: the module that holds fc_1 and fc_2 one above the other, if there is one.
        residuals: the block's forms ("sequential", "parallel", "parallel-shared") -> the fields that express each.
        biases: field -> linear layers that have a bias when it is true; "" for layers that always have one.
        heads: "free" head_dim; "divides": n_head must divide n_embd; "square": n_embd must be n_head x head_size.
        sliding: layers that may have a sliding window: "none", all or none ("all"), "any".
        fixed: fields that have one value here (checked when reading).
        write: further fields for a litgpt config.
        read: further litgpt arguments for a Hugging Face config; may contain "residual".
    """

    model_type: str
    class_name: str
    litgpt_name: str
    names: Mapping[str, str] = field(default_factory=lambda: _LLAMA)
    qkv: tuple[str, ...] = _SPLIT
    grouped_qkv: bool = False
    fused_mlp: str | None = None
    norm: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    unit_offset: bool = False
    affine: bool = True
    norm_eps_field: str | None = "rms_norm_eps"
    mlp: Literal["LLaMAMLP", "GemmaMLP", "GptNeoxMLP"] = "LLaMAMLP"
    activation_field: str = "hidden_act"
    residuals: Mapping[str, Fields] = field(default_factory=lambda: _SEQUENTIAL)
    biases: Mapping[str, set[str]] = field(default_factory=dict)
    heads: Literal["free", "divides", "square"] = "free"
    multi_head_only: bool = False
    norm_qk: str | None = None
    pre_norms: bool = True
    post_norms: bool = False
    partial_rotary_field: str | None = None
    rope_theta_field: str = "rope_theta"
    rope_scaling: tuple[str, ...] = ("linear", "llama3")
    local_rope: bool = False
    sliding: Literal["none", "all", "any"] = "none"
    scores_scalar: bool = False
    softcapping: bool = False
    scaled_embeddings: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    write: Callable[[ModelConfig], Fields] = lambda config: {}
    read: Callable[[Any], Fields] = lambda hf: {}


def layer_windows(config: ModelConfig) -> list[bool]:
    """Return, for each layer, whether its attention has a sliding window."""
    if config.sliding_window_size is None:
        return [False] * config.n_layer
    return [bool(w) for w in config.sliding_window_indices or [1] * config.n_layer]


def _write_windows(config: ModelConfig) -> Fields:
    """Fields of the classes that choose the attention of each layer."""
    windows = layer_windows(config)
    names = {True: "sliding_attention", False: "full_attention"}
    size = config.sliding_window_size if any(windows) else config.block_size  # Gemma 2 always needs a number
    return {"layer_types": [names[w] for w in windows], "sliding_window": size}


def _write_qwen(config: ModelConfig) -> Fields:
    if not any(layer_windows(config)):
        return {"use_sliding_window": False}
    return {"use_sliding_window": True, "max_window_layers": 0} | _write_windows(config)


def _write_gemma2(config: Any) -> Fields:
    # transformers' default attention (SDPA) leaves softcapping out without a word
    eager = {"attn_implementation": "eager"} if config.attention_logit_softcapping else {}
    return (
        _write_windows(config)
        | eager
        | {
            "query_pre_attn_scalar": config.attention_scores_scalar or config.head_size,
            "attn_logit_softcapping": config.attention_logit_softcapping,
            "final_logit_softcapping": config.final_logit_softcapping,
        }
    )


def _read_gemma2(hf: Any) -> Fields:
    return {
        "attention_scores_scalar": hf.query_pre_attn_scalar,
        "attention_logit_softcapping": hf.attn_logit_softcapping,
        "final_logit_softcapping": hf.final_logit_softcapping,
    }


def _write_gemma3(config: Any) -> Fields:
    return _write_gemma2(config) | {"rope_local_base_freq": config.rope_local_base_freq or config.rope_base}


def _read_gemma3(hf: Any) -> Fields:
    per_type = getattr(hf, "rope_parameters", None) or {}
    local = per_type.get("sliding_attention", {}).get("rope_theta") or getattr(hf, "rope_local_base_freq", None)
    if local is None:
        return _read_gemma2(hf)
    indices = [int(kind == "sliding_attention") for kind in hf.layer_types]
    return _read_gemma2(hf) | {"rope_local_base_freq": local, "rope_indices": indices}


def _write_granite(config: Any) -> Fields:
    return {"attention_multiplier": float(config.attention_scores_scalar or config.head_size) ** -0.5}


def _read_granite(hf: Any) -> Fields:
    scalar = hf.attention_multiplier**-2
    return {"attention_scores_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 * scalar else scalar}


def _write_falcon(config: ModelConfig) -> Fields:
    return {"num_kv_heads": config.n_query_groups, "ffn_hidden_size": config.intermediate_size}


def _read_falcon(hf: Any) -> Fields:
    if not (hf.parallel_attn or hf.new_decoder_architecture):
        raise ValueError("a Falcon with parallel_attn = false is not supported")
    norms = hf.num_ln_in_parallel_attn or (2 if hf.new_decoder_architecture else 1)
    groups = hf.num_kv_heads if hf.new_decoder_architecture or not hf.multi_query else 1
    residual = "parallel" if norms == 2 else "parallel-shared"
    return {"n_query_groups": groups, "intermediate_size": hf.ffn_hidden_size, "residual": residual}


_FALCON_BLOCK = {"new_decoder_architecture": True, "parallel_attn": True}
_ATTENTION_BIAS = {"attention_bias": ATTENTION}
LAYOUTS: tuple[Layout, ...] = (
    Layout("llama", "LlamaForCausalLM", "Llama", heads="divides",
           biases={"attention_bias": ATTENTION, "mlp_bias": {"mlp"}}),
    Layout("mistral", "MistralForCausalLM", "Mistral", sliding="all"),
    Layout("qwen2", "Qwen2ForCausalLM", "Qwen2.5", biases={"": {"qkv"}}, sliding="any", write=_write_qwen),
    Layout("granite", "GraniteForCausalLM", "Granite", scores_scalar=True, write=_write_granite, read=_read_granite,
           biases={"attention_bias": ATTENTION, "mlp_bias": {"mlp"}},
           fixed={"embedding_multiplier": 1.0, "logits_scaling": 1.0, "residual_multiplier": 1.0}),
    Layout("qwen3", "Qwen3ForCausalLM", "Qwen3", norm_qk="default", biases=_ATTENTION_BIAS, sliding="any",
           write=_write_qwen),
    Layout("phi3", "Phi3ForCausalLM", "Phi-3", qkv=("model.layers.{}.self_attn.qkv_proj",), heads="divides",
           fused_mlp="model.layers.{}.mlp.gate_up_proj", sliding="all", partial_rotary_field="partial_rotary_factor",
           rope_scaling=()),
    Layout("gemma", "GemmaForCausalLM", "Gemma", unit_offset=True, mlp="GemmaMLP", scaled_embeddings=True,
           biases=_ATTENTION_BIAS),
    Layout("gemma2", "Gemma2ForCausalLM", "Gemma-2", names=_GEMMA2, unit_offset=True, mlp="GemmaMLP", heads="divides",
           activation_field="hidden_activation", scaled_embeddings=True, post_norms=True, biases=_ATTENTION_BIAS,
           sliding="any", scores_scalar=True, softcapping=True, write=_write_gemma2, read=_read_gemma2),
    Layout("gemma3_text", "Gemma3ForCausalLM", "Gemma-3", names=_GEMMA2, unit_offset=True, mlp="GemmaMLP",
           activation_field="hidden_activation", scaled_embeddings=True, post_norms=True, biases=_ATTENTION_BIAS,
           norm_qk="default", local_rope=True, sliding="any", scores_scalar=True, softcapping=True,
           rope_scaling=("linear",), write=_write_gemma3, read=_read_gemma3),
    Layout("olmo", "OlmoForCausalLM", "OLMo", norm="LayerNorm", affine=False, norm_eps_field=None,
           biases=_ATTENTION_BIAS, fixed={"clip_qkv": None}),
    Layout("olmo2", "Olmo2ForCausalLM", "OLMo-2-", names=_OLMO2, pre_norms=False, post_norms=True, norm_qk="olmo2",
           biases=_ATTENTION_BIAS),
    Layout("stablelm", "StableLmForCausalLM", "stablelm-3b", norm="LayerNorm", norm_eps_field="layer_norm_eps",
           residuals={"parallel-shared": {"use_parallel_residual": True},
                      "sequential": {"use_parallel_residual": False}},
           biases={"use_qkv_bias": {"qkv"}}, heads="square", partial_rotary_field="partial_rotary_factor",
           fixed={"qk_layernorm": False}),
    Layout("gpt_neox", "GPTNeoXForCausalLM", "pythia", names=_NEOX, norm="LayerNorm", mlp="GptNeoxMLP",
           qkv=("gpt_neox.layers.{}.attention.query_key_value",), grouped_qkv=True, norm_eps_field="layer_norm_eps",
           residuals={"parallel": {"use_parallel_residual": True}, "sequential": {"use_parallel_residual": False}},
           biases={"": {"mlp"}, "attention_bias": ATTENTION}, heads="square", multi_head_only=True,
           partial_rotary_field="rotary_pct", rope_theta_field="rotary_emb_base"),
    Layout("starcoder2", "Starcoder2ForCausalLM", "starcoder2", names=_STARCODER, norm="LayerNorm", mlp="GptNeoxMLP",
           norm_eps_field="norm_epsilon", biases={"use_bias": ATTENTION | {"mlp"}}, sliding="all"),
    Layout("phi", "PhiForCausalLM", "phi-2", names=_PHI, norm="LayerNorm", mlp="GptNeoxMLP",
           residuals={"parallel-shared": {}}, norm_eps_field="layer_norm_eps",
           biases={"": ATTENTION | {"mlp", "lm_head"}}, partial_rotary_field="partial_rotary_factor",
           fixed={"qk_layernorm": False}),
    Layout("falcon", "FalconForCausalLM", "falcon-7b", norm="LayerNorm", mlp="GptNeoxMLP", heads="square",
           names=_FALCON | {"transformer.h.{}.norm_1": "transformer.h.{}.input_layernorm"},
           qkv=("transformer.h.{}.self_attention.query_key_value",), grouped_qkv=True, activation_field="activation",
           residuals={"parallel-shared": _FALCON_BLOCK | {"num_ln_in_parallel_attn": 1}},
           norm_eps_field="layer_norm_epsilon", biases={"bias": ATTENTION | {"mlp"}}, fixed={"alibi": False},
           write=_write_falcon, read=_read_falcon),
    Layout("falcon", "FalconForCausalLM", "falcon-40b", norm="LayerNorm", mlp="GptNeoxMLP", heads="square",
           names=_FALCON | {"transformer.h.{}.norm_1": "transformer.h.{}.ln_attn",
                            "transformer.h.{}.norm_2": "transformer.h.{}.ln_mlp"},
           qkv=("transformer.h.{}.self_attention.query_key_value",), grouped_qkv=True, activation_field="activation",
           residuals={"parallel": _FALCON_BLOCK | {"num_ln_in_parallel_attn": 2}},
           norm_eps_field="layer_norm_epsilon", biases={"bias": ATTENTION | {"mlp"}}, fixed={"alibi": False},
           write=_write_falcon, read=_read_falcon),
)  # fmt: skip
