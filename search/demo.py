"""The whole job in one command: each stage is a paretolm command, run once and reused afterwards.

A stage that finished leaves `done.json` with its command; the same command is not run again. Stages that were killed
resume, because every command resumes when it is given its folder again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search.final import measured_standings
from search.picks import PICKS, Pick, load_picks
from search.report_data import SAMPLE, SUMMARY
from search.result import SearchResult
from supernet.artifacts import read_json, versions, write_json, write_text
from supernet.dispatch import run_command

DONE = "done.json"
_CLOSE = 1.1  # perplexity that counts as close to the largest network's


@dataclass(frozen=True)
class DemoSettings:
    """Overrides of each stage's command, see conf/demo/*.yaml.

    Attributes:
        space: name of the search space.
        seq_len: tokens a network sees in training and evaluation.
        train: overrides of `paretolm train`; so for the next four.
        profile: see `train`.
        evaluate: see `train`.
        fit: see `train`.
        search: see `train`.
        prompt: start of the generated text.
    """

    space: str
    seq_len: int
    train: Sequence[str]
    profile: Sequence[str]
    evaluate: Sequence[str]
    fit: Sequence[str]
    search: Sequence[str]
    prompt: str


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        command: name of the paretolm command.
        folder: its run folder, which tells that it is done.
        overrides: what it is given besides run_dir.
    """

    command: str
    folder: Path
    overrides: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """All overrides."""
        return [*self.overrides, f"run_dir={self.folder}"]

    def is_done(self) -> bool:
        """Whether this very command has finished before."""
        marker = self.folder / DONE
        return marker.is_file() and read_json(marker).get("arguments") == self.arguments

    def run(self) -> float:
        """Run the command unless it is done; returns its duration in seconds (that of the first time)."""
        if self.is_done():
            print(f"\n[{self.command}] done before, reused: {self.folder}")
            return float(read_json(self.folder / DONE)["seconds"])
        print(f"\n[{self.command}] $ paretolm {self.command} {' '.join(self.arguments)}", flush=True)
        started = time.monotonic()
        typed = run_command(self.command, self.arguments)
        seconds = time.monotonic() - started
        write_json(self.folder / DONE, {"arguments": self.arguments, "command": typed, "seconds": seconds})
        return seconds


def stages(settings: DemoSettings, run_dir: Path) -> list[Stage]:
    """Return the commands up to the measured picks, in order."""
    supernet, surrogates = run_dir / "train" / "supernet", run_dir / "fit" / "surrogates"
    table, evaluations = run_dir / "measurements.parquet", run_dir / "evaluate" / "evaluations.parquet"
    text = (f"supernet={supernet}", "data=stdlib", f"data.seq_len={settings.seq_len}")
    space = f"space={settings.space}"
    given: dict[str, tuple[str, ...]] = {
        "train": (),
        "profile": (space, f"table={table}", f"weights={supernet}"),
        "evaluate": text,
        "fit": (space, f"table={table}", f"evaluations={evaluations}", "metrics=[latency_ms,perplexity]"),
        "search": (f"surrogates={surrogates}", "algorithm=nsga2", *text),
    }
    return [Stage(name, run_dir / name, (*fixed, *getattr(settings, name))) for name, fixed in given.items()]


def run_demo(settings: DemoSettings, run_dir: str | Path) -> dict[str, Any]:
    """Run or resume the demo and return what is written to `run_dir/summary.json` (its paths are relative to that)."""
    run_dir = Path(run_dir)
    started = time.monotonic()
    seconds = {stage.command: stage.run() for stage in stages(settings, run_dir)}
    picks = load_picks(run_dir / "search" / PICKS)
    models = export_picks(picks, run_dir)
    sample = write_sample(run_dir, best_pick(picks), settings.prompt)
    summary = {
        "what": "paretolm demo",
        "space": settings.space,
        "seconds": {**{k: round(v, 1) for k, v in seconds.items()}, "this_time": round(time.monotonic() - started, 1)},
        "training": _training(run_dir / "train"),
        "surrogates": _surrogates(run_dir / "fit" / "surrogates"),
        "searches": _searches(run_dir / "search"),
        "measured_picks": [asdict(standing) for standing in measured_standings(picks)],
        "picks": [_plain(pick) for pick in picks],
        "best": best_pick(picks).name,
        "highlight": highlight(picks).name,
        "headline": headline(picks),
        "models": models,
        "sample": sample.name,
        "versions": versions(),
    }
    write_json(run_dir / SUMMARY, summary)
    run_command("report", [f"run={run_dir}", f"run_dir={run_dir / 'report'}"])
    return summary


