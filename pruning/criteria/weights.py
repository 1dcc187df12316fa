"""Criteria that look at weights alone, or at nothing: baselines."""

from __future__ import annotations

import torch

from pruning.criteria.evidence import Evidence
from pruning.scores import Importance
from pruning.structure import block_parameters, channel_sums, coupled_sums


def random(evidence: Evidence) -> Importance:
    """Score everything with uniform random numbers of the seed."""
    s, generator = evidence.sizes, torch.Generator().manual_seed(evidence.seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    heads = draw(s.n_layer, s.n_query_groups, s.heads_per_group)
    return Importance(draw(s.n_layer, s.intermediate_size), heads, draw(s.n_layer, s.n_query_groups), draw(s.n_embd))


def magnitude(evidence: Evidence) -> Importance:
    """Score by squared weights.

    Neuron j: |gate_j|^2 + |up_j|^2 + |down_j|^2; head: its query rows and output columns; group: its heads and its key
    and value rows; channel: everything that reads or writes it, embeddings included.
    """
    supernet = evidence.supernet
    sums = [
        coupled_sums({name: w.double().square() for name, w in block_parameters(block).items()}, evidence.sizes)
        for block in supernet.transformer.h
    ]
    return Importance(
        neurons=torch.stack([s.neurons for s in sums]),
        heads=torch.stack([s.heads for s in sums]),
        groups=torch.stack([s.groups for s in sums]),
        channels=channel_sums((name, p.detach().double().square()) for name, p in supernet.named_parameters()),
    )
