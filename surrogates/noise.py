"""Repeat-to-repeat noise: how large it is for a network, and what it leaves to predict (split-half ceilings). No torch.

Noise is what differs between repeats of one measurement. Drift between hours does not show in it, so a ceiling made of
repeats is an upper bound of what a surrogate can reach on measurements that drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from surrogates.scale import ScaleModel
from surrogates.validation import kendall, rank_correlations

_WINSORISED = 0.2  # share of the repeats at either end that count as the next one inside


def repeat_std(repeats: np.ndarray) -> np.ndarray:
    """Return a robust standard deviation of the logarithm of repeats, one a row, (n,); NaN for fewer than 2.

    The first repeat is left out where there are at least 3: without a warm-up it is far off. Of the others, a fifth at
    either end count as the next one inside (a winsorised standard deviation), divided by what normal variables of
    standard deviation 1 give. Unlike a median of deviations it is rarely 0 for values that were printed coarsely.

    Args:
        repeats: (n, r) positive, in the order they were taken; NaN where a row has fewer.

    Raises:
        ValueError: another shape, or repeats that are not positive.
    """
    logs = _logs(repeats)
    counts = (~np.isnan(logs)).sum(axis=1)
    std = np.full(len(logs), np.nan)
    for count in np.unique(counts[counts >= 2]):
        rows = counts == count
        taken = logs[rows][~np.isnan(logs[rows])].reshape(-1, count)
        std[rows] = _winsorised_std(taken[:, 1:] if count >= 3 else taken)
    return std


@dataclass(frozen=True)
class NoiseModel:
    """The size of the noise of t targets as a function of the network.

    Attributes:
        known: (t,) which targets were repeated at all.
        scale: of those that were.
    """

    known: np.ndarray
    scale: ScaleModel

    @classmethod
    def fit(cls, std: np.ndarray, widths: np.ndarray, features: np.ndarray | None = None) -> NoiseModel:
        """Fit standard deviations of repeats.

        Args:
            std: (n, t) what `repeat_std` gives, NaN where there is none.
            widths: (n,) network widths.
            features: (n, k) what else noise may depend on, e.g. the logarithm of the parameters; None for nothing.

        Raises:
            ValueError: shapes that do not match, or no target that was repeated.
        """
        std = np.asarray(std, float)
        known = ~np.isnan(std).all(axis=0)
        if not known.any():
            raise ValueError("no target was measured more than once: there is no noise to learn")
        return cls(known, ScaleModel.fit(std[:, known], widths, features))

    def predict(self, widths: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
        """Return the standard deviation of the logarithm of one repeat, (n, t); NaN where nothing was repeated."""
        std = np.full((len(widths), len(self.known)), np.nan)
        std[:, self.known] = self.scale.predict(widths, features)
        return std

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays."""
        return {"known": self.known} | {f"scale.{name}": value for name, value in self.scale.arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> NoiseModel:
        """Read what `arrays` gave."""
        scale = {k.removeprefix("scale."): v for k, v in arrays.items() if k.startswith("scale.")}
        return cls(np.asarray(arrays["known"]), ScaleModel.from_arrays(scale))


@dataclass(frozen=True)
class Ceiling:
    """Rank correlations that noise leaves possible; NaN where nothing was repeated.

    Attributes:
        half_kendall: between medians of the odd and of the even repeats: two measurements with half the repeats each.
        half_spearman: the same, Spearman's rho.
        full_kendall: estimate of what a perfect prediction would have with the median of all repeats.
        full_spearman: the same, Spearman's rho.
        half_kendall_within: `half_kendall` inside each width, mean weighted by rows.
        full_kendall_within: `full_kendall` inside each width, mean weighted by rows.
    """

    half_kendall: float
    half_spearman: float
    full_kendall: float
    full_spearman: float
    half_kendall_within: float
    full_kendall_within: float


def ceiling(
    repeats: np.ndarray | None, *, widths: np.ndarray, rng: np.random.Generator, draws: int = 20
) -> Ceiling:  # fmt: skip
    """Return split-half correlations of repeats, and their correction to all repeats.

    The Spearman-Brown formula is Pearson's, so the correction is by simulation: half the log difference d between the
    medians of the two halves has the variance that the median of all repeats has (exactly so for means). The measured
    medians stand for the truth, every one is moved by +-d / 2 of a random network of its width, and the result is
    ranked against them; the mean over `draws`. Slightly too high: measured medians are more spread than the truth.

    Args:
        repeats: (n, r) positive; None, or fewer than 2 in a row, for no repeats.
        widths: (n,) network widths.
        rng: of the simulation.
        draws: how often.
    """
    nan = float("nan")
    if repeats is None or repeats.shape[1] < 2 or len(repeats) < 2:
        return Ceiling(nan, nan, nan, nan, nan, nan)
    logs, widths = _logs(repeats), np.asarray(widths)
    rows = (~np.isnan(logs)).sum(axis=1) >= 2
    if rows.sum() < 2:
        return Ceiling(nan, nan, nan, nan, nan, nan)
    logs, widths = logs[rows], widths[rows]
    odd, even = np.nanmedian(logs[:, ::2], axis=1), np.nanmedian(logs[:, 1::2], axis=1)
    truth = np.nanmedian(logs, axis=1)
    half = rank_correlations(odd, even)
    full, inside = [], []
    for _ in range(draws):
        moved = truth + _drawn((odd - even) / 2, widths, rng)
        full.append(rank_correlations(truth, moved))
        inside.append(_within(truth, moved, widths))
    tau, rho = np.mean(full, axis=0)
    return Ceiling(
        *half, float(tau), float(rho), _within(odd, even, widths), float(np.mean(inside))
    )  # fmt: skip


def _drawn(deviations: np.ndarray, widths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return deviations of random rows of the same width, their median taken out, with random signs."""
    drawn = np.empty(len(deviations))
    for width in np.unique(widths):
        inside = np.flatnonzero(widths == width)
        centred = deviations[inside] - np.median(deviations[inside])  # a slow first repeat is no noise
        drawn[inside] = rng.choice(centred, len(inside)) * rng.choice([-1.0, 1.0], len(inside))
    return drawn


def _within(a: np.ndarray, b: np.ndarray, widths: np.ndarray) -> float:
    """Return Kendall's tau inside widths, weighted by rows; NaN where no width has one."""
    known = [(kendall(a[rows], b[rows]), rows.sum()) for rows in (widths == w for w in np.unique(widths))]
    known = [(tau, n) for tau, n in known if np.isfinite(tau)]
    return float(np.average([t for t, _ in known], weights=[n for _, n in known])) if known else float("nan")


def _logs(repeats: np.ndarray) -> np.ndarray:
    repeats = np.asarray(repeats, float)
    if repeats.ndim != 2:
        raise ValueError(f"repeats have shape {repeats.shape}: give (n, r), NaN where a row has fewer")
    if (repeats <= 0).any() or np.isinf(repeats).any():
        raise ValueError("repeats are finite and above 0: leave the others out")
    return np.log(repeats)


def _winsorised_std(values: np.ndarray) -> np.ndarray:
    count = values.shape[1]
    return _raw_winsorised_std(values) / _expected_std(count)


def _raw_winsorised_std(values: np.ndarray) -> np.ndarray:
    count = values.shape[1]
    cut = int(_WINSORISED * count)
    ordered = np.sort(values, axis=1)
    return np.clip(values, ordered[:, cut, None], ordered[:, count - 1 - cut, None]).std(axis=1, ddof=1)


@lru_cache
def _expected_std(count: int) -> float:
    """Return the mean winsorised standard deviation of `count` standard normal draws, by simulation."""
    draws = np.random.default_rng(0).standard_normal((40_000, count))
    return float(_raw_winsorised_std(draws).mean())
