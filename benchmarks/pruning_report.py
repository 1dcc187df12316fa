"""A pruning study as Markdown and JSON: tables with standard errors, and every threshold with pass or miss."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pruning_gates import (
    Record,
    contract_gates,
    losses_at_target,
    losses_of,
    one_shot_gates,
    ratio,
    recovery_gates,
)
from pruning_methods import ONE_SHOT, OURS
from pruning_stages import DENSE, METHODS
from pruning_study import Study, plain

from hw_profiles.device import current_device
from supernet.artifacts import versions, write_json, write_text


def write_report(study: Study, output: str | Path) -> tuple[Path, Path]:
    """Write `output`.md and .json of what a study has so far; return both."""
    base = Path(output).with_suffix("")
    found = gather(study)
    written = write_json(base.with_suffix(".json"), found)
    return write_text(base.with_suffix(".md"), _markdown(found)), written


def gather(study: Study) -> dict[str, Any]:
    """Return everything that is reported, as plain JSON types."""
    texts = list(study.settings.scored)
    dense = study.record(DENSE)
    one_shot, contract, recovered = (study.records(name) for name in ("one-shot", "contract", "recovery"))
    gates = [
        *one_shot_gates(one_shot, dense, texts[0]),
        *contract_gates(contract),
        *recovery_gates(recovered, texts[0]),
    ]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python " + shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": current_device("cpu", threads=study.settings.threads).card,
        "versions": versions(),
        "settings": plain(study.settings),
        "gates": [gate.to_dict() for gate in gates],
        "dense": {text: _perplexity(np.array([dense["losses"][text]])) for text in texts},
        "one_shot": [_row(one_shot, dense, goal.name, name, texts) for goal in ONE_SHOT for name in (OURS, *METHODS)],
        "contract": contract,
        "recovery": [_recovery_row(r, recovered, texts) for r in recovered],
        "zero_shot": study.records("zero-shot"),
        "supernet": study.records("supernet"),
        "records": study.all_records(),
    }


def _row(records: Sequence[Record], dense: Record, goal: str, method: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return one method's line of a one-shot table."""
    own = [r for r in records if r["goal"] == goal and r["method"] == method]
    good = [r for r in own if "losses" in r]
    row: dict[str, Any] = {"goal": goal, "method": method, "draws": len(good)}
    if not good:
        return row | {"failed": next((r["failed"] for r in own if "failed" in r), "not run")}
    row |= {
        "ratio": float(np.mean([r["ratio"] for r in good])), "trunk": float(np.mean([r["trunk"] for r in good])),
        "interpolated": any("above" in r for r in good), "archs": [r["arch"] for r in good],
    }  # fmt: skip
    row["perplexity"] = {text: _perplexity(np.array([losses_at_target(r, text) for r in good])) for text in texts}
    ours = {text: losses_of(records, goal, OURS, text, dense) for text in texts}
    row["of_dense"], row["ours_over_it"] = {}, {}
    for text in texts:
        mine = losses_of(records, goal, method, text, dense)
        whole = losses_of(records, goal, DENSE, text, dense)
        assert mine is not None and whole is not None
        row["of_dense"][text] = _pair(ratio(mine, whole))
        if (own_losses := ours[text]) is not None:
            row["ours_over_it"][text] = _pair(ratio(own_losses, mine))
    return row


def _recovery_row(record: Record, records: Sequence[Record], texts: Sequence[str]) -> dict[str, Any]:
    whole = next((r for r in records if r["method"] == DENSE), None)
    own = {text: np.array([record["losses"][text]]) for text in texts}
    row = {name: record[name] for name in ("method", "tokens", "learning_rate", "trials")}
    row["perplexity"] = {text: _perplexity(own[text]) for text in texts}
    if whole is not None:
        row["of_dense"] = {text: _pair(ratio(own[text], np.array([whole["losses"][text]]))) for text in texts}
    return row


