"""Where model-guided search starts: the front of a proxy of quality against free objectives, spread first. No torch.

LTS's idea with another evolution: children also get the best blocks by linear laws of the free values, without which
20,000 evaluations are too few for dozens of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.algorithms.batch_choice import choose_batch
from search.algorithms.free_laws import LinearLaw, spread_genes
from search.algorithms.free_problem import FreeProblem
from search.algorithms.gene_arrays import GeneArrays, Genes
from search.algorithms.guided_population import Breeding, Candidates, evolve
from search.algorithms.weighted_best import WeightedBest
from search.pareto import Floats, nondominated

_MEMBERS = 200  # of the front at most


def free_front(
    arrays: GeneArrays, free: FreeProblem, laws: Sequence[LinearLaw], *, n_evaluations: int, children: int,
    rng: np.random.Generator,
) -> Candidates:  # fmt: skip
    """Return networks that meet the free budgets and that no other found is better than.

    Args:
        arrays: of the space.
        free: the proxy and the free objectives.
        laws: of its values.
        n_evaluations: of it, about.
        children: of a generation.
        rng: the only source of randomness.

    Raises:
        ValueError: no network has a result and meets the budgets.
    """

    def judge(genes: Genes) -> tuple[Floats, Floats]:
        if not len(genes):
            return np.empty((1, 0, len(laws))), np.empty((1, 0))
        values, violation = free.evaluate(genes)
        return values[None], violation[None]

    start = spread_genes(arrays, children, rng)
    best_blocks = WeightedBest(arrays, np.array([[law.sign * law.steps / law.spread for law in laws]]))
    breeding = Breeding(max(n_evaluations // children - 1, 1), children, _MEMBERS)
    found = evolve(
        start, start[:0], judge=judge, arrays=arrays, known=set(), breeding=breeding, rng=rng, improve=best_blocks
    )
    found = found[np.flatnonzero(found.violation[0] <= 0)]
    if not len(found):
        raise ValueError(
            f"none of {n_evaluations} networks of space {arrays.space.name!r} has a result and meets the budgets: "
            f"relax them or widen the space ({free.identity})"
        )
    return found[np.flatnonzero(nondominated(found.values[0], duplicates=False))]


def spread_first(front: Candidates, proxy: LinearLaw, n: int) -> NDArray[np.int64]:
    """Return an order of a front's members: first the n that span most hypervolume, with the logarithm of the proxy.

    Perplexity falls about as a power of the number of parameters, so their logarithm spreads the small networks.
    """
    values = front.values.copy()
    values[0, :, 0] = proxy.sign * proxy.scaled(values[0, :, 0])
    none = values[:, :0]
    scaled = Candidates(front.genes, values, front.violation)
    first = choose_batch(n, scaled, told=none[0], expected=none, expected_violation=none[:, :, 0])
    return np.array([*first, *np.setdiff1d(np.arange(len(front)), first)], dtype=np.int64)
