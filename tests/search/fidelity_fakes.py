"""A quality with fidelities: its low rungs are noisy views of the true one, a function of the architecture alone."""

import hashlib

import numpy as np
from search_fakes import latency, loss

from search.objectives import FunctionObjective

TOKENS = 2700  # of a full evaluation


class NoisyQuality:
    """exp(loss) times a log-normal error that shrinks with more text and is 0 on all of it.

    Args:
        noise: standard deviation of the logarithm at 1/27 of the text.
    """

    name = "perplexity"
    unit = ""
    is_free = False

    def __init__(self, noise=0.03):
        self.noise = noise
        self.identity = f"noisy perplexity {noise}"
        self.calls = []  # (architecture, fidelity)

    def tokens(self, fidelity):
        return round(fidelity * TOKENS)

    def at(self, archs, fidelities):
        self.calls += zip(archs, fidelities, strict=True)
        spread = self.noise * np.sqrt((1 / np.array(fidelities) - 1) / 26)
        errors = [normal(f"{arch.id} {fidelity:.6f}") for arch, fidelity in zip(archs, fidelities, strict=True)]
        return np.exp(loss(archs) + spread * errors)

    def __call__(self, archs):
        return self.at(archs, [1.0] * len(archs))


def normal(text):
    """A standard normal number that depends on the text only."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).standard_normal()


def noisy_objectives(noise=0.03):
    return [NoisyQuality(noise), FunctionObjective("latency_ms", latency, unit="ms")]