def _perplexity(losses: np.ndarray) -> dict[str, float]:
    """Return the perplexity of (D, N) losses, its standard error over blocks, and its spread over draws."""
    means = losses.mean(1)
    middle = math.exp(min(float(means.mean()), 500.0))
    blocks = losses.mean(0)
    error = float(blocks.std(ddof=1)) / math.sqrt(len(blocks)) if len(blocks) > 1 else 0.0
    draws = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    return {"value": middle, "stderr": middle * error, "draw_std": middle * draws}


def _pair(found: tuple[float, float]) -> dict[str, float]:
    return {"ratio": found[0], "stderr": found[1]}


# --- Markdown -------------------------------------------------------------------------------------------------------


def _markdown(found: dict[str, Any]) -> str:
    settings, texts = found["settings"], list(found["dense"])
    passed = [gate for gate in found["gates"] if gate["passed"]]
    missed = [gate for gate in found["gates"] if gate["passed"] is False]
    unknown = len(found["gates"]) - len(passed) - len(missed)
    lines = [
        f"# Pruning: acceptance run on {Path(settings['model']).name}", "",
        f"{len(passed)} thresholds passed, {len(missed)} missed, {unknown} not measured.", "",
        f"`{found['command']}`, {found['date']}, {found['machine'].get('cpu')}, {found['machine'].get('threads')} "
        f"threads, {settings['dtype']}.", "",
        f"Calibration: {Path(settings['calibration']).name}, {settings['n_calibration_blocks']} blocks of "
        f"{settings['seq_len']} tokens, {settings['n_draws']} draws. Scores: first {settings['n_score_tokens']:,} "
        f"tokens of {' and of '.join(Path(path).name for path in settings['scored'].values())}. Latencies are medians "
        f"of paired ratios to the dense network, prefill of {settings['prefill']} tokens, decode after "
        f"{settings['cache']}.", "",
        "The baselines are re-implementations of the formulas in one harness, not the peers' own code. Uniform width "
        "methods cut neurons first, and one KV group after the other where the budget asks for more. `uniform` is no "
        "peer: such widths with all that ours does to weights. Values are mean +- standard "
        "error; of perplexity over blocks, of ratios over blocks and draws. An asterisk: steps too "
        "coarse for the target, log perplexity interpolated between the networks below and above it.", "",
        *_adopted_lines(found["records"]),
        "## Thresholds", "", *_table(("what", "asked", "found", "result"), map(_gate_cells, found["gates"])),
    ]  # fmt: skip
    for goal in dict.fromkeys(row["goal"] for row in found["one_shot"]):
        rows = [row for row in found["one_shot"] if row["goal"] == goal]
        if not any("perplexity" in row for row in rows):
            continue
        heads = ["method", "measured", "trunk", *(h for t in texts for h in (f"ppl {t}", "x dense", "ours / it"))]
        whole = ["dense", "1.000", "1.000"]
        for text in texts:
            whole += [_plus_minus(found["dense"][text]["value"], found["dense"][text]["stderr"]), "1", ""]
        lines += ["", f"## One shot, {goal}", "", *_table(heads, [whole, *(_cells(row, texts) for row in rows)])]
    lines += _contract_lines(found["contract"]) + _recovery_lines(found["recovery"], texts)
    lines += _zero_shot_lines(found["zero_shot"]) + _supernet_lines(found["supernet"], texts)
    lines += ["", "## Versions", "", ", ".join(f"{name} {value}" for name, value in found["versions"].items())]
    return "\n".join(lines) + "\n"


def _adopted_lines(records: dict[str, Any]) -> list[str]:
    """Return what was measured elsewhere, and where."""
    found: dict[str, list[str]] = {}
    for name, record in records.items():
        if "adopted" in record:
            source = record["adopted"]
            found.setdefault(f"{source['from']} ({source['cpu']}, {source['date']})", []).append(name)
    return [line for source, names in found.items() for line in (f"From {source}: {', '.join(names)}.", "")]


