"""train(): run or resume a training and save the trained supernet. Usable without Hydra.

A run folder holds metrics.csv, checkpoints/ (Lightning .ckpt, to resume from) and, when the run is finished, supernet/
(weights, space, card). Calling `train` again on the same folder continues from the newest readable checkpoint, exactly:
metrics.csv ends up as that of an uninterrupted run.

Example:
    >>> space = load_space("tiny")                                                # doctest: +SKIP
    >>> recipe = Recipe(learning_rate=3e-3)                                        # doctest: +SKIP
    >>> module = SupernetModule(new_supernet(space), space, sampler=Sandwich(space), recipe=recipe)  # doctest: +SKIP
    >>> train(module, data, run_dir="runs/first", settings=TrainerSettings(max_steps=500)).scores    # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import litgpt
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

from supernet.callbacks import AtomicCheckpointIO, StepCheckpoint, StepProgress, checkpoint_step, latest_checkpoint
from supernet.checkpoint import save_supernet
from supernet.data import check_seq_len, check_vocab_size
from supernet.metrics_log import MetricsLog, read_metrics
from supernet.model import Supernet
from supernet.parallel import gathered
from supernet.recipe import initialize_weights
from supernet.space import SearchSpace
from supernet.training import NonFiniteLossError, SupernetModule

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """Where and how long to train, how often to look and to save.

    Attributes:
        max_steps: optimizer steps; also the length of the learning-rate schedule.
        accelerator: "cpu", "gpu", "auto", as in Lightning.
        devices: how many, or "auto".
        num_nodes: machines.
        strategy: "auto" (one device, or DDP), "ddp", or "fsdp" (FSDP2, Lightning's ModelParallelStrategy).
        precision: "32", "bf16" or "16" (mixed), or any of Lightning's names.
        validate_every: steps between validations; the last step is validated too.
        validation_batches: batches of a validation; None is all.
        checkpoint_every: steps between checkpoints; the last step is saved too.
        keep_checkpoints: how many are kept; 0 keeps all.
        log_every: steps between rows of metrics.csv.
        progress: show a progress bar.
    """

    max_steps: int
    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: str | int = "32"
    validate_every: int = 100
    validation_batches: int | None = None
    checkpoint_every: int = 100
    keep_checkpoints: int = 2
    log_every: int = 1
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("max_steps", "validate_every", "checkpoint_every", "log_every", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.strategy not in ("auto", "ddp", "fsdp"):
            raise ValueError(f"strategy = {self.strategy!r}; allowed: 'auto', 'ddp', 'fsdp'")


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training gave.

    Attributes:
        run_dir: the run's folder.
        supernet_dir: the trained supernet.
        step: finished steps.
        scores: the last validation, e.g. {"val/ppl_largest": 9.1, ...}.
    """

    run_dir: Path
    supernet_dir: Path
    step: int
    scores: dict[str, float]

    def __str__(self) -> str:
        shown = [f"{k.removeprefix('val/ppl_')} {v:.2f}" for k, v in self.scores.items() if k.startswith("val/ppl_")]
        return f"{self.step} steps, validation perplexity {', '.join(shown)} -> {self.supernet_dir}"


def new_supernet(space: SearchSpace, *, seed: int = 0, tie_embeddings: bool = False) -> Supernet:
    """Return the supernet of a space with GPT-NeoX's initial weights, the same for the same seed."""
    supernet = Supernet(litgpt.Config(**space.config), tie_embeddings=tie_embeddings)
    initialize_weights(supernet, seed=seed)
    return supernet


def train(
    module: SupernetModule,
    data: pl.LightningDataModule,
    *,
    run_dir: str | Path,
    settings: TrainerSettings,
    loggers: Sequence[Logger] = (),
    command: str = "",
) -> TrainResult:
    """Train, or resume the training in `run_dir`, and save the supernet to `run_dir/supernet`.

    Args:
        module: what and how to train.
        data: batches of (B, T + 1) token indices; exact resume needs a data module that keeps its position, as
            `supernet.data.TextDataModule` does.
        run_dir: folder of the run, new or to be resumed.
        settings: where, how long, how often.
        loggers: Lightning loggers beside metrics.csv.
        command: how the run was started, for the card.

    Raises:
        NonFiniteLossError: a loss became NaN or infinite; names the step, the network and the last checkpoint.
        ValueError: the folder holds a run of another space, seed or data; or the data's sequences or token ids do not
            fit the supernet.
    """
    _check_data(module.supernet, data)
    run_dir = Path(run_dir)
    resume = latest_checkpoint(run_dir / "checkpoints")
    log = MetricsLog(run_dir / "metrics.csv", resume_step=checkpoint_step(resume) if resume else 0)
    with quiet_lightning():
        trainer = _trainer(module, settings, run_dir, [log, *loggers])
    torch.manual_seed(module.recipe.seed)
    try:
        with quiet_lightning():
            trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except NonFiniteLossError as error:
        kept = latest_checkpoint(run_dir / "checkpoints")
        raise NonFiniteLossError(f"{error} Last checkpoint: {kept or 'none yet'}.") from error
    scores = module.validation_scores or _last_scores(run_dir / "metrics.csv")
    result = TrainResult(run_dir, run_dir / "supernet", trainer.global_step, scores)
    _save(module, data, result, trainer=trainer, command=command)
    return result


def wandb_logger(folder: str | Path, *, project: str, name: str | None = None, offline: bool = False) -> WandbLogger:
    """Return a Weights & Biases logger whose run goes on when the run folder is resumed (WANDB_MODE is respected)."""
    from pytorch_lightning.loggers import WandbLogger

    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    run_id = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return WandbLogger(
        save_dir=folder, project=project, name=name or folder.name, id=run_id, offline=offline, resume="allow"
    )


def _check_data(supernet: Supernet, data: pl.LightningDataModule) -> None:
    """Refuse sequences and token ids that the supernet cannot take, before anything is computed."""
    if hasattr(data, "seq_len"):
        check_seq_len(data.seq_len, supernet.config.block_size)
    if hasattr(data, "vocab_size"):
        check_vocab_size(data.vocab_size, supernet.config.padded_vocab_size)


def _trainer(module: SupernetModule, settings: TrainerSettings, run_dir: Path, loggers: list[Logger]) -> pl.Trainer:
    checkpoint = StepCheckpoint(
        run_dir / "checkpoints",
        every=settings.checkpoint_every,
        keep=settings.keep_checkpoints,
        validate_every=settings.validate_every,
    )
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=_strategy(settings),
        precision=_PRECISIONS.get(str(settings.precision), settings.precision),  # type: ignore[arg-type]
        max_steps=settings.max_steps,
        max_epochs=-1,
        val_check_interval=settings.validate_every * module.recipe.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=settings.validation_batches,
        num_sanity_val_steps=0,
        log_every_n_steps=settings.log_every,
        logger=loggers,
        callbacks=[checkpoint, *([StepProgress()] if settings.progress else [])],
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,  # the data module shares the batches out
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run_dir,
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep back Lightning's notes about hardware, tips and loaders; warnings and errors stay."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning")]
    # handlers sit on child loggers of their own, whose level is set explicitly
    loggers += [logging.getLogger(f"{name}.utilities.rank_zero") for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*isinstance\\(treespec, LeafSpec\\).*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strategy(settings: TrainerSettings) -> Any:
    if settings.strategy != "fsdp":
        return settings.strategy
    from pytorch_lightning.strategies import ModelParallelStrategy

    return ModelParallelStrategy(
        data_parallel_size=_world_size(settings), tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def _world_size(settings: TrainerSettings) -> int:
    devices = settings.devices
    if str(devices) in ("auto", "-1"):
        devices = torch.cuda.device_count() if torch.cuda.is_available() else 1
    return int(devices) * settings.num_nodes


def _last_scores(path: Path) -> dict[str, float]:
    """Return the last validation in a metrics.csv (of a run that was already finished)."""
    for row in reversed(read_metrics(path)):
        scores = {name: value for name, value in row.items() if name.startswith("val/")}
        if scores:
            return scores
    return {}


def _save(
    module: SupernetModule, data: pl.LightningDataModule, result: TrainResult, *, trainer: pl.Trainer, command: str
) -> None:
    """Save the trained supernet from the first process; all processes must call this (sharded weights are gathered)."""
    supernet = gathered(module.supernet)
    if trainer.is_global_zero:
        assert supernet is not None
        card = {
            "command": command,
            "scores": result.scores,
            "data": data.describe() if hasattr(data, "describe") else {"source": type(data).__name__},
            "space": module.space.name,
            "sampler": type(module.sampler).__name__,
            "steps": result.step,
            "tokens": module.tokens,
            "recipe": asdict(module.recipe),
            "distillation": asdict(module.distillation) if module.distillation else None,
            "validation_nets": {name: module.name(net) for name, net in module.validation_nets.items()},
        }
        tokenizer = getattr(data, "tokenizer", None)
        save_supernet(result.supernet_dir, supernet, space=module.space, tokenizer=tokenizer, card=card)
    trainer.strategy.barrier("supernet saved")
