"""Taylor criteria of LLM-Pruner (Ma et al. 2023): how much the loss changes when a coupled group of weights is zeroed.

With w a weight, g its mean gradient and f the mean of g^2 over calibration samples, the change is w g - 1/2 w^2 f.
Scores are sums over the weights of a group; the sign is dropped before (element-wise) or after (vector-wise) the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from pruning.criteria.evidence import Evidence
from pruning.scores import Importance
from pruning.structure import channel_sums, coupled_sums


def first_order(evidence: Evidence) -> Importance:
    """Score by sum |w g|."""
    return _summed(evidence, lambda w, g, f: (w * g).abs())


def vector_wise(evidence: Evidence) -> Importance:
    """Score by |sum w g|."""
    return _summed(evidence, lambda w, g, f: w * g)


def second_order(evidence: Evidence) -> Importance:
    """Score by sum w^2 f."""
    return _summed(evidence, lambda w, g, f: w.square() * f)


def mixed(evidence: Evidence) -> Importance:
    """Score by sum |w g - 1/2 w^2 f|."""
    return _summed(evidence, lambda w, g, f: (w * g - 0.5 * w.square() * f).abs())


def _summed(evidence: Evidence, value: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Importance:
    gradients, supernet = evidence.gradients, evidence.supernet
    assert gradients is not None  # `importance` checks what a criterion needs

    def values(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
        for name, weight in module.named_parameters():
            if prefix + name in gradients.mean:
                mean, square = gradients.mean[prefix + name], gradients.square[prefix + name]
                yield name, value(weight.detach().double(), mean.double(), square.double())

    sums = [
        coupled_sums(dict(values(block, f"transformer.h.{layer}.")), evidence.sizes)
        for layer, block in enumerate(supernet.transformer.h)
    ]
    return Importance(
        neurons=torch.stack([s.neurons for s in sums]).abs(),
        heads=torch.stack([s.heads for s in sums]).abs(),
        groups=torch.stack([s.groups for s in sums]).abs(),
        channels=channel_sums(values(supernet, "")).abs(),
    )
