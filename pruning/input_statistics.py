"""Running sums of the inputs of one layer: exact mean and variance (Chan et al.), second moments in tiles.

Shapes: B blocks of a batch, T tokens, N = B*T, n inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.moments import InputMoments


class InputStatistics:
    """Sums over all inputs x (B, T, n) that were added.

    Args:
        size: n.
        device: where the sums are.
        dtype: of the products and of the second moments' sum.
    """

    def __init__(self, size: int, *, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._dtype, self._n_tokens = dtype, 0
        self._second = torch.zeros(size, size, dtype=dtype, device=device)
        self._mean, self._squares, self._activation = torch.zeros(3, size, dtype=torch.float64, device=device)

    def add(self, x: Tensor) -> None:
        """Add the inputs of a batch, (B, T, n)."""
        x = x.detach().to(self._dtype)
        rows = x.flatten(0, -2)
        add_gram(self._second, rows)
        self._activation += x.abs().mean(1).square().sum(0)
        mean = rows.mean(0)
        variance = (rows - mean).square_().mean(0)  # four times as fast as torch.var_mean along the rows
        n, m = self._n_tokens, len(rows)
        change = mean.double() - self._mean
        self._mean += change * (m / (n + m))
        self._squares += variance.double() * m + change.square() * (n * m / (n + m))
        self._n_tokens = n + m

    def result(self) -> InputMoments:
        """Return the means over tokens."""
        second = self._second / self._n_tokens
        return InputMoments(
            second=second.triu() + second.triu(1).T,
            mean=self._mean.clone(),
            variance=self._squares / self._n_tokens,
            activation=self._activation.sqrt(),
            n_tokens=self._n_tokens,
        )


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Add the upper triangle of rows^T rows to `total` (n, n), in place; below the diagonal tiles nothing is promised.

    Four tiles a side leave out 6 of 16 products: the matrix is symmetric.
    """
    n = rows.shape[1]
    tile = max(128, -(-n // 4))
    for start in range(0, n, tile):
        stop = min(start + tile, n)
        total[start:stop, start:].addmm_(rows[:, start:stop].T, rows[:, start:])
