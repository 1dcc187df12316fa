"""The last step of a search: a few networks of every front, and the largest one, measured for real.

Fronts of surrogates are compared on what the surrogates believe. Here each search is judged by what its picks turned
out to be: hypervolume of measured latency and perplexity, on one normalisation, with equally many picks a search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw_profiles.device import Workload
from search.live import LivePerplexityObjective
from search.pareto import Normalisation, nondominated, normalised_hypervolume
from search.picks import PICKS, Pick, save_picks
from search.remeasure import Choice, choose, remeasure
from search.result import SearchResult, spread
from supernet.space import SearchSpace

_DRAWS = 400  # of the noise of hypervolumes
_MEDIAN_FACTOR = math.sqrt(math.pi / 2) / 1.349  # of IQR / sqrt(n): standard error of the median of normal samples


@dataclass(frozen=True)
class MeasuredStanding:
    """What the picks of one search turned out to be.

    Attributes:
        name: of the search.
        n_picks: networks of it that are compared, the same for all searches.
        hypervolume: of their measured perplexity and latency.
        noise: standard deviation of that from the noise of the latencies.
        n_on_front: how many of them no compared pick of any search beats in both.
    """

    name: str
    n_picks: int
    hypervolume: float
    noise: float
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

    Every search is judged by equally many picks: those of a search that has more are thinned evenly by latency.
    Hypervolume is normalised by the front of all compared picks; a network that two searches picked counts for both.
    Networks of reference (no search) belong to none.
    """
    groups = equal_picks(picks)
    if not groups:
        return []
    values = {name: np.array([(p.perplexity, p.latency_ms) for p in own]) for name, own in groups.items()}
    everything = np.concatenate(list(values.values()))
    normalisation, front = Normalisation.of(everything), everything[nondominated(everything)]
    standings = [
        MeasuredStanding(
            name=name,
            n_picks=len(own),
            hypervolume=normalised_hypervolume(values[name], normalisation),
            noise=_hypervolume_noise(own, normalisation),
            n_on_front=sum(bool((front == value).all(axis=1).any()) for value in values[name]),
        )
        for name, own in groups.items()
    ]
    return sorted(standings, key=lambda s: -s.hypervolume)


def picks_by_search(picks: Sequence[Pick]) -> dict[str, list[Pick]]:
    """Return the picks of every search by its name, in order; networks of reference are left out."""
    groups: dict[str, list[Pick]] = {}
    for pick in picks:
        if pick.search:
            groups.setdefault(pick.search, []).append(pick)
    return groups


def equal_picks(picks: Sequence[Pick]) -> dict[str, list[Pick]]:
    """Return equally many picks of every search by its name, spread evenly by latency."""
    groups = picks_by_search(picks)
    n = min((len(own) for own in groups.values()), default=0)
    return {name: [own[i] for i in spread([p.latency_ms for p in own], n)] for name, own in groups.items()}


def _hypervolume_noise(picks: Sequence[Pick], normalisation: Normalisation) -> float:
    """Return the standard deviation of the hypervolume when latencies err as medians of their repeats do.

    All perplexities come from the same text, so their error is nearly the same for all and left out.
    """
    values = np.array([(p.perplexity, p.latency_ms) for p in picks])
    errors = np.array([_MEDIAN_FACTOR * p.latency_iqr_ms / math.sqrt(p.n_repeats) for p in picks])
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(_DRAWS):
        latency = values[:, 1] + rng.normal(size=len(picks)) * errors
        draws.append(normalised_hypervolume(np.column_stack([values[:, 0], latency]), normalisation))
    return float(np.std(draws))
