"""The evolution of LTS (Javaheripi et al. 2022, arXiv:2203.02094) on gene arrays: front, parents, children. No torch.

1. A random working population. 2. The front over everything seen. 3. Parents drawn from it with replacement, with
weight 1 / (1 + c): c is how often the member was in a working population, scaled to 0..1 over the front. 4. Mutants
and crossovers of the parents, each redrawn until it is legal and new. Parents and children are the next working
population. Published sizes: 100 = 20 parents + 40 mutants + 40 crossovers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.algorithms.front_archive import check_same_objectives
from search.algorithms.gene_arrays import GeneArrays, Genes
from search.pareto import Floats, as_values, convex_front, is_valid, nondominated

FrontKind = Literal["strict", "hull"]
_ROUNDS = 25  # of drawing children, each twice as many as are missing, before random ones take their place


# --- fronts -----------------------------------------------------------------------------------------------------------


def strict_front(values: ArrayLike, *, n_known: int = 0) -> NDArray[np.bool_]:
    """Return which points (n,) stay when only those are dropped that another is strictly better than in ALL objectives.

    LTS's code does this: a weakly dominated point with one tie stays. Rows without a result never do.

    Args:
        values: (n, m), minimised.
        n_known: so many of the first points are known not to drop each other, which saves comparing them.

    Example:
        >>> strict_front([[1, 2], [2, 1], [2, 2], [3, 3]]).tolist()
        [True, True, True, False]
    """
    points = as_values(values)
    mask = is_valid(points)
    if points.shape[1] == 2:
        mask[mask] = _strict_front_2d(points[mask])
        return mask
    known, new = points[:n_known], np.flatnonzero(mask[n_known:]) + n_known
    good = points[mask]
    for i in new:
        mask[i] = not (good < points[i]).all(axis=1).any()
        mask[:n_known] &= ~(points[i] < known).all(axis=1)
    return mask


def _strict_front_2d(points: Floats) -> NDArray[np.bool_]:
    """Return which points have no other to the left and below, by sorting."""
    if not len(points):
        return np.empty(0, dtype=bool)
    order = np.argsort(points[:, 0], kind="stable")
    x, lowest = points[order, 0], np.minimum.accumulate(points[order, 1])
    n_left = np.searchsorted(x, points[:, 0], side="left")  # how many are strictly to the left
    below = np.where(n_left > 0, lowest[np.maximum(n_left, 1) - 1], np.inf)
    return np.asarray(points[:, 1] <= below)


def lower_convex_hull(values: ArrayLike) -> NDArray[np.bool_]:
    """Return which points (n,) some non-negative weighting of the objectives prefers: the front of LTS's slides.

    Two objectives take one pass over the sorted front, more take a linear program a point (`pareto.convex_front`),
    which is a hundred times slower.

    Example:
        >>> lower_convex_hull([[0.0, 1.0], [0.6, 0.6], [1.0, 0.0]]).tolist()
        [True, False, True]
    """
    points = as_values(values)
    if points.shape[1] != 2:
        return convex_front(points)
    mask = nondominated(points)
    front = np.flatnonzero(mask)
    if len(front):
        different, which = np.unique(points[front], axis=0, return_inverse=True)
        low, high = different.min(axis=0), different.max(axis=0)
        kept = _chain((different - low) / np.where(high > low, high - low, 1.0))
        mask[front] = np.isin(which.ravel(), kept)
    return mask


def _chain(points: Floats, tolerance: float = 1e-9) -> list[int]:
    """Return the indices of ascending points (n, 2) that no line between two others is below; on it they stay."""
    kept: list[int] = []
    rows = points.tolist()
    for i, (x, y) in enumerate(rows):
        while len(kept) > 1:
            (ax, ay), (bx, by) = rows[kept[-2]], rows[kept[-1]]
            if (by - ay) * (x - ax) <= (y - ay) * (bx - ax) + tolerance * (x - ax):
                break
            kept.pop()
        kept.append(i)
    return kept


# --- evolution --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LTSSettings:
    """Sizes and probabilities of the evolution.

    Attributes:
        parents: drawn from the front for each generation.
        mutants: children by mutation.
        crossovers: children by crossover of two of the parents.
        mutation_probability: that a gene is drawn anew (perhaps the same).
        crossover_probability: that a gene comes from the first of the two.
        front: "strict" or "hull".

    Raises:
        ValueError: sizes or probabilities that are not possible, or an unknown front.
    """

    parents: int = 20
    mutants: int = 40
    crossovers: int = 40
    mutation_probability: float = 0.3
    crossover_probability: float = 0.5
    front: FrontKind = "strict"

    def __post_init__(self) -> None:
        if self.front not in get_args(FrontKind):
            raise ValueError(f"front = {self.front!r}; allowed: {', '.join(get_args(FrontKind))}")
        if self.parents < 2 or self.mutants < 0 or self.crossovers < 0 or self.mutants + self.crossovers < 1:
            raise ValueError(f"{self}: need at least 2 parents and 1 child")
        if not (0 < self.mutation_probability <= 1 and 0 <= self.crossover_probability <= 1):
            raise ValueError(f"{self}: need probabilities, that of a mutation above 0")

    @property
    def population(self) -> int:
        """Size of a working population, and of the first, random one."""
        return self.parents + self.mutants + self.crossovers

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


class LTSPopulation:
    """The front over everything told, and the children bred from it.

    Attributes:
        genes: of the front, (f, g), silent genes included.
        values: of the front, (f, m).
        seen: keys of all networks ever bred or told.
    """

    def __init__(self, arrays: GeneArrays, settings: LTSSettings, rng: np.random.Generator) -> None:
        self.arrays = arrays
        self.settings = settings
        self.rng = rng
        self.genes: Genes = np.empty((0, len(arrays.sizes)), dtype=np.int64)
        self.values: Floats = np.empty((0, 0))
        self.seen: set[bytes] = set()
        self._violation: Floats = np.empty(0)
        self._counts: Genes = np.empty(0, dtype=np.int64)  # how often each member was in a working population

    def breed(self) -> Genes:
        """Return the next generation (k, g), all new: the first population, then mutants and crossovers.

        Where breeding finds nothing new, random networks fill it up; fewer come when those are known too.
        """
        settings = self.settings
        if not len(self.genes):
            return self._new(settings.population, self._random)
        parents = self._parents()
        mutants = self._new(settings.mutants, lambda n: self._mutants(parents, n))
        crossed = self._new(settings.crossovers, lambda n: self._crossed(parents, n))
        lacking = settings.mutants + settings.crossovers - len(mutants) - len(crossed)
        return np.concatenate([mutants, crossed, self._new(lacking, self._random)])

    def tell(self, genes: Genes, values: Floats, violation: Floats) -> None:
        """Take results: genes (k, g), values (k, m), violation (k,); the front is that of the feasible ones.

        Until there is a feasible one, it is those that miss their budgets the least.
        """
        self.seen.update(self.arrays.keys(genes))
        valid = is_valid(values) & np.isfinite(violation)
        if not valid.any():
            return
        genes, values, violation = genes[valid], values[valid], violation[valid]
        counts = np.ones(len(genes), dtype=np.int64)
        if len(self.genes):
            check_same_objectives(self.values, values)
            genes = np.concatenate([self.genes, genes])
            values = np.concatenate([self.values, values])
            violation = np.concatenate([self._violation, violation])
            counts = np.concatenate([self._counts, counts])
        feasible = np.flatnonzero(violation <= max(violation.min(), 0.0))
        best = feasible[self._is_front(values[feasible], int((feasible < len(self.genes)).sum()))]
        self.genes, self.values = genes[best], values[best]
        self._violation, self._counts = violation[best], counts[best]

    def _is_front(self, values: Floats, n_known: int) -> NDArray[np.bool_]:
        return lower_convex_hull(values) if self.settings.front == "hull" else strict_front(values, n_known=n_known)

    def _parents(self) -> Genes:
        count = self._counts.astype(np.float64)
        weights = 1 / (1 + (count - count.min()) / max(np.ptp(count), 1.0))
        drawn = self.rng.choice(len(self.genes), size=self.settings.parents, p=weights / weights.sum())
        np.add.at(self._counts, drawn, 1)
        return self.genes[drawn]

    def _random(self, n: int) -> Genes:
        return self.arrays.random(n, self.rng)

    def _mutants(self, parents: Genes, n: int) -> Genes:
        chosen = parents[self.rng.integers(len(parents), size=n)]
        redrawn = self.rng.random(chosen.shape) < self.settings.mutation_probability
        return np.where(redrawn, self.rng.integers(0, self.arrays.sizes, size=chosen.shape), chosen)

    def _crossed(self, parents: Genes, n: int) -> Genes:
        first = self.rng.integers(len(parents), size=n)
        second = (first + self.rng.integers(1, len(parents), size=n)) % len(parents)  # another draw, maybe the same net
        either = self.rng.random((n, parents.shape[1])) < self.settings.crossover_probability
        return np.where(either, parents[first], parents[second])

    def _new(self, n: int, make: Callable[[int], Genes]) -> Genes:
        """Return up to `n` legal rows of `make(number)` whose networks are new, and note them as seen."""
        found: list[Genes] = []
        for _ in range(_ROUNDS):
            if len(found) >= n:
                break
            rows = make(2 * (n - len(found)))
            rows = rows[self.arrays.is_legal(rows)]
            for row, key in zip(rows, self.arrays.keys(rows), strict=True):
                if key not in self.seen and len(found) < n:
                    self.seen.add(key)
                    found.append(row)
        return np.array(found, dtype=np.int64).reshape(len(found), len(self.arrays.sizes))

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the front in plain JSON types; `seen` and the generator belong to the caller."""
        return {
            "genes": self.genes.tolist(),
            "values": self.values.tolist(),
            "violation": self._violation.tolist(),
            "counts": self._counts.tolist(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take the front of `state`."""
        n = len(state["genes"])
        self.genes = np.array(state["genes"], dtype=np.int64).reshape(n, len(self.arrays.sizes))
        self.values = np.array(state["values"], dtype=np.float64).reshape(n, -1) if n else np.empty((0, 0))
        self._violation = np.array(state["violation"], dtype=np.float64)
        self._counts = np.array(state["counts"], dtype=np.int64)
