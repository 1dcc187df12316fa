"""Architectures of a space as arrays of genes: drawn, made canonical, told apart, decoded. No torch.

The genes are those of `supernet.encoding`. Here inactive genes (of blocks that are not kept) may have any value, as in
the genomes of LTS and HW-GPT-Bench: they are silent until a deeper child expresses them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Architecture
from supernet.encoding import gene_sizes
from supernet.space import Genome, SearchSpace

Genes = NDArray[np.int64]


class GeneArrays:
    """Gene arrays of one space.

    Attributes:
        space: the space.
        sizes: number of choices of each gene, (g,).

    Example:
        >>> space = SearchSpace(name="doc", n_embd=(32, 64), n_layer=(1, 2), n_head=(2, 4), mlp_ratio=(2, 4))
        >>> arrays = GeneArrays(space)
        >>> genes = np.array([[1, 0, 0, 1, 1, 0, 1]])  # one layer: attention and MLP of the second are silent
        >>> arrays.canonical(genes).tolist()
        [[1, 0, 0, 1, 0, 0, 0]]
        >>> arrays.architectures(genes)[0].id
        'e64-l0-h4-f128-b1'
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.sizes: Genes = gene_sizes(space)
        self._slots = space.max_layer if space.per_layer else 1
        self._depths = np.array(space.n_layer, dtype=np.int64)

    @property
    def _is_subset(self) -> bool:
        return self.space.layer_choice == "subset"

    def random(self, n: int, rng: np.random.Generator) -> Genes:
        """Draw n rows with every gene uniform, the number of kept blocks too; silent genes included."""
        genes = rng.integers(0, self.sizes, size=(n, len(self.sizes)))
        if self._is_subset:
            depth = self._depths[rng.integers(len(self._depths), size=n)]
            place = rng.random((n, self.space.max_layer)).argsort(axis=1).argsort(axis=1)
            genes[:, 2 : 2 + self.space.max_layer] = place < depth[:, None]
        return genes

    def kept(self, genes: Genes) -> NDArray[np.bool_]:
        """Return which blocks each row keeps, (n, L)."""
        if self._is_subset:
            return genes[:, 2 : 2 + self.space.max_layer].astype(bool)
        return np.asarray(np.arange(self.space.max_layer) < self._depths[genes[:, 2]][:, None])

    def active(self, genes: Genes) -> NDArray[np.bool_]:
        """Return which genes are expressed, (n, g)."""
        mask = np.ones(genes.shape, dtype=bool)
        if self.space.per_layer:
            mask[:, -2 * self._slots :] = np.tile(self.kept(genes), 2)
        return mask

    def is_legal(self, genes: Genes) -> NDArray[np.bool_]:
        """Return which rows (n,) keep a number of blocks that the space has; only "subset" spaces can fail."""
        return np.isin(self.kept(genes).sum(axis=1), self._depths)

    def canonical(self, genes: Genes) -> Genes:
        """Return the genes with silent ones 0, so that equal networks have equal rows."""
        return np.where(self.active(genes), genes, 0)

    def expressed(self, genes: Genes, silent: Genes) -> Genes:
        """Return `genes` where they are active and `silent` where they are not; both (n, g)."""
        return np.where(self.active(genes), genes, silent)

    def keys(self, genes: Genes) -> list[bytes]:
        """Return what tells the networks of the rows apart."""
        return [row.tobytes() for row in self.canonical(genes)]

    def architectures(self, genes: Genes) -> list[Architecture]:
        """Return the architectures of legal rows."""
        kept, split = self.kept(genes), len(self.sizes) - self._slots
        found = []
        for row, keep in zip(genes.tolist(), kept, strict=True):
            layers = tuple(np.flatnonzero(keep).tolist())
            slots = layers if self.space.per_layer else (0,) * len(layers)
            attention = tuple(row[split - self._slots + i] for i in slots)
            mlp = tuple(row[split + i] for i in slots)
            found.append(self.space.architecture(Genome(row[0], layers, row[1], attention, mlp)))
        return found
