"""Networks that are best where every block adds its own share to every objective: good starts for a search. No torch.

A linear model of each objective's logarithm on one-hot blocks is fitted to random networks. For a weighted sum of such
models the best network is found block by block, so thousands of weightings take a moment. What the models miss is for
a search that starts here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from search.pareto import Floats
from surrogates.layer_features import LayerFeatures

Measure = Callable[[np.ndarray], Floats]  # genes (n, g) -> values (n, m), minimised


def linear_trade_offs(
    measure: Measure, features: LayerFeatures, rng: np.random.Generator, *, width: int, n_sample: int = 3000,
    n_weights: int = 500,
) -> np.ndarray:  # fmt: skip
    """Return distinct canonical genes (n, g) of the networks that linear models say are the best of some weighting.

    Args:
        measure: values of canonical genes, all of them numbers.
        features: of the space.
        rng: draws the sample.
        width: index of n_embd.
        n_sample: networks that models are fitted to, for each bias.
        n_weights: weightings of the objectives, about.
    """
    return np.unique(
        np.concatenate(
            [_of_bias(measure, features, rng, width, bias, n_sample, n_weights) for bias in range(features.sizes[1])]
        ),
        axis=0,
    )


def _of_bias(
    measure: Measure, features: LayerFeatures, rng: np.random.Generator, width: int, bias: int, n: int, n_weights: int
) -> np.ndarray:
    L, n_depths = features.space.max_layer, len(features.depths)
    sample = np.column_stack([rng.integers(0, size, n) for size in features.sizes])
    sample[:, 0], sample[:, 1] = width, bias
    sample = features.check(sample)
    values = measure(sample)
    values = np.where((values > 0).all(axis=0), np.log(np.maximum(values, 1e-300)), values)
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-12)
    table = np.column_stack([np.ones(n), features.positions(sample)])
    coefficients = np.linalg.lstsq(table, values, rcond=None)[0][n_depths:]  # (kinds of blocks, m): one, then depths
    n_attention, n_mlp = len(features.heads), features.neurons.shape[1]
    split = (n_attention - 1) * L
    attention = _with_first(coefficients[:split].reshape(n_attention - 1, L, -1))
    mlp = _with_first(coefficients[split:].reshape(n_mlp - 1, L, -1))
    weights = _weights(values.shape[1], n_weights)
    blocks = np.concatenate([(attention @ weights.T).argmin(axis=0), (mlp @ weights.T).argmin(axis=0)]).T  # (w, 2 L)
    depths = np.repeat(np.arange(n_depths), len(weights))
    genes = np.column_stack([np.full((len(depths), 2), [width, bias]), depths, np.tile(blocks, (n_depths, 1))])
    return features.check(genes)


def _with_first(coefficients: np.ndarray) -> np.ndarray:
    """Return the shares of all choices (c, L, m): those of the first ones, which the others are relative to, are 0."""
    return np.concatenate([np.zeros((1, *coefficients.shape[1:])), coefficients])


def _weights(m: int, n: int) -> np.ndarray:
    """Return about n weightings (n, m) that sum to 1, evenly spread: a lattice on the simplex."""
    steps = 1
    while len(list(combinations(range(steps + m), m - 1))) <= n:
        steps += 1
    bars = np.array(list(combinations(range(steps + m - 1), m - 1)))
    edges = np.column_stack([np.full(len(bars), -1), bars, np.full(len(bars), steps + m - 1)])
    return np.asarray((np.diff(edges, axis=1) - 1) / steps, dtype=np.float64)
