"""Batches of packed token blocks for training and validation, in an order that a resumed run continues exactly.

Shapes: B sequences of one process and batch, T tokens; batches are (B, T + 1) LongTensors, inputs and targets in one.

The order is a function of (seed, batch number) alone: batch k of a run lies in pass k // batches_per_pass over the
data, each pass being a permutation of its own. Nothing is advanced, so nothing has to be restored: a resumed run asks
the trainer how many batches it has done and goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from supernet.corpus import STDLIB, TEXT_EXTENSIONS, find_documents
from supernet.text import Tokenizer, load_tokenizer
from supernet.tokens import TokenBlocks, TokenCorpus, TokenSlice, tokenise


class BatchSequence(Dataset[Tensor]):
    """The endless sequence of training batches of one process; item k is batch k, a (B, T + 1) LongTensor.

    Args:
        blocks: the training blocks.
        batch_size: B, the sequences of one process.
        seed: of the permutations.
        rank: which of `world_size` processes this one is. Batch k of all of them together is the batch k of one process
            with batch size B * world_size.
        world_size: the processes that share a batch.

    Raises:
        ValueError: the blocks do not fill one batch.
    """

    def __init__(
        self, blocks: TokenBlocks, *, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.blocks, self.batch_size, self.seed = blocks, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.batches_per_pass = len(blocks) // (batch_size * world_size)
        if not self.batches_per_pass:
            raise ValueError(too_small_message("training part", blocks, batch_size * world_size))

    def __getitem__(self, k: int) -> Tensor:
        """Return batch k of this process."""
        data_pass, i = divmod(k, self.batches_per_pass)
        order = _permutation(self.seed, data_pass, len(self.blocks))
        first = (i * self.world_size + self.rank) * self.batch_size
        return torch.from_numpy(self.blocks.rows(order[first : first + self.batch_size]))


class BatchNumbers(Sampler[int]):
    """The numbers of the batches from where a run stands to the end of the Lightning epoch it is in.

    Args:
        per_epoch: batches of a Lightning epoch.
        batches_done: says, at the start of every iteration, how many batches the run has done.
    """

    def __init__(self, per_epoch: int, batches_done: Callable[[], int]) -> None:
        self.per_epoch, self.batches_done = per_epoch, batches_done

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[int]:
        start = self.batches_done()
        return iter(range(start, (start // self.per_epoch + 1) * self.per_epoch))


class TrainingLoader(DataLoader[Tensor]):
    """A DataLoader that Lightning knows to be resumable; its position is the trainer's, so there is nothing to keep."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the next iteration asks the trainer where the run stands."""


