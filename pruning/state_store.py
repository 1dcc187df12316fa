"""Residual streams before the blocks of networks that were run, for networks that begin like them.

Shapes: B blocks of a batch, T tokens, C n_embd.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pruning.pieces import Step

States = tuple[Tensor, ...]  # of each batch, (B, T, C)


class Found(NamedTuple):
    """Where a network can begin: after how many of its blocks, and the residual stream there."""

    n_steps: int
    states: States


class StateStore:
    """The streams of the networks used last, within some memory.

    Args:
        memory_mib: of all streams; where those of one network would not fit, only every second, third, ... is kept.
    """

    def __init__(self, memory_mib: float) -> None:
        self._limit = memory_mib * 2**20
        self._known: OrderedDict[tuple[Step, ...], dict[int, States]] = OrderedDict()

    def longest(self, steps: Sequence[Step]) -> Found | None:
        """Return the stream after as many first blocks of a network as possible; None where there is none."""
        best: tuple[int, tuple[Step, ...]] | None = None
        for known, streams in self._known.items():
            common = _common(known, steps)
            n = max((n for n in streams if n <= common), default=-1)
            if n >= 0 and (best is None or n >= best[0]):
                best = (n, known)
        if best is None:
            return None
        self._known.move_to_end(best[1])  # what others begin like stays
        return Found(best[0], self._known[best[1]][best[0]])

    def keep(self, steps: Sequence[Step], streams: dict[int, States]) -> None:
        """Keep a network's streams, by the number of blocks before them; the least recently used go."""
        steps = tuple(steps)
        for known, own in self._known.items():
            common = _common(known, steps)
            streams |= {n: states for n, states in own.items() if n <= common}
        self._known[steps] = _thinned(streams, self._limit)
        self._known.move_to_end(steps)
        while len(self._known) > 1 and self.n_bytes > self._limit:
            self._known.popitem(last=False)

    @property
    def n_bytes(self) -> int:
        """Bytes of all streams; one that networks share counts once."""
        tensors = {id(x): x for own in self._known.values() for states in own.values() for x in states}
        return sum(x.numel() * x.element_size() for x in tensors.values())


def _common(a: Sequence[Step], b: Sequence[Step]) -> int:
    """Return how many first steps are equal; -1 where not even the embeddings are, of networks of another width."""
    if a[0].shape.n_embd != b[0].shape.n_embd:
        return -1
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _thinned(streams: dict[int, States], limit: float) -> dict[int, States]:
    each = max((sum(x.numel() * x.element_size() for x in states) for states in streams.values()), default=1)
    stride = 1
    while len(streams) / stride * each > limit and stride < len(streams):
        stride += 1
    return {n: states for n, states in sorted(streams.items()) if n % stride == 0}
