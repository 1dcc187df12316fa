"""The stages of a pruning study; each result is a record, so that a stage that was cut goes on where it stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from pruning_methods import (
    CONTRACT,
    ONE_SHOT,
    OURS,
    UNIFORM,
    Goal,
    families,
    match,
    our_network,
    ours,
    prune,
    remake,
    said,
    slug,
)
from pruning_study import Study

from pruning.command import FURTHER_ATTEMPTS
from pruning.families import Family
from pruning.latency_check import measure_ratios
from pruning.pruned import Pruned
from pruning.recovery import dense_control
from pruning.recovery_grid import recover_grid
from pruning.recovery_settings import RecoverySettings
from pruning.sittings import Sittings
from pruning.zero_shot import DEFAULT_TASKS, scores_record, zero_shot
from supernet.architecture import Architecture
from supernet.artifacts import read_json
from supernet.corpus import find_documents
from supernet.tokens import TokenBlocks, tokenise

DENSE = "dense"
METHODS = (
    "random", "magnitude", "minitron", "wanda-sp", "flap", "flap-global", "shortgpt", "iterative-drop", "obs-ls",
    "parameter-choice", UNIFORM,
)  # fmt: skip
Precision: TypeAlias = Literal["auto", "32", "bf16"]
_REPEATS_AGAIN = 20  # of a budget's network, measured anew
_CODE_BYTES = 200_000  # of the standard library, enough for its blocks
_HELD_OUT = 0.1  # of the calibration text: the tail, which recovery does not train on


def prepare_all(study: Study) -> None:
    """Collect moments of every draw and the dense network's losses."""
    dense(study)
    for draw in range(study.settings.n_draws):
        study.prepared(draw)


def dense(study: Study) -> dict[str, Any]:
    """Return the dense network's record."""
    return study.record(
        DENSE, lambda: {"method": DENSE, "trunk": 1.0, "losses": study.losses(study.loaded.supernet, DENSE)}
    )


# --- one shot -------------------------------------------------------------------------------------------------------


def one_shot(study: Study, *, goals: Sequence[Goal] = ONE_SHOT, methods: Sequence[str] = METHODS) -> None:
    """Prune with every method to every goal with every draw, without training; the baselines are made our equals."""
    for draw in range(study.settings.n_draws):
        for goal in goals:
            own = our_record(study, goal, draw)
            target = own["ratio"] if goal.metric == "latency" else goal.target
            made = families(study, draw)
            for name in methods:
                where = record_name(goal, draw, name)
                study.record(where, partial(_baseline_record, study, goal, draw, target, name, made[name]))


def record_name(goal: Goal, draw: int, method: str) -> str:
    """Return where a one-shot result is kept."""
    return f"one-shot/{slug(goal)}/draw-{draw}/{method}"


def our_record(study: Study, goal: Goal, draw: int) -> dict[str, Any]:
    """Return the one-shot result of ours."""
    return study.record(record_name(goal, draw, OURS), partial(_our_record, study, goal, draw))


def _our_record(study: Study, goal: Goal, draw: int) -> dict[str, Any]:
    own, pruned = ours(study, goal, draw), our_network(study, goal, draw)
    return {
        "method": OURS,
        "goal": goal.name,
        "draw": draw,
        "within": True,
        "said": own,
        **_scored(study, goal, pruned, repeats=3 * study.settings.repeats),
    }


def of_our_networks(record: str) -> bool:
    """Return whether a record, by its name, was measured of our networks: not true of them once they are remade."""
    stage, name = record.split("/")[0], record.split("/")[-1]
    return stage in ("contract", "supernet") or name.split(" ")[0] == OURS


def remake_all(study: Study, report: Path, *, goals: Sequence[Goal] = ONE_SHOT) -> None:
    """Make our networks anew with the architectures of an earlier report; their shapes keep the latencies it has."""
    known = read_json(report)["records"]
    for draw in range(study.settings.n_draws):
        for goal in goals:
            where = record_name(goal, draw, OURS)
            if where in known:
                study.record(where, partial(_remade_record, study, goal, draw, known[where], report.name))


