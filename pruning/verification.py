"""Candidates measured on the device, each once; what was measured is kept in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litgpt

from hw_profiles.device import Workload
from pruning.budget import ResolvedBudget, ResolvedLimit
from pruning.latency_check import LatencyRatio, measure_ratios
from pruning.ratio_log import RatioLog
from pruning.settings import PruneSettings
from supernet.architecture import Architecture
from supernet.extract import extract
from supernet.model import Supernet

_EXPORTED = "exported"  # after the id, of an export that missed its budget
_FINISHED = "finished"  # after the id, of what is measured in the end: a run that goes on decides as it did before


@dataclass(frozen=True)
class Verdict:
    """What a measurement says of a budget about time.

    Attributes:
        met: every limit holds for the median.
        used: the largest share of a limit that is used; above 1 it is missed.
    """

    met: bool
    used: float


def judge(budget: ResolvedBudget, measured: LatencyRatio, workload: Workload) -> Verdict:
    """Compare a measured network with a budget's limits of latency and tokens/s.

    Relative limits are held to the ratio of paired samples, absolute ones to the network's own samples.
    """
    values = [(limit, _value(limit, measured, workload)) for limit in budget.limits if limit.latency_ratio is not None]
    return Verdict(
        all(limit.met_by(value) for limit, value in values), max(limit.used(value) for limit, value in values)
    )


def _value(limit: ResolvedLimit, measured: LatencyRatio, workload: Workload) -> float:
    relative = limit.limit.ratio is not None
    if limit.metric == "latency":
        return measured.ratio * limit.dense if relative else measured.ms
    return limit.dense / measured.ratio if relative else workload.n_tokens * 1e3 / measured.ms


class Verifier:
    """Measures sub-networks of one supernet in turn with the whole of it.

    Args:
        supernet: the dense network.
        workload: the input.
        settings: device, threads and repeats.
        path: file of what was measured; None keeps it in memory.
        context: what the numbers belong to; a file of another context is refused.
    """

    def __init__(
        self,
        supernet: Supernet,
        workload: Workload,
        settings: PruneSettings,
        *,
        path: Path | None,
        context: Mapping[str, Any],
    ) -> None:
        self.supernet, self.workload, self.settings = supernet, workload, settings
        self._log = RatioLog(path, {**context, "workload": workload.id, "device": settings.device})

    def measure(
        self, archs: Sequence[Architecture], *, share: float = 1.0, progress: bool = False
    ) -> list[LatencyRatio]:
        """Return the latency of each architecture over the dense network's; known ones are not measured again.

        Of one whose export missed the budget (`note_missed`) it is the larger of both.

        Args:
            archs: the sub-networks.
            share: of the settings' repeats and seconds, where less will do.
            progress: show a progress bar.
        """
        verify = self.settings.verify
        missing = [arch for arch in dict.fromkeys(archs) if arch.id not in self._log.known]
        if missing:
            measure_ratios(
                [lambda arch=arch: extract(self.supernet, arch) for arch in missing], self.supernet, self.workload,
                repeats=max(3, round(share * verify.repeats)), threads=self.settings.threads,
                device=self.settings.device, precision=verify.precision, seconds=share * verify.seconds,
                progress=progress,
                on_result=lambda i, one: self._log.add(missing[i].id, one.to_dict()),
            )  # fmt: skip
        return [max(self._known(arch), key=lambda one: one.ratio) for arch in archs]

    def note_missed(self, arch: Architecture, measured: LatencyRatio) -> None:
        """Keep what an export was measured to take: where it is more, it counts for the architecture from now on."""
        self._log.add(f"{arch.id} {_EXPORTED}", measured.to_dict())

    def _known(self, arch: Architecture) -> list[LatencyRatio]:
        names = (arch.id, f"{arch.id} {_EXPORTED}")
        return [LatencyRatio(**self._log.known[name]) for name in names if name in self._log.known]

    def measure_network(
        self, gpt: litgpt.GPT, arch: Architecture, *, repeats: int, progress: bool = False
    ) -> LatencyRatio:
        """Measure the finished network of an architecture, with more repeats, once."""
        name = f"{arch.id} {_FINISHED}"
        if name not in self._log.known:
            found = measure_alone(gpt, self.supernet, self.workload, self.settings, repeats=repeats, progress=progress)
            self._log.add(name, found.to_dict())
        return LatencyRatio(**self._log.known[name])


def measure_alone(
    gpt: litgpt.GPT,
    dense: litgpt.GPT,
    workload: Workload,
    settings: PruneSettings,
    *,
    repeats: int,
    progress: bool = False,
) -> LatencyRatio:
    """Measure one finished network in turn with the dense one.

    Args:
        gpt: the network.
        dense: the dense network.
        workload: the input.
        settings: device, threads, precision and seconds.
        repeats: pairs of samples, at least.
        progress: show a progress bar.
    """
    (found,) = measure_ratios(
        [gpt], dense, workload, repeats=repeats, threads=settings.threads, device=settings.device, progress=progress,
        precision=settings.verify.precision, least=repeats, seconds=settings.verify.seconds,
    )  # fmt: skip
    return found