class ValidationBatches(Dataset[Tensor]):
    """Validation batches of one process in the text's order; the last one may be smaller.

    With several processes each takes every world_size-th block; up to world_size - 1 blocks at the end are left out, so
    that all have equally many.
    """

    def __init__(self, blocks: TokenBlocks, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        usable = len(blocks) - len(blocks) % world_size
        self.blocks, self.batch_size = blocks, batch_size
        self.numbers = np.arange(rank, usable, world_size)

    def __len__(self) -> int:
        return -(-len(self.numbers) // self.batch_size)

    def __getitem__(self, i: int) -> Tensor:
        """Return batch i, a (b, T + 1) LongTensor with b <= B."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        return torch.from_numpy(self.blocks.rows(self.numbers[i * self.batch_size : (i + 1) * self.batch_size]))


class TextDataModule(pl.LightningDataModule):
    """Training and validation batches from text files, folders, or Python's standard library source.

    Train with `Trainer(use_distributed_sampler=False)`: each process takes its own part of a batch here. A run resumed
    with `Trainer.fit(..., ckpt_path=)` continues with exactly the batches that would have followed.

    Args:
        source: "stdlib"; a text file, plain or .gz; a folder, searched recursively; or several of those.
        tokenizer: "byte", a Hugging Face tokenizer folder, or a tokenizer.
        seq_len: T, the tokens a model sees at once.
        batch_size: B, the sequences of one process.
        val_fraction: part of the source kept for validation: its tail, whole documents where possible.
        val_source: text to validate on instead; the whole source is then trained on.
        val_blocks: validate on so many blocks at the most.
        max_bytes: use so much of the source at the most.
        extensions: file names taken from folders.
        seed: of the order of training blocks.
        batches_per_epoch: batches of a Lightning epoch; None is one pass over the training blocks.
        cache_dir: where token ids are kept; None is `supernet.tokens.default_cache_dir()`.
        num_workers: processes that read batches; 0 reads in this one, which is fast: the ids are memory-mapped.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path] = STDLIB,
        *,
        tokenizer: Tokenizer | str | Path = "byte",
        seq_len: int = 256,
        batch_size: int = 8,
        val_fraction: float = 0.05,
        val_source: str | Path | Sequence[str | Path] | None = None,
        val_blocks: int | None = None,
        max_bytes: int | None = None,
        extensions: Sequence[str] = TEXT_EXTENSIONS,
        seed: int = 0,
        batches_per_epoch: int | None = None,
        cache_dir: str | Path | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("seq_len", seq_len), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise ValueError(f"batches_per_epoch = {batches_per_epoch}: must be at least 1, or None for one pass")
        self.source, self.tokenizer = _plain(source), load_tokenizer(tokenizer)
        self.seq_len, self.batch_size = seq_len, batch_size
        self.val_fraction, self.val_blocks_limit = val_fraction, val_blocks
        self.val_source = None if val_source is None else _plain(val_source)
        self.max_bytes, self.extensions = max_bytes, tuple(extensions)
        self.seed, self.batches_per_epoch = seed, batches_per_epoch
        self.cache_dir, self.num_workers = cache_dir, num_workers
        self._corpora: tuple[TokenCorpus, TokenCorpus | None] | None = None

    def prepare_data(self) -> None:
        """Tokenise what is not cached yet (Lightning calls this on one process of a machine)."""
        self._open()

    def setup(self, stage: str | None = None) -> None:
        """Open the token files and check that there is enough text.

        Raises:
            ValueError: the text does not fill one training batch, or one validation block.
        """
        self._batches()
        if self._has_validation and not len(self.val_blocks):
            raise ValueError(too_small_message("validation part", self.val_blocks, 1))

    @property
    def vocab_size(self) -> int:
        """Ids are below it; the model's padded_vocab_size must be at least this."""
        return self.tokenizer.vocab_size

    @property
    def corpus(self) -> TokenCorpus:
        """The tokenised source."""
        return self._open()[0]

    @property
    def train_blocks(self) -> TokenBlocks:
        """Blocks to train on."""
        return TokenBlocks(self._slices()[0], self.seq_len)

    @property
    def val_blocks(self) -> TokenBlocks:
        """Blocks to validate on, at most `val_blocks` of them."""
        return TokenBlocks(self._slices()[1], self.seq_len).first(self.val_blocks_limit)

    def blocks(self, split: str = "val", n_blocks: int | None = None) -> TokenBlocks:
        """Return the first blocks of the "train" or "val" part, or of "all" the source, for evaluation.

        Args:
            split: which part; "all" is the source as a whole, whatever `val_source` is.
            n_blocks: at most so many; None is all.

        Raises:
            ValueError: an unknown part, or one that does not fill a block.
        """
        train, val = self._slices()
        parts = {"train": train, "val": val, "all": self.corpus.tokens}
        if split not in parts:
            raise ValueError(f"split = {split!r}: choose from {', '.join(parts)}")
        blocks = TokenBlocks(parts[split], self.seq_len)
        if not len(blocks):
            raise ValueError(too_small_message(f"{split} part", blocks, 1))
        return blocks.first(n_blocks)

    def train_batches_from(self, step: int = 0) -> Iterator[Tensor]:
        """Yield the batches of this process from batch number `step` on, without end."""
        batches = self._batches()
        while True:
            yield batches[step]
            step += 1

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return the batches from where the trainer stands to the end of the Lightning epoch."""
        self._refuse_sampler_injection()
        batches = self._batches()
        numbers = BatchNumbers(self.batches_per_epoch or batches.batches_per_pass, self._batches_done)
        return TrainingLoader(batches, sampler=numbers, batch_size=None, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Tensor] | list[Any]:
        """Return the validation batches, or an empty list when nothing is kept for validation."""
        if not self._has_validation:
            return []
        rank, world_size = self._place()
        batches = ValidationBatches(self.val_blocks, batch_size=self.batch_size, rank=rank, world_size=world_size)
        return DataLoader(batches, batch_size=None, num_workers=self.num_workers)

    def describe(self) -> dict[str, Any]:
        """Return what a card should say about the data, as plain JSON types."""
        corpus, val = self._open()
        return {
            "source": self.source if isinstance(self.source, str) else list(self.source),
            "sha256": corpus.info.sha256,
            "n_documents": len(corpus.info.documents),
            "n_bytes": corpus.info.n_bytes,
            "n_tokens": corpus.info.n_tokens,
            "tokenizer": corpus.info.tokenizer,
            "seq_len": self.seq_len,
            "n_train_blocks": len(self.train_blocks),
            "n_val_blocks": len(self.val_blocks),
            "val_sha256": val.info.sha256 if val else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what fixes the order of the batches; the position is the trainer's."""
        return {"order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a resumed run has the data and order of the interrupted one.

        Raises:
            ValueError: it has not; names what differs.
        """
        now, then = self._order(), state_dict["order"]
        changed = [f"{k} was {then.get(k)}, is {now[k]}" for k in now if now[k] != then.get(k)]
        if changed:
            raise ValueError(
                "cannot resume on other data: " + "; ".join(changed) + ". Restore these settings, or start a new run."
            )

    @property
    def _has_validation(self) -> bool:
        return self.val_source is not None or self.val_fraction > 0

    def _order(self) -> dict[str, Any]:
        return {
            "corpus": self.corpus.info.key,
            "n_train_blocks": len(self.train_blocks),
            "seq_len": self.seq_len,
            "sequences_per_batch": self.batch_size * self._place()[1],
            "seed": self.seed,
        }

    def _open(self) -> tuple[TokenCorpus, TokenCorpus | None]:
        if self._corpora is None:
            train = self._tokenise(self.source, self.max_bytes)
            val = None if self.val_source is None else self._tokenise(self.val_source, None)
            self._corpora = (train, val)
        return self._corpora

    def _tokenise(self, source: str | tuple[str, ...], max_bytes: int | None) -> TokenCorpus:
        documents = find_documents(source, extensions=self.extensions, max_bytes=max_bytes)
        return tokenise(documents, self.tokenizer, self.cache_dir)

    def _slices(self) -> tuple[TokenSlice, TokenSlice]:
        corpus, val = self._open()
        return corpus.split(self.val_fraction) if val is None else (corpus.tokens, val.tokens)

    def _batches(self) -> BatchSequence:
        rank, world_size = self._place()
        return BatchSequence(
            self.train_blocks, batch_size=self.batch_size, seed=self.seed, rank=rank, world_size=world_size
        )

    def _place(self) -> tuple[int, int]:
        """Return rank and number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _batches_done(self) -> int:
        return batches_done(self.trainer)

    def _refuse_sampler_injection(self) -> None:
        refuse_sampler_injection(self.trainer)


def batches_done(trainer: pl.Trainer | None) -> int:
    """Return how many training batches the trainer has processed in the whole run, the part before a resume included.

    A batch counts when its training step ended, which is what the weights in a checkpoint have seen.
    """
    if trainer is None:
        return 0
    total: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return total.processed


def refuse_sampler_injection(trainer: pl.Trainer | None) -> None:
    """Raise ValueError when Lightning would split batches over processes a second time."""
    if trainer is None or trainer.world_size == 1:
        return
    if trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError("the data module gives each process its part: use Trainer(use_distributed_sampler=False)")


def check_seq_len(seq_len: int, block_size: int) -> int:
    """Return `seq_len` if a model with this `block_size` can take it, else raise ValueError."""
    if seq_len > block_size:
        raise ValueError(
            f"seq_len = {seq_len} is longer than the model's block_size = {block_size}: "
            f"set seq_len to {block_size} or less, or give the model a larger block_size"
        )
    return seq_len


def check_vocab_size(vocab_size: int, padded_vocab_size: int) -> int:
    """Return `vocab_size` if a model with this `padded_vocab_size` has all these ids, else raise ValueError."""
    if vocab_size > padded_vocab_size:
        raise ValueError(
            f"the tokenizer has {vocab_size} ids, the model only {padded_vocab_size} (padded_vocab_size): "
            "use the tokenizer the model was made for"
        )
    return vocab_size


def too_small_message(part: str, blocks: TokenBlocks, n_blocks: int) -> str:
    """Say how many tokens a part of a corpus has and how many `n_blocks` blocks need."""
    needed = n_blocks * blocks.seq_len + 1
    return (
        f"the {part} of the corpus has {len(blocks.tokens)} tokens, {needed} are needed for {n_blocks} sequence(s) of "
        f"{blocks.seq_len}: give more text, a smaller seq_len or batch_size, or another val_fraction"
    )


@lru_cache(maxsize=4)
def _permutation(seed: int, data_pass: int, n: int) -> np.ndarray:
    return np.random.default_rng([seed, data_pass]).permutation(n)


def _plain(source: str | Path | Sequence[str | Path]) -> str | tuple[str, ...]:
    return str(source) if isinstance(source, (str, Path)) else tuple(str(s) for s in source)
