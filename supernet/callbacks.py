"""What runs beside training: checkpoints that survive kills, and the progress line."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from supernet.artifacts import atomic_path

_NAME = re.compile(r"step=(\d+)\.ckpt")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint format; a kill or a full disk while writing leaves no partial checkpoint."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write to a file beside `path`, flush it to disk, then rename it."""
        with atomic_path(path) as temporary:
            torch.save(checkpoint, temporary)


class StepCheckpoint(pl.Callback):
    """Saves the training state every `every` steps, after that step's validation, and keeps the newest `keep`.

    Args:
        folder: where `step=00001000.ckpt` and so on go.
        every: steps between checkpoints; the last step is saved too.
        keep: how many are kept; 0 keeps all.
        validate_every: steps between validations, as the trainer has it.
    """

    def __init__(self, folder: str | Path, *, every: int, keep: int, validate_every: int) -> None:
        for name, value in (("every", every), ("validate_every", validate_every)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        self._folder = Path(folder)
        self._every, self._keep, self._validate_every = every, keep, validate_every
        self._saved_step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do not save again the step that was resumed."""
        self._saved_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, unless the step's validation comes first."""
        step = trainer.global_step
        is_validated = step % self._validate_every == 0 or step >= trainer.max_steps
        if not is_validated or not sum(trainer.num_val_batches):
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after a validation during training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        due = step % self._every == 0 or step >= trainer.max_steps
        if step == self._saved_step or not due:
            return
        self._saved_step = step
        trainer.save_checkpoint(self._folder / f"step={step:08d}.ckpt", weights_only=False)
        self._prune()

    @rank_zero_only
    def _prune(self) -> None:
        for path in checkpoints(self._folder)[: -self._keep] if self._keep else []:
            path.unlink(missing_ok=True)


def checkpoints(folder: str | Path) -> list[Path]:
    """Return the training checkpoints in a folder, oldest first."""
    found = [path for path in Path(folder).glob("step=*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=checkpoint_step)


def checkpoint_step(path: Path) -> int:
    """Return the number of finished steps of a checkpoint from its name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is no training checkpoint: their names are like step=00001000.ckpt")
    return int(match.group(1))


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest checkpoint that can be read; damaged ones are named in a warning and passed over."""
    for path in reversed(checkpoints(folder)):
        try:
            torch.load(path, map_location="meta", weights_only=True, mmap=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            warnings.warn(f"{path} cannot be read and is passed over: {error}", stacklevel=2)
        else:
            return path
    return None


class StepProgress(pl.Callback):
    """One progress bar over the whole run; on a pipe or in a log file, plain lines at every validation instead."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar on the first process."""
        if trainer.is_global_zero:
            self._bar = tqdm(
                total=trainer.max_steps, initial=trainer.global_step, desc="train", unit="step", disable=None,
                dynamic_ncols=True,
            )  # fmt: skip

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Advance to the finished step."""
        if self._bar is not None and trainer.global_step > self._bar.n:
            self._bar.update(trainer.global_step - self._bar.n)
            metrics = pl_module.last_metrics
            shown = {
                name.removeprefix("train/loss_"): f"{metrics[name]:.3f}" for name in sorted(metrics) if "/loss_" in name
            }
            self._bar.set_postfix(shown | {"tok/s": f"{metrics['tokens_per_s']:.0f}"})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Print the perplexities, above the bar."""
        if self._bar is not None:
            scores = pl_module.validation_scores
            text = "  ".join(f"{k.removeprefix('val/ppl_')} {v:.2f}" for k, v in scores.items() if "/ppl_" in k)
            tqdm.write(f"step {trainer.global_step}/{trainer.max_steps}  perplexity: {text}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