def _remade_record(study: Study, goal: Goal, draw: int, known: Mapping[str, Any], report: str) -> dict[str, Any]:
    pruned = remake(study, goal, draw, Architecture.from_id(known["arch"]))
    shape = {name: known[name] for name in ("method", "goal", "draw", "within", "ratio", "trunk", "arch")}
    return shape | {"architecture_from": report, "losses": study.losses(pruned.gpt, known["arch"][:40])}


def _scored(study: Study, goal: Goal, pruned: Pruned, *, repeats: int | None = None) -> dict[str, Any]:
    """Return what a network is and how well it predicts the reported texts."""
    timed = goal.metric == "latency"
    measured = study.latency(pruned.arch, goal.workload, repeats=repeats) if timed else {}
    ratio = measured["ratio"] if timed else study.trunk_ratio(pruned.arch)
    return {
        "arch": pruned.arch.id, "ratio": ratio, "trunk": study.trunk_ratio(pruned.arch),
        "losses": study.losses(pruned.gpt, pruned.arch.id[:40]),
    }  # fmt: skip


def _baseline_record(
    study: Study, goal: Goal, draw: int, target: float, name: str, make: Callable[[], Family]
) -> dict[str, Any]:
    record: dict[str, Any] = {"method": name, "goal": goal.name, "draw": draw, "target": target}
    family = make()
    try:
        found = match(study, family, goal, target)
    except ValueError as error:
        return record | {"failed": str(error)}
    record |= {"size": list(found.size), "within": found.within, "tried": [[list(s), r] for s, r in found.tried]}
    record |= _scored(study, goal, family.at(found.size))
    if not found.within and found.above is not None:  # steps too coarse: the two networks around the target
        record["above"] = _scored(study, goal, family.at(found.above[0]))
    return record


# --- the budget contract --------------------------------------------------------------------------------------------


def contract(study: Study, *, goals: Sequence[Goal] = CONTRACT) -> None:
    """Prune to each budget as `paretolm prune` does, and measure the result anew."""
    for goal in goals:
        study.record(f"contract/{slug(goal)}", partial(_contract_record, study, goal))


def _contract_record(study: Study, goal: Goal) -> dict[str, Any]:
    settings = study.settings
    workload = settings.workloads[goal.workload]
    for _ in range(1 + FURTHER_ATTEMPTS):
        found = prune(study, goal, 0)
        gpt = found.final.pruned.gpt
        sittings = Sittings(gpt, found, workload, settings.ours, progress=study.progress)
        sittings.first()
        sittings.further()
        if sittings.met or not found.met:
            break
    measured = sittings.measured
    assert measured is not None
    sat = {"met": sittings.met, "used": measured.ratio / goal.target, "measured": measured.to_dict()}
    (again,) = measure_ratios(
        [gpt], study.loaded.supernet, workload,
        repeats=_REPEATS_AGAIN if settings.effort == "full" else settings.repeats, threads=settings.threads,
        precision=settings.ours.verify.precision, least=_REPEATS_AGAIN, seconds=settings.ours.verify.seconds,
        progress=study.progress,
    )  # fmt: skip
    return {"goal": goal.name, "target": goal.target, "said": said(goal, found) | sat, "again": again.to_dict()}


# --- recovery -------------------------------------------------------------------------------------------------------


def recovery(
    study: Study,
    *,
    steps: int,
    learning_rates: Sequence[float],
    n_baselines: int,
    precision: Precision = "auto",
    goal: Goal = ONE_SHOT[0],
) -> None:
    """Fine-tune ours, the best baselines and the dense network alike, on the calibration text."""
    settings = recovery_settings(steps, precision)
    for name in [DENSE, OURS, *best_baselines(study, goal, n_baselines)]:
        study.record(f"recovery/{name}", partial(_recovered, study, goal, name, settings, learning_rates))


