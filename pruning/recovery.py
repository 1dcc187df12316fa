"""recover(): train a pruned network for a short while to make up for what pruning cost.

Full fine-tuning or LoRA (merged at the end), on next-token cross-entropy and the divergence from the dense network's
logits (Muralidharan et al. 2024, Minitron, arXiv 2407.14679). Held-out text is looked at before the first step, on the
way and after the last; the weights of the best look are returned, so the network is never worse on it than it came.

PyTorch Lightning trains, as everywhere in this project: its checkpoints make a killed run go on exactly where it was
(weights, optimizer, position in the data), its precision and DDP plug-ins serve here as they are. What a Lightning
validation loop would do is done by `Looks` instead, which needs the loss of the network as it came.

A folder holds metrics.csv, checkpoints/ while training lasts, then network/ (a litgpt checkpoint, see
`supernet.checkpoint.load_subnet`) and recovered.json. Called again, a finished run is read and not repeated.
"""

from __future__ import annotations

import copy
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litgpt
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from pruning.collection import eval_mode
from pruning.lora import add_lora, merge_lora
from pruning.pruned import Pruned
from pruning.recovery_data import BlocksDataModule, as_blocks, held_out_texts
from pruning.recovery_files import CHECKPOINTS, read_finished, run_identity, start_folder, write_finished
from pruning.recovery_settings import RecoverySettings
from pruning.recovery_training import Look, Looks, RecoveryModule
from supernet.architecture import Architecture
from supernet.callbacks import AtomicCheckpointIO, StepCheckpoint, StepProgress, checkpoint_step, latest_checkpoint
from supernet.extract import extract
from supernet.fit import quiet_lightning, wandb_logger
from supernet.litgpt_config import whole_architecture
from supernet.metrics_log import MetricsLog
from supernet.model import Supernet
from supernet.tokens import TokenBlocks

Text = TokenBlocks | Tensor | np.ndarray
_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True, eq=False)
class Recovered:
    """A network after recovery.

    Attributes:
        gpt: with the weights of the best look, LoRA merged; memory of its own.
        arch: its architecture.
        history: looks at the held-out texts, the first before training.
        best_step: finished steps at the best look; 0 is the network as it came.
        stopped: why training ended early; empty if it did not.
        settings: as they were used.
        tokens: trained on, each time a token was seen.
        seconds: of training, looks included; of a resumed run those since it was resumed.
    """

    gpt: litgpt.GPT
    arch: Architecture
    history: tuple[Look, ...]
    best_step: int
    stopped: str
    settings: RecoverySettings
    tokens: int
    seconds: float

    @property
    def pruned(self) -> Pruned:
        """The network and its architecture."""
        return Pruned(self.gpt, self.arch)

    @property
    def before(self) -> Look:
        """The look at the network as it came."""
        return self.history[0]

    @property
    def after(self) -> Look:
        """The best look, whose weights `gpt` has."""
        return next(look for look in self.history if look.step == self.best_step)

    def __str__(self) -> str:
        before, after, s = self.before.loss, self.after.loss, self.settings
        ended = f", stopped: {self.stopped}" if self.stopped else ""
        return (
            f"recovery ({s.method}, learning rate {s.learning_rate:g}): held-out loss {before:.4f} -> {after:.4f} "
            f"(perplexity {_perplexity(before):.2f} -> {_perplexity(after):.2f}), best at step {self.best_step} of "
            f"{s.max_steps}, {self.tokens:,} tokens{ended}"
        )


