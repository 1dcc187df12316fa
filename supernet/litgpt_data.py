"""litgpt's pretraining data modules (TinyStories, OpenWebText, TextFiles, ...) under a pytorch_lightning Trainer.

litgpt's modules belong to the `lightning` package, whose classes are not those of `pytorch_lightning`: a Trainer of one
refuses modules of the other. This wraps one instead of inheriting from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from supernet.data import batches_done
from supernet.text import Tokenizer, load_tokenizer


class LitGPTTokenizer:
    """One of our tokenizers with the methods that litgpt's data modules call."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.eos_id
        self.vocab_size = tokenizer.vocab_size

    def encode(
        self,
        string: str,
        device: torch.device | None = None,
        bos: bool | None = None,
        eos: bool = False,
        max_length: int = -1,
    ) -> Tensor:
        """Return (n,) int32 ids; BOS (unless `bos` is False) and EOS are added where the tokenizer has them."""
        parts = [self.tokenizer.encode(string)]
        if bos is not False and self.bos_id is not None:
            parts.insert(0, np.array([self.bos_id]))
        if eos and self.eos_id is not None:
            parts.append(np.array([self.eos_id]))
        ids = np.concatenate(parts)
        return torch.as_tensor(ids[:max_length] if max_length > 0 else ids, dtype=torch.int32, device=device)

    def decode(self, tensor: Tensor) -> str:
        """Return the text of ids."""
        return self.tokenizer.decode(np.atleast_1d(tensor.cpu().numpy()))


class LitGPTDataModule(pl.LightningDataModule):
    """A litgpt pretraining data module as a pytorch_lightning one; batches are (B, T + 1) LongTensors.

    A resumed run skips the batches it has done in the current pass. It continues exactly where the wrapped module gives
    the same order again; litdata does so in the first pass and for a given number of processes.

    Args:
        module: the litgpt data module, e.g. `litgpt.data.TextFiles(train_data_path=...)`.
        tokenizer: "byte", a Hugging Face tokenizer folder, or a tokenizer.
        seq_len: T, the tokens a model sees at once.
        batch_size: B, the sequences of one process.
    """

    def __init__(
        self, module: Any, *, tokenizer: Tokenizer | str | Path = "byte", seq_len: int = 256, batch_size: int = 8
    ) -> None:
        super().__init__()
        self.module, self.tokenizer = module, load_tokenizer(tokenizer)
        self.seq_len, self.batch_size = seq_len, batch_size
        self.module_name = type(module).__name__
        module.connect(tokenizer=LitGPTTokenizer(self.tokenizer), batch_size=batch_size, max_seq_length=seq_len)

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        return self.tokenizer.vocab_size

    def prepare_data(self) -> None:
        """Let litgpt download and tokenise.

        Raises:
            ModuleNotFoundError: the module needs a package that is not installed (litdata, datasets); says which.
        """
        self._explained(self.module.prepare_data)

    def setup(self, stage: str | None = None) -> None:
        """Set the wrapped module up."""
        self._explained(self.module.setup)

    def train_dataloader(self) -> TokenBatches:
        """Return litgpt's training batches from where the trainer stands."""
        loader = self._explained(self.module.train_dataloader)
        return TokenBatches(loader, self.seq_len, self.module_name, self._batches_done)

    def val_dataloader(self) -> TokenBatches:
        """Return litgpt's validation batches."""
        return TokenBatches(self._explained(self.module.val_dataloader), self.seq_len, self.module_name)

    def blocks(self, split: str = "val", n_blocks: int | None = None) -> Tensor:
        """Return the first blocks of the "train" or "val" part, (N, T + 1), for evaluation; `n_blocks` None is all.

        Raises:
            ValueError: an unknown part.
        """
        if split not in ("train", "val"):
            raise ValueError(f"split = {split!r}: choose from train, val")
        self.setup()
        found: list[Tensor] = []
        for batch in self.train_dataloader() if split == "train" else self.val_dataloader():
            found.append(batch)
            if n_blocks is not None and sum(len(b) for b in found) >= n_blocks:
                break
        return torch.cat(found)[:n_blocks] if found else torch.empty(0, self.seq_len + 1, dtype=torch.long)

    def describe(self) -> dict[str, Any]:
        """Return what a card should say about the data, as plain JSON types."""
        return {"source": f"litgpt {self.module!r}", "tokenizer": self.tokenizer.fingerprint, "seq_len": self.seq_len}

    def _batches_done(self) -> int:
        return batches_done(self.trainer)

    def _explained(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"litgpt's {self.module_name} needs {error.name}, which is not installed: pip install {error.name}",
                name=error.name,
            ) from error


class TokenBatches:
    """A litgpt dataloader whose batches are checked and turned into (B, T + 1) LongTensors.

    Args:
        loader: litgpt's dataloader.
        seq_len: T.
        name: of the data module, for messages.
        batches_done: says at the start of an iteration how many batches the run has done; those of the current pass
            are skipped. None starts at the beginning.
    """

    def __init__(
        self, loader: Iterable[Any], seq_len: int, name: str, batches_done: Callable[[], int] | None = None
    ) -> None:
        self.loader, self.seq_len, self.name = loader, seq_len, name
        self.batches_done = batches_done or (lambda: 0)

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Tensor]:
        done = self.batches_done()
        skipped = done % len(self) if done else 0
        return (self._normalised(batch) for batch in islice(iter(self.loader), skipped, None))

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: the position is the trainer's (this tells Lightning that resuming is provided for)."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing: the next iteration asks the trainer where the run stands."""

    def _normalised(self, batch: Any) -> Tensor:
        if not isinstance(batch, Tensor) or batch.ndim != 2:
            raise ValueError(
                f"litgpt's {self.name} gives no plain token blocks ({type(batch).__name__}): use a pretraining module, "
                "such as TinyStories, OpenWebText or TextFiles"
            )
        if batch.shape[1] != self.seq_len + 1:
            raise ValueError(
                f"litgpt's {self.name} gives blocks of {batch.shape[1]} tokens, seq_len + 1 = {self.seq_len + 1} are "
                "needed: its prepared files were made for another length; delete them, or use that seq_len"
            )
        return batch.long()
