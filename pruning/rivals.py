"""The best uniform and the best depth-only network of a run, measured and scored beside the result."""

from __future__ import annotations

from dataclasses import dataclass

from pruning.latency_check import LatencyRatio
from pruning.solve import PruneResult, Tried
from supernet.architecture import Architecture
from supernet.evaluate import Evaluation, evaluate

_SHARE = 0.5  # of a candidate's repeats
KINDS = {"uniform": "best uniform network", "depth": "best depth-only network"}


@dataclass(frozen=True)
class Rival:
    """A network that was found for the same budget and not chosen.

    Attributes:
        name: what it is.
        arch: the network.
        evaluation: on the held-out text, with its overlays.
        measured: its latency; None without a limit of time.
    """

    name: str
    arch: Architecture
    evaluation: Evaluation
    measured: LatencyRatio | None


def rivals(result: PruneResult, *, progress: bool = False) -> list[Rival]:
    """Return the best network of each kind, of the last round that searched for one, that is not the result itself."""
    best = {name: _best(result, kind) for kind, name in KINDS.items()}
    archs = {name: own.arch for name, own in best.items() if own is not None and own.arch != result.final.selection}
    measured: list[LatencyRatio | None] = [None] * len(archs)
    if result.budget.latency_ratio is not None:
        measured = [*result.verifier.measure(list(archs.values()), share=_SHARE, progress=progress)]
    found = []
    for (name, arch), latency in zip(archs.items(), measured, strict=True):
        (evaluation,) = evaluate(result.database.extract(arch).gpt, [None], result.texts.held_out)
        found.append(Rival(name, arch, evaluation, latency))
    return found


def _best(result: PruneResult, kind: str) -> Tried | None:
    own = [tried for tried in result.tried if tried.kind == kind]
    last = max((tried.round for tried in own), default=0)
    return min((tried for tried in own if tried.round == last), key=lambda tried: tried.loss, default=None)
