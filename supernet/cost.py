"""What a sub-network costs on paper: exact parameters by part, multiply-adds, KV-cache bytes. No torch.

All formulas take the supernet's config and work on many architectures at once; the functions that take one
architecture call them. Shapes: n architectures, L blocks of the supernet, C n_embd, H heads, G query groups,
D head_size, F intermediate_size, V padded vocabulary.

Multiply-adds (MACs) are those of matrix products: the linear layers, the output head and, if asked for, attention
scores (q k^T and scores v) of the (query, key) pairs that the causal and sliding-window masks let through; a kernel
that computes masked pairs too does up to twice as many of those. Norms, activations, RoPE and the embedding lookup are
not counted. One MAC is two FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from supernet.architecture import Architecture
from supernet.arrays import ArchitectureArrays, architecture_arrays
from supernet.litgpt_config import ModelConfig, check_fits, unsupported_features

_MLP_MATRICES = {"GptNeoxMLP": 2, "LLaMAMLP": 3, "GemmaMLP": 3}


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of one sub-network by part.

    Attributes:
        embedding: token embedding.
        attention: qkv and output projections of all layers.
        mlp: MLPs of all layers.
        norm: all norms: of the layers, of queries and keys, and the final one.
        head: output head; with tied embeddings only its bias.
    """

    embedding: int
    attention: int
    mlp: int
    norm: int
    head: int

    @property
    def decoder(self) -> int:
        """Non-embedding parameters: attention, MLP and norms."""
        return self.attention + self.mlp + self.norm

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.decoder + self.head


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of n sub-networks by part, as in `ParameterCount`; every attribute is (n,) int64."""

    embedding: np.ndarray
    attention: np.ndarray
    mlp: np.ndarray
    norm: np.ndarray
    head: np.ndarray

    @property
    def decoder(self) -> np.ndarray:
        """Non-embedding parameters: attention, MLP and norms, (n,)."""
        return self.attention + self.mlp + self.norm

    @property
    def total(self) -> np.ndarray:
        """All parameters, (n,)."""
        return self.embedding + self.decoder + self.head


@dataclass(frozen=True)
class MacCounts:
    """Multiply-adds of n sub-networks for one sequence by part; every attribute is (n,) int64.

    Attributes:
        attention: qkv and output projections.
        mlp: MLPs.
        head: output head.
        scores: attention scores: products of queries with keys, and of scores with values.
    """

    attention: np.ndarray
    mlp: np.ndarray
    head: np.ndarray
    scores: np.ndarray

    @property
    def linear(self) -> np.ndarray:
        """All but the attention scores, (n,)."""
        return self.attention + self.mlp + self.head

    @property
    def total(self) -> np.ndarray:
        """All, (n,)."""
        return self.linear + self.scores


# --- parameters ---------------------------------------------------------------------------------------------------


def parameter_count(config: ModelConfig, arch: Architecture, *, tied: bool = False) -> ParameterCount:
    """Count the parameters of one sub-network; equal to `numel()` summed over the extracted litgpt model.

    Args:
        config: litgpt's Config of the supernet (`SearchSpace.model_config`).
        arch: the sub-network.
        tied: count the matrix that embedding and head share once (litgpt itself keeps two).

    Raises:
        ValueError: the supernet does not contain the architecture, or its family is not supported.

    Example:
        >>> from supernet.litgpt_config import model_config
        >>> config = model_config({"n_layer": 2, "n_embd": 8, "n_head": 2, "padded_vocab_size": 16})
        >>> arch = Architecture.uniform(n_embd=8, n_layer=2, n_head=2, intermediate_size=32)
        >>> parameter_count(config, arch)
        ParameterCount(embedding=128, attention=576, mlp=1104, norm=80, head=128)
    """
    counts = parameter_counts(config, [arch], tied=tied)
    return ParameterCount(**{name: int(getattr(counts, name)[0]) for name in ParameterCount.__dataclass_fields__})


def parameter_counts(config: ModelConfig, archs: Sequence[Architecture], *, tied: bool = False) -> ParameterCounts:
    """Count the parameters of many sub-networks; see `parameter_count`."""
    arrays = _checked_arrays(config, archs)
    C, V = arrays.n_embd, config.padded_vocab_size
    return ParameterCounts(
        embedding=V * C,
        attention=(_attention_weights(config, arrays) + _attention_biases(config, arrays)).sum(axis=1),
        mlp=(_mlp_weights(config, arrays) + _mlp_biases(config, arrays)).sum(axis=1),
        norm=_norm_parameters(config, arrays),
        head=V * C * (not tied) + V * bool(config.lm_head_bias),
    )


def _attention_weights(config: ModelConfig, arrays: ArchitectureArrays) -> np.ndarray:
    """Return entries of the attention matrices of each block, (n, L): qkv (H + 2 G) D C, output H D C."""
    rows = 2 * (arrays.n_head + arrays.n_query_groups) * config.head_size
    return rows * arrays.n_embd[:, None]


def _attention_biases(config: ModelConfig, arrays: ArchitectureArrays) -> np.ndarray:
    """Return bias entries of attention, (n, L): `attn_bias` keeps that of qkv where `bias` is off."""
    on = arrays.bias[:, None]
    qkv = (arrays.n_head + 2 * arrays.n_query_groups) * config.head_size
    return qkv * (on | config.attn_bias) + arrays.n_embd[:, None] * (on & arrays.has_attention)


def _mlp_weights(config: ModelConfig, arrays: ArchitectureArrays) -> np.ndarray:
    """Return entries of the MLP matrices of each block, (n, L)."""
    return _MLP_MATRICES[config.mlp_class_name] * arrays.intermediate_size * arrays.n_embd[:, None]


def _mlp_biases(config: ModelConfig, arrays: ArchitectureArrays) -> np.ndarray:
    """Return bias entries of the MLP, (n, L): those of the first one or two layers F wide, the last one C."""
    inner = (_MLP_MATRICES[config.mlp_class_name] - 1) * arrays.intermediate_size
    return (inner + arrays.n_embd[:, None] * arrays.has_mlp) * arrays.bias[:, None]


def _norm_parameters(config: ModelConfig, arrays: ArchitectureArrays) -> np.ndarray:
    """Return parameters of all norms, (n,): a block without a part has none of that part's."""
    shared = config.shared_attention_norm
    before_attention = arrays.kept if shared else arrays.has_attention  # a shared norm is also that of the MLP
    block_norms = (
        before_attention * int(config.norm_1) + arrays.has_attention * int(config.post_attention_norm)
        + arrays.has_mlp * (int(config.norm_2 and not shared) + int(config.post_mlp_norm))
    )  # fmt: skip
    entries = (block_norms.sum(axis=1) + 1) * arrays.n_embd  # + 1: the final norm
    if config.norm_qk:
        heads = 2 * arrays.has_attention  # one vector of D entries for all heads, or in OLMo-2 one for each
        if config.norm_qk_type == "olmo2":
            heads = arrays.n_head + arrays.n_query_groups
        entries = entries + heads.sum(axis=1) * config.head_size
    return entries * _parameters_per_norm_entry(config)


