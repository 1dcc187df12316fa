"""Depth-only pruning by the true loss: the block that hurts least goes first, and the rest is scored again behind it.

As SLEB (Song et al. 2024). Each step scores only the few blocks that the last known scores rank best (`shortlist`;
None scores all, as in the paper). The first scores are the quality table's. No torch besides the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tqdm import tqdm

from pruning.cost_limits import CostLimit, all_hold
from pruning.depth import without_blocks
from pruning.moments import Moments
from pruning.quality_table import QualityTable
from supernet.architecture import Architecture

Loss = Callable[[Architecture], float]


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
    shortlist: int | None = 8,
    progress: bool = False,
) -> list[Architecture]:
    """Return the networks with ever more blocks dropped, to the first that keeps all limits.

    Args:
        loss: e.g. CalibrationLoss.
        dense: the whole network.
        quality: first scores.
        limits: where to stop.
        shortlist: how many are scored at each step; None is all.
        progress: show a progress bar.

    Returns:
        The networks; the last one keeps the limits, unless not even one block does.
    """
    scores = {layer: quality.gone[layer] for layer in dense.layers}
    path = [dense]
    bar = tqdm(unit="drop", desc="drop blocks", disable=not progress)
    with bar:
        while len(scores) > 1 and not all_hold(limits, path[-1:])[0]:
            tried = sorted(scores, key=lambda layer: (scores[layer], layer))[:shortlist]
            current = loss(path[-1])
            for layer in tried:
                scores[layer] = max(loss(_without(path[-1], layer)) - current, 0.0)
            best = min(tried, key=lambda layer: (scores[layer], layer))
            path.append(_without(path[-1], best))
            del scores[best]
            bar.update()
    return path


def _without(arch: Architecture, layer: int) -> Architecture:
    """Return a network without a block of the dense one."""
    return without_blocks(arch, [arch.layers.index(layer)])
