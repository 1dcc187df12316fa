"""Prune a pretrained network until it meets a budget: search, extract, measure, tighten, and search again.

    texts -> order of importance -> costs on the device -> overlays and quality table -> two plans measured ->
    candidates and local search -> rounds of (measurement, other candidates or, far from the limit, another search) ->
    the best one measured once more, then solved layer by layer, its MLPs distilled from the dense network's.

Everything costly is kept in the run's folder as soon as it is known: the same call goes on after a kill.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hw_profiles.device import Workload
from pruning.budget import Limit, ResolvedBudget, parse_budget
from pruning.candidates import Candidate, propose, quick_candidate, quick_plans, rank
from pruning.cost_limits import CostLimit, all_hold
from pruning.device_costs import DeviceCosts, device_costs
from pruning.final import Final, finish
from pruning.fingerprints import fingerprint
from pruning.latency_check import LatencyRatio
from pruning.ordered import Ordered, put_in_order
from pruning.overlay import OverlayDatabase, OverlaySettings
from pruning.prepared import Prepared
from pruning.pretrained import load_pretrained
from pruning.quality_table import QualityTable, measure_quality
from pruning.raced_loss import RacedLoss
from pruning.refine import refine
from pruning.run_state import RunState, prepared_network
from pruning.search_record import SearchRecord
from pruning.settings import PruneSettings
from pruning.texts import CalibrationSettings, Texts
from pruning.true_loss import CalibrationLoss
from pruning.verification import Verifier, judge
from supernet.architecture import Architecture
from supernet.checkpoint import LoadedSupernet

_LEAST_CHANGE, _MOST_CHANGE = 0.9, 1.1  # of the internal budget in one round
_N_RANKED = 6
_MARGIN = 0.01  # at the most: medians taken minutes apart differ by as much on a shared machine
_QUICK_BLOCKS = 2  # of the text for ranking, for the first look at candidates
_N_STARTS = 2  # of the local search
_SPARE = (0.015, 0.03)  # predicted to lie below the limit by: what is measured beside the best candidate
_WORSE = 0.05  # relative loss, of what was measured to keep the budget, that needs no further round
_SEARCH_AGAIN = 0.02  # relative error of the limits that a search was held to
_SHORTLIST = 4  # of the iterative drops
_FIRST_SHARE = 0.5  # of repeats, for the two plans that are measured before the search
_LATER_SHARE = 0.5  # of evaluations and seconds, for the rounds after the first, which start from what it found


@dataclass(frozen=True)
class Tried:
    """A candidate that was compared, and what is known of it.

    Attributes:
        round: 1 is the first.
        name: how it was found.
        kind: programme, parameters, uniform, depth or refined.
        arch: the network.
        loss: KL to the dense network on the search text, nats a token.
        predicted: latency ratio, or the first counted cost; what the limit inside was held to.
        measured: None where it was not measured.
    """

    round: int
    name: str
    kind: str
    arch: Architecture
    loss: float
    predicted: float
    measured: LatencyRatio | None = None


@dataclass(frozen=True)
class PruneResult:
    """A network that was pruned to a budget.

    Attributes:
        final: the network, its architecture and how good it is.
        budget: what was asked for.
        met: whether everything measured and counted keeps the budget.
        used: share of the allowed latency that is used; None without a limit of time.
        predicted: latency ratio that the model predicted for it.
        measured: latency of the final network, before it was solved; None without a limit of time.
        tried: candidates of all rounds, in the order of comparison.
        costs: lattice and latency model.
        quality: the quality table.
        ordered: the dense network in the order of importance.
        prepared: the dense network as it was loaded.
        texts: calibration, search and held-out text.
        loaded: network and tokenizer as they were loaded.
        database: overlays of the ordered network.
        verifier: what was measured, and how.
        notes: what a reader must know.
    """

    final: Final
    budget: ResolvedBudget
    met: bool
    used: float | None
    predicted: float | None
    measured: LatencyRatio | None
    tried: tuple[Tried, ...]
    costs: DeviceCosts
    quality: QualityTable
    ordered: Ordered
    prepared: Prepared
    texts: Texts
    loaded: LoadedSupernet
    database: OverlayDatabase
    verifier: Verifier
    notes: tuple[str, ...] = field(default=())


def prune_to_budget(
    model: str | Path | LoadedSupernet,
    budget: Mapping[str, Any],
    calibration: CalibrationSettings | None = None,
    *,
    workload: Workload | None = None,
    settings: PruneSettings | None = None,
    folder: str | Path | None = None,
    progress: bool = False,
) -> PruneResult:
    """Prune a pretrained network to a budget that is measured to hold.

    Args:
        model: a checkpoint folder, a .gguf file, a repository of the hub, a short name, or a loaded one.
        budget: limits by metric, e.g. {"latency": "-25%", "params": "100M"}; see `pruning.budget`.
        calibration: which text; None is text that the network writes itself.
        workload: what is timed; None is a prompt of 512 tokens, in float32.
        settings: how.
        folder: keeps what was computed; the same call goes on there after a kill. None keeps nothing.
        progress: show progress bars.

    Returns:
        The pruned network with everything that led to it. `met` is False where no network that was measured keeps the
        budget after the last round; the nearest one is returned then.

    Raises:
        KeyError: an unknown metric of the budget.
        FileNotFoundError: no such checkpoint or text.
        ValueError: a budget that cannot be read or reached (names what can be), too little text, a network that is not
            supported, or a folder of another run.
    """
    calibration, settings = calibration or CalibrationSettings(), settings or PruneSettings()
    workload = workload or Workload(1, 512)
    asked = parse_budget(budget, workload)
    loaded = model if isinstance(model, LoadedSupernet) else load_pretrained(model)
    place = nullcontext(folder) if folder is not None else tempfile.TemporaryDirectory()
    with place as path:
        return _Run(loaded, asked, calibration, workload, settings, Path(path or "."), progress=progress).result()


class _Run:
    """One pruning run."""

    def __init__(
        self,
        loaded: LoadedSupernet,
        asked: Sequence[Limit],
        calibration: CalibrationSettings,
        workload: Workload,
        settings: PruneSettings,
        folder: Path,
        *,
        progress: bool,
    ) -> None:
        self.settings = settings = settings.resolved(loaded.supernet)
        self.workload, self.folder, self.progress, self.loaded = workload, folder, progress, loaded
        state = RunState(folder, loaded, calibration, settings)
        self.texts, self.prepared = prepared_network(loaded, calibration, state, settings, progress=progress)
        self.ordered = put_in_order(self.prepared, criterion=settings.criterion, channels=settings.embd)
        supernet = self.ordered.supernet
        self.costs = device_costs(
            supernet.config, self.prepared.whole, tied=supernet.tie_embeddings, workload=workload, asked=asked,
            settings=settings, folder=folder / "device", progress=progress,
        )  # fmt: skip
        self.budget = self.costs.resolved(asked, complete=settings.mode == "uniform")
        overlays = OverlaySettings(intercept=settings.intercept, damping=settings.damping)
        self.database = OverlayDatabase(supernet, self.ordered.moments, settings=overlays, folder=folder / "overlays")
        loss = partial(CalibrationLoss, self.database, precision=settings.precision)
        self.loss = RacedLoss.split(loss, self.texts.for_ranking, _QUICK_BLOCKS, folder)
        context = {"network": fingerprint(supernet, None, self.texts.search[:1, :-1])}
        self.verifier = Verifier(supernet, workload, settings, path=folder / "measured.jsonl", context=context)
        self.searches = SearchRecord(folder / "searches.jsonl", context)
        self.tried: list[Tried] = []
        self.notes: list[str] = []

    def result(self) -> PruneResult:
        """Run all rounds and return the final network."""
        self.quality = measure_quality(
            self.database, self.texts.for_table, self.costs.lattice,
            precision=self.settings.precision, path=self.folder / "quality.jsonl", progress=self.progress,
        )  # fmt: skip
        chosen = self._search_counted() if self.budget.latency_ratio is None else self._search_measured()
        final, measured = self._finish(chosen)
        verdict = None if measured is None else judge(self.budget, measured, self.workload)
        counted = self.costs.values(final.selection)
        met = all(limit.met_by(counted[limit.metric]) for limit in self.budget.counted)
        return PruneResult(
            final=final,
            budget=self.budget,
            met=met and (verdict is None or verdict.met),
            used=None if verdict is None else verdict.used,
            predicted=counted.get("latency_ratio"),
            measured=measured,
            tried=tuple(self.tried),
            costs=self.costs,
            quality=self.quality,
            ordered=self.ordered,
            prepared=self.prepared,
            texts=self.texts,
            loaded=self.loaded,
            database=self.database,
            verifier=self.verifier,
            notes=tuple(self.notes),
        )

    # --- rounds -----------------------------------------------------------------------------------------------------

    def _search_counted(self) -> list[Tried]:
        """Return the candidates of a budget that nothing has to be measured for, the best first."""
        return sorted(self._round(1, 1.0), key=lambda tried: tried.loss)

    def _search_measured(self) -> list[Tried]:
        """Return the measured candidates that keep the budget, the best first; the nearest ones where none does.

        A round after the first searches anew only where the first one's limits were far off; else it takes what was
        evaluated already and keeps the corrected ones.
        """
        scale, searched = self._first_scale(), float("inf")
        for number in range(1, self.settings.verify.rounds + 1):
            near = abs(scale / searched - 1) <= _SEARCH_AGAIN
            top = self._new(self._evaluated_tried(number, scale, (0.0, *_SPARE))) if near else []
            if not top:
                top, searched = [self._round(number, scale)[0], *self._evaluated_tried(number, scale, _SPARE)], scale
            measured = self._measured(top[: self.settings.verify.top])
            scale = self._corrected(scale, [(m.arch, m.measured) for m in measured if m.measured is not None])
            best, least = self._best(), self.settings.verify.least_used
            if best and self._used(best[0]) >= least and best[0].loss <= (1 + _WORSE) * self._reach(scale):
                return best
        return self._best() or sorted(self._all_measured(), key=lambda tried: (max(self._used(tried), 1.0), tried.loss))

    def _reach(self, scale: float) -> float:
        """Return the lowest loss evaluated so far of a network that is predicted to keep the budget."""
        archs = self._evaluated(self.costs.limits(self.budget, scale=scale))
        return self.loss.asked[archs[0]] if archs else float("inf")

    def _new(self, candidates: Sequence[Tried]) -> list[Tried]:
        """Return those that were not measured yet."""
        known = {tried.arch for tried in self._all_measured()}
        return [tried for tried in candidates if tried.arch not in known]

    def _first_scale(self) -> float:
        """Measure two plans near the limit before anything is searched: what the model is wrong by there."""
        plans: list[Architecture] = []
        for spare in (0.0, _SPARE[0]):
            limits = self.costs.limits(self.budget, scale=1 + spare)
            plans += quick_plans(self.quality, self.costs.lattice, self.loss.dense, limits, mode=self.settings.mode)[:1]
        found = self.verifier.measure(plans, share=_FIRST_SHARE, progress=self.progress)
        return self._corrected(1.0, list(zip(plans, found, strict=True)))

    def _corrected(self, scale: float, measured: Sequence[tuple[Architecture, LatencyRatio]]) -> float:
        """Return what predictions must be multiplied by, at most a tenth away from what they were."""
        if not measured:
            return scale
        ratios = [found.ratio / self._model(arch) for arch, found in measured]
        return float(np.clip(np.median(ratios), scale * _LEAST_CHANGE, scale * _MOST_CHANGE))

    def _round(self, number: int, scale: float) -> list[Tried]:
        """Search with predicted latencies times `scale`; returns all candidates compared, the best first.

        Later rounds start from the best networks of all rounds that keep the limits now.
        """
        limits = self.costs.limits(self.budget, scale=scale)
        candidates = propose(
            self.loss.first, self.quality, self.costs.lattice, limits, mode=self.settings.mode, shortlist=_SHORTLIST,
            progress=self.progress,
        )  # fmt: skip
        ranked = rank(self.loss, candidates, keep=_N_RANKED, first=self.loss.first, progress=self.progress)
        search, share = self.settings.search, 1.0 if number == 1 else _LATER_SHARE
        n_evaluations, seconds = max(1, round(share * search.n_evaluations)), share * search.seconds
        starts, known = self._evaluated(limits)[:_N_STARTS], dict(self.loss.asked)
        question = {
            "limits": [(limit.name, limit.limit) for limit in limits], "scale": scale, "round": number,
            "mode": self.settings.mode, "seed": self.settings.seed, "n_evaluations": n_evaluations,
            "seconds": seconds, "starts": [arch.id for arch in starts], "known": [arch.id for arch in known],
        }  # fmt: skip
        best = self.searches.once(
            question,
            self.loss,
            lambda: refine(
                self.loss, starts, limits, self.quality, self.costs.lattice, mode=self.settings.mode,
                n_evaluations=n_evaluations, seconds=seconds, seed=self.settings.seed + number, known=known,
                race=self.loss.against, progress=self.progress,
            ),
        )  # fmt: skip
        names = {c.arch: c for c in reversed(ranked)}
        origin = names.get(best, Candidate("local search", "programme", best, 0.0))
        kind = "refined" if best not in names else origin.kind
        chosen = replace(origin, kind=kind, arch=best, loss=self.loss(best))
        compared = [chosen, *(c for c in ranked if c.arch != best)]
        costs = limits[0].predict([c.arch for c in compared])
        rows = [Tried(number, c.name, c.kind, c.arch, c.loss, float(x)) for c, x in zip(compared, costs, strict=True)]
        self.tried += rows
        return sorted(rows, key=lambda tried: tried.loss)

    def _evaluated_tried(self, number: int, scale: float, spares: Sequence[float]) -> list[Tried]:
        """Return the best evaluated networks that are predicted to lie below the limit by each of these shares.

        A few plans for such a limit are evaluated too.
        """
        names = {tried.arch: tried for tried in self.tried}
        found: list[Tried] = []
        for spare in spares:
            limits = self.costs.limits(self.budget, scale=scale * (1 + spare))
            quick_candidate(
                self.loss, self.loss.first, self.quality, self.costs.lattice, limits, mode=self.settings.mode
            )
            arch = next(iter(self._evaluated(limits)), None)
            if arch is None or any(tried.arch == arch for tried in found):
                continue
            cost = scale * self._model(arch)
            name, kind = (names[arch].name, names[arch].kind) if arch in names else ("spare", "refined")
            found.append(Tried(number, name, kind, arch, self.loss.asked[arch], cost))
        self.tried += [tried for tried in found if tried.arch not in names]
        return found

    def _evaluated(self, limits: Sequence[CostLimit]) -> list[Architecture]:
        """Return the networks that were evaluated and keep the limits, the best first."""
        ordered = sorted(self.loss.asked, key=self.loss.asked.__getitem__)
        if self.settings.mode == "uniform":
            ordered = [arch for arch in ordered if arch.is_uniform]
        held = all_hold(limits, ordered)
        return [arch for arch, ok in zip(ordered, held, strict=True) if ok]

    def _measured(self, top: Sequence[Tried]) -> list[Tried]:
        """Measure candidates and note it in what was tried."""
        found = self.verifier.measure([tried.arch for tried in top], progress=self.progress)
        known = {tried.arch: one for tried, one in zip(top, found, strict=True)}
        self.tried = [replace(tried, measured=known.get(tried.arch, tried.measured)) for tried in self.tried]
        return [tried for tried in self.tried if tried.arch in known]

    def _all_measured(self) -> list[Tried]:
        return list({tried.arch: tried for tried in self.tried if tried.measured is not None}.values())

    def _best(self) -> list[Tried]:
        """Return what was measured to keep the budget, the best first."""
        kept = [t for t in self._all_measured() if t.measured is not None and self._keeps(t.measured)]
        return sorted(kept, key=lambda tried: tried.loss)

    def _keeps(self, m: LatencyRatio) -> bool:
        """Whether a measurement keeps the budget with half of its uncertainty, or one percent, to spare."""
        safe = min((m.ratio + m.high) / 2, m.ratio * (1 + _MARGIN))
        return judge(self.budget, replace(m, ratio=safe, ms=m.ms * safe / m.ratio), self.workload).met

    def _used(self, tried: Tried) -> float:
        assert tried.measured is not None
        return judge(self.budget, tried.measured, self.workload).used

    def _model(self, arch: Architecture) -> float:
        assert self.costs.model is not None
        return float(self.costs.model.predict([arch])[0])

    # --- the end ----------------------------------------------------------------------------------------------------

    def _finish(self, chosen: Sequence[Tried]) -> tuple[Final, LatencyRatio | None]:
        """Measure the best network once more, and make it; where it misses the budget now, the next one."""
        best, measured = (chosen[0], None) if self.budget.latency_ratio is None else self._confirmed(chosen)
        final = finish(
            self.database, best.arch, self.texts, dense=self.ordered.supernet, folder=self.folder / "networks",
            distillation=self.settings.distillation, precision=self.settings.precision, progress=self.progress,
        )  # fmt: skip
        return final, measured

    def _confirmed(self, chosen: Sequence[Tried]) -> tuple[Tried, LatencyRatio]:
        """Return the first candidate that keeps the budget again with a little to spare; weights do not matter here.

        Where none does it is the first that keeps it, and where none does that the nearest.
        """
        found: list[tuple[float, Tried, LatencyRatio]] = []
        for tried in chosen[: max(2, self.settings.verify.top)]:
            gpt, repeats = self.database.extract(tried.arch).gpt, self.settings.verify.final_repeats
            measured = self.verifier.measure_network(gpt, tried.arch, repeats=repeats, progress=self.progress)
            if self._keeps(measured):
                return tried, measured
            verdict = judge(self.budget, measured, self.workload)
            how = ", too near to the limit" if verdict.met else ""
            self.notes.append(f"{tried.arch.id} measured {measured.ratio:.4f} of the dense latency in the end{how}")
            found.append((max(verdict.used, 1.0), tried, measured))
        return min(found, key=lambda one: one[0])[1:]
