"""Networks that are best by a weighted sum of laws that are linear in the steps of genes. No torch.

Such a sum falls apart into one term a gene, so the best choice of every block is known at once, for any weights. With
dozens of blocks this finds in one step what mutations take generations for. What is not linear is left to the evolution
that uses it.
"""

from __future__ import annotations

import numpy as np

from search.algorithms.gene_arrays import GeneArrays, Genes
from search.pareto import Floats

_DECADES = 1.5  # by which the weight of an objective may differ from that of another, either way


class WeightedBest:
    """Draws weights and gives networks their best blocks.

    Args:
        arrays: of the space.
        laws: (D, m, W, s) coefficients of the steps of all genes but `n_embd`, gene by gene, of m objectives on scales
            of spread about 1, by D opinions.
    """

    def __init__(self, arrays: GeneArrays, laws: Floats) -> None:
        self._arrays = arrays
        self._laws = laws
        slots = arrays.space.max_layer if arrays.space.per_layer else 1
        self._first = len(arrays.sizes) - 2 * slots  # gene of a block
        self._starts = np.concatenate([[0], np.cumsum(arrays.sizes[1:] - 1)])  # of the steps of gene 1, 2, ...

    def __call__(self, genes: Genes, rng: np.random.Generator) -> Genes:
        """Return genes (n, g) with each block's attention and MLP the best for weights drawn for its network."""
        n, (n_opinions, m) = len(genes), self._laws.shape[:2]
        laws = self._laws[rng.integers(0, n_opinions, n), :, genes[:, 0]]  # (n, m, s)
        weights = 10 ** rng.uniform(-_DECADES, _DECADES, (n, m))
        slopes = np.einsum("nm,nms->ns", weights, laws)
        best = genes.copy()
        for gene in range(self._first, genes.shape[1]):
            costs = slopes[:, self._starts[gene - 1] : self._starts[gene]].cumsum(axis=1)
            best[:, gene] = np.concatenate([np.zeros((n, 1)), costs], axis=1).argmin(axis=1)
        return best