def best_pick(picks: Sequence[Pick]) -> Pick:
    """Return the main search's pick with the lowest measured perplexity (the main search's picks come first)."""
    return min((pick for pick in picks if pick.search == picks[0].search), key=lambda pick: pick.perplexity)


def export_picks(picks: Sequence[Pick], run_dir: Path) -> dict[str, str]:
    """Write the search's picks as stand-alone models (Hugging Face where a stock class can hold them), once each."""
    chosen = {pick.architecture: pick.name for pick in picks if pick.search in (picks[0].search, "")}
    folders: dict[str, str] = {}
    for arch, name in chosen.items():
        kind = "hf" if arch.is_uniform else "litgpt"
        folder = run_dir / "models" / f"{name.replace(' ', '-')}-{kind}"
        overrides = (f"supernet={run_dir / 'train' / 'supernet'}", f"arch={arch.id}", f"format={kind}", f"out={folder}")
        Stage("export", run_dir / "export" / folder.name, overrides).run()
        folders[name] = folder.relative_to(run_dir).as_posix()
    return folders


def write_sample(run_dir: Path, pick: Pick, prompt: str) -> Path:
    """Write text that the pick generates to `run_dir/sample.txt`, and return that path."""
    from supernet.checkpoint import load_supernet
    from supernet.extract import extract
    from supernet.generate import sample_text

    loaded = load_supernet(run_dir / "train" / "supernet")
    assert loaded.tokenizer is not None
    room = loaded.supernet.config.block_size - len(loaded.tokenizer.encode(prompt))
    gpt = extract(loaded.supernet, pick.architecture)
    text = sample_text(gpt, loaded.tokenizer, prompt, max_new_tokens=min(240, room), temperature=0.7)
    return write_text(run_dir / SAMPLE, text)


def highlight(picks: Sequence[Pick]) -> Pick:
    """Return the main search's fastest pick within 10 % of the largest network's perplexity; its best if none is."""
    largest = next(pick for pick in picks if not pick.search)
    close = [p for p in picks if p.search == picks[0].search and p.perplexity <= _CLOSE * largest.perplexity]
    return min(close, key=lambda pick: pick.latency_ms) if close else best_pick(picks)


def headline(picks: Sequence[Pick]) -> str:
    """Return the demo's result in one sentence."""
    largest, shown = next(pick for pick in picks if not pick.search), highlight(picks)
    order = ", ".join(f"{s.name} {s.hypervolume:.3f}" for s in measured_standings(picks))
    return (
        f"{shown.name} is {largest.latency_ms / shown.latency_ms:.2f} x as fast as the largest network "
        f"({shown.latency_ms:.2f} against {largest.latency_ms:.2f} ms) at perplexity {shown.perplexity:.2f} against "
        f"{largest.perplexity:.2f}; hypervolume of the measured picks: {order}"
    )


def _training(folder: Path) -> dict[str, Any]:
    card = read_json(folder / "supernet" / "card.json")
    return {"steps": card["data"]["steps"], "tokens": card["data"]["tokens"], "scores": card["scores"]}


def _surrogates(folder: Path) -> dict[str, Any]:
    from surrogates.store import load_set

    found: dict[str, Any] = {}
    for metric, fitted in load_set(folder).surrogates.items():
        report = fitted.report
        scores = {"winner": report.scores, "linear": report.linear, "parameter_count": report.parameter_count}
        found[metric] = {"winner": report.winner, "unit": fitted.unit, "n": report.scores.n} | {
            f"{name}_{score}": _number(getattr(value, score))
            for name, value in scores.items()
            for score in ("kendall", "spearman", "mape")
        }
    return found


def _searches(folder: Path) -> dict[str, Any]:
    main = SearchResult.load(folder)
    standings = main.details.get("standings", [])
    return {"n_front": len(main.front), "predicted_standings": standings}


def _plain(pick: Pick) -> dict[str, Any]:
    values = asdict(pick) | {"architecture": pick.architecture.id, "params_decoder": pick.parameters.decoder}
    values["parameters"] = pick.parameters.total
    return {k: _number(v) if isinstance(v, float) else v for k, v in values.items()}


def _number(value: float) -> float | None:
    return float(value) if value == value else None  # JSON has no NaN
