"""LatencyTable: what the parts of a network cost, in units of the dense model's latency. No torch.

A network's latency is predicted as the sum of its parts: fixed (embedding, final norm, head), the rest of each kept
block, attention at its level and MLP at its width, each with its own norm. `pruning.table_measure` measures the parts;
`LatencyTable.analytic` computes them from multiply-adds and bytes, as a prior and for tests. Additive tables are off
by a few percent for whole networks; `pruning.latency_model` corrects them with measured networks.

Shapes: n architectures, L blocks of the supernet, C n_embd, H heads, G query groups, F intermediate_size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hw_profiles.device import Workload
from pruning.lattice import Lattice
from supernet.architecture import Architecture
from supernet.arrays import ArchitectureArrays, architecture_arrays
from supernet.artifacts import read_json, write_json
from supernet.cost import mac_counts, parameter_counts
from supernet.litgpt_config import ModelConfig

_BYTE_MACS = 32.0  # multiply-adds that take as long as moving one byte: between small CPUs and large GPUs


@dataclass(frozen=True)
class PartCosts:
    """Predicted cost of n networks by part, each (n,), dense = 1.0 in all."""

    fixed: np.ndarray
    block: np.ndarray
    attention: np.ndarray
    mlp: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The sum, (n,)."""
        return self.fixed + self.block + self.attention + self.mlp


