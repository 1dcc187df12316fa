"""The last step of a search: a few networks of every front, and the largest one, measured for real.

Fronts of surrogates are compared on what the surrogates believe. Here each search is judged by what its picks turned
out to be: hypervolume of measured latency and perplexity, on one normalisation, with equally many picks a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw_profiles.device import Workload
from search.live import LivePerplexityObjective
from search.pareto import Normalisation, nondominated, normalised_hypervolume
from search.picks import PICKS, Pick, save_picks
from search.remeasure import Choice, choose, remeasure
from search.result import SearchResult
from supernet.space import SearchSpace


@dataclass(frozen=True)
class MeasuredStanding:
    """What the picks of one search turned out to be.

    Attributes:
        name: of the search.
        n_picks: networks of it that were measured.
        hypervolume: of their measured perplexity and latency.
        n_on_front: how many of them no pick of any search beats in both.
    """

    name: str
    n_picks: int
    hypervolume: float
    n_on_front: int


def final_choices(results: Mapping[str, SearchResult], space: SearchSpace, n: int) -> list[Choice]:
    """Return `n` networks of the front of every search (and its knee), and the largest network as reference."""
    chosen = [choice for name, result in results.items() for choice in choose(result, n, search=name)]
    return [*chosen, Choice(name="largest", search="", architecture=space.largest())]


def measure_picks(
    results: Mapping[str, SearchResult],
    *,
    space: SearchSpace,
    quality: LivePerplexityObjective,
    workload: Workload,
    run_dir: str | Path,
    weights: str | Path,
    n: int = 5,
    repeats: int = 20,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> list[Pick]:
    """Measure picks of every search, write them to `run_dir/picks.parquet`, and return them.

    Args:
        results: searches by name.
        space: their space.
        quality: evaluates the supernet's weights.
        workload: the input of the latency.
        run_dir: raw repeats go to `run_dir/picks/measurements.parquet`; what is there already is not repeated.
        weights: folder of the supernet.
        n: networks of each front, besides its knee.
        repeats: samples of the latency of each.
        threads: CPU threads of the measuring process.
        device: "cpu", "cuda", "cuda:1".
        progress: show a progress bar.
    """
    picks = remeasure(
        final_choices(results, space, n), space=space, quality=quality, workload=workload,
        table=Path(run_dir) / "picks" / "measurements.parquet", weights=weights, repeats=repeats, threads=threads,
        device=device, progress=progress,
    )  # fmt: skip
    save_picks(Path(run_dir) / PICKS, picks)
    return picks


def measured_standings(picks: Sequence[Pick]) -> list[MeasuredStanding]:
    """Return the searches by the hypervolume of what their picks measured, the best first.

    Hypervolume is normalised by the front of all picks of all searches; a network that two searches picked counts for
    both. Networks of reference (no search) belong to none.
    """
    own = [pick for pick in picks if pick.search]
    if not own:
        return []
    values = np.array([(pick.perplexity, pick.latency_ms) for pick in own])
    normalisation = Normalisation.of(values)
    on_front = nondominated(values)
    names = np.array([pick.search for pick in own])
    standings = [
        MeasuredStanding(
            name=name,
            n_picks=int((names == name).sum()),
            hypervolume=normalised_hypervolume(values[names == name], normalisation),
            n_on_front=int(on_front[names == name].sum()),
        )
        for name in dict.fromkeys(names.tolist())
    ]
    return sorted(standings, key=lambda s: -s.hypervolume)
