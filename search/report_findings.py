"""What a run shows: hypervolumes of what was measured again, rank correlations, the result in a sentence. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.baseline import rank_scores
from search.figure_style import search_label
from search.final import measured_standings
from search.objectives import QUALITY_METRICS
from search.pareto import Normalisation
from search.report_data import ReportData
from search.result import SearchResult
from supernet.architecture import Architecture
from supernet.cost import parameter_counts

if TYPE_CHECKING:
    import pandas as pd

BASELINE, RANDOM = "parameter_count", "random"
TIE = 0.01  # relative difference of hypervolume below which two searches are called level


@dataclass(frozen=True)
class Contest:
    """Hypervolumes of searches on one normalisation (reference 1.1 in every objective), the best first.

    Attributes:
        is_measured: of picks that were measured again; otherwise of the values that the searches saw.
        names: of the searches.
        hypervolumes: likewise.
        noise: one standard deviation from the spread of the latencies; 0 where it is not known.
        counts: picks, or evaluations, that the hypervolume is of.
    """

    is_measured: bool
    names: tuple[str, ...]
    hypervolumes: tuple[float, ...]
    noise: tuple[float, ...]
    counts: tuple[int, ...]

    def rank_of(self, name: str) -> int:
        """Return the place of a search, 0 for the best."""
        return self.names.index(name)


def measured_contest(data: ReportData) -> Contest | None:
    """Compare searches by their picks as measured, at equal numbers of picks; None with fewer than two searches."""
    standings = measured_standings(data.picks)
    if len(standings) < 2:
        return None
    return _contest({s.name: (s.hypervolume, s.noise, s.n_picks) for s in standings}, is_measured=True)


def searched_contest(data: ReportData) -> Contest | None:
    """Compare searches of the same objectives by the values they saw; None with fewer than two."""
    results = comparable_searches(data)
    if len(results) < 2:
        return None
    normalisation = shared_by(results)
    if normalisation is None:
        return None
    scored = {name: (r.hypervolume(normalisation), 0.0, len(r.evaluations)) for name, r in results.items()}
    return _contest(scored, is_measured=False)


def comparable_searches(data: ReportData) -> dict[str, SearchResult]:
    """Return the largest set of searches whose objectives are the same, from the same sources."""
    groups: dict[tuple[tuple[str, str], ...], dict[str, SearchResult]] = {}
    for name, result in data.searches.items():
        groups.setdefault(tuple((o.name, o.identity) for o in result.objectives), {})[name] = result
    return max(groups.values(), key=len, default={})


def shared_by(results: Mapping[str, SearchResult]) -> Normalisation | None:
    """Return the normalisation by everything the searches found; None where nothing is feasible."""
    values = np.concatenate([result.values for result in results.values()])
    return Normalisation.of(values) if np.isfinite(values).all(axis=1).any() else None


def _contest(scored: Mapping[str, tuple[float, float, int]], *, is_measured: bool) -> Contest:
    names = sorted(scored, key=lambda name: -scored[name][0])
    volumes, noise, counts = zip(*(scored[name] for name in names), strict=True)
    return Contest(is_measured, tuple(names), volumes, noise, counts)


# --- what was measured --------------------------------------------------------------------------------------------


def primary_latency(data: ReportData) -> pd.DataFrame | None:
    """Return the latency measurements of the device and workload with the most rows; None without any."""
    if data.measurements is None:
        return None
    rows = data.measurements[data.measurements["metric"] == "latency_ms"]
    if rows.empty:
        return None
    groups = [group for _, group in rows.groupby(["device", "workload"])]
    return max(groups, key=len)


def measured_networks(data: ReportData) -> pd.DataFrame:
    """Return one row a measured network: architecture, latency_ms, perplexity, n_params_decoder; NaN where unknown."""
    import pandas as pd

    columns = {}
    latency = primary_latency(data)
    if latency is not None:
        columns["latency_ms"] = latency.groupby("architecture")["adjusted_median"].median()
    if data.measurements is not None:
        rows = data.measurements[data.measurements["metric"] == "perplexity"]
        if len(rows):
            columns["perplexity"] = rows.groupby("architecture")["median"].median()
    frame = (
        pd.DataFrame(columns).reindex(columns=["latency_ms", "perplexity"]).rename_axis("architecture").reset_index()
    )
    archs = [Architecture.from_id(text) for text in frame["architecture"]]
    can_count = data.space is not None and len(archs) > 0
    decoder = parameter_counts(data.space.model_config, archs).decoder if can_count else np.nan  # type: ignore[union-attr]
    return frame.assign(n_params_decoder=decoder)


# --- rank correlations --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RankRow:
    """How well one predictor ranks networks by one measured metric; positive is the right direction.

    Attributes:
        metric: what was measured.
        predictor: what ranks.
        n: networks.
        kendall: Kendall's tau-b over all of them.
        spearman: Spearman's rho over all of them.
        kendall_within_width: mean of Kendall's tau among networks of one width, weighted by their number.
    """

    metric: str
    predictor: str
    n: int
    kendall: float
    spearman: float
    kendall_within_width: float


def rank_table(data: ReportData) -> list[RankRow]:
    """Return the rank correlations of surrogates, linear baselines and parameter count with what was measured."""
    rows = [_rank_row(p.metric, p.label, p.architectures, -p.predicted, p.measured) for p in data.predictions]
    networks = measured_networks(data)
    archs = tuple(Architecture.from_id(text) for text in networks["architecture"])
    size = networks["n_params_decoder"].to_numpy(dtype=float)
    for metric, sign in (("latency_ms", -1.0), ("perplexity", 1.0)):
        row = _rank_row(metric, "decoder parameters", archs, sign * size, networks[metric].to_numpy(dtype=float))
        rows += [row] if row.n >= 3 else []
    return sorted(rows, key=lambda row: row.metric)


def _rank_row(
    metric: str, predictor: str, archs: Sequence[Architecture], proxy: np.ndarray, measured: np.ndarray
) -> RankRow:
    overall, *inside = rank_scores(archs, proxy, measured)
    known = [(s.kendall, s.n) for s in inside if np.isfinite(s.kendall)]
    total = sum(n for _, n in known)
    within = sum(tau * n for tau, n in known) / total if total else float("nan")
    return RankRow(metric, predictor, overall.n, overall.kendall, overall.spearman, within)


# --- the sentence -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Headline:
    """The result of a run.

    Attributes:
        verdict: one sentence.
        detail: the numbers behind it.
    """

    verdict: str
    detail: str


def headline(data: ReportData) -> Headline:
    """Return the result of the run, of what was measured again where there is such."""
    contest = measured_contest(data) or searched_contest(data)
    if contest is not None:
        return Headline(_verdict(contest), _detail(contest, data))
    if data.searches:
        name, result = next(iter(data.searches.items()))
        verdict = f"{search_label(name)} found a front of {len(result.front):,} networks."
        return Headline(
            verdict, f"It evaluated {len(result.evaluations):,}. There is no other search to compare it with."
        )
    if data.measurements is not None:
        n = data.measurements["architecture"].nunique()
        return Headline(f"{n:,} sub-networks were measured.", "Nothing was searched yet.")
    if data.training is not None:
        return Headline("A supernet was trained.", "Nothing was measured or searched yet.")
    return Headline("This run holds no training, no measurements and no search.", "")


def _verdict(contest: Contest) -> str:
    """Return how the search did against the parameter count, and how random search did against it."""
    names = set(contest.names)
    main = next((n for n in contest.names if n not in (BASELINE, RANDOM)), None)
    if main is None or BASELINE not in names:
        best, other = contest.names[:2]
        text = f"{search_label(best)} {_margin(contest, best, other)} {search_label(other)}"
        return text + ("." if BASELINE in names else "; there is no parameter-count baseline to compare with.")
    relation = _margin(contest, main, BASELINE)
    text = f"{search_label(main)} {relation} the parameter-count baseline"
    if relation.startswith("is level"):
        text += ": ranking by decoder parameters does as well here"
    elif relation.endswith("behind"):
        text += ": ranking by decoder parameters is the better choice here"
    if RANDOM in names:
        text += f"; random search {_margin(contest, RANDOM, main)} {search_label(main)}"
    return text + "."


def _margin(contest: Contest, a: str, b: str) -> str:
    """Return how `a` did against `b` in words; level within 1 % or two standard deviations of the difference."""
    i, j = contest.rank_of(a), contest.rank_of(b)
    x, y = contest.hypervolumes[i], contest.hypervolumes[j]
    if abs(x - y) <= max(2 * math.hypot(contest.noise[i], contest.noise[j]), TIE * max(x, y)):
        return "is level with"
    by = f"{100 * abs(x / y - 1):.1f} % " if y else ""
    return f"is {by}ahead of" if x > y else f"is {by}behind"


def _detail(contest: Contest, data: ReportData) -> str:
    if contest.is_measured:
        shown = (f"{search_label(n)} {v:.3f}\u00a0±\u00a0{e:.3f}" for n, v, e in
                 zip(contest.names, contest.hypervolumes, contest.noise, strict=True))  # fmt: skip
        basis = f"of {contest.counts[0]} networks each, timed and evaluated again after the search"
    else:
        shown = (f"{search_label(n)} {v:.3f} after {c:,} evaluations" for n, v, c in
                 zip(contest.names, contest.hypervolumes, contest.counts, strict=True))  # fmt: skip
        basis = "by the values that the searches used; nothing was measured again"
    where = f" Searched: space {data.space.name}" if data.space is not None else ""
    device = next((p.device for p in data.picks if p.device), None)
    on = f", on {device}" if where and device else ""
    return f"Hypervolume {basis}: {', '.join(shown)}.{where}{on}{'.' if where else ''}"


def objective_axes(result: SearchResult) -> tuple[int, int] | None:
    """Return the indices of the hardware objective (x axis) and the quality objective (y axis); None without both."""
    quality = next((i for i, name in enumerate(result.names) if name in QUALITY_METRICS), None)
    hardware = next((i for i, name in enumerate(result.names) if name not in QUALITY_METRICS), None)
    return None if quality is None or hardware is None else (hardware, quality)
