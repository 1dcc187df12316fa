"""Criteria that look at activations: Minitron's norms, Wanda-sp, FLAP. No gradients.

x_j is input j of an output projection W (down_proj for neurons, o_proj for the dimensions of heads).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pruning.criteria.evidence import Evidence
from pruning.scores import Importance
from pruning.structure import Part


def minitron(evidence: Evidence) -> Importance:
    """Score by the L2 norm over sequences of the mean of |x_j| over a sequence.

    Heads and groups: the L2 norm over their dimensions; channels: the same of the norms' outputs, summed over norms.
    """
    assert evidence.moments is not None
    columns = _columns(evidence, lambda layer, part: evidence.inputs(layer, part).activation.square())
    neurons, heads, groups = _over_dimensions(evidence, columns, torch.sum)
    return Importance(neurons.sqrt(), heads.sqrt(), groups.sqrt(), evidence.moments.channels.cpu())


def wanda(evidence: Evidence) -> Importance:
    """Score by mean_i |W_ij| times the root mean square of x_j, summed over the dimensions of a head or group."""

    def score(layer: int, part: Part) -> Tensor:
        weight, inputs = evidence.projection(layer, part), evidence.inputs(layer, part)
        return weight.double().abs().mean(0) * inputs.norm.to(weight.device)

    return Importance(*_over_dimensions(evidence, _columns(evidence, score), torch.sum))


def flap(evidence: Evidence) -> Importance:
    """Score by fluctuation: Var(x_j) |W_:j|^2, for attention squared; standardised in every layer.

    A head or group is the mean over its dimensions. Standardised scores compare between layers, as FLAP's global
    allocation wants (there a head weighs as many neurons as it has parameters).
    """

    def score(layer: int, part: Part) -> Tensor:
        weight, inputs = evidence.projection(layer, part), evidence.inputs(layer, part)
        fluctuation = inputs.variance.to(weight.device) * weight.double().square().sum(0)
        return _standardised(fluctuation.square() if part == "attention" else fluctuation)

    return Importance(*_over_dimensions(evidence, _columns(evidence, score), torch.mean))


def _standardised(scores: Tensor) -> Tensor:
    spread = scores.std(correction=0)
    return (scores - scores.mean()) / (spread if spread > 0 else 1.0)


def _columns(evidence: Evidence, score: Callable[[int, Part], Tensor]) -> dict[Part, Tensor]:
    """Return the scores of every input of every projection, (L, n) of each part, on the CPU."""
    layers = range(evidence.sizes.n_layer)
    attention = torch.stack([score(layer, "attention").cpu() for layer in layers])
    return {"attention": attention, "mlp": torch.stack([score(layer, "mlp").cpu() for layer in layers])}


def _over_dimensions(
    evidence: Evidence, columns: dict[Part, Tensor], reduce: Callable[..., Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return neurons (L, F), heads (L, G, Q) and groups (L, G) from the scores of single inputs."""
    s = evidence.sizes
    dims = columns["attention"].view(s.n_layer, s.n_query_groups, s.heads_per_group, s.head_size)
    return columns["mlp"], reduce(dims, dim=-1), reduce(dims, dim=(-2, -1))
