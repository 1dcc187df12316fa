"""Features of what a caching allocator adds to the bytes of a network, for trees. No torch.

CUDA's caching allocator counts whole blocks: tensors above 1 MiB are cut from segments of 20 MiB, and a rest of up to 1
MiB sticks to the tensor before it. What sticks depends on where the segments end among the tensors, thus on the running
sum of large tensors modulo 20 MiB (`surrogates.allocator` simulates it to the byte, too slowly for queries).
"""

from __future__ import annotations

import numpy as np

from surrogates.layer_features import LayerFeatures

_MIB = 2**20
_LARGE, _SEGMENT = _MIB, 20 * _MIB
_ROUND = 512
_WEIGHT, _CAST = 4, 2  # bytes of a number: weights in float32, their cached copies in half precision


def packing(features: LayerFeatures, genes: np.ndarray) -> np.ndarray:
    """Return sizes, counts and running bytes of large tensors, whole and modulo a segment, (n, d) float32.

    Tensors are those of attention (fused qkv, output) and of a gated MLP (three alike), in the order of the blocks.
    """
    L = features.space.max_layer
    attention, mlp = genes[:, 3 : 3 + L], genes[:, 3 + L :]
    active = features.active(genes)[:, 3 : 3 + L]
    width = features.embd[genes[:, 0]][:, None]
    heads = features.heads[attention] * active
    neurons = features.neurons[genes[:, :1], mlp] * active
    n_mlp = features.neurons.shape[1]
    kinds = np.where(active, attention * n_mlp + mlp, -1)
    pairs = [(kinds == kind).sum(axis=1, keepdims=True) for kind in range(len(features.heads) * n_mlp)]
    weights = _running_bytes(features, width, heads, neurons, _WEIGHT)
    casts = _running_bytes(features, width, heads, neurons, _CAST)
    columns = [
        width, features.depths[genes[:, 2]][:, None], features.bias(genes), heads.sum(axis=1, keepdims=True),
        neurons.sum(axis=1, keepdims=True), *features.counts(genes), *pairs, heads, neurons,
        weights % _SEGMENT, weights, casts % _SEGMENT,
    ]  # fmt: skip
    return np.concatenate(columns, axis=1).astype(np.float32)


def packing_names(features: LayerFeatures) -> tuple[str, ...]:
    """Return the names of the columns of `packing`."""
    n_attention, n_mlp = len(features.heads), features.neurons.shape[1]
    blocks = range(features.space.max_layer)
    return (
        "n_embd", "n_layer", "bias", "sum_n_head", "sum_intermediate_size",
        *(f"blocks_attention={i}" for i in range(n_attention)), *(f"blocks_mlp={i}" for i in range(n_mlp)),
        *(f"blocks_attention={i}_mlp={j}" for i in range(n_attention) for j in range(n_mlp)),
        *(f"{kind}_{i:02}" for kind in ("n_head", "intermediate_size", "in_segment", "large", "cast_in_segment")
          for i in blocks),
    )  # fmt: skip


def _running_bytes(
    features: LayerFeatures, width: np.ndarray, heads: np.ndarray, neurons: np.ndarray, size: int
) -> np.ndarray:
    """Return the bytes of the tensors above 1 MiB up to and with each block, (n, L)."""
    own = size * width * features.head_size * heads
    return np.cumsum(_large(3 * own) + _large(own) + 3 * _large(size * width * neurons), axis=1)


def _large(size: np.ndarray) -> np.ndarray:
    """Return sizes above 1 MiB as the allocator rounds them, 0 for others."""
    return np.where(size > _LARGE, np.ceil(size / _ROUND) * _ROUND, 0.0)
