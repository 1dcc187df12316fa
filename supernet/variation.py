"""How search moves inside a space: mutation, crossover and neighbours of an architecture. No torch.

Reached as methods of `SearchSpace`. All three work on genomes (indices into the choices), so they cannot leave the
space, and an attention gene is a legal (n_head, n_query_groups) pair, so they cannot break grouped-query attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from supernet.architecture import Architecture
    from supernet.space import Genome, SearchSpace

T = TypeVar("T")
Move = Callable[["Genome", np.random.Generator], "Genome"]


def mutate(space: SearchSpace, arch: Architecture, rng: np.random.Generator, *, n_genes: int = 1) -> Architecture:
    """Change `n_genes` distinct genes of `arch`; see `SearchSpace.mutate`."""
    if n_genes < 1:
        raise ValueError(f"n_genes = {n_genes}: change at least one gene")
    genome = space.genome(arch)
    moves = _moves(space, genome)
    chosen = sorted(rng.permutation(len(moves))[:n_genes].tolist())
    for index in chosen:  # in the order of _moves: which layers are kept changes last, so no other change is lost
        genome = moves[index](genome, rng)
    return space.architecture(genome)


def crossover(space: SearchSpace, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
    """Return a child that takes every gene from one of two parents; see `SearchSpace.crossover`."""
    first, second = space.genome(a), space.genome(b)

    def either(x: T, y: T) -> T:
        return x if rng.random() < 0.5 else y

    def cross(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        if not space.per_layer:
            return (either(x, y)[0],) * len(layers)
        by_layer = dict(zip(first.layers, x, strict=True)), dict(zip(second.layers, y, strict=True))
        return tuple(_pick(rng, [genes[i] for genes in by_layer if i in genes]) for i in layers)

    layers = either(first.layers, second.layers)
    return space.architecture(
        first._replace(
            n_embd=either(first.n_embd, second.n_embd),
            layers=layers,
            bias=either(first.bias, second.bias),
            attention=cross(first.attention, second.attention),
            mlp=cross(first.mlp, second.mlp),
        )
    )


def neighbours(space: SearchSpace, arch: Architecture) -> Iterator[Architecture]:
    """Yield every architecture that differs in one gene; see `SearchSpace.neighbours`."""
    genome = space.genome(arch)
    for name, size in (("n_embd", len(space.n_embd)), ("bias", len(space.bias_choices))):
        for value in range(size):
            if value != getattr(genome, name):
                yield space.architecture(_replaced(genome, name, value))
    for name, size in _layer_genes(space):
        genes = getattr(genome, name)
        for slot in range(len(genes) if space.per_layer else 1):
            for value in range(size):
                if value != genes[slot]:
                    yield space.architecture(_replaced(genome, name, _changed(space, genes, slot, value)))
    for layers in _layer_neighbours(space, genome.layers):
        yield space.architecture(_with_layers(genome, layers, lambda genes, _: genes[-1]))


# --- mutation -----------------------------------------------------------------------------------------------------


def _moves(space: SearchSpace, genome: Genome) -> list[Move]:
    """Return one random change for each active gene that has an alternative; the kept layers' comes last."""
    moves: list[Move] = []
    for name, size in (("n_embd", len(space.n_embd)), ("bias", len(space.bias_choices))):
        if size > 1:
            moves.append(_whole_move(name, size))
    for name, size in _layer_genes(space):
        if size > 1:
            slots = range(len(genome.layers)) if space.per_layer else range(1)
            moves += [_layer_move(space, name, size, slot) for slot in slots]
    if len(space.n_layer) > 1 or _can_swap(space, genome.layers):
        moves.append(lambda genome, rng: _other_layers(space, genome, rng))
    return moves


def _layer_genes(space: SearchSpace) -> tuple[tuple[str, int], ...]:
    return ("attention", len(space.attention_choices)), ("mlp", space.n_mlp)


def _whole_move(name: str, size: int) -> Move:
    return lambda genome, rng: _replaced(genome, name, _other(getattr(genome, name), size, rng))


def _layer_move(space: SearchSpace, name: str, size: int, slot: int) -> Move:
    def move(genome: Genome, rng: np.random.Generator) -> Genome:
        genes = getattr(genome, name)
        return _replaced(genome, name, _changed(space, genes, slot, _other(genes[slot], size, rng)))

    return move


def _replaced(genome: Genome, name: str, value: Any) -> Genome:
    return genome._replace(**{name: value})


def _changed(space: SearchSpace, genes: tuple[int, ...], slot: int, value: int) -> tuple[int, ...]:
    return (*genes[:slot], value, *genes[slot + 1 :]) if space.per_layer else (value,) * len(genes)


def _can_swap(space: SearchSpace, layers: tuple[int, ...]) -> bool:
    return space.layer_choice == "subset" and len(layers) < space.max_layer


def _other_layers(space: SearchSpace, genome: Genome, rng: np.random.Generator) -> Genome:
    """Keep other layers: another depth, or as many with one swapped; layers that are new get random genes."""
    depths = [depth for depth in space.n_layer if depth != len(genome.layers)]
    if _can_swap(space, genome.layers) and (not depths or rng.random() < 0.5):
        added = _pick(rng, _absent(space, genome.layers))
        layers = tuple(sorted({*genome.layers, added} - {_pick(rng, genome.layers)}))
    else:
        layers = _resized(space, genome.layers, _pick(rng, depths), rng)
    size = dict(_layer_genes(space))
    shared = not space.per_layer
    return _with_layers(genome, layers, lambda genes, name: genes[0] if shared else int(rng.integers(size[name])))


def _resized(space: SearchSpace, layers: tuple[int, ...], depth: int, rng: np.random.Generator) -> tuple[int, ...]:
    if space.layer_choice == "prefix":
        return tuple(range(depth))
    if depth < len(layers):
        return tuple(sorted(rng.permutation(layers)[:depth].tolist()))
    added = rng.permutation(_absent(space, layers))[: depth - len(layers)]
    return tuple(sorted([*layers, *added.tolist()]))


# --- layers -------------------------------------------------------------------------------------------------------


def _with_layers(genome: Genome, layers: tuple[int, ...], new_gene: Callable[[tuple[int, ...], str], int]) -> Genome:
    """Keep the genes of layers that stay; `new_gene(genes, name)` gives those of layers that are new."""

    def carry(name: str) -> tuple[int, ...]:
        genes = getattr(genome, name)
        old = dict(zip(genome.layers, genes, strict=True))
        return tuple(old[i] if i in old else new_gene(genes, name) for i in layers)

    return genome._replace(layers=layers, attention=carry("attention"), mlp=carry("mlp"))


def _layer_neighbours(space: SearchSpace, layers: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    depth = len(layers)
    if space.layer_choice == "prefix":
        yield from (tuple(range(other)) for other in space.n_layer if other != depth)
        return
    absent, position = _absent(space, layers), space.n_layer.index(depth)
    if position > 0:
        yield from combinations(layers, space.n_layer[position - 1])
    if position + 1 < len(space.n_layer):
        for added in combinations(absent, space.n_layer[position + 1] - depth):
            yield tuple(sorted((*layers, *added)))
    yield from (tuple(sorted({*layers, new} - {old})) for old in layers for new in absent)


def _absent(space: SearchSpace, layers: tuple[int, ...]) -> list[int]:
    return [i for i in range(space.max_layer) if i not in layers]


def _pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    return values[int(rng.integers(len(values)))]


def _other(value: int, size: int, rng: np.random.Generator) -> int:
    """Draw an index below `size` that is not `value`."""
    drawn = int(rng.integers(size - 1))
    return drawn + (drawn >= value)
