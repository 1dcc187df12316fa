import numpy as np
import pytest

from pruning.level_noise import shrunk_levels

MISSING = np.linspace(0.1, 1.0, 10)


def noisy(truth, sigma, seed):
    ratios = truth + sigma * np.random.default_rng(seed).normal(size=len(truth))
    return ratios, ratios - 1.96 * sigma, ratios + 1.96 * sigma


def errors(truth, sigma):
    """Return root mean squares, of the measurements and of what becomes of them, over 50 draws."""
    found = []
    for seed in range(50):
        ratios, low, high = noisy(truth, sigma, seed)
        found.append([np.square(x - truth).mean() for x in (ratios, shrunk_levels(MISSING, ratios, low, high))])
    return np.sqrt(np.mean(found, axis=0))


def test_levels_on_a_line_lose_their_noise():
    measured, left = errors(1 - 0.4 * MISSING, 0.03)
    assert measured == pytest.approx(0.03, rel=0.1) and left < 0.6 * measured


def test_steps_that_noise_does_not_explain_stay():
    stairs = 1 - 0.4 * np.ceil(MISSING * 3) / 3
    measured, left = errors(stairs, 0.005)
    assert left < 1.1 * measured
    exact = shrunk_levels(MISSING, stairs, stairs, stairs)
    assert exact == pytest.approx(stairs, abs=1e-3)


def test_a_line_measured_exactly_stays():
    line = 1 - 0.4 * MISSING
    assert shrunk_levels(MISSING, line, line, line) == pytest.approx(line, abs=1e-12)


def test_one_level_says_nothing_of_its_noise():
    assert shrunk_levels(np.array([0.5]), np.array([0.7]), np.array([0.6]), np.array([0.8])) == pytest.approx([0.7])
    assert len(shrunk_levels(np.empty(0), np.empty(0), np.empty(0), np.empty(0))) == 0
