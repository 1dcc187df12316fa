"""LTS's evolutionary loop, as its code runs it (Javaheripi et al. 2022), on an oracle; random search too. No torch.

1. A random valid population. 2. The front over all networks seen, by strict dominance. 3. Parents drawn from it with
replacement and weight 1 / (1 + c), c how often a network was in a working population, scaled to 0..1. 4. Mutants and
crossovers of parents, each redrawn until it is valid and new; both join the parents as the next working population.
Published sizes: 100 = 20 parents + 40 mutants + 40 crossovers, 30 iterations, so 100 + 80 a iteration evaluations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from search.pareto import Floats, nondominated
from search.proxies.lts_genes import Genes
from search.proxies.lts_oracles import Key, Oracle

_TRIES = 100  # at a valid new child before a random network takes its place


@dataclass(frozen=True)
class Sizes:
    """Sizes and probabilities of the loop.

    Attributes:
        parents: drawn from the front for each iteration.
        mutants: children by mutation.
        crossovers: children by crossover.
        mutation_probability: of each gene.
        crossover_probability: that a gene comes from the second parent.
    """

    parents: int = 20
    mutants: int = 40
    crossovers: int = 40
    mutation_probability: float = 0.3
    crossover_probability: float = 0.5

    @property
    def population(self) -> int:
        """Networks of a working population, and of the first one."""
        return self.parents + self.mutants + self.crossovers


@dataclass(frozen=True)
class Trace:
    """Everything that a search evaluated, in order.

    Attributes:
        keys: what tells the networks apart.
        genes: (n, g).
        values: (n, m), minimised.
    """

    keys: tuple[Key, ...]
    genes: Genes
    values: Floats


def evolve(oracle: Oracle, *, rng: np.random.Generator, n_evaluations: int, sizes: Sizes | None = None) -> Trace:
    """Run LTS's loop for so many evaluations, or until nothing new is left."""
    sizes = sizes or Sizes()
    seen: dict[Key, Genes] = {}
    values: list[Floats] = []
    counts: Counter[Key] = Counter()
    front: dict[Key, Floats] = {}
    batch = _filled(min(sizes.population, n_evaluations), seen, partial(oracle.draw, rng, seen))
    population = list(batch)
    while batch:
        values.append(oracle.values(list(batch), np.stack(list(batch.values()))))
        front = _front(front | dict(zip(batch, values[-1], strict=True)))
        counts.update(population)
        parents = _parents(list(front), counts, sizes.parents, rng)
        genomes = [seen[key] for key in parents]
        batch = {}
        for n, breed in ((sizes.mutants, _mutant), (sizes.crossovers, _crossed)):
            left = n_evaluations - len(seen)
            batch |= _filled(min(n, left), seen, partial(breed, oracle, genomes, seen, sizes, rng))
        population = [*parents, *batch]
    return _trace(seen, values)


def draw_randomly(oracle: Oracle, *, rng: np.random.Generator, n_evaluations: int) -> Trace:
    """Evaluate so many random networks, none twice; fewer when there are no more."""
    seen: dict[Key, Genes] = {}
    _filled(n_evaluations, seen, partial(oracle.draw, rng, seen))
    return _trace(seen, [oracle.values(list(seen), np.stack(list(seen.values())))])


def _trace(seen: dict[Key, Genes], values: list[Floats]) -> Trace:
    return Trace(tuple(seen), np.stack(list(seen.values())), np.concatenate(values))


def _filled(n: int, seen: dict[Key, Genes], make: Callable[[], tuple[Key, Genes] | None]) -> dict[Key, Genes]:
    """Return up to `n` new networks, also noted in `seen`."""
    made: dict[Key, Genes] = {}
    while len(made) < n and (found := make()) is not None:
        seen[found[0]] = made[found[0]] = found[1]
    return made


def _front(values: dict[Key, Floats]) -> dict[Key, Floats]:
    """Return the networks that no other is strictly better than; the front of a front and news is the front of all."""
    kept = nondominated(list(values.values()), dominance="strict")
    return {key: value for (key, value), keep in zip(values.items(), kept, strict=True) if keep}


def _parents(front: list[Key], counts: Counter[Key], n: int, rng: np.random.Generator) -> list[Key]:
    often = np.array([counts[key] for key in front], dtype=np.float64)
    weights = 1 / (1 + (often - often.min()) / max(often.max() - often.min(), 1))
    return [front[i] for i in rng.choice(len(front), size=n, p=weights / weights.sum())]


def _mutant(
    oracle: Oracle, parents: list[Genes], seen: dict[Key, Genes], sizes: Sizes, rng: np.random.Generator
) -> tuple[Key, Genes] | None:
    def breed() -> Genes:
        return oracle.space.mutate(parents[rng.integers(len(parents))], rng, sizes.mutation_probability)

    return _bred(oracle, breed, seen, rng)


def _crossed(
    oracle: Oracle, parents: list[Genes], seen: dict[Key, Genes], sizes: Sizes, rng: np.random.Generator
) -> tuple[Key, Genes] | None:
    def breed() -> Genes:
        a, b = rng.integers(len(parents), size=2)
        return oracle.space.crossover(parents[a], parents[b], rng, sizes.crossover_probability)

    return _bred(oracle, breed, seen, rng)


def _bred(
    oracle: Oracle, breed: Callable[[], Genes], seen: dict[Key, Genes], rng: np.random.Generator
) -> tuple[Key, Genes] | None:
    """Breed until a child is valid and new; a random network after too many tries."""
    for _ in range(_TRIES):
        if (found := oracle.settle(breed(), seen)) is not None:
            return found
    return oracle.draw(rng, seen)
