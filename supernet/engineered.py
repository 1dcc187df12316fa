"""Architectures as engineered features: what is likely to drive quality, latency, memory and energy. No torch.

For surrogates. Widths, depth and bias; sums, means and spreads over layers; products with the width (the sizes of the
matrices); exact parameters, multiply-adds and KV-cache entries by part; running sums over the blocks. Vectorised.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supernet.architecture import Architecture
from supernet.arrays import ArchitectureArrays, architecture_arrays
from supernet.cost import kv_cache_elements, mac_counts, parameter_counts
from supernet.space import SearchSpace

_SIZES = ("n_head", "n_query_groups", "intermediate_size")


def engineered_names(space: SearchSpace) -> list[str]:
    """Return the names of the columns of `engineered`."""
    return list(_columns(space, [space.smallest()]))


def engineered(space: SearchSpace, archs: Sequence[Architecture]) -> np.ndarray:
    """Return engineered features, (n, d) float64; units are entries, parameters or multiply-adds.

    Multiply-adds (`macs_`) and the KV cache are those of one sequence of the supernet's block size.

    Raises:
        ValueError: an architecture keeps a block, or has a bias, that the supernet does not have. Whether it is one of
            the space's choices is not looked at: `SearchSpace.validate` does that.
    """
    return np.column_stack([*_columns(space, archs).values()]).astype(np.float64)


def _columns(space: SearchSpace, archs: Sequence[Architecture]) -> dict[str, np.ndarray]:
    arrays = architecture_arrays(archs, space.max_layer)
    own = {"n_embd": arrays.n_embd, "n_layer": arrays.n_layer, "bias": arrays.bias}
    columns = own | _layer_statistics(arrays) | _interactions(arrays) | _costs(space, archs)
    return columns | _running_sums(arrays) if space.per_layer else columns


def _layer_statistics(arrays: ArchitectureArrays) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    depth = arrays.n_layer
    for name in _SIZES:
        values = getattr(arrays, name)
        mean = values.sum(axis=1) / depth
        variance = (values.astype(float) ** 2).sum(axis=1) / depth - mean**2
        columns |= {
            f"sum_{name}": values.sum(axis=1),
            f"mean_{name}": mean,
            f"std_{name}": np.sqrt(np.maximum(variance, 0)),
            f"min_{name}": np.where(arrays.kept, values, values.max(initial=0)).min(axis=1),
            f"max_{name}": values.max(axis=1),
        }
    columns["mean_block"] = arrays.kept @ np.arange(arrays.kept.shape[1]) / depth  # which blocks a subset keeps
    return columns


def _interactions(arrays: ArchitectureArrays) -> dict[str, np.ndarray]:
    width = arrays.n_embd
    columns = {f"n_embd*sum_{name}": width * getattr(arrays, name).sum(axis=1) for name in _SIZES}
    columns |= {"n_embd*n_layer": width * arrays.n_layer, "n_embd^2": width**2}
    columns["bias*n_layer"] = arrays.bias * arrays.n_layer
    columns["sum_mlp_ratio"] = arrays.intermediate_size.sum(axis=1) / width
    columns["sum_n_head*intermediate_size"] = (arrays.n_head * arrays.intermediate_size).sum(axis=1)
    return columns


def _costs(space: SearchSpace, archs: Sequence[Architecture]) -> dict[str, np.ndarray]:
    config = space.model_config
    parameters = parameter_counts(config, archs)
    work = mac_counts(config, archs, seq_len=config.block_size)
    return {
        "params_attention": parameters.attention, "params_mlp": parameters.mlp, "params_norm": parameters.norm,
        "params_head": parameters.head, "params_decoder": parameters.decoder, "params_total": parameters.total,
        "macs_attention": work.attention, "macs_mlp": work.mlp, "macs_head": work.head,
        "macs_scores": work.scores, "macs_total": work.total,
        "kv_cache_elements": kv_cache_elements(config, archs, seq_len=config.block_size),
    }  # fmt: skip


def _running_sums(arrays: ArchitectureArrays) -> dict[str, np.ndarray]:
    """Return sums over blocks 0 to i for every i but the last (that is the sum over all)."""
    columns: dict[str, np.ndarray] = {}
    for name in _SIZES:
        running = getattr(arrays, name).cumsum(axis=1)
        columns |= {f"sum_{name}_to_{i:02}": running[:, i] for i in range(running.shape[1] - 1)}
    return columns
