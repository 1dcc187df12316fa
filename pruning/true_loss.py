"""The true calibration loss of an architecture: KL from the dense network on text, with overlays, in nats a token.

A network that begins like one evaluated before runs from the first block that differs. What was evaluated is kept by
the architecture's id, in a file too.

Shapes: n blocks of text, B of a batch, T tokens, C n_embd.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pruning.calibration import check_blocks
from pruning.collection import autocast
from pruning.dense_target import DenseTarget
from pruning.fingerprints import fingerprint
from pruning.overlay import OverlayDatabase
from pruning.pieces import Pieces, steps_of
from pruning.record_file import RecordFile
from pruning.state_store import States, StateStore
from supernet.architecture import Architecture
from supernet.tokens import TokenBlocks


class CalibrationLoss:
    """KL(dense || pruned) of architectures of one supernet, nats a token over all positions of the text.

    Args:
        database: the supernet and its overlays.
        blocks: (n, T) token ids: search text, not what is reported.
        batch_size: blocks of one forward.
        precision: "32", or "bf16" for autocast to bfloat16.
        path: file of what was evaluated; None keeps it in memory.
        memory_mib: for the dense network's distributions (`DenseTarget`).
        state_memory_mib: for residual streams of the networks used last (`StateStore`).

    Attributes:
        n_evaluations: networks that really ran.
        n_blocks_run: blocks that really ran, over all evaluations; the whole network's L blocks each time would be
            n_evaluations * L.

    Raises:
        ValueError: unusable blocks, or `path` belongs to another network, text or settings.
    """

    def __init__(
        self,
        database: OverlayDatabase,
        blocks: Tensor | np.ndarray | TokenBlocks,
        *,
        batch_size: int = 4,
        precision: str = "32",
        path: str | Path | None = None,
        memory_mib: float = 1024,
        state_memory_mib: float = 1024,
    ) -> None:
        self.database = database
        self.ids = check_blocks(blocks, database.supernet)
        self.batch_size, self.precision, self.memory_mib = batch_size, precision, memory_mib
        self.pieces = Pieces(database.supernet, database, seq_len=self.ids.shape[1])
        card = {"what": "KL to the dense network, nats a token", "precision": precision}
        if path is not None:
            card["network"] = fingerprint(database.supernet, database, self.ids)
        self._records = RecordFile(path, card=card)
        self._states = StateStore(state_memory_mib)
        self._target: DenseTarget | None = None
        self.n_evaluations = self.n_blocks_run = 0

    @property
    def dense(self) -> Architecture:
        """The whole network."""
        return self.pieces.dense

    @property
    def n_tokens(self) -> int:
        """Tokens of the text."""
        return self.ids.numel()

    def __call__(self, arch: Architecture) -> float:
        """Return the loss of one architecture.

        Raises:
            ValueError: the supernet does not contain it.
        """
        if arch.id not in self._records.known:
            with torch.no_grad(), autocast(self.pieces.place, self.precision):
                self._records.put(arch.id, self._evaluate(arch))
        return self._records.known[arch.id]

    def many(self, archs: Sequence[Architecture], *, progress: bool = False) -> np.ndarray:
        """Return the losses of architectures, (n,)."""
        return np.array([self(arch) for arch in tqdm(archs, unit="network", desc="loss", disable=not progress)])

    def shorter(self, n_blocks: int) -> CalibrationLoss:
        """Return the loss on the first blocks of the text only, with nothing kept in a file."""
        return CalibrationLoss(
            self.database, self.ids[:n_blocks], batch_size=self.batch_size, precision=self.precision,
            memory_mib=self.memory_mib / 4,
        )  # fmt: skip

    def _evaluate(self, arch: Architecture) -> float:
        target = self._dense_target()
        final = self._final(arch)
        sums = [float(target.divergence(i, arch, states).sum()) for i, states in enumerate(final)]
        self.n_evaluations += 1
        return sum(sums) / self.n_tokens

    def _final(self, arch: Architecture) -> States:
        """Return the residual stream after the last block, and keep what lies before it."""
        self.pieces.frame(arch)  # refuses what the supernet does not contain
        steps = steps_of(arch)
        found = self._states.longest(steps)
        if found is None:
            done, states = 0, tuple(self.pieces.start(arch, ids) for ids in self._batches())
        else:
            done, states = found
        streams = {done: states}
        for n, step in enumerate(steps[done:], done + 1):
            states = tuple(self.pieces.run(step, x) for x in states)
            self.n_blocks_run += 1
            if n < len(steps):
                streams[n] = states
        self._states.keep(steps, streams)
        return states

    def _batches(self) -> Iterator[Tensor]:
        yield from self.ids.split(self.batch_size)

    def _dense_target(self) -> DenseTarget:
        if self._target is None:
            finals = self._final(self.dense)
            self._target = DenseTarget(self.pieces, self.dense, finals, memory_mib=self.memory_mib)
        return self._target


def halving(
    losses: Sequence[CalibrationLoss], archs: Sequence[Architecture], *, keep: int, progress: bool = False
) -> list[tuple[Architecture, float]]:
    """Return the best architectures and their losses on the most text, the best first (successive halving).

    Args:
        losses: on ever more text, e.g. [loss.shorter(1), loss]. From one to the next the better half goes on, or more
            where fewer than `keep` would be left.
        archs: the candidates.
        keep: how many to return.
        progress: show progress bars.
    """
    left = list(dict.fromkeys(archs))
    for i, loss in enumerate(losses):
        values = loss.many(left, progress=progress)
        order = np.argsort(values, kind="stable")
        last = i == len(losses) - 1
        ranked = [(left[k], float(values[k])) for k in order[: keep if last else max(keep, (len(left) + 1) // 2)]]
        left = [arch for arch, _ in ranked]
    return ranked
