"""Local search on the true calibration loss, from the best candidates, with costs within the limits.

Moves are scored by the quality table as the evaluations so far have corrected it (`DamageModel`), and the best of them
are evaluated until one is better than where the search stands; when none is, the dynamic programme's plan for the
corrected table is tried too. The result is never worse than the start. One seed
gives one search; what a killed run evaluated is found again in the loss's file, so the same seed gets there quickly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from tqdm import tqdm

from pruning.candidates import Mode
from pruning.cost_limits import CostLimit, all_hold
from pruning.damage_model import DamageModel
from pruning.lattice import Lattice
from pruning.moves import HeterogeneousMoves, UniformMoves
from pruning.quality_table import QualityTable
from supernet.architecture import Architecture

_LEAST_GAIN = 1e-4  # relative: less is rounding
_POWER, _ATTENTION = 1.35, 1.5  # of the table's damages: among the best that plans were made with, on SmolLM2
_AT_ONCE = 4  # moves of one draw of the model
_SPREAD = (0.1, 1.3)  # of the draws after a better network, and what it grows by, up to 1, with each that finds none


Race = Callable[[Architecture, Architecture], tuple[float, bool]]


class Loss(Protocol):
    """The true loss (`CalibrationLoss`)."""

    @property
    def dense(self) -> Architecture:
        """The whole network."""

    def __call__(self, arch: Architecture) -> float:
        """Return the loss."""


@dataclass(frozen=True)
class Refined:
    """What a local search found.

    Attributes:
        arch: the best network.
        loss: its loss.
        start: the loss of the best start.
        n_evaluations: networks asked for, whether known before or not, and whether on all of the text or not.
        history: (evaluations, architecture id, loss) at each improvement.
        ended: why: "evaluations", "seconds" or "no moves left".
        visited: the networks whose loss is known, in the order of evaluation.
    """

    arch: Architecture
    loss: float
    start: float
    n_evaluations: int
    history: list[tuple[int, str, float]] = field(default_factory=list)
    ended: str = ""
    visited: tuple[Architecture, ...] = ()


def refine(
    loss: Loss,
    starts: Sequence[Architecture],
    limits: Sequence[CostLimit],
    quality: QualityTable,
    lattice: Lattice,
    *,
    mode: Mode = "heterogeneous",
    n_evaluations: int = 200,
    seconds: float = float("inf"),
    seed: int = 0,
    known: Mapping[Architecture, float] | None = None,
    race: Race | None = None,
    progress: bool = False,
) -> Refined:
    """Search around each start in turn, with equal shares of the evaluations and seconds.

    Args:
        loss: the true loss.
        starts: networks that keep the limits, the most promising first.
        limits: costs that every network must keep.
        quality: the table that scores moves first.
        lattice: the levels.
        mode: "uniform" moves between networks whose blocks are all of one shape.
        n_evaluations: networks evaluated in all, the starts among them.
        seconds: wall-clock limit; a search that it ends cannot be repeated exactly.
        seed: of the draws.
        known: losses of networks that were evaluated before: they correct the table from the start.
        race: the loss of a move against that of where the search stands: (loss, True), or an estimate above it and
            False as soon as it is clear (`RacedLoss.against`). None evaluates every move fully.
        progress: show a progress bar.

    Raises:
        ValueError: no start, a start that misses a limit, or (mode="uniform") one that is not uniform.
    """
    _check(starts, limits, mode)
    make = UniformMoves if mode == "uniform" else HeterogeneousMoves
    model = DamageModel(quality.weighted(_ATTENTION), rng=np.random.default_rng(seed), power=_POWER)
    run = _Run(loss, make(loss.dense, lattice, limits), model, race)
    for arch, value in (known or {}).items():
        run.model.see(arch, value)
    begin = time.monotonic()
    bar = tqdm(total=n_evaluations, unit="network", desc="refine", disable=not progress)
    with bar:
        for start in starts:
            if run.n < n_evaluations:
                run.visit(start, bar)
        first = min(run.losses.values())
        reached, ended = sorted(run.losses, key=run.losses.__getitem__), "no moves left"
        for i, start in enumerate(reached, 1):
            share = run.n + (n_evaluations - run.n) // (len(reached) - i + 1)
            ended = run.search(start, share, begin + seconds * i / len(reached), bar)
    best = min(run.losses, key=run.losses.__getitem__)
    return Refined(best, run.losses[best], first, run.n, run.history, ended, tuple(run.losses))


class _Run:
    """What a search knows."""

    def __init__(
        self, loss: Loss, moves: HeterogeneousMoves | UniformMoves, model: DamageModel, race: Race | None
    ) -> None:
        self.loss, self.moves, self.model, self.race = loss, moves, model, race
        self.losses: dict[Architecture, float] = {}
        self.seen: dict[Architecture, float] = {}  # estimates of moves that were clearly worse, too
        self.history: list[tuple[int, str, float]] = []

    @property
    def n(self) -> int:
        return len(self.seen)

    def visit(self, arch: Architecture, bar: tqdm, than: Architecture | None = None) -> float:
        """Evaluate a network, as long as it is not clearly worse than another one."""
        if arch not in self.seen:
            if self.race is None or than is None:
                value, whole = self.loss(arch), True
            else:
                value, whole = self.race(arch, than)
            self.seen[arch] = value
            self.model.see(arch, value)
            if whole:
                self.losses[arch] = value
                if value <= min(self.losses.values()):
                    self.history.append((self.n, arch.id, value))
                    bar.set_postfix(loss=f"{value:.4f}")
            bar.update()
        return self.seen[arch]

    def search(self, start: Architecture, n_evaluations: int, deadline: float, bar: tqdm) -> str:
        """Search from a start, and return why it ended."""
        current, stalled, spread = start, False, _SPREAD[0]
        while True:
            weights, known = self.model.draw(current, spread=spread), set(self.seen)
            moves = self.moves.planned(current, self.model, weights, known=known) if stalled else []
            moves += self.moves.best(current, self.model, weights, n=_AT_ONCE, known=known | set(moves))
            if not moves:
                return "no moves left"
            stalled, spread = True, min(spread * _SPREAD[1], 1.0)
            for move in moves:
                if self.n >= n_evaluations:
                    return "evaluations"
                if time.monotonic() >= deadline:
                    return "seconds"
                if self.visit(move, bar, current) < self.losses[current] * (1 - _LEAST_GAIN):
                    current, stalled, spread = move, False, _SPREAD[0]
                    break


def _check(starts: Sequence[Architecture], limits: Sequence[CostLimit], mode: Mode) -> None:
    if not starts or not limits:
        raise ValueError("refine needs at least one start and one limit")
    if mode not in ("uniform", "heterogeneous"):
        raise ValueError(f"mode = {mode!r}; allowed: uniform, heterogeneous")
    for start, ok in zip(starts, all_hold(limits, starts), strict=True):
        if not ok:
            raise ValueError(f"the start {start.id} misses a limit")
        if mode == "uniform" and not start.is_uniform:
            raise ValueError(f"the start {start.id} is not uniform: use mode='heterogeneous'")
