"""Statistics over paired runs: quartiles, Wilcoxon's signed-rank test with Holm's correction, average ranks.

Runs are paired by seed: seed s of two methods meets the same case. Lower is better everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from search.pareto import Floats

ROUNDING = 1e-12  # differences below it come from the order of summation: the values are equal
LEVEL = 0.05  # of significance, after correction
_MOST_EXACT = 50  # pairs


@dataclass(frozen=True)
class Quartiles:
    """The middle half of some values, and how many there are."""

    low: float
    median: float
    high: float
    n: int


def quartiles(values: ArrayLike) -> Quartiles:
    """Return quartiles of the values that are not NaN; an infinite neighbour makes the upper one of two count.

    Example:
        >>> quartiles([1, 2, 3, 4, float("nan")])
        Quartiles(low=1.75, median=2.5, high=3.25, n=4)
    """
    found = np.asarray(values, dtype=np.float64).ravel()
    found = found[~np.isnan(found)]
    if not len(found):
        return Quartiles(float("nan"), float("nan"), float("nan"), 0)
    low, median, high = np.quantile(found, [0.25, 0.5, 0.75], method="linear" if np.isfinite(found).all() else "higher")
    return Quartiles(float(low), float(median), float(high), len(found))


@dataclass(frozen=True)
class PairedTest:
    """Two methods on the same seeds.

    Attributes:
        n: pairs.
        difference: the median of first minus second; below 0 where the first is better.
        p: of the two-sided signed-rank test; 1 where all pairs are equal, NaN without pairs.
    """

    n: int
    difference: float
    p: float


def signed_rank(first: Mapping[int, float], second: Mapping[int, float]) -> PairedTest:
    """Test whether two methods differ, by the seeds that both have; pairs that are equal are left out.

    Exact up to 50 pairs, also with ties (then given the ranks); the normal approximation beyond.

    Args:
        first: value by seed.
        second: likewise.
    """
    seeds = sorted(first.keys() & second.keys())
    differences = np.array([first[s] - second[s] for s in seeds], dtype=np.float64)
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return PairedTest(0, float("nan"), float("nan"))
    differences[np.abs(differences) < ROUNDING] = 0.0
    middle = float(np.median(differences))
    unequal = differences[differences != 0]
    if not len(unequal):
        return PairedTest(len(differences), middle, 1.0)
    return PairedTest(len(differences), middle, _signed_rank_p(unequal))


def _signed_rank_p(differences: Floats) -> float:
    from scipy.stats import rankdata, wilcoxon  # takes longer to import than all else here

    if len(differences) > _MOST_EXACT:
        return float(wilcoxon(differences).pvalue)
    doubled = np.rint(2 * rankdata(np.abs(differences))).astype(int)  # ties share a half rank at the finest
    positive = int(doubled[differences > 0].sum())
    chances = _rank_sums(tuple(sorted(doubled.tolist())))
    tails = chances[: positive + 1].sum(), chances[positive:].sum()
    return float(min(1.0, 2 * min(tails)))


@lru_cache(maxsize=1024)
def _rank_sums(ranks: tuple[int, ...]) -> Floats:
    """Return the chance of every sum of positive ranks when each sign is a fair coin."""
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[:-rank]
        chances = (chances + shifted) / 2
    return chances


def holm(p_values: ArrayLike) -> Floats:
    """Return p-values (n,) adjusted for a family of tests (Holm 1979); NaN is no test and stays NaN.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")[: int((~np.isnan(p)).sum())]  # NaN is sorted to the end
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order])) if len(order) else 0.0
    return adjusted


@dataclass(frozen=True)
class MeanRanks:
    """Average ranks of methods, 1 for the best, with bootstrap intervals; arrays (methods,)."""

    mean: Floats
    low: Floats
    high: Floats


def mean_ranks(
    values: ArrayLike, rng: np.random.Generator, *, clusters: Sequence[str] | None = None, n_resamples: int = 2000
) -> MeanRanks:
    """Return ranks averaged over units (a case, or a width of one), with 95 % intervals over resampled clusters.

    Args:
        values: (units, methods), lower is better, no NaN; equal values share a rank.
        rng: draws the resamples.
        clusters: (units,) what belongs together and is resampled together (widths of one case); None for each alone.
        n_resamples: of the bootstrap.
    """
    from scipy.stats import rankdata

    table = np.asarray(values, dtype=np.float64)
    ranks = np.asarray(rankdata(np.round(table, 12), axis=1), dtype=np.float64).reshape(table.shape)
    names = np.arange(len(table)).astype(str) if clusters is None else np.asarray(clusters)
    parts = np.array([ranks[names == name].mean(axis=0) for name in dict.fromkeys(names.tolist())])
    drawn = parts[rng.integers(0, len(parts), (n_resamples, len(parts)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return MeanRanks(parts.mean(axis=0), low, high)


def geometric_mean(values: ArrayLike, floor: float) -> float:
    """Return the geometric mean; values below `floor` count as it. NaN where a value is NaN or there is none."""
    found = np.asarray(values, dtype=np.float64)
    return float(np.exp(np.log(np.maximum(found, floor)).mean())) if len(found) else float("nan")
