"""Searches side by side: hypervolume on one normalisation, at equal numbers of quality evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from search.pareto import Normalisation
from search.result import SearchResult


@dataclass(frozen=True)
class Standing:
    """One search among those compared.

    Attributes:
        name: of the search.
        n_evaluations: evaluations of quality it used (with fidelities the tokens of all, in full evaluations).
        n_front: size of its front.
        hypervolume: of all its evaluations, on the shared normalisation.
        n_common: the smallest number of evaluations of all searches compared.
        hypervolume_at_common: after that many evaluations.
    """

    name: str
    n_evaluations: int
    n_front: int
    hypervolume: float
    n_common: int
    hypervolume_at_common: float


def shared_normalisation(results: Mapping[str, SearchResult]) -> Normalisation:
    """Return the normalisation by the front of everything that the searches found together.

    Raises:
        ValueError: other objectives in some search, or no feasible result in any.
    """
    names = {tuple(result.names) for result in results.values()}
    if len(names) != 1:
        raise ValueError(f"searches of different objectives cannot be compared: {sorted(names)}")
    return Normalisation.of(np.concatenate([result.values for result in results.values()]))


def compare(results: Mapping[str, SearchResult], normalisation: Normalisation | None = None) -> list[Standing]:
    """Return the searches by hypervolume at the common number of evaluations, the best first.

    Args:
        results: searches of the same objectives, by name.
        normalisation: shared by all; None for that of everything found.
    """
    normalisation = normalisation or shared_normalisation(results)
    n_common = min(result.n_spent for result in results.values())
    standings = [
        Standing(
            name=name,
            n_evaluations=result.n_spent,
            n_front=len(result.front),
            hypervolume=result.hypervolume(normalisation),
            n_common=n_common,
            hypervolume_at_common=result.hypervolume(normalisation, n=n_common),
        )
        for name, result in results.items()
    ]
    return sorted(standings, key=lambda s: -s.hypervolume_at_common)
