"""Coefficients whose sums are exact, so that a prediction has the same bits in every batch and on every machine.

A matrix product adds in an order that depends on its shape and on the BLAS library; in floating point that changes the
last bits. Sums of multiples of one power of two are exact while they stay below 2**53 of it, in any order. So for
regressors that are small integers, such as numbers of blocks, rounding the coefficients to such a grid (about 1e-16 of
the largest sum) makes the product exact. No torch.
"""

from __future__ import annotations

import numpy as np


def for_exact_sums(coef: np.ndarray, largest: np.ndarray | float) -> np.ndarray:
    """Return coefficients rounded so that sums of coefficient x integer are exact.

    Args:
        coef: (..., K, T) of K regressors, for T targets.
        largest: (K,) or one number: the largest absolute value of each regressor, all of which are integers.

    Example:
        >>> coef = for_exact_sums(np.array([[0.1], [0.2], [0.3]]), 10)
        >>> float((np.array([3, 7, 9]) @ coef)[0]) == float((np.array([9, 7, 3]) @ coef[::-1])[0])
        True
    """
    coef = np.asarray(coef, float)
    reach = np.broadcast_to(np.asarray(largest, float), coef.shape[-2:-1])[:, None]
    total = np.abs(coef * reach).sum(axis=-2, keepdims=True)
    grid = np.exp2(np.ceil(np.log2(np.where(total > 0, total, 1.0))) + 1 - 53)
    return np.round(coef / grid) * grid
