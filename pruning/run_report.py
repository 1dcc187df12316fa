"""Fill the report of a pruning run from what the run knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from hw_profiles.device import Workload, current_device
from pruning.budget import ResolvedLimit
from pruning.job import Job
from pruning.latency_check import LatencyRatio
from pruning.report_data import (
    DENSE,
    OURS,
    BudgetLine,
    CommandLine,
    ExportLine,
    Network,
    PredictedLatency,
    PruneReport,
    TaskScore,
    TextSample,
)
from pruning.rivals import Rival
from pruning.settings import PruneSettings
from pruning.solve import PruneResult, Tried
from supernet.architecture import Architecture
from supernet.huge_pages import in_use

_MIB = 2**20
_UNITS = {
    "latency": ("latency (ms)", 1.0), "tokens_per_s": ("tokens/s", 1.0), "params": ("parameters", 1.0),
    "decoder_params": ("decoder parameters", 1.0), "memory": ("memory (MiB)", _MIB),
    "kv_cache": ("KV cache (MiB)", _MIB),
}  # fmt: skip


def build_report(
    job: Job,
    *,
    samples: Sequence[TextSample],
    scores: Mapping[str, Any],
    others: Sequence[Rival],
    command: str,
    workload: Workload,
    settings: PruneSettings,
) -> PruneReport:
    """Return the report of a finished run."""
    result = job.result
    return PruneReport(
        model=job.model,
        dense=result.prepared.whole,
        pruned=result.final.selection,
        workload=workload.id,
        device=current_device(settings.device, threads=settings.threads).name,
        budget=tuple(_budget_line(limit, job) for limit in result.budget.limits),
        latency_limit=result.budget.latency_ratio,
        networks=(*_networks(job, workload), *(_rival(result, other, workload) for other in others)),
        texts=(result.texts.held_out_name,),
        predictions=tuple(_predictions(job)),
        samples=tuple(samples),
        scores=tuple(_task_scores(scores)),
        exports=tuple(
            ExportLine(e.folder.name, str(e.folder.name), e.class_name, _short(e.loads_with, e.folder), e.n_params,
                       e.max_difference)
            for e in job.exports
        ),
        commands=(CommandLine("prune", command),) if command else (),
        facts=_facts(result, settings),
        seconds=job.seconds,
        notes=result.notes,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _short(call: str, folder: Any) -> str:
    return call.replace(str(folder), folder.name)


def _budget_line(limit: ResolvedLimit, job: Job) -> BudgetLine:
    result = job.result
    name, unit = _UNITS[limit.metric]
    values, dense = result.costs.values(result.final.selection), limit.dense
    predicted: float | None
    measured: float | None
    if limit.latency_ratio is None:
        predicted = measured = values[limit.metric]
    else:
        ratio, m = values["latency_ratio"], job.measured
        is_latency, relative = limit.metric == "latency", limit.limit.ratio is not None
        predicted = dense * ratio if is_latency else dense / ratio
        measured = None
        if m is not None:
            own = m.ms if is_latency else result.costs.workload.n_tokens * 1e3 / m.ms
            measured = own if not relative else dense * m.ratio if is_latency else dense / m.ratio
    return BudgetLine(
        name, limit.limit.asked, limit.value / unit, predicted / unit, None if measured is None else measured / unit,
        limit.limit.is_minimum,
    )  # fmt: skip


def _networks(job: Job, workload: Workload) -> Iterator[Network]:
    result, text = job.result, job.result.texts.held_out_name
    dense, ours = result.prepared.whole, result.final.selection
    table = result.costs.model.table if result.costs.model is not None else None
    first, dense_ms = _sized(result, dense, "dense", DENSE), None if job.measured is None else job.measured.dense_ms
    yield replace(
        first, loss=job.before.loss, perplexity={text: job.before.perplexity},
        latency_ratio=None if table is None else 1.0, latency_ms=dense_ms,
        tokens_per_s=None if dense_ms is None else workload.n_tokens * 1e3 / dense_ms,
    )  # fmt: skip
    mine = _sized(result, ours, "pruned" if job.recovered is None else "pruned and recovered", OURS)
    if job.measured is not None:
        mine = _timed(mine, job.measured, workload)
    yield replace(mine, loss=job.after.loss, perplexity={text: job.after.perplexity})


def _rival(result: PruneResult, other: Rival, workload: Workload) -> Network:
    network = _sized(result, other.arch, other.name, other.name)
    if other.measured is not None:
        network = _timed(network, other.measured, workload)
    text = result.texts.held_out_name
    return replace(network, loss=other.evaluation.loss, perplexity={text: other.evaluation.perplexity})


def _timed(network: Network, m: LatencyRatio, workload: Workload) -> Network:
    return replace(
        network, latency_ratio=m.ratio, latency_low=m.low, latency_high=m.high, latency_ms=m.ms,
        tokens_per_s=workload.n_tokens * 1e3 / m.ms,
    )  # fmt: skip


def _sized(result: PruneResult, arch: Architecture, name: str, series: str) -> Network:
    values = result.costs.values(arch)
    weights = (values["memory"] - values["kv_cache"]) / _MIB
    return Network(
        name, series, n_params=int(values["params"]), memory_mib=weights, kv_cache_mib=values["kv_cache"] / _MIB
    )


def _predictions(job: Job) -> Iterator[PredictedLatency]:
    result = job.result
    model = result.costs.model
    if model is None:
        return
    held_out = np.asarray(model.ratios) / np.exp(model.excess)
    for predicted, measured in zip(held_out.tolist(), np.asarray(model.ratios).tolist(), strict=True):
        yield PredictedLatency(predicted, measured)
    for tried in {t.arch: t for t in result.tried if t.measured is not None}.values():
        if tried.arch != result.final.selection:
            yield _prediction(result, tried, "candidate")
    if job.measured is not None:
        arch = result.final.selection
        yield PredictedLatency(
            float(model.predict([arch])[0]), job.measured.ratio, float(model.upper([arch])[0]), "result"
        )


def _prediction(result: PruneResult, tried: Tried, series: str) -> PredictedLatency:
    model = result.costs.model
    assert model is not None
    assert tried.measured is not None
    return PredictedLatency(
        float(model.predict([tried.arch])[0]), tried.measured.ratio, float(model.upper([tried.arch])[0]), series
    )


def _task_scores(scores: Mapping[str, Any]) -> Iterator[TaskScore]:
    for task, both in scores.items():
        for metric in ("acc", "acc_norm"):
            yield TaskScore(task, metric, both["before"][metric], both["after"][metric])


def _facts(result: PruneResult, settings: PruneSettings) -> dict[str, str]:
    texts, costs = result.texts, result.costs
    facts = {
        "mode": settings.mode,
        "criterion": settings.criterion,
        "calibration": f"{texts.calibration[:, :-1].numel():,} tokens",
        "search text": f"{texts.search[:, :-1].numel():,} tokens",
        "held-out text": f"{texts.held_out_name}, {texts.held_out[:, 1:].numel():,} tokens",
        "projections solved": {
            "dense": "layer by layer towards the dense residual stream",
            "distilled": f"layer by layer towards the dense residual stream, {settings.local_distillation} passes of "
            "local distillation of every MLP",
            "own": "layer by layer behind what is pruned",
            "overlays": "from the dense network's activations",
        }[result.final.way],
        "neurons considered": ", ".join(map(str, costs.lattice.neurons)),
        "attention considered": ", ".join(f"{h} heads/{g} groups" for h, g in costs.lattice.attention),
    }
    if costs.model is not None:
        facts["memory while measuring"] = "huge pages that are kept" if in_use() else "as the system gives it"
        facts["latency model"] = (
            f"{costs.model.choice}, {len(costs.model.ratios)} networks, mean error of held-out ones "
            f"{100 * costs.model.mape:.1f} %"
        )
    best = {kind: min((t for t in result.tried if t.kind == kind), key=lambda t: t.loss, default=None)
            for kind in ("uniform", "depth", "parameters", "programme", "refined")}  # fmt: skip
    for kind, tried in best.items():
        if tried is not None:
            facts[f"best {kind} candidate"] = f"KL {tried.loss:.4f} nats a token, {tried.arch.id}"
    return facts