def _parameters_per_norm_entry(config: ModelConfig) -> int:
    if config.norm_class_name == "RMSNorm":
        return 1
    return 0 if "OLMo" in config.name else 2  # litgpt's Config.norm_class: OLMo's LayerNorm has no weight and no bias


# --- multiply-adds ------------------------------------------------------------------------------------------------


def macs(
    config: ModelConfig,
    arch: Architecture,
    *,
    seq_len: int,
    batch_size: int = 1,
    cache_len: int = 0,
    include_attention_scores: bool = True,
) -> int:
    """Count the multiply-adds of one forward pass.

    Args:
        config: litgpt's Config of the supernet.
        arch: the sub-network.
        seq_len: new tokens of each sequence: the prompt (prefill), or 1 (decode).
        batch_size: sequences.
        cache_len: earlier tokens of each sequence, whose keys and values are cached.
        include_attention_scores: also count products with keys and values, of unmasked pairs.

    Raises:
        ValueError: sizes that the model cannot run, or an architecture that the supernet does not contain.
    """  # fmt: skip
    _check_positive("batch_size", batch_size)
    counts = mac_counts(config, [arch], seq_len=seq_len, cache_len=cache_len)
    return batch_size * int((counts.total if include_attention_scores else counts.linear)[0])


def flops(
    config: ModelConfig,
    arch: Architecture,
    *,
    seq_len: int,
    batch_size: int = 1,
    cache_len: int = 0,
    include_attention_scores: bool = True,
) -> int:
    """Count the floating-point operations of one forward pass: twice `macs`."""  # fmt: skip
    return 2 * macs(
        config, arch, seq_len=seq_len, batch_size=batch_size, cache_len=cache_len,
        include_attention_scores=include_attention_scores,
    )  # fmt: skip


