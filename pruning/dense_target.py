"""What the dense network says about each next token, kept compactly, and the KL divergence of others from it.

For probabilities p of the dense network and logits z of another one, KL = sum p log p - sum p z + log sum exp z. So
only p is kept: in float32 while it fits into the memory that is allowed, then in bfloat16 (normalised again: what is
kept is a distribution), then not at all: the dense logits are computed again from the last residual stream.

Shapes: B blocks of a batch, T tokens, N = B*T, C n_embd, V padded vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pruning.pieces import Pieces
from supernet.architecture import Architecture

_MOST_TOKENS, _LEAST_TOKENS = 256, 16  # of a (tokens, V) array of logits
_MOST_BYTES = 25 * 2**20  # of it on a CPU: glibc gives blocks of 32 MiB back to the system each time


class DenseTarget:
    """The dense network's next-token distributions on batches of text.

    Args:
        pieces: of the supernet.
        dense: the whole network.
        finals: its residual stream after the last block, (B, T, C) of each batch.
        memory_mib: what the distributions may take.
    """

    def __init__(self, pieces: Pieces, dense: Architecture, finals: Sequence[Tensor], *, memory_mib: float) -> None:
        self.pieces, self.dense = pieces, dense
        self._finals = list(finals)
        entries = sum(x.shape[0] * x.shape[1] for x in finals) * pieces.config.padded_vocab_size
        fitting = [t for t in (torch.float32, torch.bfloat16) if entries * t.itemsize <= memory_mib * 2**20]
        self._dtype = fitting[0] if fitting else None
        self._kept: dict[tuple[int, int], _Target] = {}
        fit = _MOST_BYTES // (torch.float32.itemsize * pieces.config.padded_vocab_size)
        on_cpu = pieces.place.type == "cpu"
        self._tokens_at_once = min(max(fit, _LEAST_TOKENS), _MOST_TOKENS) if on_cpu else _MOST_TOKENS

    def divergence(self, batch: int, arch: Architecture, states: Tensor) -> Tensor:
        """Return the sums of KL(dense || other) over each block's positions, (B,) float64, in nats.

        Args:
            batch: which batch of text.
            arch: the other network; only its width counts.
            states: its residual stream after the last block, (B, T, c).
        """
        rows, n = states.flatten(0, 1), self._tokens_at_once
        sums = [
            self._divergences(batch, start, self.pieces.head(arch, rows[start : start + n]))
            for start in range(0, len(rows), n)
        ]
        return torch.cat(sums).view(states.shape[:2]).sum(1)

    def _divergences(self, batch: int, start: int, logits: Tensor) -> Tensor:
        """Return KL of each position of a piece, (tokens,) float64."""
        target = self._target(batch, start, len(logits))
        with torch.autocast(logits.device.type, enabled=False):  # it would round the product to bfloat16
            expected = torch.bmm(target.p.float()[:, None], logits[:, :, None]).flatten().double()
        return (target.negative_entropy - expected / target.total + torch.logsumexp(logits, 1).double()).clamp(min=0)

    def _target(self, batch: int, start: int, length: int) -> _Target:
        known = self._kept.get((batch, start))
        if known is None:
            rows = self._finals[batch].flatten(0, 1)[start : start + length]
            with torch.autocast(rows.device.type, enabled=False):
                known = _Target.of(self.pieces.head(self.dense, rows.float()).softmax(1), self._dtype)
            if self._dtype is not None:
                self._kept[batch, start] = known
        return known


class _Target(NamedTuple):
    """What does not depend on the other network: p (tokens, V), and of each position sum p and sum p log p."""

    p: Tensor
    total: Tensor
    negative_entropy: Tensor

    @classmethod
    def of(cls, p: Tensor, dtype: torch.dtype | None) -> _Target:
        p = p if dtype is None else p.to(dtype)
        whole = p.float()
        total = whole.sum(1, dtype=torch.float64)
        entropy = torch.special.xlogy(whole, whole).sum(1, dtype=torch.float64)
        return cls(p, total, entropy / total - total.log())
