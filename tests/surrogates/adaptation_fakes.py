"""A space's surrogate with made-up devices, and new devices near to and far from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from surrogate_data import small_space

from supernet.architecture import Architecture
from supernet.encoding import to_genes
from supernet.space import SearchSpace
from surrogates.adaptation_terms import DeviceFeatures, costs
from surrogates.campaign import TargetKey

DEVICES = ("a100", "h100", "v100", "cpu-a", "cpu-b")


class FakeModel:
    """Latency of five devices, energy and memory of two: positive sums of exact costs, other ones for each width."""

    def __init__(self, space: SearchSpace | None = None, *, seed: int = 0) -> None:
        self.space = space or small_space()
        self.features = DeviceFeatures(self.space)
        pairs = [("latency_ms", d) for d in DEVICES] + [("energy_mj", "a100"), ("memory_mib", "a100")]
        self.targets = tuple(TargetKey(*pair) for pair in pairs)
        rng = np.random.default_rng(seed)
        shared = rng.uniform(0.5, 1.5, (1, 8, 1))
        self.coef = shared * np.exp(0.3 * rng.standard_normal((len(self.space.n_embd), 8, len(pairs))))
        self.level = np.exp(rng.normal(0, 1, len(pairs)))

    def predict(self, genes: np.ndarray) -> np.ndarray:
        table = costs(self.features(genes))
        table = table / self._typical
        return np.einsum("nc,nct->nt", table, self.coef[genes[:, 0]]) * self.level

    @property
    def _typical(self) -> np.ndarray:
        sizes = to_genes(self.space, [self.space.largest()])
        return costs(self.features(sizes))[0]

    def of(self, archs: Sequence[Architecture]) -> np.ndarray:
        return self.predict(to_genes(self.space, archs))


def near(model: FakeModel, archs: Sequence[Architecture]) -> np.ndarray:
    """A device that is 0.7 of one source, 0.4 of another, and a fixed time."""
    medians = model.of(archs)
    return 0.7 * medians[:, 0] + 0.4 * medians[:, 3] + 0.05 * model.level[0]


def far(model: FakeModel, archs: Sequence[Architecture]) -> np.ndarray:
    """A device that only sees depth and heads: no source does."""
    features = model.features(to_genes(model.space, archs))
    return 3.0 + 0.5 * features[:, 1] + 0.02 * features[:, 3]
