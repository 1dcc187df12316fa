"""Evolution inside a model: candidates that are best by at least one opinion, bred in arrays of genes. No torch.

Children are crossed, mutated, or get the genes of two blocks swapped: a swap changes where heads and neurons are
(quality) and not how many there are (cost). Free values are computed once a child, the opinions are products of
matrices, so a thousand children take some tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.algorithms.gene_arrays import GeneArrays, Genes
from search.pareto import Floats, constrained_ranks, crowding_distance

Judge = Callable[[Genes], tuple[Floats, Floats]]  # values (D, n, m) and violation (D, n) of genes (n, g), as Opinions
Improve = Callable[[Genes, np.random.Generator], Genes]
_IMPROVED = 1 / 3  # of the children
_RATES = (0.5, 1.0, 2.0, 4.0)  # genes that a mutation redraws, on average


@dataclass(frozen=True)
class Candidates:
    """Networks and what the opinions say of them.

    Attributes:
        genes: (n, g), canonical, none evaluated before.
        values: (D, n, m).
        violation: (D, n).
    """

    genes: Genes
    values: Floats
    violation: Floats

    def __len__(self) -> int:
        return len(self.genes)

    def __getitem__(self, rows: NDArray[np.int64]) -> Candidates:
        return Candidates(self.genes[rows], self.values[:, rows], self.violation[:, rows])

    def joined(self, other: Candidates) -> Candidates:
        """Return both; their networks are different ones."""
        return Candidates(
            np.concatenate([self.genes, other.genes]),
            np.concatenate([self.values, other.values], axis=1),
            np.concatenate([self.violation, other.violation], axis=1),
        )


@dataclass(frozen=True)
class Breeding:
    """Sizes of the evolution.

    Attributes:
        generations: of children.
        children: of a generation.
        keep: candidates that each opinion keeps at most.
    """

    generations: int = 8
    children: int = 1000
    keep: int = 100


def evolve(
    start: Genes, parents: Genes, *, judge: Judge, arrays: GeneArrays, known: set[bytes],
    breeding: Breeding, rng: np.random.Generator, improve: Improve | None = None,
) -> Candidates:  # fmt: skip
    """Return the candidates that are best by some opinion.

    Args:
        start: canonical genes of the first candidates; those known are left out.
        parents: networks that breed without being candidates, such as the best evaluated ones.
        judge: says what the opinions think.
        arrays: of the space.
        known: keys of networks that are no candidates.
        breeding: sizes.
        rng: the only source of randomness.
        improve: gives genes (n, g) better blocks, at random; some children get them in part.
    """

    def candidates(genes: Genes, known: set[bytes]) -> Candidates:
        genes = _new(arrays.canonical(genes[arrays.is_legal(genes)]), known)
        values, violation = judge(genes)
        return Candidates(genes, values, violation)

    best = candidates(start, known)
    best = best[_survivors(best, breeding.keep)]
    for _ in range(breeding.generations):
        pool = np.concatenate([best.genes, parents])
        bred = offspring(arrays, pool, breeding.children, rng, improve=improve)
        both = best.joined(candidates(bred, known | {row.tobytes() for row in best.genes}))
        best = both[_survivors(both, breeding.keep)]
    return best


def offspring(
    arrays: GeneArrays, parents: Genes, n: int, rng: np.random.Generator, *, improve: Improve | None = None
) -> Genes:
    """Return n children of random parents, neither canonical nor all legal.

    Half are crossed, half get two blocks swapped; in most some genes are redrawn; `improve` works on a third.
    """
    first, second = parents[rng.integers(0, len(parents), (2, n))]
    fresh = _random(arrays, n, rng)
    crossed = (rng.random(n) < 0.5)[:, None] & (rng.random(first.shape) < 0.5)
    rate = rng.choice(_RATES, n)[:, None] / first.shape[1]
    child = np.where(rng.random(first.shape) < rate, fresh, np.where(crossed, second, first))
    child = arrays.expressed(child, fresh)  # genes of blocks that come back
    if improve:
        some = rng.random(n) < _IMPROVED
        share = rng.random((int(some.sum()), 1))
        taken = rng.random((len(share), child.shape[1])) < share
        child[some] = np.where(taken, improve(child[some], rng), child[some])
    _swap(child, np.flatnonzero(rng.random(n) < 0.5), arrays, rng)
    return child


def _random(arrays: GeneArrays, n: int, rng: np.random.Generator) -> Genes:
    """Return random genes as `GeneArrays.random`, faster where all genes are independent."""
    if arrays.space.layer_choice == "subset":
        return arrays.random(n, rng)
    return np.asarray((rng.random((n, len(arrays.sizes))) * arrays.sizes).astype(np.int64))


def _swap(genes: Genes, rows: NDArray[np.int64], arrays: GeneArrays, rng: np.random.Generator) -> None:
    """Swap the attention genes, the MLP genes, or whether they are kept, of two blocks of some rows, in place."""
    space = arrays.space
    L, g = space.max_layer, genes.shape[1]
    starts = [g - 2 * L, g - L] if space.per_layer else []
    if space.layer_choice == "subset":
        starts.append(2)
    if not starts:
        return
    start = rng.choice(starts, len(rows))
    i, j = start + rng.integers(0, L, len(rows)), start + rng.integers(0, L, len(rows))
    genes[rows, i], genes[rows, j] = genes[rows, j], genes[rows, i].copy()


def _new(genes: Genes, known: set[bytes]) -> Genes:
    """Return the rows that are not known, each once."""
    found = dict.fromkeys(row.tobytes() for row in genes)
    rows = [np.frombuffer(key, dtype=np.int64) for key in found if key not in known]
    return np.array(rows, dtype=np.int64).reshape(len(rows), genes.shape[1])


def _survivors(candidates: Candidates, keep: int) -> NDArray[np.int64]:
    """Return the rows that are among the best `keep` of some opinion, by front and then by crowding."""
    chosen = np.zeros(len(candidates), dtype=bool)
    for values, violation in zip(candidates.values, candidates.violation, strict=True):
        chosen[_best(values, violation, keep)] = True
    return np.flatnonzero(chosen)


def _best(values: Floats, violation: Floats, keep: int) -> NDArray[np.int64]:
    left = np.flatnonzero(np.isfinite(values).all(axis=1) & np.isfinite(violation))
    if len(left) <= keep:
        return left
    rank = constrained_ranks(values[left], violation[left])
    worst = np.sort(rank)[keep - 1]
    sure, last = left[rank < worst], left[rank == worst]
    if len(sure) + len(last) > keep:
        order = np.argsort(-crowding_distance(values[last]), kind="stable")
        last = last[order[: keep - len(sure)]]
    return np.concatenate([sure, last])
