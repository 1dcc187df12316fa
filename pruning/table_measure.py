"""Measure a latency table: what each level of a part costs, as differences between real networks.

Small networks of a few equal blocks (no head) say what levels cost against each other; the whole dense network, half
of its blocks, and none of them say what all blocks cost together. The parts are scaled so that the table of the dense
architecture sums to 1; what was scaled by how much is in the table's notes. Before that the levels of a part lose what
noise explains of their scatter (`level_noise`).

Shapes: d blocks of a small network, L blocks of the dense one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from litgpt.config import Config
from sklearn.isotonic import IsotonicRegression

from hw_profiles.device import Workload, current_device
from pruning.latency_check import LatencyRatio
from pruning.latency_table import LatencyTable
from pruning.lattice import Lattice
from pruning.level_noise import shrunk_levels
from pruning.random_networks import like_layers, small_vocabulary
from pruning.shape_latency import Shape, Timing, measure_shapes

_DEPTH = 6
ABSENT = (0, 0)


def measure_table(
    config: Config,
    lattice: Lattice,
    workload: Workload,
    *,
    timing: Timing | None = None,
    tied: bool = False,
    folder: str | Path | None = None,
    progress: bool = False,
) -> LatencyTable:
    """Return the measured costs of all levels of a lattice in units of the dense model's latency.

    Args:
        config: litgpt's Config of the dense network.
        lattice: the levels.
        workload: the input.
        timing: device, threads and repeats; a third of them for the whole network, which the latency model corrects.
        tied: whether embedding and head share one matrix.
        folder: where measurements are kept, so that a killed run goes on; None for memory.
        progress: show progress bars.

    Raises:
        ValueError: the lattice is of another network, or the folder holds measurements of another one, of another
            workload or device.
    """
    lattice.check(config)
    timing = timing or Timing()
    depth = min(_DEPTH, config.n_layer)
    small = measure_shapes(
        _small_shapes(config, lattice, depth), Shape(like_layers(config, depth)), small_vocabulary(config), workload,
        timing=timing, log=None if folder is None else Path(folder) / "table-parts.jsonl", progress=progress,
    )  # fmt: skip
    dense = Shape(like_layers(config, config.n_layer))
    halves = {0: Shape(dense.arch, empty=True)}
    if config.n_layer > 1:
        halves[config.n_layer // 2] = Shape(like_layers(config, config.n_layer // 2))
    deep = measure_shapes(
        halves, dense, config, workload, timing=replace(timing, repeats=max(timing.repeats // 3, 3)), tied=tied,
        log=None if folder is None else Path(folder) / "table-depth.jsonl", progress=progress,
    )  # fmt: skip
    return _table(config, lattice, workload, _Measured(small, deep, depth), _device_name(timing))


@dataclass(frozen=True)
class _Measured:
    """Ratios of the small networks (to the small network of whole blocks) and of dense networks of fewer blocks."""

    small: Mapping[Any, LatencyRatio]
    deep: Mapping[int, LatencyRatio]
    depth: int


def _small_shapes(config: Config, lattice: Lattice, depth: int) -> dict[Any, Shape]:
    """Return the networks to measure: keys are ("empty",), ("attention", level), ("mlp", width), ("embd", width)."""
    shapes: dict[Any, Shape] = {("empty",): Shape(like_layers(config, depth), empty=True)}
    for level in (ABSENT, *lattice.attention[:-1]):
        shapes["attention", level] = Shape(like_layers(config, depth, attention=level))
    for width in (0, *lattice.neurons[:-1]):
        shapes["mlp", width] = Shape(like_layers(config, depth, neurons=width))
    for width in lattice.embd[:-1]:
        shapes["embd", width] = Shape(like_layers(config, depth, n_embd=width))
    return shapes


def _table(
    config: Config, lattice: Lattice, workload: Workload, measured: _Measured, device: str
) -> LatencyTable:  # fmt: skip
    """Return the table of these measurements; see the module."""
    small, d, L = (
        _less_noisy(measured.small, LatencyTable.analytic(config, lattice, workload)),
        measured.depth,
        config.n_layer,
    )
    empty = small["empty",].ratio
    whole = max(1.0 - empty, 1e-6) / d  # of a block, in units of the small network
    attention = _part(small, "attention", lattice.attention, ABSENT, d)
    mlp = _part(small, "mlp", lattice.neurons, 0, d)
    mlp = dict(zip(mlp, IsotonicRegression().fit_transform(list(mlp), list(mlp.values())).tolist(), strict=True))
    parts = attention[lattice.attention[-1]] + mlp[lattice.neurons[-1]]
    rest = max(whole - parts, 0.0)
    per_block = blocks_share(measured.deep, L) / L  # in units of the dense network
    scale = per_block / (parts + rest)
    factors = {w: (small["embd", w].ratio - empty * w / config.n_embd) / (1 - empty) for w in lattice.embd[:-1]}
    return LatencyTable(
        fixed=1.0 - L * per_block,
        block=rest * scale,
        attention={level: cost * scale for level, cost in attention.items()},
        mlp={width: cost * scale for width, cost in mlp.items()},
        n_layer=L,
        n_embd=config.n_embd,
        dense_ms=float(np.median([one.dense_ms for one in measured.deep.values()])),
        workload=workload,
        device=device,
        embd={width: float(np.clip(factor, 0.01, 1.0)) for width, factor in factors.items()},
        noise=_noise([*small.values(), *measured.deep.values()]),
        notes={
            "how": f"differences between networks of {d} equal blocks, scaled to what a block costs in the dense model",
            "parts_over_block": (parts + rest) / whole,
            "fixed_measured_alone": measured.deep[0].ratio,
            "by_depth": {str(n): one.ratio for n, one in measured.deep.items()},
        },
    )


def _less_noisy(small: Mapping[Any, LatencyRatio], work: LatencyTable) -> dict[Any, LatencyRatio]:
    """Return the measurements with the levels of each part drawn towards a line through their work."""
    found = dict(small)
    for part, costs in (("attention", {ABSENT: 0.0, **work.attention}), ("mlp", {0: 0.0, **work.mlp})):
        keys = [key for key in small if key[0] == part]
        missing = np.array([max(costs.values()) - costs[key[1]] for key in keys])
        ratios, low, high = (np.array([getattr(small[key], name) for key in keys]) for name in ("ratio", "low", "high"))
        for key, ratio in zip(keys, shrunk_levels(missing, ratios, low, high), strict=True):
            found[key] = replace(small[key], ratio=float(ratio))
    return found


def _part(small: Mapping[Any, LatencyRatio], part: str, levels: Any, absent: Any, depth: int) -> dict[Any, float]:
    """Return the cost of each level of a part in one block: the network with it less the network without the part."""
    without = small[part, absent].ratio
    costs = {level: (small[part, level].ratio - without) / depth for level in levels[:-1]}
    costs[levels[-1]] = max(1.0 - without, 1e-6) / depth
    least = 1e-3 * costs[levels[-1]]
    return {level: float(np.clip(cost, least, costs[levels[-1]])) for level, cost in costs.items()}


def blocks_share(deep: Mapping[int, LatencyRatio], n_layer: int) -> float:
    """Return the share of the dense model's latency that all its blocks take.

    The line through the dense model (1 at `n_layer` blocks) that fits the networks of fewer blocks best.
    """
    missing = np.array([n_layer - n for n in deep])
    less = np.array([1.0 - one.ratio for one in deep.values()])
    return float(np.clip(n_layer * (missing @ less) / (missing @ missing), 1e-3, 1.0))


def _noise(found: list[LatencyRatio]) -> float:
    return float(np.mean([(one.high - one.low) / 2 / one.ratio for one in found]))


def _device_name(timing: Timing) -> str:
    return current_device(timing.device, threads=timing.threads).name