def _gate_cells(gate: dict[str, Any]) -> list[str]:
    result = {True: "pass", False: "**miss**", None: "not measured"}[gate["passed"]]
    return [
        gate["what"],
        gate["limit"],
        "" if gate["found"] is None else _plus_minus(gate["found"], gate["stderr"]),
        result,
    ]


def _cells(row: dict[str, Any], texts: Sequence[str]) -> list[str]:
    if "failed" in row:
        return [row["method"], row["failed"], "", *[""] * (3 * len(texts))]
    cells = [row["method"] + ("*" if row["interpolated"] else ""), f"{row['ratio']:.3f}", f"{row['trunk']:.3f}"]
    for text in texts:
        own, other = row["perplexity"][text], row["ours_over_it"].get(text)
        cells += [_plus_minus(own["value"], own["stderr"]), f"{row['of_dense'][text]['ratio']:.3f}"]
        cells.append("" if other is None or row["method"] == OURS else _plus_minus(other["ratio"], other["stderr"]))
    return cells


def _contract_lines(records: Sequence[Record]) -> list[str]:
    if not records:
        return []
    rows = [
        [r["goal"], f"{r['target']:.3f}", _ratio(r["said"]["measured"]), f"{100 * r['said']['used']:.1f} %",
         f"{r['said']['predicted']:.4f}", f"{100 * r['said']['mape']:.1f} %", _ratio(r["again"]),
         "kept" if r["said"]["measured"]["ratio"] <= r["target"] else "**missed**"]
        for r in records
    ]  # fmt: skip
    heads = ("budget", "allowed", "measured", "used", "predicted", "held-out MAPE", "measured anew", "")
    return ["", "## Budget contract", "", *_table(heads, rows)]


def _ratio(found: dict[str, float]) -> str:
    return f"{found['ratio']:.4f} ({found['low']:.4f} to {found['high']:.4f})"


def _recovery_lines(rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> list[str]:
    if not rows:
        return []
    heads = ["method", "tokens", "learning rate", *(h for t in texts for h in (f"ppl {t}", "x dense fine-tuned"))]
    cells = []
    for row in rows:
        own = [row["method"], f"{row['tokens']:,}", f"{row['learning_rate']:g}"]
        for text in texts:
            value = row["perplexity"][text]
            other = row.get("of_dense", {}).get(text)
            own += [_plus_minus(value["value"], value["stderr"]), "" if other is None else f"{other['ratio']:.3f}"]
        cells.append(own)
    return ["", "## After equal recovery", "", *_table(heads, cells)]


def _zero_shot_lines(records: Sequence[Record]) -> list[str]:
    if not records:
        return []
    columns = [(task, metric) for task in records[0]["results"] for metric in ("acc", "acc_norm")]
    heads = ["network", *(f"{task} {metric}" for task, metric in columns)]
    rows = [
        [r["method"], *(_plus_minus(r["results"][t][m], r["results"][t][f"{m}_stderr"]) for t, m in columns)]
        for r in records
    ]
    return ["", "## Zero-shot accuracy", "", *_table(heads, rows)]


def _supernet_lines(records: Sequence[Record], texts: Sequence[str]) -> list[str]:
    lines: list[str] = []
    for record in records:
        rows = [
            [row["route"], _ratio({"ratio": row["measured"], "low": row["low"], "high": row["high"]}),
             f"{row['predicted']:.4f}", f"{row['tokens']:,}", *(f"{row['perplexity'][text]:.4g}" for text in texts),
             "" if row["within"] else "slower than a point more"]
            for row in record["rows"]
        ]  # fmt: skip
        heads = ("route", "measured", "predicted", "training tokens", *(f"ppl {text}" for text in texts), "")
        lines += ["", "## Supernet route beside the one-shot route", "", *_table(heads, rows)]
    return lines


def _plus_minus(value: float, error: float | None) -> str:
    return f"{value:.4g}" if not error else f"{value:.4g} +- {error:.2g}"


def _table(heads: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    heads = list(heads)
    return [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]
