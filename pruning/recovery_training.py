"""RecoveryModule: the training step of a pruned network, as a LightningModule, and the look at the held-out text.

Shapes: B batch, T tokens, V vocabulary; a batch is (B, T + 1) token ids, inputs and targets in one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import litgpt
import pytorch_lightning as pl
import torch
from torch import Tensor
from tqdm import tqdm

from pruning.distillation_loss import recovery_loss
from pruning.first_tokens import first_tokens
from pruning.recovery_data import Blocks
from pruning.recovery_settings import RecoverySettings
from supernet.distill import forward_kl
from supernet.evaluate import evaluate
from supernet.parallel import average_gradients, is_distributed, mean_over_processes, without_gradient_sync
from supernet.recipe import decay_groups


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the held-out texts.

    Attributes:
        step: finished steps.
        tokens: trained on until then.
        loss: mean of the texts' losses, nats a token.
        losses: of each text, by name.
    """

    step: int
    tokens: int
    loss: float
    losses: dict[str, float]

    def to_plain(self) -> dict[str, Any]:
        """Return plain JSON types, None for a loss that is not finite."""
        losses = {name: _finite(loss) for name, loss in self.losses.items()}
        return {"step": self.step, "tokens": self.tokens, "loss": _finite(self.loss), "losses": losses}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Look:
        """Read what `to_plain` gives."""
        losses = {name: _number(loss) for name, loss in plain["losses"].items()}
        return cls(plain["step"], plain["tokens"], _number(plain["loss"]), losses)


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _number(loss: float | None) -> float:
    return math.inf if loss is None else loss


