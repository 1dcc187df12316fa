"""Local distillation: all weights of a pruned MLP are fitted to the dense network's residual stream.

Least squares moves the output projection alone, and the gate and up projections still see the stream that they were
trained on, not the one behind pruned layers. Here a few passes of AdamW over the calibration text fit all of one MLP at
a time, on what it gets behind the layers before it, which are finished; no labels, no gradient through other blocks
(blockwise local distillation: Puzzle, Bercovich et al. 2024, arXiv:2411.19146; block-wise reconstruction: BRECQ, Li et
al. 2021). Minimised is the mean over tokens of
    r / (1 + r),  r = |state + MLP(x) - target|^2 / |target|^2
relative, since the streams of first tokens are a hundred times as large as others (`first_tokens`), and bounded by 1
(Geman & McClure 1987), since a pruned network gives some few tokens such a stream where the dense one does not: r is
1,000 and more there, and a mean of r is about those tokens alone.

Large steps on little text fit it too well. So of the weights on the line from those that came in to those after the
last pass (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903) the best ones on held-out text are kept. That text must be
unknown to the least squares before, too: on what those saw, their error is 15 % lower than elsewhere (SmolLM2-135M,
32,768 tokens), which is more than is gained here.

Shapes: B texts of T tokens, N tokens in all, C n_embd.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.collection import autocast

_WARMUP = 10  # steps, at most a tenth of all
_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the way from the weights that came in to the last ones
_CHUNK = 8192  # tokens at once without gradients


@dataclass(frozen=True, slots=True)
class LocalDistillation:
    """How MLPs are distilled.

    Attributes:
        epochs: passes over the calibration text.
        learning_rate: of AdamW, relative to the root mean square of each weight; cosine to zero.
        batch_size: tokens of a step.
        seed: of the order of tokens.

    Raises:
        ValueError: a negative seed, or anything else that is not positive.
    """

    epochs: int = 4
    learning_rate: float = 0.05
    batch_size: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "learning_rate", "batch_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"local distillation {name} = {getattr(self, name)}: must be positive")
        if self.seed < 0:
            raise ValueError(f"local distillation seed = {self.seed}: must not be negative")


@dataclass(frozen=True, eq=False)
class Examples:
    """What an MLP gets and what should come of it, one row a token.

    Attributes:
        inputs: (N, C) of the MLP, behind its norm.
        missing: (N, C) the target stream less the state that the MLP's output is added to.
        weight: (N,) 1 / |target|^2.
    """

    inputs: Tensor
    missing: Tensor
    weight: Tensor

    @classmethod
    def of(cls, inputs: Tensor, state: Tensor, target: Tensor) -> Examples:
        """Return the examples of a batch of texts, each (B, T, C): the stream should go from state to target."""
        rows = target.flatten(0, -2).float()
        energy = rows.square().sum(-1).clamp(min=torch.finfo(torch.float32).tiny)
        return cls(inputs.flatten(0, -2).float(), rows - state.flatten(0, -2).float(), 1 / energy)

    @classmethod
    def joined(cls, parts: Sequence[Examples]) -> Examples:
        """Return the examples of all batches."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("inputs", "missing", "weight")))

    def rows(self, index: Tensor) -> Examples:
        """Return some of the tokens."""
        return Examples(self.inputs[index], self.missing[index], self.weight[index])

    def error(self, mlp: nn.Module, precision: str) -> Tensor:
        """Return the mean bounded relative error of an MLP on these tokens, a scalar between 0 and 1."""
        with autocast(self.inputs.device, precision):
            out = mlp(self.inputs)
        relative = (out.float() - self.missing).square().sum(-1) * self.weight
        return (relative / (1 + relative)).mean()


def distil_mlp(
    mlp: nn.Module, shown: Examples, held_out: Examples, settings: LocalDistillation, *, precision: str = "32"
) -> tuple[float, float]:
    """Fit all weights of an MLP, in place and in their dtype; they are float32 while they are fitted.

    Args:
        mlp: it maps (..., C) to (..., C).
        shown: what it is fitted to.
        held_out: what says how far to go.
        settings: how.
        precision: of forwards, "32" or "bf16".

    Returns:
        The bounded relative error on the held-out text before and after; after is never larger.
    """
    student = copy.deepcopy(mlp).float().requires_grad_(True)
    before = best = _error(student, held_out, precision)
    first = _weights(student)
    _train(student, shown, settings, precision)
    last = _weights(student)
    for share in _SHARES:
        student.load_state_dict({name: torch.lerp(weight, last[name], share) for name, weight in first.items()})
        after = _error(student, held_out, precision)
        if after < best:  # never true of NaN
            best = after
            mlp.load_state_dict(student.state_dict())
    return before, best


def _weights(mlp: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in mlp.state_dict().items()}


def _train(student: nn.Module, examples: Examples, settings: LocalDistillation, precision: str) -> None:
    """Run all passes."""
    n, generator = len(examples.weight), torch.Generator().manual_seed(settings.seed)
    size = min(settings.batch_size, n)
    per_epoch = n // size
    steps = settings.epochs * per_epoch
    rates = {p: settings.learning_rate * float(p.detach().square().mean().sqrt()) for p in student.parameters()}
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": rate} for p, rate in rates.items()], betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _schedule(step, steps))
    for _ in range(settings.epochs):
        order = torch.randperm(n, generator=generator).to(examples.weight.device)
        for batch in order[: per_epoch * size].split(size):
            with torch.enable_grad():
                error = examples.rows(batch).error(student, precision)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()
            schedule.step()


def _schedule(step: int, steps: int) -> float:
    """Return the share of the learning rate: a short warm-up, then a cosine to zero."""
    warmup = min(1.0, (step + 1) / max(1, min(_WARMUP, steps // 10)))
    return warmup * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


@torch.no_grad()
def _error(mlp: nn.Module, examples: Examples, precision: str) -> float:
    """Return the bounded relative error in chunks of tokens."""
    n = len(examples.weight)
    parts = torch.arange(n, device=examples.weight.device).split(_CHUNK)
    return sum(float(examples.rows(part).error(mlp, precision)) * len(part) for part in parts) / n
