"""What the report's tables say: key figures, picks, comparisons, facts; numbers formatted, nothing decided in HTML."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.figure_style import DARK, LIGHT, pick_label, search_label, search_styles
from search.final import picks_by_search
from search.number_format import NONE, count, number, percent, spread_like
from search.pareto import nondominated
from search.picks import Pick
from search.report_data import Command, ReportData, device_card
from search.report_findings import (
    BASELINE,
    Contest,
    measured_contest,
    primary_latency,
    searched_contest,
)
from supernet.cost import ParameterCount, parameter_count

NEAR = 0.05  # a pick is "near" the largest network when its perplexity is at most so much higher, relatively


# --- key figures --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeyFigure:
    """A number at the top of the report."""

    value: str
    label: str
    detail: str


def key_figures(data: ReportData) -> list[KeyFigure]:
    """Return those key figures that the run has numbers for."""
    figures = [_space_figure(data), _size_figure(data), _profiled_figure(data), _surrogate_figure(data)]
    figures += [_speed_figure(data), _contest_figure(data)]
    return [figure for figure in figures if figure is not None]


def _space_figure(data: ReportData) -> KeyFigure | None:
    if data.space is None:
        return None
    return KeyFigure(count(data.space.num_architectures), "sub-networks in the space", f"space {data.space.name}")


def _size_figure(data: ReportData) -> KeyFigure | None:
    if data.space is None:
        return None
    total, low = (
        parameter_count(data.space.model_config, a).total for a in (data.space.largest(), data.space.smallest())
    )
    return KeyFigure(count(total), "parameters, largest", f"smallest {count(low)}")


def _profiled_figure(data: ReportData) -> KeyFigure | None:
    latency = primary_latency(data)
    if latency is None:
        return None
    return KeyFigure(f"{latency['architecture'].nunique():,}", "sub-networks timed", f"on {latency['device'].iloc[0]}")


def _surrogate_figure(data: ReportData) -> KeyFigure | None:
    best = next((p for p in data.predictions if p.is_winner and p.metric == "latency_ms"), None)
    if best is None or not np.isfinite(best.error_percent):
        return None
    return KeyFigure(
        f"{best.error_percent:.1f} %", "latency error of the surrogate", "mean, on networks it had not seen"
    )


def _speed_figure(data: ReportData) -> KeyFigure | None:
    largest = data.largest
    near = [p for p in data.picks if p.search and largest and p.perplexity <= (1 + NEAR) * largest.perplexity]
    if largest is None or not near:
        return None
    best = min(near, key=lambda p: p.latency_ms)
    change = percent(best.perplexity / largest.perplexity - 1)
    return KeyFigure(
        f"{largest.latency_ms / best.latency_ms:.2f} \N{MULTIPLICATION SIGN}",
        "as fast as the largest",
        f"{change} perplexity, {pick_label(best)}",
    )


def _contest_figure(data: ReportData) -> KeyFigure | None:
    contest = measured_contest(data)
    if contest is None or BASELINE not in contest.names or len(contest.names) < 2:
        return None
    main = next((n for n in contest.names if n not in (BASELINE, "random")), contest.names[0])
    i, j = contest.rank_of(main), contest.rank_of(BASELINE)
    if main == BASELINE or not contest.hypervolumes[j]:
        return None
    gain = percent(contest.hypervolumes[i] / contest.hypervolumes[j] - 1)
    return KeyFigure(gain, "hypervolume", f"{search_label(main)} against the parameter count")


# --- the searches -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchRow:
    """One search in the table of searches."""

    name: str
    slug: str
    n_evaluations: str
    n_front: str
    searched: str
    n_picks: str
    measured: str
    gain: str


def search_rows(data: ReportData) -> list[SearchRow]:
    """Return the searches, the best first: by what was measured again, else by what they saw."""
    measured, searched = measured_contest(data), searched_contest(data)
    order = [*(measured.names if measured else ()), *(searched.names if searched else ()), *data.searches]
    return [_search_row(data, name, measured, searched) for name in dict.fromkeys(order)]


def _search_row(data: ReportData, name: str, measured: Contest | None, searched: Contest | None) -> SearchRow:
    result, picks = data.searches.get(name), picks_by_search(data.picks).get(name, [])
    decisive = measured or searched
    gain = NONE
    if decisive and name in decisive.names and BASELINE in decisive.names and name != BASELINE:
        base = decisive.hypervolumes[decisive.rank_of(BASELINE)]
        gain = percent(decisive.hypervolumes[decisive.rank_of(name)] / base - 1) if base else NONE
    return SearchRow(
        name=search_label(name), slug=name, gain=gain,
        n_evaluations=f"{len(result.evaluations):,}" if result else NONE,
        n_front=f"{len(result.front):,}" if result else NONE,
        searched=_volume(searched, name), measured=_volume(measured, name), n_picks=str(len(picks)) if picks else NONE,
    )  # fmt: skip


def _volume(contest: Contest | None, name: str) -> str:
    if contest is None or name not in contest.names:
        return NONE
    i = contest.rank_of(name)
    return f"{contest.hypervolumes[i]:.3f}" + (f" ± {contest.noise[i]:.3f}" if contest.is_measured else "")


# --- the picks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PickRow:
    """One pick in the tables of picks."""

    name: str
    slug: str
    is_on_front: bool
    is_uniform: bool
    id: str
    n_layer: int
    n_embd: int
    parameters: ParameterCount
    latency: str
    predicted_latency: str
    perplexity: str
    predicted_perplexity: str
    speed_up: str
    change: str


def pick_rows(data: ReportData) -> list[PickRow]:
    """Return the picks, fastest first; speed-up and change of perplexity are against the largest network."""
    picks = sorted(data.picks, key=lambda pick: pick.latency_ms)
    if not picks:
        return []
    front = nondominated([(p.perplexity, p.latency_ms) for p in picks])
    return [_pick_row(pick, bool(on_front), data.largest) for pick, on_front in zip(picks, front, strict=True)]


def _pick_row(pick: Pick, is_on_front: bool, largest: Pick | None) -> PickRow:
    return PickRow(
        name=pick_label(pick), slug=pick.search, is_on_front=is_on_front,
        is_uniform=pick.architecture.is_uniform, id=pick.architecture.id,
        n_layer=pick.architecture.n_layer, n_embd=pick.architecture.n_embd, parameters=pick.parameters,
        latency=f"{number(pick.latency_ms)} ± {spread_like(pick.latency_iqr_ms, pick.latency_ms)}",
        predicted_latency=number(pick.predicted_latency_ms),
        perplexity=f"{number(pick.perplexity)} ± {spread_like(pick.perplexity_stderr, pick.perplexity)}",
        predicted_perplexity=number(pick.predicted_perplexity),
        speed_up=f"{largest.latency_ms / pick.latency_ms:.2f} \N{MULTIPLICATION SIGN}" if largest else NONE,
        change=percent(pick.perplexity / largest.perplexity - 1) if largest else NONE,
    )  # fmt: skip


def search_colors(data: ReportData) -> dict[str, tuple[str, str]]:
    """Return the light and the dark colour of each search, by name, as the figures have them."""
    names = sorted({*data.searches, *picks_by_search(data.picks)})
    light, dark = search_styles(names, LIGHT), search_styles(names, DARK)
    return {name: (light[name].color, dark[name].color) for name in names}


# --- how to do it again -------------------------------------------------------------------------------------------


def export_commands(data: ReportData) -> list[Command]:
    """Return one command a distinct pick that writes it as a model of its own; empty without the supernet's folder."""
    folder = supernet_folder(data.run_dir)
    if folder is None:
        return []
    lines: dict[str, Command] = {}
    for pick in sorted(data.picks, key=lambda p: p.latency_ms):
        out = Path(data.run_dir) / "export" / pick.name.replace(" ", "_")
        form = "hf" if pick.architecture.is_uniform else "litgpt"
        words = [
            "paretolm",
            "export",
            f"supernet={folder}",
            f"arch={pick.architecture.id}",
            f"format={form}",
            f"out={out}",
        ]
        lines.setdefault(pick.architecture.id, Command(pick_label(pick), shlex.join(words)))
    return list(lines.values())


def supernet_folder(run_dir: Path) -> Path | None:
    """Return the folder of the run's saved supernet; None where there is none."""
    found = sorted((path.parent for path in run_dir.glob("**/space.json")), key=lambda p: (len(p.parts), str(p)))
    return found[0] if found else None


def device_facts(data: ReportData) -> list[tuple[str, str]]:
    """Return name and value of what is known about the device and the workload."""
    facts: dict[str, Any] = {}
    latency = primary_latency(data)
    if latency is not None:
        row = latency.iloc[-1]
        facts |= {"name in tables": row["device"], "workload": row["workload"], "threads": row["threads"],
                  "repeats of each network": int(latency["n_repeats"].median())}  # fmt: skip
    card = {k: v for k, v in device_card(data.measurements).items() if v not in (None, "", [])}
    if card.get("cpu") == card.get("device"):
        card.pop("cpu", None)
    facts |= {k.replace("_mib", " (MiB)").replace("_", " "): v for k, v in card.items() if not isinstance(v, Mapping)}
    return [(key, f"{value:,}" if isinstance(value, int) else str(value)) for key, value in facts.items()]
