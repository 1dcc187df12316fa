"""Random draws that depend on the seed, the network and the target only, not on their order in a batch. No torch.

A counter-based generator: the bits of a draw are a hash (the finaliser of SplitMix64, Steele et al. 2014) of what is
drawn, so two queries with one seed draw the same measurement of the same network, alone or among others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

_GOLDEN, _FIRST, _SECOND = (np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def normal_draws(hashes: np.ndarray, targets: Sequence[str], *, seed: int) -> np.ndarray:
    """Return standard normal draws, (n, t) float64.

    Args:
        hashes: (n,) uint64 of the networks (`gene_hashes`).
        targets: names of the t targets.
        seed: any integer >= 0.

    Raises:
        ValueError: a seed that is no integer >= 0.
    """
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"seed = {seed!r}: give an integer >= 0")
    streams = np.array([_digest(f"{seed} {name}") for name in targets], np.uint64)
    bits = _mixed(hashes[:, None] ^ streams)
    # Box-Muller; the first uniform is never 0, so that its logarithm is finite
    first = ((_mixed(bits + _GOLDEN) >> np.uint64(11)).astype(float) + 1) * 2.0**-53
    second = (_mixed(bits + _GOLDEN + _GOLDEN) >> np.uint64(11)).astype(float) * 2.0**-53
    return np.asarray(np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second))


def gene_hashes(genes: np.ndarray) -> np.ndarray:
    """Return a hash (n,) uint64 of each row of canonical genes (n, g): a sum of hashes of (gene, value)."""
    places = _mixed(np.arange(1, genes.shape[1] + 1, dtype=np.uint64) * _GOLDEN)
    total = np.zeros(len(genes), np.uint64)
    for column, place in enumerate(places):  # a column at a time: batches are long, rows are short
        choices = np.arange(int(genes[:, column].max(initial=0)) + 1, dtype=np.uint64)
        total += _mixed(place + choices * _GOLDEN)[genes[:, column]]
    return total


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _mixed(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return np.asarray(bits ^ (bits >> np.uint64(31)))
