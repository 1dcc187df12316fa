"""LTS's evolutionary search against random search at equal evaluations, replayed on its published networks. No torch.

Two questions, for two oracles (`lts_oracles`). On the table of one device: after so many networks were looked at (size,
latency, memory: no training), the front by decoder parameters and latency is trained; how much of the true front of
perplexity and latency does that give? In the whole space, with fitted costs: how much hypervolume of (decoder
parameters, latency, memory) is found, and how many of the saved networks are matched?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from search.pareto import Floats, Normalisation, nondominated, normalised_hypervolume
from search.proxies.lts_evolution import Sizes, Trace, draw_randomly, evolve
from search.proxies.lts_genes import LTSSpace
from search.proxies.lts_oracles import COSTS, FittedOracle, TableOracle, front_values

TABLE_SIZES = Sizes(parents=2, mutants=4, crossovers=4)  # LTS's, a tenth: a table has 35 to 45 networks
TABLE_EVALUATIONS = (10, 18, 26)
FITTED_EVALUATIONS = (100, 500, 900, 2500)  # 0, 5, 10 (the default) and 30 (the paper) iterations
SEARCHES = ("evolution", "random")
TOLERANCE = 0.02  # a saved network is matched when parameters, latency and memory are at most this share worse


@dataclass(frozen=True)
class TableScore:
    """One search of one seed on the table, after `n_evaluations`.

    Attributes:
        experiment: its name.
        search: "evolution" or "random".
        costs: objectives of the search beside decoder parameters: "latency", or "latency+memory" as LTS.
        seed: of the search.
        n_evaluations: networks looked at.
        n_trained: those on the front of decoder parameters and latency, which are trained.
        recall: share of the true front of (perplexity, latency) among the trained.
        proxy_recall: share of all networks' front of (decoder parameters, latency) among them.
        hypervolume: of the trained in (perplexity, latency), as a share of the true front's.
    """

    experiment: str
    search: str
    costs: str
    seed: int
    n_evaluations: int
    n_trained: int
    recall: float
    proxy_recall: float
    hypervolume: float


@dataclass(frozen=True)
class FittedScore:
    """One search of one seed in the whole space, after `n_evaluations`.

    Attributes:
        experiment: whose saved networks the costs were fitted to.
        search: "evolution" or "random".
        seed: of the search.
        n_evaluations: networks looked at.
        n_front: those on the Pareto front.
        hypervolume: of (decoder parameters, latency, memory), as a share of all searches' and the saved networks'
            together.
        matched: share of the saved networks that some network found matches.
    """

    experiment: str
    search: str
    seed: int
    n_evaluations: int
    n_front: int
    hypervolume: float
    matched: float


def replay_on_table(
    models: pd.DataFrame,
    *,
    seeds: Sequence[int],
    costs: tuple[str, ...] = COSTS,
    evaluations: Sequence[int] = TABLE_EVALUATIONS,
) -> list[TableScore]:
    """Search the trained networks of one experiment with both searches.

    Args:
        models: rows with perplexity, latency and memory.
        seeds: of the searches; both start with the same random networks.
        costs: columns that are objectives of the search beside decoder parameters.
        evaluations: when to score.
    """
    name, space = str(models["experiment"].iloc[0]), LTSSpace(str(models["backbone"].iloc[0]))
    label = "+".join("memory" if cost == "peak_memory_mb" else "latency" for cost in costs)
    scores = []
    for seed in seeds:
        for search in SEARCHES:
            rng = np.random.default_rng(seed)
            oracle = TableOracle(models, space=space, rng=rng, costs=costs)
            trace = _search(search, oracle, rng, max(evaluations), TABLE_SIZES)
            rows = [key[0] for key in trace.keys]
            for n in evaluations:
                scores.append(TableScore(name, search, label, seed, n, *table_score(models, rows[:n])))
    return scores


def table_score(models: pd.DataFrame, rows: Sequence[int]) -> tuple[int, float, float, float]:
    """Return n_trained, recall, proxy_recall and hypervolume of `TableScore` for the rows looked at."""
    true_values = front_values(models, ("latency_ms",), quality="valid_ppl")
    proxy_values = front_values(models, ("latency_ms",))
    true, proxy = nondominated(true_values), nondominated(proxy_values)
    trained = np.asarray(rows)[nondominated(proxy_values[list(rows)])]
    scale = Normalisation.of(true_values)
    share = normalised_hypervolume(true_values[trained], scale) / normalised_hypervolume(true_values, scale)
    return len(trained), float(true[trained].sum() / true.sum()), float(proxy[trained].sum() / proxy.sum()), share


def replay_in_space(
    models: pd.DataFrame, *, seeds: Sequence[int], evaluations: Sequence[int] = FITTED_EVALUATIONS
) -> list[FittedScore]:
    """Search LTS's whole space with costs fitted to one experiment, with both searches.

    Args:
        models: rows with latency and memory.
        seeds: of the searches; both start with the same random networks.
        evaluations: when to score.
    """
    name, space = str(models["experiment"].iloc[0]), LTSSpace(str(models["backbone"].iloc[0]))
    oracle = FittedOracle(models, space=space)
    traces = {
        (search, seed): _search(search, oracle, np.random.default_rng(seed), max(evaluations), Sizes())
        for seed in seeds
        for search in SEARCHES
    }
    saved = oracle.values([], space.genes(models, np.random.default_rng(0)))
    everything = np.concatenate([saved, *(trace.values for trace in traces.values())])
    best = everything[nondominated(everything)]
    scale = Normalisation.of(best)
    whole = normalised_hypervolume(best, scale)
    scores = []
    for (search, seed), trace in traces.items():
        for n in evaluations:
            found = trace.values[:n]
            front = found[nondominated(found)]
            share = normalised_hypervolume(front, scale) / whole
            scores.append(FittedScore(name, search, seed, n, len(front), share, matched_share(front, saved)))
    return scores


def matched_share(found: Floats, saved: Floats, tolerance: float = TOLERANCE) -> float:
    """Return the share of `saved` (k, m) that a point of `found` (n, m) misses by at most `tolerance` in all values.

    Values are minimised and may be negative: the tolerance is of their size.
    """
    allowed = saved + tolerance * np.abs(saved)
    return float(np.mean([(found <= limit).all(axis=1).any() for limit in allowed]))


def _search(name: str, oracle: TableOracle | FittedOracle, rng: np.random.Generator, n: int, sizes: Sizes) -> Trace:
    if name == "evolution":
        return evolve(oracle, rng=rng, n_evaluations=n, sizes=sizes)
    return draw_randomly(oracle, rng=rng, n_evaluations=n)
