"""Find the lattice of a device: which widths of MLP, attention and residual stream are fast there under a workload.

Candidates are measured as small networks that have nothing but the part, in turn with the same network at full size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from litgpt.config import Config

from hw_profiles.device import Workload
from pruning.latency_check import LatencyRatio
from pruning.lattice import (
    Lattice,
    attention_candidates,
    embd_candidates,
    fastest_for_their_size,
    lower_envelope,
    neuron_candidates,
)
from pruning.random_networks import like_layers, small_vocabulary
from pruning.shape_latency import Shape, Timing, measure_shapes
from supernet.architecture import Architecture

_BLOCKS = 4  # of a part alone: one would be timed with its weights in the cache
_LEAST_NOISE, _MOST_NOISE = 0.003, 0.03


def find_lattice(
    config: Config,
    workload: Workload,
    *,
    timing: Timing | None = None,
    n_widths: int = 12,
    embd: bool = True,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Lattice:
    """Return the levels that are worth having under a workload on a device.

    Of each kind a level stays only when no larger one is as fast within the noise of the measurement; of the MLP
    widths at most one in each of `n_widths` equal stretches, the fastest for its size. On a device where a part's
    latency hardly depends on its size (launch-bound decoding on a GPU) only the whole part is left.

    Args:
        config: litgpt's Config of the dense network.
        workload: the input.
        timing: device, threads and repeats.
        n_widths: MLP widths to end with, at most.
        embd: measure residual widths too; without, the lattice has the whole one alone.
        folder: where measurements are kept, so that a killed run goes on; None for memory.
        progress: show progress bars.

    Raises:
        ValueError: the folder holds measurements of another network, workload or device.
    """
    timing, config = timing or Timing(), small_vocabulary(config)
    depth = min(_BLOCKS, config.n_layer)
    whole = (config.n_head, config.n_query_groups)
    residual = embd_candidates(config) if embd else [config.n_embd]
    measured: dict[str, Mapping[Any, LatencyRatio]] = {}
    shapes: dict[str, dict[Any, Architecture]] = {
        "neurons": {
            width: like_layers(config, depth, attention=(0, 0), neurons=width)
            for width in neuron_candidates(config.intermediate_size, n_widths=n_widths)
        },
        "attention": {
            level: like_layers(config, depth, attention=level, neurons=0) for level in attention_candidates(config)
        },
        "embd": {width: like_layers(config, depth, n_embd=width) for width in residual},
    }
    references: dict[str, Any] = {"neurons": config.intermediate_size, "attention": whole, "embd": config.n_embd}
    for name, archs in shapes.items():
        measured[name] = measure_shapes(
            {level: Shape(arch) for level, arch in archs.items() if level != references[name]},
            Shape(archs[references[name]]),
            config,
            workload,
            timing=timing,
            log=None if folder is None else Path(folder) / f"lattice-{name}.jsonl",
            progress=progress,
        )
    widths = _kept(measured["neurons"], references["neurons"])
    costs = [1.0 if w == references["neurons"] else measured["neurons"][w].ratio for w in widths]
    return Lattice(
        neurons=tuple(widths[i] for i in fastest_for_their_size(widths, costs, n_widths=n_widths)),
        attention=tuple(_kept(measured["attention"], whole)),
        embd=tuple(_kept(measured["embd"], config.n_embd)),
    )


def _kept(measured: Mapping[Any, LatencyRatio], whole: Any) -> list[Any]:
    """Return the levels of the lower envelope, ascending, the whole one last."""
    levels = [*sorted(measured), whole]
    costs = [*(measured[level].ratio for level in levels[:-1]), 1.0]
    table = [level if isinstance(level, tuple) else (level,) for level in levels]
    return [levels[i] for i in lower_envelope(table, costs, noise=noise_of(list(measured.values())))]


def noise_of(found: Sequence[LatencyRatio]) -> float:
    """Return the relative standard error of a difference between two of these, bounded.

    A 95 % interval is four standard errors wide, and a difference has sqrt 2 times those of its terms.
    """
    if not found:
        return _LEAST_NOISE
    error = np.median([(one.high - one.low) / 4 / one.ratio for one in found])
    return float(min(max(error * math.sqrt(2), _LEAST_NOISE), _MOST_NOISE))
