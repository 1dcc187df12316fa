"""The true loss on text in two parts: a network that is clearly worse on the first one is not run on the second.

Networks that a local search compares differ in a block or two, so that the difference of their losses on a little text
says much about that on the rest. SmolLM2-135M, 38 moves of one search, 8 blocks of 512 tokens, the first two against
the other six: 0.6 of the blocks run at a slack of 0.4 %, and one of 11 improvements is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from pruning.overlay import OverlayDatabase
from pruning.true_loss import CalibrationLoss
from supernet.architecture import Architecture

_SLACK = 0.004  # relative, on the first part


class RacedLoss:
    """The loss of architectures on two parts of a text, nats a token over all of it.

    Args:
        first: the loss on the first part.
        rest: the loss on the rest; None where there is no more text.

    Attributes:
        asked: losses on all of the text that this object was asked for, known from the files or not: the same in a run
            that goes on.
    """

    def __init__(self, first: CalibrationLoss, rest: CalibrationLoss | None) -> None:
        self.first, self.rest = first, rest
        self.asked: dict[Architecture, float] = {}

    @classmethod
    def split(cls, loss: Callable[..., CalibrationLoss], blocks: Tensor, n_first: int, folder: Path) -> RacedLoss:
        """Return the loss on blocks of text, the first `n_first` of them looked at first.

        Args:
            loss: makes the loss on some of the blocks; called with them and `path`.
            blocks: (n, T) token ids.
            n_first: how many; all of them where there are not more.
            folder: where what was evaluated is kept.
        """
        files = [folder / "quick_losses.jsonl", folder / "further_losses.jsonl"]
        rest = loss(blocks[n_first:], path=files[1]) if len(blocks) > n_first else None
        return cls(loss(blocks[:n_first], path=files[0]), rest)

    @property
    def dense(self) -> Architecture:
        """The whole network."""
        return self.first.dense

    @property
    def database(self) -> OverlayDatabase:
        """The supernet and its overlays."""
        return self.first.database

    @property
    def n_tokens(self) -> int:
        """Tokens of all of the text."""
        return self.first.n_tokens + (0 if self.rest is None else self.rest.n_tokens)

    def __call__(self, arch: Architecture) -> float:
        """Return the loss of one architecture; ValueError where the supernet does not contain it."""
        value = self.first(arch)
        if self.rest is not None:
            value = (value * self.first.n_tokens + self.rest(arch) * self.rest.n_tokens) / self.n_tokens
        self.asked[arch] = value
        return value

    def many(self, archs: Sequence[Architecture], *, progress: bool = False) -> np.ndarray:
        """Return the losses of architectures, (n,)."""
        return np.array([self(arch) for arch in tqdm(archs, unit="network", desc="loss", disable=not progress)])

    def against(self, arch: Architecture, than: Architecture) -> tuple[float, bool]:
        """Return the loss of an architecture, or an estimate above that of another one, and whether it is the loss.

        Args:
            arch: the architecture.
            than: where it is worse than this one on the first part, by more than the slack, the rest is not run: the
                estimate is as much above this one's loss.
        """
        worse = self.first(arch) - self.first(than)
        if self.rest is None or worse <= _SLACK * self.first(than):
            return self(arch), True
        return self(than) + worse, False
