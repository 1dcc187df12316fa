"""What pruning one part of one block costs: KL from the dense network's next-token distributions, in nats a token.

Measured for each layer: the block gone; its attention absent; its MLP absent; and of each part a few levels with their
overlays (`levels_per_part`, spread over the levels' least-squares errors). The other levels are interpolated: their
least-squares errors are known, and log KL is a monotone function of log error in each layer and part (`ErrorCurve`).
The level of the least error, whose KL is small, is measured in every third layer only: between it and the next one the
slope of log KL is about the same in all layers (SmolLM2-135M: 0.8 +- 0.07 for MLPs, 0.8 +- 0.25 for attention).
`QualityTable.measured` says which entries are which; levels_per_part=None measures all.

A variant differs from the dense network from one block on, so only the blocks from there on run. Each number is kept
in a file as soon as it is known. With precision="bf16" only those blocks are rounded: the stream before them and the
dense network's distributions are float32's. Rounding adds about the same KL to all variants (SmolLM2-135M: 0.0008 +-
0.0001 nats, a quarter of the least entries): in a few layers one variant is measured both ways, and the difference,
interpolated between layers, is taken off (`_unrounded`).

Two parts of a block are taken to add up, unless both are absent: the block gone is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pruning.calibration import check_blocks
from pruning.collection import autocast
from pruning.dense_target import DenseTarget
from pruning.error_curve import ErrorCurve, slope_between, spread
from pruning.fingerprints import fingerprint
from pruning.lattice import Lattice
from pruning.levels import Level, whole_level
from pruning.overlay import OverlayDatabase
from pruning.pieces import Pieces, Step
from pruning.record_file import RecordFile
from pruning.structure import PARTS, Part, Sizes
from supernet.architecture import Architecture
from supernet.selection import LayerShape
from supernet.tokens import TokenBlocks

Entry = tuple[int, Part, Level]
ABSENT: Mapping[Part, Level] = {"attention": (0, 0), "mlp": (0,)}
_LEAST_ERROR_EVERY = 3  # layers
_LEAST_SLOPE = 0.1
_N_ROUNDING = 4  # layers in which rounding is measured
_LEAST_LEFT = 0.2  # of an entry, when what rounding adds is taken off


@dataclass(frozen=True)
class QualityTable:
    """KL to the dense network in nats a token when one block is changed.

    Attributes:
        parts: by layer, part and level; (0, 0) and (0,) are the absent part, the whole level is 0.
        gone: (L,) of the block left out.
        measured: the entries of `parts` that were measured; the others are interpolated.
    """

    parts: Mapping[Entry, float]
    gone: tuple[float, ...]
    measured: frozenset[Entry]

    @property
    def n_layer(self) -> int:
        """Blocks of the network."""
        return len(self.gone)

    def damage(self, layer: int, heads: int, groups: int, neurons: int) -> float:
        """Return the damage of a block of this shape; 0 for the whole block, all zeros for no block.

        Raises:
            KeyError: the table has no such level.
        """
        if not heads and not neurons:
            return self.gone[layer]
        return self.part(layer, "attention", (heads, groups)) + self.part(layer, "mlp", (neurons,))

    def part(self, layer: int, part: Part, level: Level) -> float:
        """Return the damage of one part's level; KeyError where the table does not have it."""
        if (layer, part, level) not in self.parts:
            known = sorted(own for i, p, own in self.parts if (i, p) == (layer, part))
            raise KeyError(f"layer {layer}, {part}: no level {level} in the quality table; it has {known}")
        return self.parts[layer, part, level]

    def damages(self, shapes: Iterable[tuple[int, int, int]]) -> np.ndarray:
        """Return the damages of shapes (heads, groups, neurons) in every layer, (L, n)."""
        shapes = list(shapes)
        return np.array([[self.damage(i, *shape) for shape in shapes] for i in range(self.n_layer)])

    def total(self, arch: Architecture) -> float:
        """Return the sum over blocks: an estimate of the network's KL (of its order, not its size)."""
        rows = zip(arch.n_head, arch.n_query_groups, arch.intermediate_size, strict=True)
        kept = dict(zip(arch.layers, rows, strict=True))
        return sum(self.damage(i, *kept.get(i, (0, 0, 0))) for i in range(self.n_layer))

    def weighted(self, attention: float) -> QualityTable:
        """Return the table with the damages of attention levels times a factor; blocks gone stay as they are.

        Damages to attention compound more than those to MLPs do: what one block loses is looked up in others.
        """
        parts = {entry: kl * (attention if entry[1] == "attention" else 1.0) for entry, kl in self.parts.items()}
        return replace(self, parts=parts)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row of plain types for each entry, for reports."""
        found = [
            {"layer": i, "part": part, "level": list(level), "kl": kl, "measured": (i, part, level) in self.measured}
            for (i, part, level), kl in sorted(self.parts.items())
        ]
        return found + [
            {"layer": i, "part": "block", "level": [0], "kl": kl, "measured": True} for i, kl in enumerate(self.gone)
        ]


def measure_quality(
    database: OverlayDatabase,
    blocks: Tensor | np.ndarray | TokenBlocks,
    lattice: Lattice,
    *,
    levels_per_part: int | None = 2,
    batch_size: int = 4,
    precision: str = "32",
    path: str | Path | None = None,
    memory_mib: float = 1024,
    progress: bool = False,
) -> QualityTable:
    """Measure the table; what a file already holds is not measured again.

    Args:
        database: the supernet and its overlays.
        blocks: (n, T) token ids, about two thousand tokens.
        lattice: the levels of the table.
        levels_per_part: levels measured of each layer's attention and MLP besides "absent" (of two and more, the one
            of the least error in every third layer only); None measures all.
        batch_size: blocks of one forward.
        precision: "32", or "bf16" for autocast of the blocks behind what is changed; what rounding adds is taken off.
        path: where the numbers are kept; None keeps them in memory.
        memory_mib: for the dense network's distributions (`DenseTarget`).
        progress: show progress bars.

    Raises:
        ValueError: unusable blocks or levels, or `path` belongs to another network, text or settings.
    """
    supernet = database.supernet
    ids = check_blocks(blocks, supernet)
    levels = _pruned_levels(database, lattice)
    errors = database.compute(levels, progress=progress)
    plan = _plan(errors, Sizes.of(supernet.config).n_layer, levels_per_part)
    card = {"what": "quality table", "precision": precision}
    if path is not None:
        card["network"] = fingerprint(supernet, database, ids)
    records = RecordFile(path, card=card)
    run = _Run(database, ids, batch_size=batch_size, precision=precision, memory_mib=memory_mib)
    run.fill(plan, records, progress=progress)
    return _table(run.pieces, errors, plan, _unrounded(records.known, run.n_layer))


def _pruned_levels(database: OverlayDatabase, lattice: Lattice) -> dict[Part, list[Level]]:
    """Return the levels of each part without the whole one."""
    found: dict[Part, list[Level]] = {
        "attention": [tuple(level) for level in lattice.attention], "mlp": [(n,) for n in lattice.neurons],
    }  # fmt: skip
    config = database.supernet.config
    return {part: sorted({v for v in own if v[0] and v != whole_level(config, part)}) for part, own in found.items()}


def _plan(errors: Mapping[Entry, float], n_layer: int, levels_per_part: int | None) -> list[Entry]:
    """Return the entries to measure besides the blocks gone, layer by layer."""
    plan: list[Entry] = []
    for layer in range(n_layer):
        for part in PARTS:
            own = {level: error for (i, p, level), error in errors.items() if (i, p) == (layer, part)}
            chosen = list(own) if levels_per_part is None else spread(own, levels_per_part)
            if levels_per_part is not None and layer % _LEAST_ERROR_EVERY:
                chosen = chosen[1:] or chosen
            plan += [(layer, part, level) for level in [ABSENT[part], *sorted(chosen)]]
    return plan


def _key(entry: Entry) -> str:
    layer, part, level = entry
    return f"{layer}-{part}-{'x'.join(map(str, level))}"


def _gone(layer: int) -> str:
    return f"{layer}-block-0"


def _rounding(layer: int) -> str:
    return f"{layer}-rounding"


class _Run:
    """The measuring: the dense residual stream before one block after another, and the variants of that block."""

    def __init__(
        self, database: OverlayDatabase, ids: Tensor, *, batch_size: int, precision: str, memory_mib: float
    ) -> None:
        self.pieces = Pieces(database.supernet, database, seq_len=ids.shape[1])
        self.batches, self.n_tokens = ids.split(batch_size), ids.numel()
        self.n_layer, self.precision, self.memory_mib = database.supernet.config.n_layer, precision, memory_mib
        self.dense = self.pieces.dense

    def fill(self, plan: Sequence[Entry], records: RecordFile, *, progress: bool) -> None:
        """Measure what is missing."""
        wanted = {_key(entry) for entry in plan} | {_gone(layer) for layer in range(self.n_layer)}
        wanted |= {_rounding(layer) for layer in self.rounding_layers}
        missing = wanted - set(records.known)
        bar = tqdm(total=len(wanted), initial=len(wanted - missing), unit="entry", desc="quality", disable=not progress)
        if not missing:
            bar.close()
            return
        with bar, torch.no_grad():
            states = [self.pieces.start(self.dense, batch) for batch in self.batches]
            finals = [self._after(x, 0) for x in states]
            target = DenseTarget(self.pieces, self.dense, finals, memory_mib=self.memory_mib)
            for layer in range(self.n_layer):
                variants = {_gone(layer): None} | {_key(e): self._step(*e) for e in plan if e[0] == layer}
                for key, step in variants.items():
                    if key in missing:
                        records.put(key, self._divergence(layer, step, states, target))
                        bar.update()
                if _rounding(layer) in missing:
                    records.put(
                        _rounding(layer), self._added_by_rounding(layer, variants, records.known, states, target)
                    )
                    bar.update()
                states = [self.pieces.run(self.pieces.dense_step(layer), x) for x in states]

    def _step(self, layer: int, part: Part, level: Level) -> Step:
        shape = self.pieces.dense_step(layer).shape
        heads, neurons = (shape.n_head, shape.n_query_groups), (shape.intermediate_size,)
        heads, neurons = ((level[0], level[1]), neurons) if part == "attention" else (heads, (level[0],))
        return Step(layer, LayerShape(shape.n_embd, *heads, *neurons, shape.bias))

    @property
    def rounding_layers(self) -> list[int]:
        """Layers in which one variant is measured in float32 too."""
        if self.precision == "32":
            return []
        return sorted({round(i) for i in np.linspace(0, self.n_layer - 1, _N_ROUNDING)})

    def _added_by_rounding(
        self, layer: int, variants: Mapping[str, Step | None], known: Mapping[str, float], states: Sequence[Tensor],
        target: DenseTarget,
    ) -> float:  # fmt: skip
        """Return what rounding adds to the least entry of a layer."""
        key = min(variants, key=lambda name: known[name])
        return known[key] - self._divergence(layer, variants[key], states, target, precision="32")

    def _divergence(
        self, layer: int, step: Step | None, states: Sequence[Tensor], target: DenseTarget, precision: str | None = None
    ) -> float:
        total = 0.0
        with autocast(self.pieces.place, precision or self.precision):
            for batch, x in enumerate(states):
                final = self._after(x if step is None else self.pieces.run(step, x), layer + 1)
                total += float(target.divergence(batch, self.dense, final).sum())
        return total / self.n_tokens

    def _after(self, states: Tensor, layer: int) -> Tensor:
        """Return the residual stream after the dense blocks from `layer` on."""
        for i in range(layer, self.n_layer):
            states = self.pieces.run(self.pieces.dense_step(i), states)
        return states


def _unrounded(known: Mapping[str, float], n_layer: int) -> dict[str, float]:
    """Return the entries without what rounding added, which is interpolated between the layers it was measured in."""
    layers = [layer for layer in range(n_layer) if _rounding(layer) in known]
    if not layers:
        return dict(known)
    added = np.interp(range(n_layer), layers, [known[_rounding(layer)] for layer in layers])
    return {key: max(kl - added[int(key.split("-")[0])], _LEAST_LEFT * kl) for key, kl in known.items()}


def _table(
    pieces: Pieces, errors: Mapping[Entry, float], plan: Sequence[Entry], values: Mapping[str, float]
) -> QualityTable:
    """Put measured and interpolated entries together."""
    measured = {entry: values[_key(entry)] for entry in plan}
    n_layer, parts = pieces.config.n_layer, dict(measured)
    slopes = {part: _slope(errors, measured, part) for part in PARTS}
    for layer in range(n_layer):
        for part in PARTS:
            own = {entry: kl for entry, kl in measured.items() if entry[:2] == (layer, part)}
            known = [errors.get(entry, 1.0) for entry in own]
            curve = ErrorCurve(known, list(own.values()), slope=slopes[part])
            others = [entry for entry in errors if entry[:2] == (layer, part) and entry not in own]
            parts |= dict(zip(others, curve([errors[entry] for entry in others]).tolist(), strict=True))
            parts[layer, part, whole_level(pieces.config, part)] = 0.0
    gone = tuple(values[_gone(layer)] for layer in range(n_layer))
    whole = {(i, part, whole_level(pieces.config, part)) for i in range(n_layer) for part in PARTS}
    return QualityTable(parts, gone, frozenset({*measured, *whole}))


def _slope(errors: Mapping[Entry, float], measured: Mapping[Entry, float], part: Part) -> float:
    """Return the slope of a part's log KL in log error between its two least errors: the median over layers.

    One where no layer has two measured levels.
    """
    found = []
    for layer in sorted({i for i, p, _ in measured if p == part}):
        own = sorted((errors[e], kl) for e, kl in measured.items() if e[:2] == (layer, part) and e in errors)
        if len(own) > 1 and own[0][0] < own[1][0]:
            found.append(slope_between(*zip(*own[:2], strict=True)))
    return max(float(np.median(found)), _LEAST_SLOPE) if found else 1.0
