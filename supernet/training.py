"""SupernetModule: the training and validation step of a weight-entangled supernet, as a LightningModule.

A step trains every sub-network that its sampler names: one forward and backward each on the same batch, the gradients
averaged. The step's sub-networks depend on (seed, step) only, so all ranks train the same ones and a resumed run
continues as if never stopped.

Shapes: B batch, T tokens, V vocabulary; a batch is (B, T + 1) token indices, of which the first T are read and the last
T are predicted.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Any

import litgpt
import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from supernet.distill import Distillation, NetLoss, cross_entropy, net_loss
from supernet.model import Supernet
from supernet.optimizer import SubnetAdamW, trained_selections
from supernet.parallel import (
    average_gradients,
    is_distributed,
    mean_over_processes,
    shard,
    sum_over_processes,
    without_gradient_sync,
)
from supernet.recipe import Recipe, decay_groups
from supernet.samplers import Sampler, Subnet, draw
from supernet.space import SearchSpace

_LARGEST_EXPONENT = 700.0  # exp() of more overflows a float


class NonFiniteLossError(ValueError):
    """A loss or gradient became NaN or infinite; the weights are those before the step that it names."""


class SupernetModule(pl.LightningModule):
    """Trains a supernet.

    Metrics, one row a step: train/loss (the objective, mean over the step's networks), train/loss_largest,
    train/loss_smallest and train/loss_random (cross-entropy of those trained in this step), train/divergence (with
    distillation), learning_rate, grad_norm (before clipping), tokens (seen so far), tokens_per_s (of the data; each is
    used by every network of the step). Validation: val/loss_* and val/ppl_* of the largest, the smallest and a fixed
    random set. Losses are in nats a token.

    Args:
        supernet: what is trained, in place.
        space: its search space.
        sampler: which sub-networks a step trains.
        recipe: optimizer and step settings.
        distillation: how sub-networks learn from a teacher; None is cross-entropy alone.
        teacher: another litgpt GPT with the same tokenizer; None is the largest network of the supernet itself.

    Raises:
        ValueError: the space's largest network is not the supernet, or the teacher has another vocabulary.
    """

    def __init__(
        self,
        supernet: Supernet,
        space: SearchSpace,
        *,
        sampler: Sampler,
        recipe: Recipe,
        distillation: Distillation | None = None,
        teacher: litgpt.GPT | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        _check_space(supernet, space)
        _check_teacher(supernet, teacher, distillation)
        self.supernet, self.space = supernet, space
        self.sampler, self.recipe, self.distillation = sampler, recipe, distillation
        self._teacher = (teacher,)  # in a tuple: neither trained nor saved with the supernet
        self._dense = (torch.compile(supernet) if recipe.compile else supernet,)
        self.validation_nets = validation_nets(space, n_random=recipe.n_validation_random, seed=recipe.seed)
        self.validation_scores: dict[str, float] = {}
        self.last_metrics: dict[str, float] = {}
        self.tokens = 0
        self._losses: list[Tensor] = []  # of the batches of the current step: (networks, 3)
        self._totals: Tensor | None = None  # validation: loss sums of all networks, then the token count
        self._started_at, self._seconds = 0.0, 0.0  # of the batch; of training since the last logged row
        self._logged_tokens = 0

    # --- set-up -----------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Shard the supernet when the trainer's strategy is Lightning's ModelParallelStrategy (FSDP2)."""
        if getattr(self, "_device_mesh", None) is None:
            return
        if self.recipe.compile or self.recipe.slice_updates:
            raise ValueError("compile and slice_updates do not work with sharded weights (FSDP): set them to false")
        shard(self.supernet, self.device_mesh["data_parallel"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW with decay groups; fused unless a gradient scaler has to unscale before clipping."""
        kind = SubnetAdamW if self.recipe.slice_updates else torch.optim.AdamW
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        return kind(
            decay_groups(self.supernet, self.recipe),
            lr=self.recipe.learning_rate,
            betas=self.recipe.betas,
            eps=self.recipe.eps,
            fused=not scaled,
        )

    def setup(self, stage: str) -> None:
        """Bring an external teacher to this process's device."""
        if self._teacher[0] is not None:
            self._teacher[0].to(self.trainer.strategy.root_device).eval().requires_grad_(False)

    # --- training ---------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Start the clock of tokens_per_s."""
        self._started_at = time.perf_counter()

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        """Add the gradients of one batch; update the weights when the step has all its batches."""
        nets = self.nets_of_step(self.global_step)
        with without_gradient_sync(self.trainer.strategy.model):
            self._losses.append(self._backward(nets, batch))
        self.tokens += (batch.shape[1] - 1) * batch.shape[0] * self.trainer.world_size
        if len(self._losses) == self.recipe.accumulate:
            self._update(nets)
            self._losses = []
        else:
            self._seconds += time.perf_counter() - self._started_at

    def nets_of_step(self, step: int) -> list[Subnet]:
        """Return the sub-networks that `step` trains."""
        return draw(self.sampler, seed=self.recipe.seed, step=step)

    def _backward(self, nets: list[Subnet], batch: Tensor) -> Tensor:
        """Add the mean gradient of `nets` on a batch; returns objective, cross-entropy, divergence, (networks, 3)."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        teacher = self._fixed_teacher_logits(nets, inputs)
        losses = []
        for net in nets:
            logits = self.logits(inputs, net)
            in_place = net is None and self._teacher[0] is None
            loss = net_loss(logits, targets, distillation=self.distillation, teacher=None if in_place else teacher)
            if in_place and self.distillation is not None:
                teacher = logits.detach()
            self.manual_backward(loss.objective / (len(nets) * self.recipe.accumulate))
            losses.append(_as_row(loss))
        return torch.stack(losses)

    def logits(self, inputs: Tensor, net: Subnet) -> Tensor:
        """Return (B, T, V) logits of a sub-network; the largest takes the dense, possibly compiled path."""
        return self._dense[0](inputs) if net is None else self.supernet(inputs, net)

    def _fixed_teacher_logits(self, nets: list[Subnet], inputs: Tensor) -> Tensor | None:
        """Return the teacher's logits unless the step's own largest network, trained first, provides them."""
        if self.distillation is None:
            return None
        with torch.no_grad():
            if self._teacher[0] is not None:
                return self._teacher[0](inputs)
            return None if None in nets else self.logits(inputs, None)

    def _update(self, nets: list[Subnet]) -> None:
        if is_distributed():
            average_gradients(self.supernet.parameters())
        optimizer = self.optimizers()
        rate = self.recipe.learning_rate_at(self.global_step, self.trainer.max_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if self.recipe.slice_updates and None not in nets:
            optimizer.step(selections=trained_selections(self.supernet, nets))
        else:
            optimizer.step()
        optimizer.zero_grad()
        self._report(rate)
        if self.global_step >= self.trainer.max_steps:
            self.trainer.should_stop = True  # makes Lightning validate the last step, wherever it falls

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the (by now unscaled) gradients and stop before the update if anything is not finite."""
        norm = self._clip()
        losses = mean_over_processes(torch.stack(self._losses).mean(0).to(norm.device))
        values = torch.cat([losses.flatten(), norm[None].to(losses.dtype)]).tolist()  # the step's only synchronisation
        rows, grad_norm = np.array(values[:-1]).reshape(-1, 3), values[-1]
        nets = self.nets_of_step(self.global_step)
        self._refuse_non_finite(nets, rows[:, 0], grad_norm)
        self.last_metrics = self._step_metrics(nets, rows) | {"grad_norm": grad_norm}

    def _clip(self) -> Tensor:
        limit = self.recipe.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), limit)
        return norm.full_tensor() if hasattr(norm, "full_tensor") else norm

    def _refuse_non_finite(self, nets: list[Subnet], losses: np.ndarray, grad_norm: float) -> None:
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None  # skips such steps by itself
        bad = [f"{self.role(net)} ({self.name(net)}): loss {x}" for net, x in zip(nets, losses, strict=True)
               if not math.isfinite(x)]  # fmt: skip
        if not bad and not scaled and not math.isfinite(grad_norm):
            bad = [f"gradient norm {grad_norm} of {', '.join(self.name(net) for net in nets)}"]
        if bad:
            raise NonFiniteLossError(
                f"training stopped at step {self.global_step}: {'; '.join(bad)}. The weights are those before it. "
                f"Try a lower learning_rate (now {self.recipe.learning_rate:g}), more warmup_steps "
                f"({self.recipe.warmup_steps}), clip_norm ({self.recipe.clip_norm:g}) or precision bf16 or 32."
            )

    def _step_metrics(self, nets: list[Subnet], rows: np.ndarray) -> dict[str, float]:
        """Return the losses of one step by role from (networks, 3) losses."""
        metrics = {"train/loss": float(rows[:, 0].mean())}
        roles = np.array([self.role(net) for net in nets])
        metrics |= {
            f"train/loss_{role}": float(rows[roles == role, 1].mean()) for role in dict.fromkeys(roles.tolist())
        }
        if self.distillation is not None:
            metrics["train/divergence"] = float(rows[:, 2].mean())
        return metrics

    def _report(self, rate: float) -> None:
        """Complete the metrics of the finished step and log them every `log_every_n_steps`."""
        self._seconds += time.perf_counter() - self._started_at
        self.last_metrics |= {
            "learning_rate": rate, "epoch": float(self.current_epoch), "tokens": float(self.tokens),
            "tokens_per_s": (self.tokens - self._logged_tokens) / max(self._seconds, 1e-9),
        }  # fmt: skip
        if self.global_step % self.trainer.log_every_n_steps == 0 or self.global_step >= self.trainer.max_steps:
            self._log(self.last_metrics)
            self._logged_tokens, self._seconds = self.tokens, 0.0

    def _log(self, metrics: Mapping[str, float]) -> None:
        """Send metrics to every logger, at the number of finished steps."""
        for logger in self.loggers:
            logger.log_metrics(dict(metrics), step=self.global_step)

    def role(self, net: Subnet) -> str:
        """Return "largest", "smallest" or "random"."""
        if net is None:
            return "largest"
        return "smallest" if net == self.space.smallest() else "random"

    def name(self, net: Subnet) -> str:
        """Return the sub-network's id."""
        return (self.space.largest() if net is None else net).id

    # --- validation -------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Start the sums."""
        self._totals = torch.zeros(len(self.validation_nets) + 1, dtype=_sum_dtype(self.device), device=self.device)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Add the loss of one batch of every validation network."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        sums = [cross_entropy(self.logits(inputs, net).flatten(0, -2), targets.flatten()).sum()
                for net in self.validation_nets.values()]  # fmt: skip
        assert self._totals is not None
        self._totals += torch.stack([*sums, torch.tensor(float(targets.numel()), device=self.device)])

    def on_validation_epoch_end(self) -> None:
        """Log loss and perplexity of every validation network over the validation data of all processes."""
        assert self._totals is not None
        *sums, count = sum_over_processes(self._totals).tolist()
        losses = {name: total / count for name, total in zip(self.validation_nets, sums, strict=True)}
        scores = {f"val/loss_{name}": loss for name, loss in losses.items()}
        scores |= {f"val/ppl_{name}": math.exp(min(loss, _LARGEST_EXPONENT)) for name, loss in losses.items()}
        self.validation_scores = scores
        self.log_dict(scores, logger=False, sync_dist=is_distributed())  # for callbacks such as early stopping
        self._log(scores)

    # --- resume -----------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the token count and the state of torch's generators; all else is drawn from (seed, step)."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["supernet_training"] = {
            "tokens": self.tokens, "rng": torch.get_rng_state(), "cuda_rng": cuda, "run": self._identity(),
        }  # fmt: skip

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added.

        Raises:
            ValueError: the checkpoint is of a run with another space, seed or other batches a step.
        """
        state = checkpoint["supernet_training"]
        changed = [
            f"{k} was {state['run'].get(k)}, is {v}" for k, v in self._identity().items() if state["run"].get(k) != v
        ]
        if changed:
            raise ValueError(
                f"cannot resume another run: {'; '.join(changed)}. Restore these settings, or give a new run_dir."
            )
        self.tokens = self._logged_tokens = state["tokens"]
        torch.set_rng_state(state["rng"].cpu())
        if torch.cuda.is_available() and len(state["cuda_rng"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_rng"]])

    def _identity(self) -> dict[str, Any]:
        """Return what must not change when a run is resumed."""
        return {
            "space": json.dumps(self.space.to_dict(), sort_keys=True),
            "sampler": type(self.sampler).__name__,
            "seed": self.recipe.seed,
            "accumulate": self.recipe.accumulate,
            "slice_updates": self.recipe.slice_updates,
        }


def validation_nets(space: SearchSpace, *, n_random: int, seed: int) -> dict[str, Subnet]:
    """Return the networks that are validated: largest, smallest, random_0, random_1, ... (fixed by the seed)."""
    ends = dict.fromkeys([space.largest(), space.smallest()])
    rng = np.random.default_rng([seed, 0, 1])  # no step's generator: those are seeded by two numbers
    others = space.sample_unique(min(n_random, space.num_architectures - len(ends)), rng, exclude=list(ends))
    nets: dict[str, Subnet] = {"largest": None}
    if len(ends) > 1:
        nets["smallest"] = space.smallest()
    return nets | {f"random_{i}": arch for i, arch in enumerate(others)}


def _sum_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _as_row(loss: NetLoss) -> Tensor:
    return torch.stack([loss.objective.detach(), loss.cross_entropy, loss.divergence])


def _check_space(supernet: Supernet, space: SearchSpace) -> None:
    config, largest = supernet.config, space.largest()
    own = (config.n_embd, config.n_layer, config.n_head, config.n_query_groups, config.intermediate_size)
    wanted = (
        largest.n_embd, largest.n_layer, largest.n_head[0], largest.n_query_groups[0], largest.intermediate_size[0],
    )  # fmt: skip
    if own != wanted or (largest.bias and not config.bias):
        raise ValueError(
            f"the largest network of space {space.name!r} is {largest.id}, but the supernet has (n_embd, n_layer, "
            f"n_head, n_query_groups, intermediate_size) = {own}, bias = {config.bias}: give the space of this supernet"
        )


def _check_teacher(supernet: Supernet, teacher: litgpt.GPT | None, distillation: Distillation | None) -> None:
    if teacher is None:
        return
    if distillation is None:
        raise ValueError("a teacher is given without distillation: give distillation=Distillation(...) too")
    own, other = supernet.config.vocab_size, teacher.config.vocab_size
    if own != other:
        raise ValueError(f"the teacher's vocabulary has {other} tokens, the supernet's {own}: use the same tokenizer")
