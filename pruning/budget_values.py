"""The values that budgets limit: exact parameters, memory and KV cache of networks, and the least a search reaches.

No torch. Memory is that of the weights and of the KV cache of the workload's positions, in the workload's dtype; it
does not hold activations, nor what the process itself needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hw_profiles.device import Workload
from pruning.lattice import Lattice
from supernet.architecture import Architecture
from supernet.cost import kv_cache_elements, parameter_counts
from supernet.litgpt_config import ModelConfig, whole_architecture

Predict = Callable[[Sequence[Architecture]], np.ndarray]  # architectures -> latency over the dense model's, (n,)


def counted_values(
    config: ModelConfig, archs: Sequence[Architecture], workload: Workload, *, tied: bool = False
) -> dict[str, np.ndarray]:
    """Return params, decoder_params, memory and kv_cache (bytes) of each network, each (n,), exact.

    Args:
        config: litgpt's Config of the supernet.
        archs: the sub-networks.
        workload: says the dtype, the batch and how many positions are cached.
        tied: whether embedding and head share one matrix.
    """
    counts, size = parameter_counts(config, archs, tied=tied), workload.bytes_per_element
    cached = workload.batch_size * size * kv_cache_elements(config, archs, seq_len=workload.n_positions)
    return {
        "params": counts.total,
        "decoder_params": counts.decoder,
        "memory": counts.total * size + cached,
        "kv_cache": cached,
    }


def timed_values(latency_ms: float, workload: Workload) -> dict[str, float]:
    """Return latency and tokens_per_s of a network of this latency."""
    return {"latency": latency_ms, "tokens_per_s": workload.n_tokens * 1e3 / latency_ms}


def dense_values(
    config: ModelConfig, workload: Workload, *, tied: bool = False, dense_ms: float | None = None
) -> dict[str, float]:
    """Return the dense model's value of every metric; without `dense_ms` of those that are counted."""
    counted = counted_values(config, [whole_architecture(config)], workload, tied=tied)
    values = {name: float(value[0]) for name, value in counted.items()}
    return values if dense_ms is None else values | timed_values(dense_ms, workload)


def smallest_architectures(config: ModelConfig, lattice: Lattice, *, complete: bool = False) -> list[Architecture]:
    """Return the networks of one block that nothing on the lattice is below: the smallest of any metric is among them.

    Args:
        config: litgpt's Config of the supernet.
        lattice: the levels.
        complete: every block has attention and MLP (uniform networks); these may also have a narrower residual.
    """
    (heads, groups), neurons = lattice.attention[0], lattice.neurons[0]
    levels = [(heads, groups, neurons)] if complete else [(heads, groups, 0), (0, 0, neurons)]
    embd = lattice.embd[0] if complete else lattice.embd[-1]
    return [Architecture(embd, (h,), (g,), (f,), (0,), config.bias) for h, g, f in levels]


def best_values(
    config: ModelConfig,
    lattice: Lattice,
    workload: Workload,
    *,
    tied: bool = False,
    complete: bool = False,
    latency: Predict | None = None,
    dense_ms: float | None = None,
) -> dict[str, float]:
    """Return the smallest value of each metric that a network on the lattice reaches (of tokens_per_s the largest).

    For `ResolvedBudget.check_reachable`. Latency needs `latency` (predicted ratios) and `dense_ms`.
    """
    archs = smallest_architectures(config, lattice, complete=complete)
    counted = counted_values(config, archs, workload, tied=tied)
    best = {name: float(value.min()) for name, value in counted.items()}
    if latency is None or dense_ms is None:
        return best
    return best | timed_values(float(np.min(latency(archs))) * dense_ms, workload)
