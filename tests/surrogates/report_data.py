"""Synthetic held-out targets for the tests of accuracy reports and figures."""

from __future__ import annotations

import numpy as np
from scipy import stats

from surrogates.accuracy_report import TargetTest
from surrogates.held_out import LEVELS


def target_test(
    device: str = "a100", *, metric: str = "latency_ms", space: str = "gpt-x", n: int = 600, error: float = 0.02,
    drift: float = 0.0, repeats: int = 10, spread: float | None = None, seed: int = 0,
) -> TargetTest:  # fmt: skip
    """Return a target whose log errors are normal, with a sine of drift and a `spread` that the intervals assume."""
    shared = np.random.default_rng(1)  # the same networks for every device
    widths = shared.choice([32, 64, 128], n)
    parameters = np.round(1e4 * widths * shared.uniform(1, 1.6, n))
    rng = np.random.default_rng(seed)
    truth = parameters**0.9 * np.exp(0.03 * rng.standard_normal(n))
    adjusted = truth * np.exp(error * rng.standard_normal(n))
    raw = adjusted * np.exp(drift * np.sin(np.arange(n) / 20))
    quantiles = truth[:, None] * np.exp((spread or error) * stats.norm.ppf(LEVELS))
    wide = truth[:, None] * np.exp(np.hypot(spread or error, drift / np.sqrt(2)) * stats.norm.ppf(LEVELS))
    samples = raw[:, None] * np.exp(0.01 * rng.standard_normal((n, repeats)))
    return TargetTest(
        space, metric, device, 5000, raw, adjusted, truth, widths, LEVELS, quantiles, wide, parameters,
        samples if repeats > 1 else None, {"linear": truth * 1.05},
    )  # fmt: skip
