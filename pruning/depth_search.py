"""Depth-only pruning by the true loss: what hurts least goes first, and the rest is scored again behind it.

Whole blocks (SLEB, Song et al. 2024) or single attentions and MLPs (BlockPruner, Zhong et al. 2024). Each step scores
only the few that the last known scores rank best (`shortlist`; None scores all, as in the papers). The first scores
are the quality table's. No torch besides the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from tqdm import tqdm

from pruning.cost_limits import CostLimit, all_hold
from pruning.depth import without_blocks
from pruning.moments import Moments
from pruning.quality_table import ABSENT, QualityTable
from pruning.structure import PARTS, Part
from supernet.architecture import Architecture

Loss = Callable[[Architecture], float]
Unit = tuple[int, Part | Literal["block"]]


def influence_drop(dense: Architecture, moments: Moments, limits: Sequence[CostLimit]) -> Architecture | None:
    """Return the network without its blocks of the lowest Block Influence, as few as the limits need (ShortGPT).

    None where not even one block keeps the limits.
    """
    order = moments.influence[0].argsort(stable=True).tolist()
    archs = [without_blocks(dense, order[:n]) for n in range(dense.n_layer)]
    held = np.flatnonzero(all_hold(limits, archs))
    return archs[held[0]] if len(held) else None


def iterative_drop(
    loss: Loss,
    dense: Architecture,
    quality: QualityTable,
    limits: Sequence[CostLimit],
    *,
    of: Literal["block", "part"] = "block",
    shortlist: int | None = 8,
    progress: bool = False,
) -> list[Architecture]:
    """Return the networks with ever more dropped, to the first that keeps all limits.

    Single parts differ in what they save, so they are compared by loss for each unit of the first cost.

    Args:
        loss: e.g. CalibrationLoss.
        dense: the whole network.
        quality: first scores.
        limits: where to stop.
        of: what is dropped at a time.
        shortlist: how many are scored at each step; None is all.
        progress: show a progress bar.

    Returns:
        The networks; the last one keeps the limits, unless not even one block or part does.
    """
    scores = _first_scores(dense, quality, of)
    path, current = [dense], loss(dense)
    bar = tqdm(unit="drop", desc=f"drop {of}s", disable=not progress)
    with bar:
        while len(scores) > 1 and not all_hold(limits, path[-1:])[0]:
            arch = path[-1]
            savings = _savings(arch, list(scores), limits[0], of)
            ranked = sorted(scores, key=lambda unit: (scores[unit] / savings[unit], unit))
            tried = ranked[:shortlist]
            for unit in tried:
                scores[unit] = max(loss(without(arch, unit)) - current, 0.0)
            best = min(tried, key=lambda unit: (scores[unit] / savings[unit], unit))
            path.append(without(arch, best))
            current = loss(path[-1])
            del scores[best]
            bar.update()
    return path


def without(arch: Architecture, unit: Unit) -> Architecture:
    """Return a network without a block, or without one part of it (the block too where nothing is left of it)."""
    layer, what = unit
    i = arch.layers.index(layer)
    other = arch.intermediate_size[i] if what == "attention" else arch.n_head[i]
    if what == "block" or not other:
        return without_blocks(arch, [i])
    sizes = {"n_head": 0, "n_query_groups": 0} if what == "attention" else {"intermediate_size": 0}
    changed = {name: [*getattr(arch, name)[:i], size, *getattr(arch, name)[i + 1 :]] for name, size in sizes.items()}
    return Architecture.from_dict(arch.to_dict() | changed)


def _first_scores(dense: Architecture, quality: QualityTable, of: str) -> dict[Unit, float]:
    if of == "block":
        return {(layer, "block"): quality.gone[layer] for layer in dense.layers}
    return {(layer, part): quality.part(layer, part, ABSENT[part]) for layer in dense.layers for part in PARTS}


def _savings(arch: Architecture, units: Sequence[Unit], limit: CostLimit, of: str) -> dict[Unit, float]:
    """Return what each unit costs; ones where all are alike."""
    if of == "block":
        return dict.fromkeys(units, 1.0)
    costs = limit.of_blocks([arch, *(without(arch, unit) for unit in units)])
    return dict(zip(units, np.maximum(costs[0] - costs[1:], 1e-9).tolist(), strict=True))
