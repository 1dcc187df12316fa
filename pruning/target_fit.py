"""Least squares of an output projection towards any target, e.g. the dense network's residual stream.

For inputs x (s of them) and targets y, W' and b minimise E |y - W' x - b|^2 + |W' - W|^2_P, with the penalty P of
`reconstruction`. As there, W itself is a candidate: the result is never worse than W on the calibration text.

Shapes: C outputs, s inputs, N tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.input_statistics import add_gram
from pruning.reconstruction import Solution, damped_factor, default_damping


class TargetFit:
    """Sums over pairs (x, y).

    Args:
        n_inputs: s.
        n_outputs: C.
        device: where the sums are.
    """

    def __init__(self, n_inputs: int, n_outputs: int, *, device: torch.device) -> None:
        self._n_tokens = 0
        self._upper = torch.zeros(n_inputs, n_inputs, dtype=torch.float64, device=device)
        self._cross = torch.zeros(n_outputs, n_inputs, dtype=torch.float64, device=device)
        self._x = torch.zeros(n_inputs, dtype=torch.float64, device=device)
        self._y = torch.zeros(n_outputs, dtype=torch.float64, device=device)
        self._energy = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add inputs (..., s) and their targets (..., C)."""
        x, y = x.flatten(0, -2).float(), y.flatten(0, -2).float()
        gram = torch.zeros_like(self._upper, dtype=torch.float32)
        add_gram(gram, x)
        self._upper += gram
        self._cross += y.T @ x
        self._x += x.sum(0, dtype=torch.float64)
        self._y += y.sum(0, dtype=torch.float64)
        self._energy += float(y.square().sum(dtype=torch.float64))
        self._n_tokens += len(x)

    def solve(self, weight: Tensor, *, damping: float | None, intercept: bool, where: str) -> Solution:
        """Return the projection nearest to the targets, in the dtype of `weight` (C, s).

        Raises:
            ValueError: damping is not positive, or the inputs or targets are not finite.
        """
        n, own = self._n_tokens, weight.detach().double()
        x, y = (self._x / n, self._y / n) if intercept else (torch.zeros_like(self._x), torch.zeros_like(self._y))
        total = self._upper.triu() + self._upper.triu(1).T
        second = total / n - torch.outer(x, x)
        cross = self._cross / n - torch.outer(y, x)
        factor = damped_factor(second, default_damping(n) if damping is None else damping, where=where)
        penalty = (factor.square().sum(1) - second.diagonal()).clamp(min=0)  # what damping added to the diagonal
        solved = torch.cholesky_solve((cross + penalty * own).T, factor).T.to(weight.dtype)
        shift = (y - solved.double() @ x).to(weight.dtype) if intercept else None
        mask_error, error = self._error(own, None, total), self._error(solved.double(), shift, total)
        if not error <= mask_error:
            return Solution(weight.detach().clone(), None, mask_error, mask_error)
        return Solution(solved, shift, error, mask_error)

    def _error(self, weight: Tensor, shift: Tensor | None, total: Tensor) -> float:
        """Return E |y - W x - b|^2 relative to E |y|^2; `total` is the sum of x x^T."""
        n = self._n_tokens
        error = self._energy / n + float(((weight @ total - 2 * self._cross) * weight).sum()) / n
        if shift is not None:
            b = shift.double()
            error += float(b.square().sum() - 2 * b @ (self._y - weight @ self._x) / n)
        return max(error, 0.0) * n / self._energy if self._energy > 0 else 0.0
