"""Latency ratios of network shapes with random weights, each measured once and kept in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import litgpt
from litgpt.config import Config

from hw_profiles.device import Workload, current_device
from pruning.latency_check import LatencyRatio, measure_ratios
from pruning.random_networks import random_network, without_blocks
from pruning.ratio_log import RatioLog
from supernet.architecture import Architecture

_SIZES = (
    "n_layer", "n_embd", "n_head", "n_query_groups", "head_size", "intermediate_size", "padded_vocab_size", "bias",
    "norm_class_name", "mlp_class_name", "parallel_residual", "shared_attention_norm", "norm_qk", "rotary_percentage",
    "sliding_window_size",
)  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """How latencies are measured; see `pruning.latency_check.measure_ratios`.

    Attributes:
        device: "cpu", "cuda", "cuda:1".
        threads: CPU threads; None for the physical cores.
        repeats: pairs of samples at most, but for `seconds`.
        warmup: untimed calls before.
        precision: relative half width of the median at which measuring stops.
        seconds: of sampling for each network that `repeats` have not told so precisely.
        at_once: networks in memory besides the reference.
    """

    device: str = "cpu"
    threads: int | None = None
    repeats: int = 12
    warmup: int = 2
    precision: float = 0.005
    seconds: float = 0.0
    at_once: int = 4


@dataclass(frozen=True)
class Shape:
    """A network to time; `empty` is the network without its blocks."""

    arch: Architecture
    empty: bool = False

    @property
    def name(self) -> str:
        """Name in the log."""
        return f"empty-e{self.arch.n_embd}" if self.empty else self.arch.id


def measure_shapes(
    shapes: Mapping[Any, Shape],
    reference: Shape,
    config: Config,
    workload: Workload,
    *,
    timing: Timing,
    tied: bool = False,
    log: str | Path | None = None,
    progress: bool = False,
) -> dict[Any, LatencyRatio]:
    """Return the latency of each shape over the reference's, by the same keys.

    Args:
        shapes: what to measure; equal shapes are measured once.
        reference: what they are compared with.
        config: litgpt's Config of the supernet.
        workload: the input.
        timing: how.
        tied: whether embedding and head share one matrix.
        log: file of results; what it holds is not measured again.
        progress: show a progress bar.

    Raises:
        ValueError: the log is of another network, workload, device or reference.
    """
    known = RatioLog(log, context_of(config, workload, timing) | {"reference": reference.name})
    missing = {shape.name: shape for shape in shapes.values() if shape.name not in known.known}
    names = list(missing)

    def build(shape: Shape) -> litgpt.GPT:
        if shape.empty:
            return without_blocks(config, shape.arch, workload, device=timing.device)
        return random_network(config, shape.arch, workload, device=timing.device, tied=tied)

    measure_ratios(
        [lambda shape=shape: build(shape) for shape in missing.values()],
        lambda: build(reference),
        workload,
        **asdict(timing),
        progress=progress,
        on_result=lambda index, found: known.add(names[index], found.to_dict()),
    )
    return {key: LatencyRatio(**known.known[shape.name]) for key, shape in shapes.items()}


def context_of(config: Config, workload: Workload, timing: Timing) -> dict[str, Any]:
    """Return what latencies depend on: the network's sizes, the workload, the device and its threads."""
    place = current_device(timing.device, threads=timing.threads)
    sizes = {name: getattr(config, name) for name in _SIZES}
    return {"config": sizes, "workload": workload.id, "device": place.name, "threads": place.threads}