def mac_counts(config: ModelConfig, archs: Sequence[Architecture], *, seq_len: int, cache_len: int = 0) -> MacCounts:
    """Count the multiply-adds of many sub-networks for one sequence by part; see `macs`."""
    _check_length(config, seq_len, cache_len)
    arrays = _checked_arrays(config, archs)
    pairs = _attended_pairs(config, seq_len, cache_len)  # (L,)
    return MacCounts(
        attention=seq_len * _attention_weights(config, arrays).sum(axis=1),
        mlp=seq_len * _mlp_weights(config, arrays).sum(axis=1),
        head=seq_len * config.padded_vocab_size * arrays.n_embd,
        scores=2 * config.head_size * (arrays.n_head @ pairs),
    )


def _attended_pairs(config: ModelConfig, seq_len: int, cache_len: int) -> np.ndarray:
    """Return the number of (query, key) pairs that each block's mask lets through, (L,) int64."""
    keys = cache_len + np.arange(1, seq_len + 1)  # of each query, without a window
    return np.array([np.minimum(keys, window).sum() for window in _windows(config, cache_len + seq_len)], np.int64)


def _windows(config: ModelConfig, length: int) -> list[int]:
    """Return how many of `length` tokens each block can attend to."""
    size = config.sliding_window_size
    if size is None:
        return [length] * config.n_layer
    slides = config.sliding_window_indices or [1] * config.n_layer
    return [min(length, size) if slides[i] else length for i in range(config.n_layer)]


# --- KV cache -----------------------------------------------------------------------------------------------------


def kv_cache_bytes(
    config: ModelConfig, arch: Architecture, *, seq_len: int, batch_size: int = 1, bytes_per_element: int = 2
) -> int:
    """Return the bytes of litgpt's KV cache (`GPT.set_kv_cache`) for `seq_len` tokens of `batch_size` sequences.

    Layers with a sliding window hold at most that many tokens, as in litgpt.

    Raises:
        ValueError: sizes that the model cannot run, or an architecture that the supernet does not contain.
    """
    _check_positive("batch_size", batch_size)
    _check_positive("bytes_per_element", bytes_per_element)
    return batch_size * bytes_per_element * int(kv_cache_elements(config, [arch], seq_len=seq_len)[0])


def kv_cache_elements(config: ModelConfig, archs: Sequence[Architecture], *, seq_len: int) -> np.ndarray:
    """Return the numbers of cached keys' and values' entries for one sequence, (n,) int64; see `kv_cache_bytes`."""
    _check_length(config, seq_len, 0)
    arrays = _checked_arrays(config, archs)
    rotary = int(config.rotary_percentage * config.head_size)
    widths = 2 * config.head_size + (rotary == 1)  # litgpt's RoPE cache has two entries where one is rotated
    return widths * (arrays.n_query_groups @ np.array(_windows(config, seq_len), np.int64))


# --- checks -------------------------------------------------------------------------------------------------------


def _checked_arrays(config: ModelConfig, archs: Sequence[Architecture]) -> ArchitectureArrays:
    if found := unsupported_features(config):
        raise ValueError(f"config {config.name or 'without a name'} uses {'; '.join(found)}: not supported")
    arrays = architecture_arrays(archs, config.n_layer)
    per_group = arrays.n_head // np.maximum(arrays.n_query_groups, 1)
    fits = (
        (arrays.n_embd <= config.n_embd)
        & (arrays.n_query_groups <= config.n_query_groups).all(axis=1)
        & (per_group <= config.n_head // config.n_query_groups).all(axis=1)
        & (arrays.intermediate_size <= config.intermediate_size).all(axis=1)
        & (config.bias | ~arrays.bias)
    )
    for i in np.flatnonzero(~fits)[:1]:
        check_fits(config, archs[i])  # says what does not fit
    return arrays


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} = {value}: must be at least 1")


def _check_length(config: ModelConfig, seq_len: int, cache_len: int) -> None:
    _check_positive("seq_len", seq_len)
    if cache_len < 0:
        raise ValueError(f"cache_len = {cache_len}: must be at least 0")
    if seq_len + cache_len > config.block_size:
        raise ValueError(
            f"seq_len + cache_len = {seq_len} + {cache_len} tokens are more than block_size = {config.block_size}"
        )
