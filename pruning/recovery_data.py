"""Token blocks as training batches whose order is fixed by a seed, so that a resumed run continues exactly.

Shapes: n blocks, T tokens; blocks are (n, T + 1): inputs and targets in one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import litgpt
import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from supernet.data import (
    BatchNumbers,
    BatchSequence,
    TrainingLoader,
    ValidationBatches,
    batches_done,
    check_seq_len,
    check_vocab_size,
)
from supernet.text import Tokenizer
from supernet.tokens import TokenBlocks


class Blocks(Protocol):
    """Blocks of equal length, read by number."""

    seq_len: int

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return these blocks, (n, T + 1) int64."""
        ...


class RowBlocks:
    """Blocks that are the rows of a tensor, (n, T + 1)."""

    def __init__(self, rows: Tensor | np.ndarray) -> None:
        self._rows = np.asarray(rows, dtype=np.int64)
        self.seq_len = self._rows.shape[1] - 1

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return these blocks, (n, T + 1) int64."""
        return self._rows[np.asarray(indices, dtype=np.int64)]


def as_blocks(blocks: TokenBlocks | Tensor | np.ndarray, model: litgpt.GPT, *, name: str, least: int = 1) -> Blocks:
    """Return blocks that `model` can train on or be looked at with.

    Args:
        blocks: (n, T + 1) token ids, or TokenBlocks.
        model: the network.
        name: of the text, for messages.
        least: blocks that are needed.

    Raises:
        ValueError: too few blocks, blocks of the wrong shape or type, longer than the model's context, or ids outside
            its vocabulary.
    """
    if isinstance(blocks, TokenBlocks):
        found: Blocks = blocks
        ids = blocks.tokens.ids
    else:
        ids = np.asarray(blocks)
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or ids.shape[1] < 2:
            raise ValueError(f"the {name} text is {ids.shape} {ids.dtype}: give (n, T + 1) integer token ids")
        found = RowBlocks(ids)
    if len(found) < least:
        raise ValueError(
            f"the {name} text has {len(found)} blocks of {found.seq_len} tokens, {least} are needed: give more text, "
            "shorter blocks or a smaller batch_size"
        )
    check_seq_len(found.seq_len, model.max_seq_length)
    if int(ids.min()) < 0:
        raise ValueError(f"the {name} text holds the id {int(ids.min())}: token ids are not negative")
    check_vocab_size(int(ids.max()) + 1, model.config.padded_vocab_size)
    return found


def fingerprint(blocks: Blocks) -> str:
    """Return a hash of all blocks."""
    ids = blocks.tokens.ids if isinstance(blocks, TokenBlocks) else blocks.rows(np.arange(len(blocks)))
    digest = hashlib.sha256(f"{len(blocks)} {blocks.seq_len}".encode())
    digest.update(np.ascontiguousarray(ids, dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]


class BlocksDataModule(pl.LightningDataModule):
    """Training batches from blocks.

    Batch k of a run is a function of (seed, k) alone: see `supernet.data.BatchSequence`.

    Args:
        train: blocks to train on.
        batch_size: blocks of one process and batch.
        seed: of their order.
        tokenizer: of the text; kept with what is trained on it.
    """

    def __init__(
        self,
        train: Blocks,
        *,
        batch_size: int,
        seed: int = 0,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__()
        self.train_blocks = train
        self.batch_size, self.seed = batch_size, seed
        self.seq_len, self.tokenizer = train.seq_len, tokenizer

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return the batches from where the trainer stands to the end of this pass over the blocks."""
        rank, world_size = self._place()
        batches = BatchSequence(
            self.train_blocks, batch_size=self.batch_size, seed=self.seed, rank=rank, world_size=world_size,  # type: ignore[arg-type]
        )  # fmt: skip
        numbers = BatchNumbers(batches.batches_per_pass, lambda: batches_done(self.trainer))
        return TrainingLoader(batches, sampler=numbers, batch_size=None)

    def describe(self) -> dict[str, Any]:
        """Return what a card says about the data."""
        return {
            "n_train_blocks": len(self.train_blocks),
            "seq_len": self.seq_len,
            "sha256": fingerprint(self.train_blocks),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what fixes the order of the batches; the position is the trainer's."""
        return {**self.describe(), "sequences_per_batch": self.batch_size * self._place()[1], "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a resumed run has the data and order of the interrupted one.

        Raises:
            ValueError: it has not; names what differs.
        """
        changed = [f"{k} was {state_dict.get(k)}, is {v}" for k, v in self.state_dict().items() if state_dict[k] != v]
        if changed:
            raise ValueError(f"cannot resume on other data: {'; '.join(changed)}. Restore it, or give a new folder.")

    def _place(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


class ValidatedBlocksDataModule(BlocksDataModule):
    """The same with validation batches (Lightning warns of a val_dataloader that a module does not use).

    Args:
        train: blocks to train on.
        validation: blocks to validate on.
        batch_size: blocks of one process and batch.
        seed: of the training blocks' order.
        tokenizer: of the text; kept with what is trained on it.
    """

    def __init__(
        self,
        train: Blocks,
        validation: Blocks,
        *,
        batch_size: int,
        seed: int = 0,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        super().__init__(train, batch_size=batch_size, seed=seed, tokenizer=tokenizer)
        self.validation = validation

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Return the validation batches in the text's order."""
        rank, world_size = self._place()
        batches = ValidationBatches(
            self.validation, batch_size=self.batch_size, rank=rank, world_size=world_size,  # type: ignore[arg-type]
        )  # fmt: skip
        return DataLoader(batches, batch_size=None)


def held_out_texts(
    held_out: TokenBlocks | Tensor | np.ndarray | Mapping[str, TokenBlocks | Tensor | np.ndarray], model: litgpt.GPT
) -> dict[str, Blocks]:
    """Return the held-out texts by name; one text without a name is called "held-out".

    Raises:
        ValueError: no text, or one that the model cannot take.
    """
    given = held_out if isinstance(held_out, Mapping) else {"held-out": held_out}
    if not given:
        raise ValueError("no held-out text: give at least one")
    return {name: as_blocks(blocks, model, name=name) for name, blocks in given.items()}
