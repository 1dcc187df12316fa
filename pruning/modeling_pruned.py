"""A Llama whose blocks differ: `config.block_configs` says how wide each block's attention and MLP are.

This file belongs to an exported model and needs only torch and transformers:
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`. Everything but the sizes is Llama's own code.

One entry of `block_configs`, in the words of nemotron-nas:
    {"attention": {"no_op": false, "num_query_heads": 6, "num_key_value_heads": 2, "n_heads_in_group": 3, ...},
     "ffn": {"no_op": false, "intermediate_size": 1024, ...}}
`no_op` means that the block has no such part: no weights, no norm, no place in the KV cache, and nothing is added to
the residual stream.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

ATTENTION, MLP = "self_attn", "mlp"
ATTENTION_NORMS: tuple[str, ...] = ("input_layernorm",)  # those that go with the part
MLP_NORMS: tuple[str, ...] = ("post_attention_layernorm",)
_OUTPUTS = ("o_proj", "dense", "down_proj", "fc2", "c_proj", "dense_4h_to_h")  # they read a part's heads or neurons
_KEYS_AND_VALUES = ("k_proj", "v_proj", "k_norm")


class PrunedLlamaConfig(LlamaConfig):
    """Llama's config and the sizes of each block; its own sizes of heads and MLP only stand for the widest block."""

    model_type = "pruned_llama"

    def __init__(self, block_configs=None, **kwargs):
        self.block_configs = block_configs or []
        super().__init__(**kwargs)


class NoAttention(nn.Module):
    """Adds nothing, and keeps nothing in the KV cache."""

    def forward(self, hidden_states: torch.Tensor, *args: object, **kwargs: object) -> tuple[torch.Tensor, None]:
        """Return zero, and no attention weights."""
        return hidden_states.new_zeros(()), None


class NoMLP(nn.Module):
    """Adds nothing."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return zero."""
        return hidden_states.new_zeros(())


class PrunedLlamaForCausalLM(LlamaForCausalLM):
    """Llama with blocks of the sizes in `config.block_configs`."""

    config_class = PrunedLlamaConfig

    def __init__(self, config: PrunedLlamaConfig) -> None:
        super().__init__(config)
        n_cached = 0  # the KV cache has a place for each block with attention, and for no other
        for layer, block in zip(self.base_model.layers, config.block_configs, strict=True):
            _shape_attention(layer, config, block["attention"], n_cached)
            _shape_mlp(layer, block["ffn"])
            n_cached += not block["attention"]["no_op"]
        self.post_init()

    def tie_weights(self, *args, **kwargs):
        """Tie the head to the embedding where the config says so."""
        # transformers 5.3 takes tied weights of classes outside it for loaded ones, and then does not tie them
        missing = kwargs.get("missing_keys")
        if missing is not None and self.config.tie_word_embeddings:
            missing.update(self._tied_weights_keys)
        return super().tie_weights(*args, **kwargs)


def _shape_attention(layer: nn.Module, config: PrunedLlamaConfig, sizes: dict, cache_index: int) -> None:
    if hasattr(layer, "attention_type"):
        layer.attention_type = sizes["layer_type"]
    if sizes["no_op"]:
        _leave_out(layer, ATTENTION, NoAttention(), ATTENTION_NORMS)
        return
    # config.layer_types is in the order of the KV cache, so that the cache and this attention agree
    attention = type(getattr(layer, ATTENTION))(config, cache_index)
    head_size = config.head_dim
    query, key = sizes["num_query_heads"] * head_size, sizes["num_key_value_heads"] * head_size
    attention.num_key_value_groups = query // key
    if hasattr(attention, "head_size"):  # GPT-NeoX takes it from the width of the residual stream
        attention.head_size, attention.scaling = head_size, head_size**-0.5
        attention.rotary_ndims = int(head_size * config.rope_parameters["partial_rotary_factor"])
    for name, module in list(attention.named_children()):
        width = 3 * query if name == "query_key_value" else key if name in _KEYS_AND_VALUES else query
        if isinstance(module, nn.Linear):
            setattr(attention, name, _resized(module, name, width, sizes["bias"]))
        elif sizes["norm_all_heads"] and name in ("q_norm", "k_norm"):
            module.weight = nn.Parameter(torch.ones(width))
    setattr(layer, ATTENTION, attention)


def _shape_mlp(layer: nn.Module, sizes: dict) -> None:
    if sizes["no_op"]:
        _leave_out(layer, MLP, NoMLP(), MLP_NORMS)
        return
    mlp = getattr(layer, MLP)
    for name, module in list(mlp.named_children()):
        if isinstance(module, nn.Linear):
            setattr(mlp, name, _resized(module, name, sizes["intermediate_size"], sizes["bias"]))


def _leave_out(layer: nn.Module, part: str, absent: nn.Module, norms: tuple[str, ...]) -> None:
    setattr(layer, part, absent)
    for norm in norms:
        setattr(layer, norm, nn.Identity())


def _resized(linear: nn.Linear, name: str, width: int, bias: bool) -> nn.Linear:
    """Return a linear layer of another width, with a bias where it has one or `bias` says so."""
    inputs, outputs = (width, linear.out_features) if name in _OUTPUTS else (linear.in_features, width)
    return nn.Linear(inputs, outputs, bias=bias or linear.bias is not None)
