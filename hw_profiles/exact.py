"""Metrics that are counted from the architecture and not measured. No torch."""

from __future__ import annotations

from hw_profiles.device import Workload
from supernet.architecture import Architecture
from supernet.cost import flops, kv_cache_bytes, macs, parameter_count
from supernet.litgpt_config import ModelConfig


def exact_value(
    metric: str, config: ModelConfig, arch: Architecture, *, workload: Workload, tie_embeddings: bool = False
) -> float:
    """Return the exact value of a metric in its unit.

    macs and flops are those of one call of the workload (for decode: one token with the filled cache); kv_cache_mib is
    the cache that the call leaves, in the workload's dtype.

    Raises:
        ValueError: the metric is not an exact one, or the model cannot run the workload.
    """
    if metric in ("n_params", "n_params_decoder"):
        count = parameter_count(config, arch, tied=tie_embeddings)
        return float(count.total if metric == "n_params" else count.decoder)
    if metric in ("macs", "flops"):
        function = macs if metric == "macs" else flops
        T, B, P = workload.seq_len, workload.batch_size, workload.cache_len
        return float(function(config, arch, seq_len=T, batch_size=B, cache_len=P))
    if metric == "kv_cache_mib":
        size = kv_cache_bytes(
            config,
            arch,
            seq_len=workload.n_positions,
            batch_size=workload.batch_size,
            bytes_per_element=workload.bytes_per_element,
        )
        return size / 2**20
    raise ValueError(f"{metric} has no closed form; exact are n_params, n_params_decoder, macs, flops, kv_cache_mib")
