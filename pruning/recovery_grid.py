"""Recovery with several learning rates, the best on held-out text kept: what a fair comparison of methods needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import litgpt

from pruning.pruned import Pruned
from pruning.recovery import Recovered, Text, recover
from pruning.recovery_settings import RecoverySettings
from pruning.recovery_training import Look


@dataclass(frozen=True, slots=True)
class Trial:
    """One learning rate of a grid: its looks, and why it ended early."""

    learning_rate: float
    history: tuple[Look, ...]
    best_step: int
    stopped: str

    @property
    def loss(self) -> float:
        """The best held-out loss."""
        return next(look.loss for look in self.history if look.step == self.best_step)


@dataclass(frozen=True, eq=False)
class RecoveryGrid:
    """The best of several learning rates, and what each gave."""

    best: Recovered
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        tried = ", ".join(f"{trial.learning_rate:g}: {trial.loss:.4f}" for trial in self.trials)
        return f"{self.best}; learning rates tried: {tried}"


def recover_grid(
    pruned: Pruned,
    dense: litgpt.GPT | None,
    train: Text,
    held_out: Text | Mapping[str, Text],
    settings: RecoverySettings | None = None,
    *,
    learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3),
    folder: str | Path | None = None,
    progress: bool = False,
) -> RecoveryGrid:
    """Recover once with each learning rate, on the same batches in the same order, and keep the best on held-out text.

    Arguments are those of `recover`; each rate has a folder of its own in `folder`. One network is kept at a time.

    Raises:
        ValueError: no learning rate, or what `recover` raises.
    """
    settings = settings or RecoverySettings()
    if not learning_rates or len(set(learning_rates)) < len(learning_rates):
        raise ValueError(f"learning_rates = {tuple(learning_rates)}: give at least one, each once")
    best: Recovered | None = None
    trials = []
    for rate in learning_rates:
        place = None if folder is None else Path(folder) / f"learning-rate-{rate:g}"
        own = replace(settings, learning_rate=rate)
        found = recover(pruned, dense, train, held_out, own, folder=place, progress=progress)
        trials.append(Trial(rate, found.history, found.best_step, found.stopped))
        if best is None or found.after.loss < best.after.loss:
            best = found
        del found
    assert best is not None
    return RecoveryGrid(best, tuple(trials))
