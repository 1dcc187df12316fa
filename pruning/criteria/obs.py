"""Optimal Brain Surgeon for columns of an output projection: the error that is left after the best correction.

With A = E[x x^T] + damping (as in `pruning.reconstruction`), removing the columns S of W and correcting the others
costs tr(W_S ((A^-1)_SS)^-1 W_S^T); for one column w_j that is |w_j|^2 / (A^-1)_jj. With much damping this becomes
|w_j|^2 E[x_j^2], the error without a correction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pruning.criteria.evidence import Evidence
from pruning.reconstruction import damped, default_damping
from pruning.scores import Importance
from pruning.structure import Part

_STEPS = 64  # of the greedy removal of neurons: about two percent of them at once


def one_shot(evidence: Evidence) -> Importance:
    """Score every neuron, head and group as the only one that goes."""
    return _scored(evidence, removal_errors)


def greedy(evidence: Evidence) -> Importance:
    """Score by the order of removal: the cheapest goes first, then W and A^-1 are updated, and so on.

    Scores are ranks, 0 for what goes first. Neurons go in about 64 steps, heads and groups one by one.
    """
    return _scored(evidence, removal_ranks)


def _scored(evidence: Evidence, score: Callable[[Tensor, Tensor, int], Tensor]) -> Importance:
    s = evidence.sizes
    neurons, heads, groups = [], [], []
    for layer in range(s.n_layer):
        neurons.append(_part(evidence, layer, "mlp", 1, score))
        heads.append(_part(evidence, layer, "attention", s.head_size, score).view(s.n_query_groups, s.heads_per_group))
        groups.append(_part(evidence, layer, "attention", s.head_size * s.heads_per_group, score))
    return Importance(torch.stack(neurons), torch.stack(heads), torch.stack(groups))


def _part(
    evidence: Evidence, layer: int, part: Part, size: int, score: Callable[[Tensor, Tensor, int], Tensor]
) -> Tensor:
    weight = evidence.projection(layer, part).double()
    inputs = evidence.inputs(layer, part)
    A = damped(inputs.second.to(weight.device), default_damping(inputs.n_tokens), where=f"layer {layer}, {part}")
    return score(weight, A, size).cpu()


def removal_errors(weight: Tensor, A: Tensor, size: int) -> Tensor:
    """Return the error of removing each stretch of `size` columns alone.

    Args:
        weight: (C, n) float64.
        A: (n, n) damped second moments, float64, positive definite.
        size: columns that go together; n is a multiple of it.

    Returns:
        (n / size,) float64.
    """
    return _errors(weight, _inverse(A), size)


def removal_ranks(weight: Tensor, A: Tensor, size: int) -> Tensor:
    """Return when each stretch of `size` columns goes in greedy removal, 0 for the first; see `removal_errors`."""
    weight, inverse = weight.clone(), _inverse(A)
    n_units = len(A) // size
    left = torch.arange(n_units, device=A.device)
    ranks = torch.zeros(n_units, dtype=torch.float64, device=A.device)
    at_once = max(1, n_units // _STEPS) if size == 1 else 1
    done = 0
    while len(left) > 1:
        errors = _errors(weight, inverse, size)
        going = errors.argsort(stable=True)[: min(at_once, len(left) - 1)]
        ranks[left[going]] = torch.arange(done, done + len(going), dtype=torch.float64, device=A.device)
        done += len(going)
        keep = torch.ones(len(left), dtype=torch.bool, device=A.device)
        keep[going] = False
        weight, inverse = _without(weight, inverse, keep.repeat_interleave(size))
        left = left[keep]
    ranks[left] = done
    return ranks


def _errors(weight: Tensor, inverse: Tensor, size: int) -> Tensor:
    if size == 1:
        return weight.square().sum(0) / inverse.diagonal()
    units = len(inverse) // size
    diagonal = torch.stack([inverse[i : i + size, i : i + size] for i in range(0, len(inverse), size)])
    columns = weight.view(len(weight), units, size).permute(1, 2, 0)  # (units, size, C)
    solved = torch.cholesky_solve(columns, torch.linalg.cholesky(diagonal))  # cholesky of (A^-1)_SS
    return (columns * solved).sum((1, 2))


def _without(weight: Tensor, inverse: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Return the corrected weight and the inverse of A's remaining part: block Gauss elimination."""
    factor = torch.linalg.cholesky(inverse[~keep][:, ~keep])
    cross = inverse[~keep][:, keep]  # (gone, kept)
    solved = torch.cholesky_solve(cross, factor)
    return weight[:, keep] - weight[:, ~keep] @ solved, inverse[keep][:, keep] - cross.T @ solved


def _inverse(A: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(A))
