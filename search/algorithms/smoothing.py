"""Free objectives whose values carry measurement noise, replaced by what a model of many of them says. No torch.

A search that may look at a hundred thousand noisy values for nothing finds the luckiest, not the best. So some
thousand networks are drawn, a linear law and XGBoost on what it leaves over are fitted to each free value, and the
search sees the fit only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from search.algorithms.free_laws import fit_law, spread_genes
from search.algorithms.free_problem import FreeProblem
from search.algorithms.gene_arrays import GeneArrays, Genes
from search.algorithms.gene_basis import GeneBasis
from search.pareto import Floats
from supernet.space import SearchSpace
from surrogates.models import XGBoostSurrogate

_NETWORKS = 6_000


def smoothed(space: SearchSpace, free: FreeProblem) -> FreeProblem:
    """Return a problem whose free values are fits; the proxy, which has no noise, and budgets stay as they were.

    The networks fitted to are always the same ones, so the result is a function of space and problem.
    """
    genes = spread_genes(GeneArrays(space), _NETWORKS, np.random.default_rng(0))
    fits = [_fit(space, genes, column) for column in free.evaluate(genes)[0].T[1:]]

    def evaluate(genes: Genes) -> tuple[Floats, Floats]:
        values, violation = free.evaluate(genes)
        return np.column_stack([values[:, 0], *(fit(genes) for fit in fits)]), violation

    return FreeProblem(f"{free.identity}; smoothed", evaluate)


def _fit(space: SearchSpace, genes: Genes, values: Floats) -> Callable[[Genes], Floats]:
    """Return a function of canonical genes (n, g); values (n,) that are not finite are left out."""
    good = np.isfinite(values)
    law = fit_law(GeneBasis(space), genes[good], values[good])
    left = law.scaled(values[good]) - law(genes[good])
    trees = XGBoostSurrogate(n_estimators=150, max_depth=4, min_child_weight=20, log_target=False)
    trees.fit(genes[good].astype(np.float64), left)
    return lambda new: law.values(law(new) + np.asarray(trees.predict(new.astype(np.float64)).mean))
