"""The whole job of `paretolm prune`: prune to the budget, recover, export, measure the export, write the report."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hw_profiles.device import Workload
from pruning.exporting import FORMATS, export_pruned, restate
from pruning.job import Job
from pruning.latency_check import LatencyRatio
from pruning.pretrained import find_checkpoint, load_pretrained
from pruning.pruned import Pruned
from pruning.recovery import Recovered, recover
from pruning.recovery_settings import RecoverySettings
from pruning.report import write_report
from pruning.report_data import PruneReport
from pruning.rivals import rivals
from pruning.run_report import build_report
from pruning.samples import PROMPTS, text_samples
from pruning.settings import PruneSettings
from pruning.sittings import Sittings
from pruning.solve import PruneResult, prune_to_budget
from pruning.texts import CalibrationSettings, Source, blocks_of, training_blocks
from pruning.zero_shot import zero_shot
from supernet.artifacts import versions, write_json
from supernet.checkpoint import LoadedSupernet, load_subnet
from supernet.evaluate import Evaluation, evaluate

FURTHER_ATTEMPTS = 2  # where an export misses its budget


@dataclass(frozen=True)
class ZeroShotSettings:
    """Zero-shot tasks before and after; see `pruning.zero_shot`.

    Attributes:
        folder: of the task files; None scores nothing.
        tasks: their names.
        limit: questions of each at the most; None is all.
    """

    folder: str | Path | None = None
    tasks: tuple[str, ...] = ("piqa", "arc_easy")
    limit: int | None = 200


@dataclass(frozen=True)
class JobSettings:
    """What follows the pruning.

    Attributes:
        recovery: None does not train afterwards.
        recovery_text: None is the calibration text.
        recovery_guard: text of another domain that training is stopped by too, beside the search text; None is none.
        export: formats, some of hf, litgpt, gguf.
        prompts: continued by both networks in the report.
        zero_shot: tasks.
        compare: score and measure the best uniform and the best depth-only network for the report too.
    """

    recovery: RecoverySettings | None = None
    recovery_text: Source | None = None
    recovery_guard: Source | None = "stdlib"
    export: tuple[str, ...] = ("hf", "litgpt")
    prompts: tuple[str, ...] = PROMPTS
    zero_shot: ZeroShotSettings = field(default_factory=ZeroShotSettings)
    compare: bool = True

    def __post_init__(self) -> None:
        unknown = [name for name in self.export if name not in FORMATS]
        if unknown or not self.export:
            raise ValueError(f"export = {list(self.export)}; allowed: {', '.join(FORMATS)}")


def run_job(
    model: str | Path,
    budget: Mapping[str, Any],
    *,
    workload: Workload,
    calibration: CalibrationSettings,
    settings: PruneSettings,
    job: JobSettings,
    folder: str | Path,
    command: str = "",
    progress: bool = False,
) -> Job:
    """Run everything; the folder gets hf/, litgpt/, report.html, result.json and, in work/, what a killed run needs.

    Raises:
        As `prune_to_budget`, `recover` and `export_pruned`.
    """
    source, clock = find_checkpoint(model), Clock()
    with clock("load"):
        loaded = load_pretrained(source)
    run = _Run(
        model, loaded, source, budget, workload, calibration, settings, job, Path(folder), command, clock, progress
    )
    made = run.attempt()
    for _ in range(FURTHER_ATTEMPTS):
        done = made.done
        if done.met or not done.result.met or done.measured is None or job.recovery is not None:
            break  # it holds; or no network was found that does; or recovery would have to begin anew
        note = f"the export of {done.result.final.selection.id} took {done.measured.ratio:.4f} of the dense latency"
        print(f"prune: {note}: missed, so the next network is taken", file=sys.stderr, flush=True)
        made = run.attempt(notes=(*done.result.notes, note))
    write_report(run.folder, made.report)
    write_json(run.folder / "result.json", summary(made.done, made.scores))
    return made.done


class _Made(NamedTuple):
    """What one attempt made, and what is said of it."""

    done: Job
    scores: dict[str, Any]
    report: PruneReport


@dataclass(frozen=True, eq=False)
class _Run:
    """All that a run is asked for; an attempt takes what earlier ones kept in the folder."""

    model: str | Path
    loaded: LoadedSupernet
    source: Path
    budget: Mapping[str, Any]
    workload: Workload
    calibration: CalibrationSettings
    settings: PruneSettings
    job: JobSettings
    folder: Path
    command: str
    clock: Clock
    progress: bool

    def attempt(self, *, notes: tuple[str, ...] = ()) -> _Made:
        """Make, export and measure a network; one that misses the budget is not taken again by the next attempt."""
        job, clock, progress = self.job, self.clock, self.progress
        with clock("prune"):
            result = prune_to_budget(
                self.loaded, self.budget, self.calibration, workload=self.workload, settings=self.settings,
                folder=self.folder / "work", progress=progress,
            )  # fmt: skip
            result = replace(result, notes=(*notes, *result.notes))
        dense, before = result.prepared.supernet, result.final.before
        recovered, pruned, after = None, result.final.pruned, result.final.after
        if job.recovery is not None:
            with clock("recover"):
                recovered = _recover(result, job, self.calibration, self.folder, progress=progress)
                pruned = recovered.pruned
                (after,) = evaluate(pruned.gpt, [None], result.texts.held_out)
        card = partial(_card, self.model, result, before, after, self.command)
        with clock("export"):
            exports = export_pruned(
                self.folder, pruned, tokenizer=self.loaded.tokenizer, source=self.source, card=card(result.measured),
                formats=job.export,
            )  # fmt: skip
            export = load_subnet(self.folder / "litgpt")[0].eval() if "litgpt" in job.export else pruned.gpt
        with clock("verify"):
            sittings = Sittings(export, result, self.workload, self.settings, progress=progress)
            sittings.first()
        with clock("samples"):
            tokenizer = self.loaded.tokenizer
            samples = text_samples(dense, pruned.gpt, tokenizer, job.prompts) if tokenizer else []
            scores = _scores(result, pruned, job.zero_shot, progress=progress)
        with clock("compare"):
            others = rivals(result, progress=progress) if job.compare else []
        with clock("verify"):
            sittings.further()
            restate(exports, pruned, card(sittings.measured))
        done = Job(
            _name(self.model), result, recovered, pruned, before, after, sittings.measured, sittings.met,
            tuple(exports), clock.seconds, self.folder,
        )  # fmt: skip
        report = build_report(
            done, samples=samples, scores=scores, others=others, command=self.command, workload=self.workload,
            settings=self.settings,
        )  # fmt: skip
        return _Made(done, scores, report)


def summary(job: Job, scores: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the result in plain JSON types."""
    result = job.result
    return {
        "model": job.model,
        "asked": {x.metric: x.limit.asked for x in result.budget.limits},
        "met": job.met,
        "predicted_latency_ratio": result.predicted,
        "measured": None if job.measured is None else job.measured.to_dict(),
        "values": result.costs.values(result.final.selection),
        "dense_values": result.costs.dense_values(),
        "architecture": result.final.selection.id,
        "way": result.final.way,
        "perplexity": {"before": job.before.perplexity, "after": job.after.perplexity},
        "held_out": result.texts.held_out_name,
        "recovered": None if job.recovered is None else str(job.recovered),
        "zero_shot": scores or {},
        "latency_model": None if result.costs.model is None else {"mape": result.costs.model.mape},
        "exports": [{"folder": str(e.folder), "loads_with": e.loads_with} for e in job.exports],
        "seconds": dict(job.seconds),
        "notes": list(result.notes),
        "versions": versions(),
    }