class RecoveryModule(pl.LightningModule):
    """Trains what is not frozen of a network, looks at held-out text, and keeps the best weights.

    Metrics, one row a step: train/loss (the objective), train/loss_next_token (cross-entropy), train/divergence,
    learning_rate, grad_norm (before clipping), tokens, tokens_per_s; at looks held_out/loss and one for each text.

    Args:
        gpt: what is trained, in place; its parameters that require gradients.
        teacher: the dense network; None is cross-entropy alone.
        held_out: texts to look at, by name.
        settings: resolved ones.

    Attributes:
        history: all looks.
        best: the trained parameters at the look with the lowest loss.
        stopped: why training ended before its last step; empty while it did not.
    """

    def __init__(
        self,
        gpt: litgpt.GPT,
        *,
        teacher: litgpt.GPT | None,
        held_out: Mapping[str, Blocks],
        settings: RecoverySettings,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.gpt, self.settings, self.held_out = gpt, settings, dict(held_out)
        self._teacher = (teacher,)  # in a tuple: neither trained nor saved with the network
        self.history: list[Look] = []
        self.best: dict[str, Tensor] = {}
        self.stopped = ""
        self.tokens = 0
        self.last_metrics: dict[str, float] = {}
        self._losses: list[Tensor] = []  # of the batches of the current step: (3,)
        self._started_at, self._seconds = 0.0, 0.0  # of the batch; of training since the last logged row
        self._logged_tokens = 0

    @property
    def best_look(self) -> Look:
        """The first look with the lowest loss."""
        return min(self.history, key=lambda look: (not math.isfinite(look.loss), look.loss))

    def trained(self) -> dict[str, Tensor]:
        """Return the parameters that are trained, by name."""
        return {name: p for name, p in self.gpt.named_parameters() if p.requires_grad}

    # --- set-up ---------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return fused AdamW over what is trained."""
        recipe = self.settings.recipe
        groups = [
            {**group, "params": [p for p in group["params"] if p.requires_grad]}
            for group in decay_groups(self.gpt, recipe)
        ]
        groups = [group for group in groups if group["params"]]
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.eps, fused=True)

    # --- a step ---------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Start the clock of tokens_per_s."""
        self._started_at = time.perf_counter()

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """Add the gradients of one batch; update the weights when the step has all its batches."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        with without_gradient_sync(self.trainer.strategy.model):
            loss = recovery_loss(
                self.gpt(inputs), targets, teacher=self._teacher_logits(inputs),
                distillation=self.settings.distillation, top_k=self.settings.teacher_top_k,
            )  # fmt: skip
            objective = loss.objective + self._first_tokens(inputs)
            self.manual_backward(objective / self.settings.accumulate)
        self._losses.append(torch.stack([objective.detach(), loss.cross_entropy, loss.divergence]))
        self.tokens += targets.numel() * self.trainer.world_size
        if len(self._losses) == self.settings.accumulate:
            self._update()
            self._losses = []
        else:
            self._seconds += time.perf_counter() - self._started_at

    def _first_tokens(self, inputs: Tensor) -> Tensor | float:
        """Return the weighted mean divergence from the dense network on first tokens of other texts."""
        weight, texts = self.settings.first_token_weight, first_tokens(inputs)
        teacher = self._teacher_logits(texts) if weight else None
        if teacher is None:
            return 0.0
        student = self.gpt(texts)[..., : teacher.shape[-1]]
        return weight * forward_kl(student.flatten(0, -2), teacher[..., : student.shape[-1]].flatten(0, -2)).mean()

    def _teacher_logits(self, inputs: Tensor) -> Tensor | None:
        if self._teacher[0] is None or self.settings.distillation is None:
            return None
        with torch.no_grad():
            return self._teacher[0](inputs)

    def _update(self) -> None:
        """Make a step, or stop training where loss or gradient is not finite; the weights then are those before it."""
        parameters = list(self.trained().values())
        if is_distributed():
            average_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.clip_norm or math.inf)
        losses = mean_over_processes(torch.stack(self._losses).mean(0).float())
        *values, grad_norm = torch.cat([losses, norm[None].float()]).tolist()  # the step's only synchronisation
        optimizer = self.optimizers()
        if not all(map(math.isfinite, (*values, grad_norm))):
            self.stopped = f"loss or gradient not finite at step {self.global_step}"
            self.trainer.should_stop = True
            optimizer.zero_grad()
            return
        rate = self.settings.recipe.learning_rate_at(self.global_step, self.trainer.max_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        names = ("train/loss", "train/loss_next_token", "train/divergence")
        self._report(dict(zip(names, values, strict=True)) | {"learning_rate": rate, "grad_norm": grad_norm})

    def _report(self, metrics: dict[str, float]) -> None:
        """Log the metrics of the finished step."""
        self._seconds += time.perf_counter() - self._started_at
        speed = (self.tokens - self._logged_tokens) / max(self._seconds, 1e-9)
        self.last_metrics = metrics | {"tokens": float(self.tokens), "tokens_per_s": speed}
        self._logged_tokens, self._seconds = self.tokens, 0.0
        self._log(self.last_metrics)

    def _log(self, metrics: Mapping[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step=self.global_step)

    # --- looks ----------------------------------------------------------------------------------------------------

    def look(self) -> Look:
        """Look at the held-out texts, and keep the weights if they are the best so far.

        All processes look at all of the text, so that they agree on the best and on when to stop.
        """
        losses = {
            name: evaluate(
                self.gpt, [None], blocks.rows(range(len(blocks))), batch_size=self.settings.check_batch_size,
                precision=self.settings.precision,
            )[0].loss
            for name, blocks in self.held_out.items()
        }  # fmt: skip
        look = Look(self.global_step, self.tokens, sum(losses.values()) / len(losses), losses)
        self.history.append(look)
        if self.best_look is look:
            self.best = {name: p.detach().cpu().clone() for name, p in self.trained().items()}
        self._log({"held_out/loss": look.loss} | {f"held_out/loss_{name}": loss for name, loss in losses.items()})
        return look

    def restore_best(self) -> None:
        """Give the network the weights of the best look."""
        with torch.no_grad():
            for name, parameter in self.trained().items():
                parameter.copy_(self.best[name])

    # --- resume ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the looks, the best weights, the token count and the state of torch's generators."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["recovery"] = {
            "history": [asdict(look) for look in self.history], "best": self.best, "tokens": self.tokens,
            "rng": torch.get_rng_state(), "cuda_rng": cuda,
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added."""
        state = checkpoint["recovery"]
        self.history = [Look(**look) for look in state["history"]]
        self.best = {name: tensor.cpu() for name, tensor in state["best"].items()}
        self.tokens = self._logged_tokens = state["tokens"]
        torch.set_rng_state(state["rng"].cpu())
        if torch.cuda.is_available() and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])


class Looks(pl.Callback):
    """Looks at the held-out text before the first step, every so many steps and after the last; stops early.

    It looks between batches, never inside a training step: autocast keeps 16-bit copies of weights until its outermost
    block ends, which would be those before the update.

    Args:
        progress: write a line at each look.
    """

    def __init__(self, *, progress: bool) -> None:
        self._progress = progress

    def on_train_start(self, trainer: pl.Trainer, pl_module: RecoveryModule) -> None:  # type: ignore[override]
        """Look at the network as it came."""
        if not pl_module.history:
            self._look(trainer, pl_module)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: RecoveryModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look when it is time, and stop when there was no new best for long."""
        step, settings = trainer.global_step, pl_module.settings
        due = step % settings.check_every == 0 or step >= settings.max_steps
        if pl_module.stopped or not due or step <= pl_module.history[-1].step:
            return
        self._look(trainer, pl_module)
        since = len(pl_module.history) - 1 - pl_module.history.index(pl_module.best_look)
        if settings.patience and since >= settings.patience and step < settings.max_steps:
            pl_module.stopped = f"no better held-out loss since step {pl_module.best_look.step}"
            trainer.should_stop = True

    def _look(self, trainer: pl.Trainer, module: RecoveryModule) -> None:
        look = module.look()
        if self._progress and trainer.is_global_zero:
            best = " (best)" if module.best_look is look else ""
            tqdm.write(f"step {look.step}/{module.settings.max_steps}  held-out loss {look.loss:.4f}{best}")
