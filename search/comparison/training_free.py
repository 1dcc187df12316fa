"""Training-free fronts: the evolution of LTS on hardware metrics and a size that stands for quality. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from search.algorithms.free_problem import free_problem
from search.algorithms.gene_arrays import Genes
from search.algorithms.lts import training_free_front
from search.algorithms.lts_population import FrontKind, LTSSettings
from search.budget import Constraint
from search.objectives import CostObjective, Objective
from search.pareto import Floats
from supernet.architecture import Architecture
from supernet.encoding import to_genes
from supernet.space import SearchSpace
from surrogates.exact_costs import EXACT_METRICS, ExactCosts

PROXIES: Mapping[str, str] = MappingProxyType(
    {
        "n_params_decoder": "parameters without embedding and head",
        "n_params_non_embedding": "parameters without the input embedding",
        "flops": "FLOPs of a full-length sequence",
        "n_embd": "the width alone",
    }
)


@dataclass(frozen=True)
class SizeProxy:
    """A size of a network as an objective: "n_params_non_embedding" or "n_embd".

    Attributes:
        name: which.
        space: its architectures.
        costs: of that space.
    """

    name: str
    space: SearchSpace = field(repr=False)
    costs: ExactCosts = field(repr=False)
    unit: str = "1"
    is_free: bool = True

    @property
    def identity(self) -> str:
        """The name."""
        return f"cost {self.name}"

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return sizes (n,)."""
        return self.of_genes(to_genes(self.space, archs)) if len(archs) else np.empty(0)

    def of_genes(self, genes: Genes) -> Floats:
        """Return sizes (n,) of canonical genes (n, g)."""
        widths = np.asarray(self.space.n_embd, dtype=np.float64)[genes[:, 0]]
        if self.name == "n_embd":
            return widths
        total = self.costs(genes)[:, EXACT_METRICS.index("n_params")]
        vocabulary = self.space.model_config.padded_vocab_size
        assert vocabulary is not None
        return np.asarray(total - vocabulary * widths, dtype=np.float64)


def proxy_objective(name: str, space: SearchSpace) -> Objective:
    """Return what a point method maximises in place of quality; one of PROXIES."""
    assert name in PROXIES, name
    if name in ("n_params_non_embedding", "n_embd"):
        return SizeProxy(name, space, ExactCosts(space))
    return CostObjective(name, space.model_config)


def training_free_genes(
    space: SearchSpace, objectives: Sequence[Objective], constraints: Sequence[Constraint], *, proxy: str,
    n_free: int, rng: np.random.Generator, front: FrontKind = "strict",
) -> Genes:  # fmt: skip
    """Return the genes (k, g) of the whole front of a proxy against the free objectives.

    Args:
        space: where to search.
        objectives: of the case; the free ones are kept.
        constraints: of the case; the free ones hold.
        proxy: one of PROXIES, maximised.
        n_free: evaluations of proxy and free objectives.
        rng: the only source of randomness.
        front: whom parents are drawn from. Of a proxy with few values "strict" keeps nearly all networks, and the
            evolution does not converge; "hull" does.
    """
    free = free_problem(space, objectives, proxy=proxy_objective(proxy, space), budgets=constraints)
    return training_free_front(space, free, rng=rng, n_evaluations=n_free, settings=LTSSettings(front=front)).genes
