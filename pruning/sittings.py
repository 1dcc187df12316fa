"""An export is measured once; where it misses its budget, again a minute later: all pairs of all sittings count."""

from __future__ import annotations

import litgpt

from hw_profiles.device import Workload
from pruning.latency_check import LatencyRatio
from pruning.settings import PruneSettings
from pruning.solve import PruneResult
from pruning.verification import judge, measure_alone

_MOST = 4  # sittings


class Sittings:
    """The latency of an exported network.

    Pairs that follow one another hold what a shared machine does in that half minute (0.726 and 0.801 of the dense
    latency were seen for one network half a minute apart), so that more of them do not tell more: later ones do.
    `first` comes before samples of text and the comparison with rivals (a minute, SmolLM2-135M), `further` after them.

    Args:
        gpt: the network.
        result: of the pruning.
        workload: the input.
        settings: of the run.
        progress: show progress bars.

    Attributes:
        measured: the median of all pairs so far; None without a limit of time.
    """

    def __init__(
        self, gpt: litgpt.GPT, result: PruneResult, workload: Workload, settings: PruneSettings, *, progress: bool
    ) -> None:
        self._gpt, self._result, self._workload, self._settings = gpt, result, workload, settings
        self._progress = progress
        self.measured: LatencyRatio | None = None

    @property
    def met(self) -> bool:
        """Whether the network keeps the whole budget."""
        budget, costs = self._result.budget, self._result.costs
        if budget.latency_ratio is None:
            return self._result.met
        counted = costs.values(self._result.final.selection)
        return self._is_fast() and all(limit.met_by(counted[limit.metric]) for limit in budget.counted)

    def first(self) -> None:
        """Measure once, if there is a limit of time."""
        if self._result.budget.latency_ratio is not None:
            self._sit()

    def further(self) -> None:
        """Measure again while the pairs so far miss the limit; one that misses it in the end is noted as such."""
        if self.measured is None:
            return
        for _ in range(_MOST - 1):
            if self._is_fast():
                return
            self._sit()
        if not self._is_fast():
            self._result.verifier.note_missed(self._result.final.selection, self.measured)

    def _is_fast(self) -> bool:
        return self.measured is not None and judge(self._result.budget, self.measured, self._workload).met

    def _sit(self) -> None:
        repeats = self._settings.verify.final_repeats
        found = measure_alone(
            self._gpt, self._result.ordered.supernet, self._workload, self._settings, repeats=repeats,
            progress=self._progress,
        )  # fmt: skip
        self.measured = LatencyRatio.of((*(self.measured.pairs if self.measured else ()), *found.pairs))