@dataclass(frozen=True)
class LatencyTable:
    """Costs of the parts in units of the dense model's latency: those of the dense model sum to 1.

    Attributes:
        fixed: embedding, final norm and head.
        block: what a kept block costs besides its parts.
        attention: (query heads, groups) -> attention with its norm; absent attention costs nothing.
        mlp: neurons -> MLP with its norm; an absent MLP costs nothing.
        n_layer: blocks of the dense model.
        n_embd: its residual width.
        dense_ms: its latency; 1.0 where nothing was measured.
        workload: the input.
        device: name of the device, "analytic" where nothing was measured.
        embd: residual width -> cost of a block at that width over its cost at n_embd; between and without them in
            proportion to the width. The fixed part goes in proportion. A rough estimate, for the residual model.
        noise: half width of the interval of the median of the measured ratios, the mean over all.
        notes: how the table was closed, and other facts for the record.

    Raises:
        ValueError: costs that make no sense.
    """

    fixed: float
    block: float
    attention: Mapping[tuple[int, int], float]
    mlp: Mapping[int, float]
    n_layer: int
    n_embd: int
    dense_ms: float
    workload: Workload
    device: str
    embd: Mapping[int, float] = field(default_factory=dict)
    noise: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.attention or not self.mlp:
            raise ValueError("a latency table needs at least the whole attention and the whole MLP")
        costs = [self.fixed, self.block, *self.attention.values(), *self.mlp.values(), *self.embd.values()]
        if not np.isfinite(costs).all() or min(costs) < 0:
            raise ValueError(f"costs of a latency table are finite and at least 0, not {min(costs)}")

    # --- predicting -------------------------------------------------------------------------------------------------

    def predict(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Return the latency of each network over the dense model's, (n,).

        Levels that the table does not hold are interpolated: MLPs between the next widths, attention by a plane
        through all levels.

        Raises:
            ValueError: an architecture is larger than the table's dense model.
        """
        return self.parts(archs).total

    def parts(self, archs: Sequence[Architecture]) -> PartCosts:
        """Return the latency of each network by part; see `predict`."""
        arrays = architecture_arrays(archs, self.n_layer)
        self._check(arrays)
        width = arrays.n_embd / self.n_embd
        scale = width if not self.embd else np.interp(arrays.n_embd, *self._embd_line)
        known, costs = self._mlp_line
        return PartCosts(
            fixed=self.fixed * width,
            block=self.block * arrays.n_layer * scale,
            attention=self._attention_costs[arrays.n_head, arrays.n_query_groups].sum(axis=1) * scale,
            mlp=np.interp(arrays.intermediate_size, known, costs).sum(axis=1) * scale,
        )

    @property
    def whole(self) -> tuple[tuple[int, int], int]:
        """The dense model's (heads, groups) and neurons."""
        return max(self.attention), max(self.mlp)

    @property
    def levels(self) -> dict[str, tuple[Any, ...]]:
        """The levels as a `Lattice` names them: neurons and attention, ascending."""
        return {"neurons": tuple(sorted(self.mlp)), "attention": tuple(sorted(self.attention))}

    @cached_property
    def _mlp_line(self) -> tuple[list[int], list[float]]:
        known = sorted(self.mlp)
        return [0, *known], [0.0, *(self.mlp[width] for width in known)]

    @cached_property
    def _embd_line(self) -> tuple[list[int], list[float]]:
        points = {0: 0.0, **self.embd, self.n_embd: 1.0}
        return sorted(points), [points[width] for width in sorted(points)]

    @cached_property
    def _attention_costs(self) -> np.ndarray:
        """Return the cost at [heads, groups], (H + 1, G + 1): known levels, else a plane through them."""
        levels, costs = np.array(list(self.attention)), np.array(list(self.attention.values()))
        (heads, groups), _ = self.whole
        H, G = np.meshgrid(np.arange(heads + 1), np.arange(groups + 1), indexing="ij")
        if len(levels) >= 4:
            plane = np.linalg.lstsq(np.c_[np.ones(len(levels)), levels], costs, rcond=None)[0]
            table = np.maximum(plane[0] + plane[1] * H + plane[2] * G, costs.min() * H / levels[:, 0].min())
        else:
            table = costs.max() * H / heads
        table = np.minimum(table, costs.max())
        table[levels[:, 0], levels[:, 1]] = costs
        table[0, 0] = 0.0
        return table

    def _check(self, arrays: ArchitectureArrays) -> None:
        (heads, groups), neurons = self.whole
        limits = {
            "n_head": (arrays.n_head, heads), "n_query_groups": (arrays.n_query_groups, groups),
            "intermediate_size": (arrays.intermediate_size, neurons), "n_embd": (arrays.n_embd, self.n_embd),
        }  # fmt: skip
        for name, (values, most) in limits.items():
            if values.size and values.max() > most:
                raise ValueError(f"{name} = {values.max()}: the dense model of this latency table has {most}")

    def blended(self, other: LatencyTable, share: float) -> LatencyTable:
        """Return the table with this share of another one that has the same levels; `embd` stays as it is.

        Both are of the same dense model, whose parts sum to 1 in either, and so in the result.
        """

        def mix(own: float, theirs: float) -> float:
            return (1 - share) * own + share * theirs

        return replace(
            self,
            fixed=mix(self.fixed, other.fixed),
            block=mix(self.block, other.block),
            attention={level: mix(cost, other.attention[level]) for level, cost in self.attention.items()},
            mlp={width: mix(cost, other.mlp[width]) for width, cost in self.mlp.items()},
            notes={**self.notes, f"share of {other.device}": round(share, 4)},
        )

    # --- without measuring ------------------------------------------------------------------------------------------

    @classmethod
    def analytic(cls, config: ModelConfig, lattice: Lattice, workload: Workload) -> LatencyTable:
        """Return a table computed from multiply-adds and bytes moved; nothing is measured.

        A part costs its multiply-adds plus 32 times the bytes of its weights, its KV cache and its activations, so
        prefill goes mostly by multiply-adds and decode by bytes. Real devices differ; use it as a prior and in tests.
        """
        lattice.check(config)
        attention = _attention_work(config, lattice.attention, workload)
        mlp = _mlp_work(config, lattice.neurons, workload)
        stream = config.n_embd * workload.n_tokens * workload.bytes_per_element
        block, fixed = 2 * stream * _BYTE_MACS, _head_work(config, workload)
        total = fixed + config.n_layer * (block + attention[-1] + mlp[-1])
        return cls(
            fixed=float(fixed / total),
            block=float(block / total),
            attention={level: float(work / total) for level, work in zip(lattice.attention, attention, strict=True)},
            mlp={width: float(work / total) for width, work in zip(lattice.neurons, mlp, strict=True)},
            n_layer=config.n_layer,
            n_embd=config.n_embd,
            dense_ms=1.0,
            workload=workload,
            device="analytic",
            notes={"how": "multiply-adds and bytes, not measured"},
        )

    # --- files ------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "fixed": self.fixed, "block": self.block,
            "attention": [[h, g, cost] for (h, g), cost in sorted(self.attention.items())],
            "mlp": [[width, cost] for width, cost in sorted(self.mlp.items())],
            "embd": [[width, factor] for width, factor in sorted(self.embd.items())],
            "n_layer": self.n_layer, "n_embd": self.n_embd, "dense_ms": self.dense_ms, "workload": self.workload.id,
            "device": self.device, "noise": self.noise, "notes": dict(self.notes),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatencyTable:
        """Read what `to_dict` gives; raises ValueError when a field is missing or makes no sense."""
        plain = ("fixed", "block", "n_layer", "n_embd", "dense_ms", "device", "noise", "notes")
        try:
            return cls(
                attention={(int(h), int(g)): float(cost) for h, g, cost in data["attention"]},
                mlp={int(width): float(cost) for width, cost in data["mlp"]},
                embd={int(width): float(factor) for width, factor in data["embd"]},
                workload=Workload.from_id(data["workload"]),
                **{name: data[name] for name in plain},
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a latency table ({error!r})") from error

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, atomically."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read what `save` wrote; raises FileNotFoundError, or ValueError for a damaged file."""
        return cls.from_dict(read_json(path))


def _one_block(config: ModelConfig, heads: int, groups: int, neurons: int) -> Architecture:
    return Architecture(config.n_embd, (heads,), (groups,), (neurons,), (0,), config.bias)


def _attention_work(config: ModelConfig, levels: Sequence[tuple[int, int]], workload: Workload) -> np.ndarray:
    archs = [_one_block(config, h, g, 0) for h, g in levels]
    macs = mac_counts(config, archs, seq_len=workload.seq_len, cache_len=workload.cache_len)
    heads, groups = np.array(levels).T
    elements = (
        parameter_counts(config, archs).attention
        + workload.n_tokens * (4 * config.n_embd + 2 * (heads + 2 * groups) * config.head_size)
        + workload.batch_size * workload.cache_len * 2 * groups * config.head_size
    )
    return workload.batch_size * (macs.attention + macs.scores) + _BYTE_MACS * workload.bytes_per_element * elements


def _mlp_work(config: ModelConfig, widths: Sequence[int], workload: Workload) -> np.ndarray:
    archs = [_one_block(config, 0, 0, width) for width in widths]
    macs = mac_counts(config, archs, seq_len=workload.seq_len, cache_len=workload.cache_len).mlp
    activations = workload.n_tokens * (4 * config.n_embd + 3 * np.array(widths))
    elements = parameter_counts(config, archs).mlp + activations
    return workload.batch_size * macs + _BYTE_MACS * workload.bytes_per_element * elements


def _head_work(config: ModelConfig, workload: Workload) -> float:
    head = config.padded_vocab_size * config.n_embd
    elements = head + workload.n_tokens * (config.padded_vocab_size + 3 * config.n_embd)
    return head * workload.n_tokens + _BYTE_MACS * workload.bytes_per_element * elements
