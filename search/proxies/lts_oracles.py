"""What LTS's search is replayed on: its saved networks, or its whole space with costs fitted to them. No torch.

The saved networks are what survived LTS's own search, 35 to 45 a device, so they lie almost all on one front and
leave a search little to find. Therefore there are two oracles: `TableOracle` knows measured values of these networks
and nothing else, and `FittedOracle` gives costs anywhere in LTS's space, from linear models fitted to the same rows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.proxies.lts_genes import Genes, LTSSpace

Floats = NDArray[np.float64]
Key = tuple[int, ...]
COSTS = ("latency_ms", "peak_memory_mb")
MAX_LATENCY_MS = {"titanxp": 25.0}  # LTS's bounds; 10 s elsewhere
_DEFAULT_MAX_LATENCY_MS = 10_000.0


class Oracle(Protocol):
    """A search space that answers with objective values."""

    space: LTSSpace

    def draw(self, rng: np.random.Generator, seen: Collection[Key]) -> tuple[Key, Genes] | None:
        """Return a random network not in `seen`; None when there is none left."""
        ...

    def settle(self, genes: Genes, seen: Collection[Key]) -> tuple[Key, Genes] | None:
        """Return the network that a child stands for; None when it is not valid or was seen."""
        ...

    def values(self, keys: list[Key], genes: Genes) -> Floats:
        """Return objectives (n, m), minimised: negated decoder parameters, then costs."""
        ...


class TableOracle:
    """Measured values of the saved networks. A child stands for the nearest one that was not evaluated yet.

    Args:
        models: rows of one experiment with latency and memory.
        space: their space.
        costs: the columns that are objectives beside decoder parameters.
        rng: draws the inactive genes, which the table does not have.
    """

    def __init__(
        self, models: pd.DataFrame, *, space: LTSSpace, rng: np.random.Generator, costs: tuple[str, ...] = COSTS
    ) -> None:
        self.space = space
        self._genes = space.genes(models, rng)
        self._points = self._coordinates(self._genes)
        self._values = front_values(models, costs)

    def __len__(self) -> int:
        return len(self._genes)

    def draw(self, rng: np.random.Generator, seen: Collection[Key]) -> tuple[Key, Genes] | None:
        """Return a random row."""
        left = [row for row in range(len(self)) if (row,) not in seen]
        return self._row(left[int(rng.integers(len(left)))]) if left else None

    def settle(self, genes: Genes, seen: Collection[Key]) -> tuple[Key, Genes] | None:
        """Return the nearest row: city-block distance of sizes, each as a share of its range."""
        distance = np.abs(self._points - self._coordinates(genes[None])).sum(axis=1)
        distance[[key[0] for key in seen]] = np.inf
        nearest = int(np.argmin(distance))
        return self._row(nearest) if np.isfinite(distance[nearest]) else None

    def values(self, keys: list[Key], genes: Genes) -> Floats:
        """Return the measured values."""
        return self._values[[key[0] for key in keys]]

    def _row(self, row: int) -> tuple[Key, Genes]:
        return (row,), self._genes[row]

    def _coordinates(self, genes: Genes) -> Floats:
        """Return depth, width, and means over possible layers of d_inner and n_head; a missing layer has 0."""
        n_layer, d_model, inner, heads = self.space.arrays(genes)
        layers = self.space.max_layer
        parts = (n_layer[:, None] / layers, d_model[:, None] / 960, inner / (4032 * layers), heads / (8 * layers))
        return np.concatenate(parts, axis=1)


class FittedOracle:
    """Costs of any network of LTS's space: least squares on the saved ones, on what work and activations are sums of.

    Args:
        models: rows of one experiment with latency and memory.
        space: their space.
        costs: the columns that are objectives beside decoder parameters.
    """

    def __init__(self, models: pd.DataFrame, *, space: LTSSpace, costs: tuple[str, ...] = COSTS) -> None:
        self.space, self.costs = space, costs
        self.max_latency_ms = MAX_LATENCY_MS.get(str(models["device"].iloc[0]), _DEFAULT_MAX_LATENCY_MS)
        genes = space.genes(models, np.random.default_rng(0))  # inactive genes change nothing
        self._coefficients = _fit(self._features(genes), models[list(costs)].to_numpy(dtype=np.float64))

    def draw(self, rng: np.random.Generator, seen: Collection[Key]) -> tuple[Key, Genes] | None:
        """Return a random valid network."""
        while True:
            genes = self.space.sample(rng)
            if (found := self.settle(genes, seen)) is not None:
                return found

    def settle(self, genes: Genes, seen: Collection[Key]) -> tuple[Key, Genes] | None:
        """Return the child itself if it is valid, fast enough and new."""
        key = self.space.key(genes)
        if key in seen or not self.space.is_valid(genes):
            return None
        latency = self.predict(genes[None])[0, 0]
        return (key, genes) if 0 < latency <= self.max_latency_ms else None

    def values(self, keys: list[Key], genes: Genes) -> Floats:
        """Return negated decoder parameters and fitted costs."""
        return np.column_stack([-self.space.decoder(genes).astype(np.float64), self.predict(genes)])

    def predict(self, genes: Genes) -> Floats:
        """Return fitted costs (n, c)."""
        return self._features(genes) @ self._coefficients

    def _features(self, genes: Genes) -> Floats:
        return cost_features(self.space, genes)


@dataclass(frozen=True)
class FitScore:
    """How well the linear model predicts a network that it was not fitted to (leave one out).

    Attributes:
        cost: the column.
        n: networks.
        r2: share of the variance explained.
        mape: mean absolute error in percent.
    """

    cost: str
    n: int
    r2: float
    mape: float


def fit_scores(models: pd.DataFrame, space: LTSSpace, costs: tuple[str, ...] = COSTS) -> list[FitScore]:
    """Return leave-one-out scores of `FittedOracle`'s models."""
    x = cost_features(space, space.genes(models, np.random.default_rng(0)))
    y = models[list(costs)].to_numpy(dtype=np.float64)
    left_out = [np.arange(len(y)) != i for i in range(len(y))]
    found = np.stack([x[i] @ _fit(x[keep], y[keep]) for i, keep in enumerate(left_out)])
    r2 = 1 - ((y - found) ** 2).sum(axis=0) / ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    mape = 100 * np.abs(found / y - 1).mean(axis=0)
    return [FitScore(cost, len(y), float(r2[i]), float(mape[i])) for i, cost in enumerate(costs)]


def front_values(models: pd.DataFrame, costs: tuple[str, ...], *, quality: str = "params_decoder_formula") -> Floats:
    """Return (n, 1 + c) to minimise: quality (negated when it is a count of parameters), then costs."""
    goal = models[quality].to_numpy(dtype=np.float64)
    return np.column_stack([-goal if quality.startswith("params") else goal, models[list(costs)]])


def cost_features(space: LTSSpace, genes: Genes) -> Floats:
    """Return (n, 7): 1, decoder parameters, depth, width, their product, sums of d_inner and of heads over layers."""
    n_layer, d_model, inner, heads = space.arrays(genes)
    sums = (space.decoder(genes), n_layer, d_model, n_layer * d_model, inner.sum(axis=1), heads.sum(axis=1))
    return np.column_stack([np.ones(len(genes)), *sums]).astype(np.float64)


def _fit(x: Floats, y: Floats) -> Floats:
    scale = np.abs(x).max(axis=0)
    return np.linalg.lstsq(x / scale, y, rcond=None)[0] / scale[:, None]
