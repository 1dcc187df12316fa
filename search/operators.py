"""Variation of architectures that evolutionary algorithms share: crossover, mutation of active genes, tournament."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Architecture
from supernet.space import SearchSpace


def n_active_genes(space: SearchSpace, arch: Architecture) -> int:
    """Return how many genes of `arch` are expressed and have an alternative: those a mutation can change."""
    slots = arch.n_layer if space.per_layer else 1
    per_slot = (len(space.attention_choices) > 1) + (space.n_mlp > 1)
    depth = len(space.n_layer) > 1 or (space.layer_choice == "subset" and min(space.n_layer) < space.max_layer)
    return (len(space.n_embd) > 1) + (len(space.bias_choices) > 1) + depth + slots * per_slot


def mutate(space: SearchSpace, arch: Architecture, rng: np.random.Generator) -> Architecture:
    """Change every active gene with probability 1 / (number of active genes), and at least one."""
    active = n_active_genes(space, arch)
    if active == 0:  # a space of one architecture
        return arch
    return space.mutate(arch, rng, n_genes=max(1, int(rng.binomial(active, 1 / active))))


def tournament(rank: NDArray[np.int64], crowding: NDArray[np.float64], rng: np.random.Generator) -> int:
    """Draw two different individuals and return the index of the better: lower rank, then larger crowding distance."""
    if len(rank) == 1:
        return 0
    a, b = (int(i) for i in rng.choice(len(rank), size=2, replace=False))
    return b if (rank[b], -crowding[b]) < (rank[a], -crowding[a]) else a
