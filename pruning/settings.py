"""Settings of a pruning run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import litgpt

from pruning.importance import CRITERIA
from pruning.local_distillation import LocalDistillation
from pruning.precision import Precision, check_precision, resolved_precision

Mode = Literal["uniform", "heterogeneous"]
MODES: tuple[Mode, ...] = ("uniform", "heterogeneous")


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How long candidates are searched for.

    Attributes:
        n_evaluations: of the true calibration loss, after the dynamic programme.
        seconds: at the most, for each round.
    """

    n_evaluations: int = 40
    seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.n_evaluations < 1 or not self.seconds > 0:
            raise ValueError(
                f"search: n_evaluations = {self.n_evaluations}, seconds = {self.seconds}: both must be positive"
            )


@dataclass(frozen=True, slots=True)
class VerifySettings:
    """How networks are measured.

    Attributes:
        top: candidates that are extracted and measured in each round.
        repeats: pairs of samples of each while searching; fewer where they agree (`precision`), more within `seconds`.
        final_repeats: of the network that is returned, at least.
        seconds: of sampling for each network that its repeats have not told to the `precision`; a tenth of it for each
            part of the latency table, a quarter for each random network.
        rounds: the budget inside is tightened or relaxed at most so often.
        least_used: the share of the allowed latency that should be used.
        n_networks: random networks that the latency model is fitted to.
        precision: relative half width of a median at which sampling ends.
    """

    top: int = 3
    repeats: int = 20
    final_repeats: int = 20
    seconds: float = 20.0
    rounds: int = 3
    least_used: float = 0.95
    n_networks: int = 30
    precision: float = 0.005

    def __post_init__(self) -> None:
        for name, least in (("top", 1), ("repeats", 3), ("final_repeats", 3), ("rounds", 1), ("n_networks", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"verify {name} = {getattr(self, name)}: must be at least {least}")
        if self.seconds < 0:
            raise ValueError(f"verify seconds = {self.seconds}: must not be negative, e.g. 20")
        if not 0 < self.least_used < 1:
            raise ValueError(f"verify least_used = {self.least_used}: give a share between 0 and 1, e.g. 0.95")


@dataclass(frozen=True, slots=True)
class PruneSettings:
    """How a network is pruned.

    Attributes:
        mode: "uniform": all kept layers are of one shape, stock classes hold it; "heterogeneous": each has its own, and
            attention or MLP of a layer may go alone.
        embd: prune the residual width too (uniform mode).
        criterion: of importance, a name in `importance.CRITERIA`.
        intercept: fit biases that make up for what goes.
        damping: of the least squares; None goes by the number of calibration tokens.
        local_distillation: passes over the calibration text in which each MLP of the final network is fitted to the
            dense residual stream after its least squares (`pruning.local_distillation`); 0 leaves it at least squares.
        device: torch's name of the device that is measured.
        threads: CPU threads of measurements; None is the physical cores.
        precision: of the forwards on calibration text; "auto" is "bf16" where that is faster (`pruning.precision`).
            Perplexities that are reported are float32's.
        search: how long to search.
        verify: how to measure.
        seed: of all that is drawn.
    """

    mode: Mode = "uniform"
    embd: bool = False
    criterion: str = "obs"
    intercept: bool = False
    damping: float | None = None
    local_distillation: int = 4
    device: str = "cpu"
    threads: int | None = None
    precision: Precision = "auto"
    search: SearchSettings = field(default_factory=SearchSettings)
    verify: VerifySettings = field(default_factory=VerifySettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode = {self.mode!r}; allowed: {', '.join(MODES)}")
        if self.embd and self.mode != "uniform":
            raise ValueError("embd=true narrows all layers alike: it needs mode=uniform")
        if self.criterion not in CRITERIA:
            raise ValueError(f"criterion = {self.criterion!r}; allowed: {', '.join(CRITERIA)}")
        if self.damping is not None and not self.damping > 0:
            raise ValueError(f"damping = {self.damping}: must be positive, e.g. 0.5; null goes by the calibration text")
        if self.local_distillation < 0:
            raise ValueError(f"local_distillation = {self.local_distillation} passes: give 0 for none, or e.g. 4")
        check_precision(self.precision)

    @property
    def distillation(self) -> LocalDistillation | None:
        """How MLPs of the final network are distilled; None is not at all."""
        return LocalDistillation(self.local_distillation, seed=self.seed) if self.local_distillation else None

    def resolved(self, gpt: litgpt.GPT) -> PruneSettings:
        """Return the same settings with precision="auto" replaced by what is faster for this network here."""
        return replace(self, precision=resolved_precision(self.precision, gpt, self.device))
