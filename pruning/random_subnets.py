"""Random sub-networks over a lattice, spread over the latencies that budgets ask for. No torch.

They are what the latency model learns from, so they look like what a search ends with: most widths mixed, some of all
layers alike, absent parts, dropped blocks.

Shapes: L blocks of the supernet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pruning.latency_table import LatencyTable
from pruning.lattice import Lattice
from supernet.architecture import Architecture

_DRAWS = 30  # of each that is asked for: enough to choose from in every stretch
_UNIFORM_SHARE = 0.25


def random_subnets(
    lattice: Lattice,
    table: LatencyTable,
    n: int,
    *,
    rng: np.random.Generator,
    low: float = 0.4,
    high: float = 1.0,
    bias: bool = False,
) -> list[Architecture]:
    """Return n distinct random sub-networks with predicted latency ratios evenly spread from `low` to `high`.

    Where the lattice cannot get as low, they are spread over what it reaches.

    Args:
        lattice: the levels.
        table: predicts their latency; says how many blocks there are.
        n: how many; fewer only when the lattice does not hold as many.
        rng: source of randomness.
        low: smallest latency ratio.
        high: largest latency ratio.
        bias: `Architecture.bias` of all of them.
    """
    drawn = [_draw(lattice, table.n_layer, rng, bias) for _ in range(_DRAWS * n)]
    distinct = list(dict.fromkeys(drawn))
    ratios = table.predict(distinct)
    order = np.argsort(ratios)
    distinct, ratios = [distinct[i] for i in order], ratios[order]
    low, high = max(low, float(ratios[0])), min(high, float(ratios[-1]))
    return _stratified(distinct, ratios, np.linspace(low, high, 2 * n + 1)[1::2])


def _stratified(archs: Sequence[Architecture], ratios: np.ndarray, targets: np.ndarray) -> list[Architecture]:
    """Return, for each target, the nearest architecture that is not taken yet."""
    free = np.ones(len(archs), bool)
    chosen = []
    for target in targets[: len(archs)]:
        distance = np.where(free, np.abs(ratios - target), np.inf)
        best = int(distance.argmin())
        free[best] = False
        chosen.append(archs[best])
    return chosen


def _draw(lattice: Lattice, n_layer: int, rng: np.random.Generator, bias: bool) -> Architecture:
    if rng.random() < _UNIFORM_SHARE:
        return _uniform(lattice, n_layer, rng, bias)
    kept = rng.random(n_layer) >= rng.choice([0.0, 0.05, 0.15, 0.3])
    kept[rng.integers(n_layer)] = True
    layers = np.flatnonzero(kept)
    attention = _mixed(len(lattice.attention), len(layers), rng)
    neurons = _mixed(len(lattice.neurons), len(layers), rng)
    no_attention = rng.random(len(layers)) < rng.choice([0.0, 0.05, 0.2, 0.4])
    no_mlp = ~no_attention & (rng.random(len(layers)) < rng.choice([0.0, 0.05, 0.2, 0.4]))
    levels = [(0, 0) if gone else lattice.attention[i] for i, gone in zip(attention, no_attention, strict=True)]
    widths = [0 if gone else lattice.neurons[i] for i, gone in zip(neurons, no_mlp, strict=True)]
    heads, groups = zip(*levels, strict=True)
    return Architecture(lattice.embd[-1], heads, groups, tuple(widths), tuple(layers.tolist()), bias)


def _mixed(n_levels: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return n levels around a random share of the whole; often the whole one itself."""
    share, spread = rng.uniform(0.3, 1.0), rng.uniform(0.05, 0.3)
    drawn = np.clip(rng.normal(share, spread, n), 0, 1) * n_levels
    levels = np.clip(np.ceil(drawn).astype(int) - 1, 0, n_levels - 1)
    levels[rng.random(n) < rng.choice([0.0, 0.3, 0.6, 0.9])] = n_levels - 1
    return levels


def _uniform(lattice: Lattice, n_layer: int, rng: np.random.Generator, bias: bool) -> Architecture:
    """Return a network whose blocks are all alike; one of three is narrower, some have fewer blocks."""
    depth = int(rng.integers(max(1, round(0.6 * n_layer)), n_layer + 1))
    layers = np.sort(rng.choice(n_layer, depth, replace=False))
    heads, groups = lattice.attention[rng.integers(len(lattice.attention))]
    width = lattice.neurons[rng.integers(len(lattice.neurons) // 3, len(lattice.neurons))]
    embd = lattice.embd[rng.integers(len(lattice.embd))] if rng.random() < 1 / 3 else lattice.embd[-1]
    return Architecture(
        embd, (heads,) * depth, (groups,) * depth, (width,) * depth, tuple(layers.tolist()), bias
    )  # fmt: skip
