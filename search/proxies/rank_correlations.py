"""How well a proxy ranks networks by quality: Spearman, Kendall, bootstrap intervals and what happens among the best.

A proxy is more is better, quality (perplexity) less is better, as everywhere in `search`. A rank correlation over a
whole set hides how a proxy does where it matters: `top_k` is LTS's own answer (Javaheripi et al. 2022): of the best k
percent by quality, how many are among the best k percent by the proxy, and Spearman's rho inside the true ones.

Resampling is exact and vectorised. With w_i the number of times that network i is drawn and s_ij = sign(x_j - x_i),
twice a centred average rank is (w S)_j, so rho is a weighted correlation of those, and tau-b is
w' (Sx * Sy) w / sqrt(w' Sx^2 w * w' Sy^2 w): copies of one network are ties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
PERCENTS = (10, 30, 50)


@dataclass(frozen=True)
class Interval:
    """A number with its bootstrap percentile interval.

    Attributes:
        value: over all networks.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class TopK:
    """How a proxy does among the best networks.

    Attributes:
        percent: of all networks.
        n: so many networks, int(percent / 100 * all).
        common_ratio: share of them that the proxy also puts among its best n.
        spearman: rho of proxy and quality inside the truly best n; NaN for fewer than 3.
    """

    percent: float
    n: int
    common_ratio: float
    spearman: float


@dataclass(frozen=True)
class RankCorrelation:
    """How one proxy ranks one set of networks.

    Attributes:
        proxy: its name.
        n: networks.
        spearman: rho of proxy and negated quality.
        kendall: tau-b of the same.
        baseline: the proxy it is compared with, and its values over the same networks.
        baseline_spearman: rho of the baseline.
        baseline_kendall: tau-b of the baseline.
        kendall_gain: tau-b minus the baseline's; networks are drawn once for both.
        top: among the best.
    """

    proxy: str
    n: int
    spearman: Interval
    kendall: Interval
    baseline: str
    baseline_spearman: float
    baseline_kendall: float
    kendall_gain: Interval
    top: tuple[TopK, ...]


def rank_correlations(
    proxies: Mapping[str, ArrayLike],
    quality: ArrayLike,
    *,
    baseline: str,
    rng: np.random.Generator,
    n_resamples: int = 2000,
    level: float = 0.95,
    percents: Sequence[float] = PERCENTS,
) -> list[RankCorrelation]:
    """Compare proxies over the same networks and the same resamples of them.

    Args:
        proxies: values (n,) by name, more is better.
        quality: (n,), less is better.
        baseline: the name of the proxy that all are compared with.
        rng: of the resamples.
        n_resamples: resamples of the n networks, with replacement.
        level: of the intervals.
        percents: of `top_k`.

    Raises:
        ValueError: fewer than 3 networks, unequal lengths, NaN, or an unknown baseline.
    """
    losses = np.asarray(quality, dtype=np.float64)
    values = {name: np.asarray(column, dtype=np.float64) for name, column in proxies.items()}
    _check(values, losses, baseline)
    n = len(losses)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)])  # (1 + B, n)
    goal = -_signs(losses)
    found = {name: resampled(_signs(column), goal, weights) for name, column in values.items()}
    base_rho, base_tau = found[baseline]
    return [
        RankCorrelation(
            name, n, _interval(rho, level), _interval(tau, level), baseline, float(base_rho[0]), float(base_tau[0]),
            _interval(tau - base_tau, level), top_k(values[name], losses, percents),
        )
        for name, (rho, tau) in found.items()
    ]  # fmt: skip


def top_k(proxy: ArrayLike, quality: ArrayLike, percents: Sequence[float] = PERCENTS) -> tuple[TopK, ...]:
    """Return how `proxy` (n,), more is better, does among the best by `quality` (n,), less is better.

    Networks that tie at the edge of the proxy's best count by the share of them that has room there (LTS's code takes
    them in the order of the rows). A percentage that gives no network is left out.
    """
    from scipy.stats import spearmanr

    sizes, losses = np.asarray(proxy, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    best = np.argsort(losses, kind="stable")
    out = []
    for percent in percents:
        k = int(percent / 100 * len(losses))
        if k == 0:
            continue
        inside = best[:k]
        varied = k > 2 and len(np.unique(sizes[inside])) > 1 and len(np.unique(losses[inside])) > 1
        rho = float(spearmanr(sizes[inside], -losses[inside]).statistic) if varied else float("nan")
        out.append(TopK(percent, k, float(_membership(sizes, k)[inside].sum()) / k, rho))
    return tuple(out)


def _membership(sizes: Floats, k: int) -> Floats:
    """Return the probability (n,) that each is among the `k` largest when ties are broken at random."""
    edge = np.sort(sizes)[-k]
    above, at = sizes > edge, sizes == edge
    return above + at * (k - above.sum()) / at.sum()


def resampled(x_signs: Floats, y_signs: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return Spearman's rho and Kendall's tau-b (B,) of weighted samples.

    Args:
        x_signs: sign(x_j - x_i), (n, n).
        y_signs: the same of the other variable.
        weights: how often each of n is in each sample, (B, n).
    """
    u, v = weights @ x_signs, weights @ y_signs  # (B, n); their weighted means are 0
    with np.errstate(invalid="ignore", divide="ignore"):  # a sample without variation has no correlation
        rho = (weights * u * v).sum(axis=1) / np.sqrt((weights * u * u).sum(axis=1) * (weights * v * v).sum(axis=1))
        pairs = [((weights @ s) * weights).sum(axis=1) for s in (x_signs * y_signs, x_signs**2, y_signs**2)]
        tau = pairs[0] / np.sqrt(pairs[1] * pairs[2])
    return rho, tau


def _signs(values: Floats) -> Floats:
    return np.sign(values[None, :] - values[:, None])


def _interval(samples: Floats, level: float) -> Interval:
    """Return the first sample, which is the whole set, with quantiles of the others."""
    drawn = samples[1:][np.isfinite(samples[1:])]
    if not np.isfinite(samples[0]) or not len(drawn):
        return Interval(float(samples[0]), float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(samples[0]), float(low), float(high))


def _check(values: Mapping[str, Floats], losses: Floats, baseline: str) -> None:
    if baseline not in values:
        raise ValueError(f"baseline = {baseline!r}; allowed: {', '.join(values)}")
    if losses.ndim != 1 or len(losses) < 3:
        raise ValueError(f"quality has shape {losses.shape}: give (n,) with n >= 3")
    for name, column in {"quality": losses, **values}.items():
        if column.shape != losses.shape or not np.isfinite(column).all():
            raise ValueError(f"{name} has shape {column.shape}: give {losses.shape} finite numbers, as quality has")
