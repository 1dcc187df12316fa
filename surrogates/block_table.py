"""Functions of genes that are sums over blocks, as tables: one look-up takes the place of many small numpy calls.

Within one width, bias and depth, counts, sizes, running sums and linear models of them are what the first choices give
plus what the choices of each block add. Entries are read off the function itself, and random genes are tried before a
table is used: a function that is no such sum, or not exactly so in floating point, gets none. No torch.

Shapes: n rows, g genes, k values, L blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from surrogates.layer_features import LayerFeatures

Function = Callable[[np.ndarray], np.ndarray]
_PROBES = 128


class BlockTable:
    """A function of canonical genes (n, g) -> (n, k) as a table.

    Args:
        features: of the space.
        function: a sum over blocks; some values may be so only modulo a number.
        modulus: (k,) that number, infinite for plain sums.
    """

    def __init__(self, features: LayerFeatures, function: Function, modulus: np.ndarray) -> None:
        sizes, L = features.sizes, features.space.max_layer
        self._modulo = np.flatnonzero(np.isfinite(modulus))
        self._modulus = modulus[self._modulo]
        grid = np.meshgrid(*(np.arange(size) for size in sizes[:3]), indexing="ij")
        start = np.zeros((grid[0].size, len(sizes)), np.int64)
        start[:, :3] = np.stack(grid, axis=-1).reshape(-1, 3)
        self._base = function(start).astype(float).reshape(*sizes[:3], -1)
        deepest = start[start[:, 2] == features.depths.argmax()]  # has all blocks
        kinds = np.stack(
            np.meshgrid(np.arange(L), np.arange(sizes[3]), np.arange(sizes[3 + L]), indexing="ij"), axis=-1
        )
        block, attention, mlp = kinds.reshape(-1, 3).T
        rows = np.repeat(deepest[:, None], len(block), axis=1)  # (widths x biases, L x kinds, g)
        at = np.arange(len(block))
        rows[:, at, 3 + block], rows[:, at, 3 + L + block] = attention, mlp
        added = function(rows.reshape(-1, len(sizes))).astype(float).reshape(*rows.shape[:2], -1)
        added -= function(deepest).astype(float)[:, None]
        self._added = added.reshape(*sizes[:2], *kinds.shape[:3], -1)  # (widths, biases, L, attention, mlp, k)
        self._blocks = np.arange(L)

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """Return the values (n, k) of canonical genes (n, g); n is small."""
        L, width, bias = len(self._blocks), genes[:, 0], genes[:, 1]
        kinds = genes[:, 3 : 3 + L], genes[:, 3 + L :]
        added = self._added[width[:, None], bias[:, None], self._blocks, *kinds]  # (n, L, k)
        values = self._base[width, bias, genes[:, 2]] + added.sum(axis=1)
        if len(self._modulo):
            values[:, self._modulo] %= self._modulus
        return np.asarray(values)


def block_table(features: LayerFeatures, function: Function, modulus: np.ndarray) -> BlockTable | None:
    """Return a function as a table; None where it is no exact sum over blocks."""
    table = BlockTable(features, function, modulus)
    rng = np.random.default_rng(0)
    genes = features.check(rng.integers(0, features.sizes, (_PROBES, len(features.sizes))))
    return table if np.array_equal(table(genes), function(genes).astype(float)) else None
