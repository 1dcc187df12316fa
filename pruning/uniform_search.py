"""Networks whose blocks are all of one shape, which every plain checkpoint format can hold. No torch.

A shape and how many blocks go decide the cost; which blocks go does not, so those go whose damage is the lowest, or
those that an iterative drop found.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from pruning.cost_limits import CostLimit, all_hold
from pruning.lattice import Lattice
from pruning.programme import Shape
from pruning.quality_table import QualityTable
from supernet.architecture import Architecture


def uniform(dense: Architecture, shape: Shape, dropped: Sequence[int], n_embd: int | None = None) -> Architecture:
    """Return the network whose kept blocks all have one shape."""
    layers = [i for i in dense.layers if i not in set(dropped)]
    n, (h, g, f) = len(layers), shape
    return Architecture(n_embd or dense.n_embd, (h,) * n, (g,) * n, (f,) * n, tuple(layers), dense.bias)


def uniform_networks(
    quality: QualityTable,
    lattice: Lattice,
    dense: Architecture,
    limits: Sequence[CostLimit],
    *,
    drop_orders: Sequence[Sequence[int]] = (),
    keep: int = 12,
    keep_narrower: int = 2,
) -> list[Architecture]:
    """Return the uniform networks that keep all limits, of the least damage by the quality table.

    Args:
        quality: the damages, of blocks of the whole width.
        lattice: the levels.
        dense: the whole network.
        limits: costs that must be kept.
        drop_orders: blocks in the order in which they go, tried besides the quality table's.
        keep: how many of the whole width to return.
        keep_narrower: how many of each smaller width; the table says nothing about the width, so only the true loss
            can compare them.

    Returns:
        The best first, those of the whole width before the narrower ones; of each shape the one with the most blocks
        that keeps the limits.
    """
    shapes = [(h, g, f) for (h, g), f in product(lattice.attention, lattice.neurons)]
    saved = np.asarray(quality.gone)[:, None] - quality.damages(shapes)  # (L, K): what a block that goes costs more
    own = np.argsort(saved, axis=0, kind="stable").T.tolist()
    ladders = [(shape, order) for k, shape in enumerate(shapes) for order in [own[k], *drop_orders]]
    found: list[Architecture] = []
    for n_embd in sorted({*lattice.embd, dense.n_embd}, reverse=True):
        archs = set(_first_that_hold(dense, n_embd, ladders, limits))
        ranked = sorted(archs, key=lambda arch: (quality.total(arch), arch.id))
        found += ranked[: keep if n_embd == dense.n_embd else keep_narrower]
    return found


def _first_that_hold(
    dense: Architecture, n_embd: int, ladders: Sequence[tuple[Shape, Sequence[int]]], limits: Sequence[CostLimit]
) -> list[Architecture]:
    """Return, for each shape and order in which blocks go, the network with the most blocks that keeps all limits.

    Fewer blocks cost less, so intervals are halved, those of all ladders at once.
    """
    ends = np.array([min(len(order) + 1, dense.n_layer) for _, order in ladders])
    low, high = np.zeros(len(ladders), int), ends.copy()  # with `high` blocks gone and more, limits are kept
    while (open_ := np.flatnonzero(low < high)).size:
        middle = (low + high) // 2
        archs = [uniform(dense, ladders[i][0], ladders[i][1][: middle[i]], n_embd) for i in open_]
        held = all_hold(limits, archs)
        high[open_[held]] = middle[open_[held]]
        low[open_[~held]] = middle[open_[~held]] + 1
    return [
        uniform(dense, shape, order[:n], n_embd)
        for (shape, order), n, end in zip(ladders, high, ends, strict=True) if n < end
    ]  # fmt: skip
