"""Networks that an acquisition function is compared on, as arrays of genes: random ones and mutations. No torch."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from search.algorithms.gene_arrays import GeneArrays, Genes


def candidates(
    arrays: GeneArrays, parents: Genes, *, n_random: int, n_mutations: int, rng: np.random.Generator
) -> Genes:
    """Return canonical genes of random networks and of mutations of parents, in that order; may repeat some.

    Half of the mutations change one active gene, the others two; parents are drawn at random.

    Args:
        arrays: of the space.
        parents: canonical genes (k, g); none is none to mutate.
        n_random: networks with every gene uniform.
        n_mutations: mutations; in "subset" spaces those with a number of blocks that the space lacks are left out.
        rng: draws them.
    """
    rows = [arrays.random(n_random, rng)]
    if len(parents) and n_mutations:
        picked = parents[rng.integers(len(parents), size=n_mutations)]
        once = mutated(arrays, picked, rng)
        once[::2] = mutated(arrays, once[::2], rng)
        rows.append(once[arrays.is_legal(once)])
    return arrays.canonical(np.concatenate(rows))


def mutated(arrays: GeneArrays, genes: Genes, rng: np.random.Generator) -> Genes:
    """Return each row (n, g) with one active gene changed; blocks that come back have random genes."""
    whole = arrays.expressed(genes, arrays.random(len(genes), rng))
    changeable = arrays.active(genes) & (arrays.sizes > 1)
    which = np.where(changeable, rng.random(genes.shape), -1.0).argmax(axis=1)  # uniform among the changeable
    rows = np.arange(len(genes))
    size = arrays.sizes[which]
    step = 1 + (rng.random(len(genes)) * (size - 1)).astype(np.int64)
    whole[rows, which] = (whole[rows, which] + np.where(size > 1, step, 0)) % size
    return whole


def neighbours(arrays: GeneArrays, row: Genes, rng: np.random.Generator) -> Genes:
    """Return canonical genes of all networks that differ from `row` (g,) in one gene; new blocks are random."""
    whole = arrays.expressed(row[None], arrays.random(1, rng))[0]
    active = arrays.active(row[None])[0]
    changes = [(gene, value) for gene in np.flatnonzero(active) for value in range(arrays.sizes[gene])]
    around = np.repeat(whole[None], len(changes), axis=0)
    around[np.arange(len(changes)), [gene for gene, _ in changes]] = [value for _, value in changes]
    around = arrays.canonical(around)
    return around[arrays.is_legal(around) & (around != row).any(axis=1)]


def unseen(genes: Genes, seen: Collection[bytes]) -> NDArray[np.int64]:
    """Return the indices of canonical rows whose keys are not in `seen`, the first of equal ones."""
    first: dict[bytes, int] = {}
    for i, row in enumerate(genes):
        key = row.tobytes()
        if key not in seen:
            first.setdefault(key, i)
    return np.fromiter(first.values(), dtype=np.int64, count=len(first))
