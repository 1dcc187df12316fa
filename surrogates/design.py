"""Which architectures to measure next on a new device. No torch.

D-optimal: those whose measurements tell most about what is linear in width, depth, bias, heads and neurons (Fedorov
1972; greedy, then exchanges; Bayesian, as in Chaloner and Verdinelli 1995, so that it is defined for few rows).
Farthest point: each as far as possible from all others in the same standardised features (Gonzalez 1985).

Shapes: m candidates, r measured rows, k columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supernet.architecture import Architecture
from supernet.encoding import to_genes
from supernet.space import SearchSpace
from surrogates.adaptation_terms import DeviceFeatures

METHODS = ("d_optimal", "farthest_point", "random")
_PRIOR = 0.1  # precision of a coefficient before anything is measured, in measurements
_EXCHANGES = 3  # passes over the chosen rows


def propose(
    space: SearchSpace, n: int, *, measured: Sequence[Architecture] = (), method: str = "d_optimal", seed: int = 0,
    pool: int = 2000,
) -> list[Architecture]:  # fmt: skip
    """Return n architectures to measure next, the same for the same seed.

    Args:
        space: where they come from.
        n: how many.
        measured: members of the space that were measured already; none is proposed again.
        method: "d_optimal", "farthest_point" or "random".
        seed: of the candidates.
        pool: how many random members of the space are the candidates.

    Raises:
        ValueError: an unknown method, n below 1, or a space that holds fewer new architectures than n.
    """
    if n < 1:
        raise ValueError(f"n = {n}: propose at least one architecture")
    measured = list(dict.fromkeys(measured))
    left = space.num_architectures - len(measured)
    rng = np.random.default_rng(seed)
    candidates = space.sample_unique(min(max(pool, n), max(left, n)), rng, exclude=measured)
    features = DeviceFeatures(space)
    table = features(to_genes(space, candidates))
    known = features(to_genes(space, measured)) if measured else table[:0]
    return [candidates[i] for i in choose(table, n, measured=known, method=method, widths=space.n_embd, rng=rng)]


def choose(
    features: np.ndarray, n: int, *, measured: np.ndarray, method: str, widths: Sequence[int],
    rng: np.random.Generator,
) -> list[int]:  # fmt: skip
    """Return the indices of n of the candidates.

    Args:
        features: (m, 5) `adaptation_terms.DeviceFeatures` of the candidates.
        n: how many.
        measured: (r, 5) of what was measured already.
        method: "d_optimal", "farthest_point" or "random".
        widths: the values of n_embd.
        rng: of "random".

    Raises:
        ValueError: an unknown method, or fewer candidates than n.
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r}; allowed: {', '.join(METHODS)}")
    if n > len(features):
        raise ValueError(f"{n} of {len(features)} candidates: give more candidates, or a smaller n")
    if method == "random":
        return [int(i) for i in rng.permutation(len(features))[:n]]
    everything = design_columns(np.concatenate([features, measured]), widths)
    X, known = everything[: len(features)], everything[len(features) :]
    return _d_optimal(X, n, known) if method == "d_optimal" else _farthest(X, n, known)


def design_columns(features: np.ndarray, widths: Sequence[int]) -> np.ndarray:
    """Return for each width its indicator, and there depth, bias, heads and neurons a layer, standardised, (m, k)."""
    width, depth, bias, heads, neurons = features.T
    own = np.column_stack([depth, bias, heads / depth, neurons / (width * depth)])
    spread = own.std(axis=0)
    own = (own - own.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    at = features[:, :1] == np.asarray(widths, float)
    own = np.concatenate([np.ones((len(own), 1)), own], axis=1)
    return np.asarray((at[:, :, None] * own[:, None, :]).reshape(len(own), -1))


def _d_optimal(X: np.ndarray, n: int, known: np.ndarray) -> list[int]:
    """Maximise log det(prior + sum of x x') over n rows: one at a time, then by exchanging each for a better one."""
    inverse = np.linalg.inv(_PRIOR * np.eye(X.shape[1]) + known.T @ known)
    chosen: list[int] = []
    for _ in range(n):
        best = _most_informative(X, inverse, chosen)
        chosen.append(best)
        inverse = _updated(inverse, X[best], 1.0)
    for _ in range(_EXCHANGES):
        before = list(chosen)
        for place in range(n):
            without = _updated(inverse, X[chosen[place]], -1.0)
            others = chosen[:place] + chosen[place + 1 :]
            chosen[place] = _most_informative(X, without, others)
            inverse = _updated(without, X[chosen[place]], 1.0)
        if chosen == before:
            break
    return chosen


def _most_informative(X: np.ndarray, inverse: np.ndarray, taken: Sequence[int]) -> int:
    gain = np.einsum("ij,jk,ik->i", X, inverse, X, optimize=True)
    gain[list(taken)] = -1.0
    return int(gain.argmax())


def _updated(inverse: np.ndarray, x: np.ndarray, sign: float) -> np.ndarray:
    """Return the inverse of A + sign x x', given that of A (Sherman and Morrison 1950)."""
    shift = inverse @ x
    return np.asarray(inverse - sign * np.outer(shift, shift) / (1 + sign * (x @ shift)))


def _farthest(X: np.ndarray, n: int, known: np.ndarray) -> list[int]:
    """Start with the row nearest to the centre, unless rows are known; then the one farthest from all of them."""
    chosen: list[int] = []
    if len(known):
        distance = np.min([((X - row) ** 2).sum(axis=1) for row in known], axis=0)
    else:
        chosen.append(int(((X - X.mean(axis=0)) ** 2).sum(axis=1).argmin()))
        distance = ((X - X[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < n:
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((X - X[chosen[-1]]) ** 2).sum(axis=1))
    return chosen[:n]
