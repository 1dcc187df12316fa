"""What a run of `paretolm prune` made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pruning.budget import show
from pruning.latency_check import LatencyRatio
from pruning.pruned import Pruned
from pruning.recovery import Recovered
from pruning.solve import PruneResult
from supernet.evaluate import Evaluation
from supernet.export import Export


@dataclass(frozen=True, eq=False)
class Job:
    """What a run made.

    Attributes:
        model: name of the dense model.
        result: of the pruning.
        recovered: of the training afterwards; None without one.
        pruned: the network that was exported.
        before: the dense network on the held-out text.
        after: the exported network on it.
        measured: the exported network's latency; None without a limit of time.
        met: whether the exported network keeps the budget.
        exports: what was written.
        seconds: by step.
        folder: where all of it lies.
    """

    model: str
    result: PruneResult
    recovered: Recovered | None
    pruned: Pruned
    before: Evaluation
    after: Evaluation
    measured: LatencyRatio | None
    met: bool
    exports: tuple[Export, ...]
    seconds: Mapping[str, float]
    folder: Path

    def __str__(self) -> str:
        parts = [f"asked {', '.join(f'{x.metric} {x.limit.asked}' for x in self.result.budget.limits)}"]
        if self.measured is not None:
            m = self.measured
            parts.append(
                f"predicted {self.result.predicted:.3f}, measured {m.ratio:.3f} of the dense latency "
                f"({m.ms:.4g} ms, dense {m.dense_ms:.4g} ms)"
            )
        values = self.result.costs.values(self.result.final.selection)
        parts += [f"{x.metric} {show(x.metric, values[x.metric])}" for x in self.result.budget.counted]
        parts.append(f"perplexity {self.before.perplexity:.2f} -> {self.after.perplexity:.2f}")
        state = "" if self.met else "BUDGET MISSED, nearest network: "
        return f"{state}{'; '.join(parts)} -> {self.folder}"
