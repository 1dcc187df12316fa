"""The parameter-count baseline: search with decoder parameters in place of perplexity, then evaluate that front.

LTS (Javaheripi et al. 2022) observed that the number of decoder parameters ranks language models almost as perplexity
does. So the front of (most parameters, least latency) costs no evaluation of quality; only its members are then
evaluated on the true objectives. A search that cannot beat this is not worth its evaluations. The proxy is strong over
a whole space and much weaker among networks of one width, so `rank_scores` reports both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from search.algorithms.nsga2 import NSGA2
from search.budget import Budget, Constraint, constrain
from search.objectives import CostObjective, NegatedObjective, Objective, free_objectives
from search.result import SearchResult, spread
from search.run import Problem, run_search
from supernet.architecture import Architecture
from supernet.space import SearchSpace


def parameter_count_front(
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    proxy: Objective | None = None,
    n_free_evaluations: int = 20_000,
    population: int = 100,
    seed: int = 0,
    budgets: Sequence[Budget | Constraint] = (),
) -> SearchResult:
    """Search the free objectives with the parameter count in place of those that cost an evaluation of quality.

    Args:
        space: where to search.
        objectives: those of the search; their free ones (latency, energy, ...) are kept.
        proxy: what to maximise; None for decoder parameters.
        n_free_evaluations: evaluations of proxy and free objectives.
        population: of the NSGA-II that does it.
        seed: of that search.
        budgets: hard limits; those on a quality cannot hold here and are left to `evaluate_front`.

    Raises:
        ValueError: the objectives leave nothing to do: none is free, or all are.
    """
    free = free_objectives(objectives, "the parameter-count baseline")
    proxy = proxy or CostObjective("n_params_decoder", space.model_config)
    return run_search(
        space,
        [NegatedObjective(proxy), *free],
        algorithm=partial(NSGA2, population=population),
        n_evaluations=n_free_evaluations,
        batch=population,
        seed=seed,
        budgets=[c for c in constrain(budgets, objectives, space) if c.objective.is_free],
    )


def evaluate_front(
    free: SearchResult,
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    n_evaluations: int,
    name: str = "parameter_count",
    budgets: Sequence[Budget | Constraint] = (),
) -> SearchResult:
    """Evaluate the front of a free search on the true objectives.

    Args:
        free: what `parameter_count_front` gives.
        space: the space searched.
        objectives: the true objectives.
        n_evaluations: at most so many architectures, spread evenly along the front's last free objective,
            in an order whose beginnings are spread too.
        name: what the result calls its algorithm.
        budgets: hard limits.
    """
    front = free.front
    places = spread(front[free.names[-1]].to_numpy(dtype=np.float64), n_evaluations)
    chosen = [Architecture.from_id(front["architecture"][places[i]]) for i in _coarse_to_fine(len(places))]
    problem = Problem(space, tuple(objectives), tuple(constrain(budgets, objectives, space)))
    evaluations = problem.evaluate(chosen)
    evaluations.insert(0, "order", np.arange(len(chosen)))
    return SearchResult(
        evaluations=evaluations,
        objectives=problem.info(),
        algorithm=name,
        seed=free.seed,
        seconds=free.seconds,
        details={"space": space.name, "n_free_evaluations": len(free.evaluations), "n_free_front": len(front)},
    )


def _coarse_to_fine(n: int) -> list[int]:
    """Return 0 .. n-1 ordered so that every beginning of the list is spread over the whole (bit reversal)."""
    bits = max(1, (n - 1).bit_length())
    return sorted(range(n), key=lambda i: int(format(i, f"0{bits}b")[::-1], 2))


@dataclass(frozen=True)
class RankScore:
    """How well a proxy ranks networks by quality, over `n` of them.

    Attributes:
        group: "all", or the width that all of them share.
        n: networks with both numbers.
        kendall: Kendall's tau-b of proxy and negated quality; NaN with fewer than 3 networks or without variation.
        spearman: Spearman's rho, likewise.
    """

    group: str
    n: int
    kendall: float
    spearman: float


def rank_scores(archs: Sequence[Architecture], proxy: ArrayLike, quality: ArrayLike) -> list[RankScore]:
    """Return how `proxy` (n,), more is better, ranks `quality` (n,), less is better: over all and within each width.

    The architectures should be a random sample: a front is a biased one.
    """
    sizes, losses = np.asarray(proxy, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    widths = np.array([arch.n_embd for arch in archs])
    good = np.isfinite(sizes) & np.isfinite(losses)
    scores = [_rank_score("all", sizes[good], losses[good])]
    for width in np.unique(widths[good]):
        members = good & (widths == width)
        scores.append(_rank_score(f"n_embd {width}", sizes[members], losses[members]))
    return scores


def _rank_score(group: str, proxy: np.ndarray, quality: np.ndarray) -> RankScore:
    from scipy.stats import kendalltau, spearmanr

    n = len(proxy)
    if n < 3 or len(np.unique(proxy)) == 1 or len(np.unique(quality)) == 1:
        return RankScore(group, n, float("nan"), float("nan"))
    kendall, spearman = kendalltau(proxy, -quality).statistic, spearmanr(proxy, -quality).statistic
    return RankScore(group, n, float(kendall), float(spearman))
