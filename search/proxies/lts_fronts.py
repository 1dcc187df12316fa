"""How far the front by decoder parameters is the front by perplexity, among LTS's saved networks. No torch.

All members of the proxy's front get trained, so a network of the true front that is missing from it is never found,
and one that is there for nothing costs a training. Fronts by Pareto dominance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pandas as pd

from search.pareto import Normalisation, nondominated, normalised_hypervolume
from search.proxies.lts_oracles import front_values
from search.proxies.lts_table import LTSTable

OBJECTIVES: dict[str, tuple[str, ...]] = {
    "latency": ("latency_ms",),
    "memory": ("peak_memory_mb",),
    "latency+memory": ("latency_ms", "peak_memory_mb"),
}


@dataclass(frozen=True)
class FrontAgreement:
    """One proxy front against the true front of the same networks and costs.

    Attributes:
        experiment: its name.
        costs: the objectives beside perplexity, a key of `OBJECTIVES`.
        n: networks.
        n_true: on the front of perplexity and costs.
        n_proxy: on the front of negated decoder parameters and costs.
        n_both: on both.
        hypervolume: of the proxy front's perplexities and costs, as a share of the true front's.
    """

    experiment: str
    costs: str
    n: int
    n_true: int
    n_proxy: int
    n_both: int
    hypervolume: float

    @property
    def jaccard(self) -> float:
        """Networks on both fronts over networks on either."""
        return self.n_both / (self.n_true + self.n_proxy - self.n_both)

    @property
    def recall(self) -> float:
        """Share of the true front that is on the proxy's."""
        return self.n_both / self.n_true

    @property
    def chance_recall(self) -> float:
        """Mean share of the true front among as many networks drawn at random."""
        return self.n_proxy / self.n

    def record(self) -> dict[str, str | int | float]:
        """Return everything by name."""
        shares = {"jaccard": self.jaccard, "recall": self.recall, "chance_recall": self.chance_recall}
        return asdict(self) | shares


def front_agreement(models: pd.DataFrame, costs: str, *, proxy: str = "params_decoder_formula") -> FrontAgreement:
    """Compare two fronts of the trained networks of one experiment.

    Args:
        models: rows with perplexity, latency and memory.
        costs: a key of `OBJECTIVES`.
        proxy: a column; a count of parameters is maximised.

    Raises:
        ValueError: unknown costs, or an experiment without latency and memory.
    """
    if costs not in OBJECTIVES:
        raise ValueError(f"costs = {costs!r}; allowed: {', '.join(OBJECTIVES)}")
    names = OBJECTIVES[costs]
    if models[list(names)].isna().any(axis=None):
        raise ValueError(
            f"{models['experiment'].iloc[0]} has no {', '.join(names)}: give an experiment of kind 'pareto'"
        )
    values = front_values(models, names, quality="valid_ppl")
    true, chosen = nondominated(values), nondominated(front_values(models, names, quality=proxy))
    scale = Normalisation.of(values)
    share = normalised_hypervolume(values[chosen], scale) / normalised_hypervolume(values, scale)
    return FrontAgreement(
        str(models["experiment"].iloc[0]), costs, len(models), int(true.sum()), int(chosen.sum()),
        int((true & chosen).sum()), share,
    )  # fmt: skip


def front_agreements(table: LTSTable) -> list[FrontAgreement]:
    """Return the agreement of every experiment with latency and memory, for every combination of costs."""
    return [front_agreement(table.trained(name), costs) for name in table.names("pareto") for costs in OBJECTIVES]