def recovery_settings(steps: int, precision: Precision) -> RecoverySettings:
    """Return how all networks are trained: four looks at held-out text, the first before training."""
    return RecoverySettings(
        max_steps=steps, warmup_steps=max(1, steps // 10), check_every=math.ceil(steps / 3), precision=precision
    )


def best_baselines(study: Study, goal: Goal, n: int) -> list[str]:
    """Return the baselines of the lowest loss on the first reported text, over draws; draw 0 must be done."""
    text = next(iter(study.settings.scored))
    found: dict[str, list[float]] = {}
    for record in study.records(record_name(goal, 0, "")):
        if record["method"] not in (OURS, UNIFORM) and "losses" in record:
            found.setdefault(record["method"], []).append(float(np.mean(record["losses"][text])))
    return sorted(found, key=lambda name: float(np.mean(found[name])))[:n]


def network(study: Study, goal: Goal, name: str) -> Pruned:
    """Return a method's network of draw 0 for a goal."""
    if name == DENSE:
        return dense_control(study.loaded.supernet)
    if name == OURS:
        return our_network(study, goal, 0)
    record = study.record(record_name(goal, 0, name))
    return families(study, 0)[name]().at(record["size"])


def _recovered(
    study: Study, goal: Goal, name: str, settings: RecoverySettings, rates: Sequence[float]
) -> dict[str, Any]:
    train, held_out = recovery_text(study)
    found = recover_grid(
        network(study, goal, name), study.loaded.supernet, train, held_out, settings, learning_rates=rates,
        folder=study.folder / "recovery" / name, progress=study.progress,
    )  # fmt: skip
    return {
        "method": name, "tokens": found.best.tokens, "learning_rate": found.best.settings.learning_rate,
        "precision": found.best.settings.resolved().precision,
        "trials": [{"learning_rate": t.learning_rate, "loss": t.loss, "best_step": t.best_step} for t in found.trials],
        "seconds": found.best.seconds, "losses": study.losses(found.best.gpt, f"{name} recovered"),
    }  # fmt: skip


def recovery_text(study: Study) -> tuple[TokenBlocks, dict[str, TokenBlocks]]:
    """Return what recovery trains on and what stops it: calibration text; its tail, and code of Python's library."""
    tokenizer, T = study.loaded.tokenizer, study.settings.seq_len
    assert tokenizer is not None
    train, tail = tokenise(find_documents(study.settings.calibration), tokenizer).split(_HELD_OUT)
    code = tokenise(find_documents("stdlib", max_bytes=_CODE_BYTES), tokenizer).tokens
    held_out = {"calibration text": TokenBlocks(tail, T).first(8), "Python code": TokenBlocks(code, T).first(8)}
    return TokenBlocks(train, T), held_out


# --- zero-shot ------------------------------------------------------------------------------------------------------


def zero_shot_all(
    study: Study, *, limit: int | None, tasks: Sequence[str] = DEFAULT_TASKS, goal: Goal = ONE_SHOT[0]
) -> None:
    """Score the dense network, ours and the best baseline, and those of them that recovered."""
    for name in [DENSE, OURS, *best_baselines(study, goal, 1)]:
        study.record(f"zero-shot/{name}", partial(_own_zero_shot, study, goal, name, limit, tasks))
        if (study.folder / "records" / "recovery" / f"{name}.json").is_file():
            study.record(f"zero-shot/{name} recovered", partial(_recovered_zero_shot, study, name, limit, tasks))


def _zero_shot(study: Study, pruned: Pruned, name: str, limit: int | None, tasks: Sequence[str]) -> dict[str, Any]:
    assert study.loaded.tokenizer is not None
    scores = zero_shot(
        pruned.gpt, study.loaded.tokenizer, study.settings.zero_shot, tasks=tasks, limit=limit, progress=study.progress
    )
    return {"method": name, **scores_record(scores, limit=limit)}


def _own_zero_shot(study: Study, goal: Goal, name: str, limit: int | None, tasks: Sequence[str]) -> dict[str, Any]:
    return _zero_shot(study, network(study, goal, name), name, limit, tasks)


def _recovered_zero_shot(study: Study, name: str, limit: int | None, tasks: Sequence[str]) -> dict[str, Any]:
    from supernet.checkpoint import load_subnet

    rate = study.record(f"recovery/{name}")["learning_rate"]
    folder = study.folder / "recovery" / name / f"learning-rate-{rate:g}" / "network"
    return _zero_shot(study, Pruned(*load_subnet(folder)), f"{name} recovered", limit, tasks)
