"""Levels of a part measured with noise, drawn towards a line through their work: empirical Bayes. No torch.

A search takes what came out too cheap by chance, so noise of single levels is not harmless: it is found. Here a level's
latency is taken to be the whole part's, less in proportion to the work that is missing, plus its own deviation, which
varies between levels by tau. tau is what their scatter about the line leaves after the noise of the measurements. Where
a device has steps that noise does not explain, tau is large and levels stay as measured; where it has none they end on
the line (Efron and Morris 1975).

Shapes: n levels.
"""

from __future__ import annotations

import numpy as np

_WIDTH = 2 * 1.96  # of a 95 % interval, in standard deviations
_LEAST_NOISE = 1e-7
_ROUNDS = 20  # until tau settles


def shrunk_levels(missing: np.ndarray, ratios: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return latency ratios with less noise, (n,).

    Args:
        missing: work of the whole part less that of each level, in any unit, (n,); positive.
        ratios: latency of each level over the whole part's network, (n,).
        low: lower ends of their 95 % intervals, (n,).
        high: upper ends.
    """
    noise = np.maximum((np.asarray(high) - np.asarray(low)) / _WIDTH, _LEAST_NOISE) ** 2
    less, tau = 1.0 - np.asarray(ratios, float), 0.0
    if len(less) < 2:
        return 1.0 - less
    for _ in range(_ROUNDS):
        weights = 1 / (noise + tau)
        slope = (weights @ (missing * less)) / (weights @ np.square(missing))
        deviation = less - slope * missing
        tau = max(0.0, float(deviation @ deviation) / (len(less) - 1) - float(noise.mean()))
    return 1.0 - (slope * missing + tau / (tau + noise) * deviation)