class Clock:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time a step, or one more part of it."""
        start = time.monotonic()
        yield
        self.seconds[step] = round(self.seconds.get(step, 0.0) + time.monotonic() - start, 2)


def _recover(
    result: PruneResult, job: JobSettings, calibration: CalibrationSettings, folder: Path, *, progress: bool
) -> Recovered:
    assert job.recovery is not None
    wanted = job.recovery.max_steps * job.recovery.batch_size * job.recovery.accumulate
    train = training_blocks(
        result.loaded, calibration, result.texts, text=job.recovery_text, n=wanted, progress=progress
    )
    held_out = {"search text": result.texts.search}
    if job.recovery_guard is not None:
        held_out["another domain"] = blocks_of(result.loaded, calibration, job.recovery_guard, len(result.texts.search))
    return recover(
        result.final.pruned, result.prepared.supernet, train, held_out, job.recovery,
        folder=folder / "work" / "recovery", progress=progress,
    )  # fmt: skip


def _scores(result: PruneResult, pruned: Pruned, settings: ZeroShotSettings, *, progress: bool) -> dict[str, Any]:
    """Return task -> {"before": {...}, "after": {...}}."""
    tokenizer = result.loaded.tokenizer
    if settings.folder is None or tokenizer is None:
        return {}
    found = [
        zero_shot(gpt, tokenizer, settings.folder, tasks=settings.tasks, limit=settings.limit, progress=progress)
        for gpt in (result.prepared.supernet, pruned.gpt)
    ]
    return {task: {"before": asdict(found[0][task]), "after": asdict(found[1][task])} for task in settings.tasks}


def _card(
    model: str | Path, result: PruneResult, before: Evaluation, after: Evaluation, command: str,
    latency: LatencyRatio | None,
) -> dict[str, Any]:  # fmt: skip
    """Return what an export's card says; `latency` is that of the export, of its shape before it exists."""
    values = result.costs.values(result.final.selection)
    measured: dict[str, Any] = {}
    if latency is not None:
        measured = {
            "latency, of the dense model's": round(latency.ratio, 4),
            "its interval": f"{latency.low:.4f} to {latency.high:.4f}",
            "latency (ms)": round(latency.ms, 3),
            "the dense model's latency (ms)": round(latency.dense_ms, 3),
        }
    measured |= {"parameters": int(values["params"]), "KV cache (bytes)": int(values["kv_cache"])}
    return {
        "base_model": _name(model),
        "asked": {limit.metric: limit.limit.asked for limit in result.budget.limits},
        "predicted": {} if result.predicted is None else {"latency, of the dense model's": round(result.predicted, 4)},
        "measured": measured,
        "perplexity": {
            result.texts.held_out_name: {"before": round(before.perplexity, 4), "after": round(after.perplexity, 4)}
        },
        "workload": None if latency is None else result.costs.workload.id,
        "mlps_distilled": result.final.way == "distilled",
        "command": command,
        "versions": versions(),
    }


def _name(model: str | Path) -> str:
    text = str(model)
    return text if text.count("/") == 1 and not Path(text).exists() else Path(text).stem if "/" in text else text