def recover(
    pruned: Pruned,
    dense: litgpt.GPT | None,
    train: Text,
    held_out: Text | Mapping[str, Text],
    settings: RecoverySettings | None = None,
    *,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Recovered:
    """Train a pruned network and return it with the weights that were best on held-out text.

    For the dense control give `dense_control(supernet)` in the place of the pruned network.

    Args:
        pruned: the network; left as it is.
        dense: the network it came from, whose logits it learns; None is cross-entropy alone.
        train: (n, T + 1) blocks to train on; passed over again when they are used up.
        held_out: (m, T + 1) blocks to look at, or several such texts by name, whose mean loss counts: a text of another
            domain among them guards against overfitting to the first. Neither may be the text that is reported.
        settings: None for the defaults.
        folder: where metrics, checkpoints and the result go; a killed run goes on there.
        progress: show a progress bar, and a line at each look.

    Raises:
        ValueError: unusable text, a teacher of another vocabulary, or a folder of another run (names what differs).
    """
    settings = (settings or RecoverySettings()).resolved()
    _check_teacher(pruned.gpt, dense)
    blocks = as_blocks(train, pruned.gpt, name="training", least=settings.batch_size * settings.devices)
    texts = held_out_texts(held_out, pruned.gpt)
    place = None if folder is None else Path(folder)
    if place is None and settings.wandb_project:
        raise ValueError("wandb_project is given without a folder, which names the run: give folder= too")
    if place is not None:
        start_folder(place, run_identity(pruned, dense, blocks, texts, settings))
        if (finished := read_finished(place)) is not None:
            return _read(finished, pruned, settings)
    gpt = _trainable_copy(pruned.gpt, settings)
    module = RecoveryModule(gpt, teacher=dense, held_out=texts, settings=settings)
    data = BlocksDataModule(blocks, batch_size=settings.batch_size, seed=settings.seed)
    started = time.perf_counter()
    is_first = _fit(module, data, place, progress)
    recovered = _result(module, pruned, settings, time.perf_counter() - started)
    if place is not None and is_first:
        write_finished(place, recovered.pruned, _to_plain(recovered))
        shutil.rmtree(place / CHECKPOINTS, ignore_errors=True)
    return recovered


def dense_control(supernet: Supernet) -> Pruned:
    """Return the whole network as if it had been pruned: fine-tuned the same way, it is the control of a recovery."""
    whole = whole_architecture(supernet.config)
    return Pruned(extract(supernet, whole), whole)


# --- parts ----------------------------------------------------------------------------------------------------------


def _check_teacher(gpt: litgpt.GPT, dense: litgpt.GPT | None) -> None:
    if dense is None:
        return
    if dense is gpt:
        return  # the control: a copy is trained
    own, other = gpt.config.vocab_size, dense.config.vocab_size
    if own != other:
        raise ValueError(f"the dense network's vocabulary has {other} tokens, the pruned one's {own}: not its network")


def _trainable_copy(gpt: litgpt.GPT, settings: RecoverySettings) -> litgpt.GPT:
    """Return a copy in which only what is to be trained requires gradients."""
    copied = copy.deepcopy(gpt).requires_grad_(True).train()
    if settings.method == "lora":
        return add_lora(copied, settings.lora, seed=settings.seed)
    if not settings.train_embeddings:
        copied.transformer.wte.requires_grad_(False)
        copied.lm_head.requires_grad_(False)
    return copied


def _fit(module: RecoveryModule, data: BlocksDataModule, folder: Path | None, progress: bool) -> bool:
    """Train, or go on with the training in `folder`; return whether this is the process that writes."""
    settings = module.settings
    resume = None if folder is None else latest_checkpoint(folder / CHECKPOINTS)
    teacher = module._teacher[0]
    home = None if teacher is None else next(teacher.parameters()).device
    generator = torch.get_rng_state()
    try:
        with quiet_lightning():
            trainer = _trainer(settings, folder, resume, progress)
            if teacher is None:
                trainer.fit(module, data, ckpt_path=resume, weights_only=True)
            else:
                with eval_mode(teacher.to(trainer.strategy.root_device)):
                    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
            _finish_wandb(trainer)
    finally:
        torch.set_rng_state(generator)  # loaders draw from it; a caller's draws do not depend on this
        if teacher is not None:
            teacher.to(home)
    return trainer.is_global_zero


def _trainer(settings: RecoverySettings, folder: Path | None, resume: Path | None, progress: bool) -> pl.Trainer:
    callbacks: list[pl.Callback] = [Looks(progress=progress)]
    loggers: list[Any] = []
    if folder is not None:
        callbacks.append(
            StepCheckpoint(folder / CHECKPOINTS, every=settings.checkpoint_every, keep=1, validate_every=1)
        )
        loggers.append(MetricsLog(folder / "metrics.csv", resume_step=checkpoint_step(resume) if resume else -1))
        if settings.wandb_project:
            loggers.append(wandb_logger(folder, project=settings.wandb_project))
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=_PRECISIONS[settings.precision],  # type: ignore[arg-type]
        max_steps=settings.max_steps,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=loggers or False,
        callbacks=[*callbacks, *([StepProgress()] if progress else [])],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # the data module shares the batches out
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _finish_wandb(trainer: pl.Trainer) -> None:
    """End the Weights & Biases run: a later recovery of this process would go on in it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _result(module: RecoveryModule, pruned: Pruned, settings: RecoverySettings, seconds: float) -> Recovered:
    module.restore_best()
    gpt = merge_lora(module.gpt).to(next(pruned.gpt.parameters()).device)
    return Recovered(
        gpt.train(pruned.gpt.training), pruned.arch, tuple(module.history), module.best_look.step, module.stopped,
        settings, module.tokens, seconds,
    )  # fmt: skip


def _to_plain(recovered: Recovered) -> dict[str, Any]:
    return {
        "history": [look.to_plain() for look in recovered.history],
        "best_step": recovered.best_step,
        "before": recovered.before.to_plain()["loss"],
        "after": recovered.after.to_plain()["loss"],
        "stopped": recovered.stopped,
        "tokens": recovered.tokens,
        "seconds": recovered.seconds,
        "summary": str(recovered),
    }


def _read(finished: tuple[litgpt.GPT, dict[str, Any]], pruned: Pruned, settings: RecoverySettings) -> Recovered:
    gpt, result = finished
    return Recovered(
        gpt.train(pruned.gpt.training), pruned.arch, tuple(map(Look.from_plain, result["history"])),
        result["best_step"], result["stopped"], settings, result["tokens"], result["seconds"],
    )  # fmt: skip


def _perplexity(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
