"""Moves of a local search from one pruned network to others of about the same cost. No torch.

Heterogeneous: one block changes, or two blocks exchange: one gets more, another one less. A change of a block is a new
level of its attention or MLP (also absent or whole), the block left out, or a left-out block put back. Besides, the
dynamic programme makes new plans from what was learnt.
Uniform: another shape of all blocks, another width, another set of kept blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

import numpy as np

from pruning.cost_limits import CostLimit, all_hold
from pruning.damage_model import DamageModel
from pruning.lattice import Lattice
from pruning.programme import GONE, Problem, Shape, block_costs, plan_within, shapes_of
from pruning.uniform_search import uniform
from supernet.architecture import Architecture

_BINS = 2000  # of the programme
_BATCH = 128  # networks whose costs are predicted at once
_REACH = 3  # levels up or down at a time
_SLACK = 0.005  # of the additive costs, where the predicted ones are not sums over blocks
_SHARES = (1.0, 0.99, 0.98)  # of the additive limits that a plan is made for, until its predicted costs keep them
_LEAST_SAVED = 0.05  # of the costs: less does not tell how predicted costs go with additive ones
_ROUNDING = 1e-9
_MOST = 20_000  # moves whose costs are predicted


@dataclass(frozen=True)
class Changes:
    """Changes of single blocks: which block, its new shape, what each saves of every cost and does to the loss.

    Attributes:
        layer: (n,).
        shapes: n.
        cost: (costs, n), of the change.
        damage: (n,), predicted change of the loss.
    """

    layer: np.ndarray
    shapes: list[Shape]
    cost: np.ndarray
    damage: np.ndarray


class HeterogeneousMoves:
    """Single changes and exchanges between two blocks.

    Args:
        dense: the whole network.
        lattice: the levels.
        limits: costs that must be kept.
        complete: every kept block has attention and MLP.
    """

    def __init__(
        self, dense: Architecture, lattice: Lattice, limits: Sequence[CostLimit], *, complete: bool = False
    ) -> None:
        self.dense, self.limits = dense, limits
        whole = (dense.n_head[0], dense.n_query_groups[0], dense.intermediate_size[0])
        self.shapes = shapes_of(lattice, whole, complete=complete)
        self._index = {shape: k for k, shape in enumerate(self.shapes)}
        self._attention = sorted({(h, g) for h, g, _ in self.shapes})
        self._neurons = sorted({f for *_, f in self.shapes})
        found = [block_costs(limit.of_blocks, dense, self.shapes) for limit in limits]
        self._costs, self._fixed = [costs for costs, _ in found], [fixed for _, fixed in found]  # (L, K) each
        self._features: np.ndarray | None = None  # (3, L, K)

    def best(
        self, arch: Architecture, model: DamageModel, weights: np.ndarray, *, n: int, known: set[Architecture]
    ) -> list[Architecture]:
        """Return the n moves of the least predicted loss that keep the limits and are not known, the best first."""
        own = dict.fromkeys(self.dense.layers, GONE) | _shapes(arch)
        changes = self._changes(own, model, weights)
        scale, room = self._room(arch, own)
        found: list[Architecture] = []
        moves = self._networks(arch, own, replace(changes, cost=changes.cost * scale[:, None]), room)
        fresh = (new for new in islice(moves, _MOST) if new not in known)
        while len(found) < n and (some := list(islice(fresh, _BATCH))):
            found += [new for new, ok in zip(some, all_hold(self.limits, some), strict=True) if ok]
        return list(dict.fromkeys(found))[:n]

    def planned(
        self, arch: Architecture, model: DamageModel, weights: np.ndarray, *, known: set[Architecture]
    ) -> list[Architecture]:
        """Return the dynamic programme's network for these weights, where it keeps the limits and is not known.

        Many blocks may differ from those of where a search stands: a way out where no exchange helps.
        """
        if self._features is None:
            rows = [[model.of_block(layer, *shape) for shape in self.shapes] for layer in self.dense.layers]
            self._features = np.array(rows).transpose(2, 0, 1)
        damage = (self._features * weights[:, :, None]).sum(0)
        problem = Problem(self.dense, self.shapes, damage, tuple(self._costs), tuple(self._fixed))
        own = dict.fromkeys(self.dense.layers, GONE) | _shapes(arch)
        scale, room = self._room(arch, own)
        limits = self._additive(own) + room / scale
        for share in _SHARES:
            plan = plan_within(problem, list(limits * share), n_bins=_BINS)
            if plan is not None and all_hold(self.limits, [plan.arch])[0]:
                return [] if plan.arch in known else [plan.arch]
        return []

    def _additive(self, own: dict[int, Shape]) -> np.ndarray:
        """Return the additive costs of a network's blocks, (costs,)."""
        sums = [sum(table[i, self._index_of(shape)] for i, shape in own.items()) for table in self._costs]
        return np.array(sums) + np.array(self._fixed)

    def _room(self, arch: Architecture, own: dict[int, Shape]) -> tuple[np.ndarray, np.ndarray]:
        """Return what a change of additive costs does to the predicted ones, and what is left of these, (costs,) each.

        Where costs are sums over blocks, both are the same and every move that fits keeps the limits. Else the change
        from the whole network to this one tells, and moves may be a little over it.
        """
        spent = np.array([limit.predict([arch])[0] for limit in self.limits])
        room = np.array([limit.limit for limit in self.limits]) - spent
        saved = np.array([limit.predict([self.dense])[0] for limit in self.limits]) - spent
        additive = np.array([limit.of_blocks([self.dense])[0] for limit in self.limits]) - self._additive(own)
        exact = np.array([limit.additive is None for limit in self.limits])
        known = ~exact & (np.minimum(saved, additive) > _LEAST_SAVED * spent)
        scale = np.where(known, saved / np.where(known, additive, 1.0), 1.0)
        return scale, room + np.where(exact, _ROUNDING * spent, _SLACK * spent)

    def _networks(
        self, arch: Architecture, own: dict[int, Shape], changes: Changes, room: np.ndarray
    ) -> Iterator[Architecture]:
        for pair in self._ranked(changes, room):
            shapes = own | {int(changes.layer[i]): changes.shapes[i] for i in pair}
            if any(shape != GONE for shape in shapes.values()):
                yield _network(arch, shapes)

    def _changes(self, own: dict[int, Shape], model: DamageModel, weights: np.ndarray) -> Changes:
        rows = []
        for layer, shape in own.items():
            before, k = np.array(model.of_block(layer, *shape)), self._index_of(shape)
            for new in self._near(shape):
                damage = (np.array(model.of_block(layer, *new)) - before) @ weights[:, layer]
                cost = [table[layer, self._index[new]] - table[layer, k] for table in self._costs]
                rows.append((layer, new, cost, damage))
        layers, shapes, costs, damages = zip(*rows, strict=True)
        return Changes(np.array(layers), list(shapes), np.array(costs).T, np.array(damages))

    def _index_of(self, shape: Shape) -> int:
        if shape not in self._index:
            raise ValueError(f"a block of (heads, groups, neurons) = {shape} is not in the lattice")
        return self._index[shape]

    def _near(self, shape: Shape) -> Iterator[Shape]:
        """Yield the shapes that one change gives."""
        heads, neurons = shape[:2], shape[2]
        options = [GONE]
        if shape == GONE:
            options = [(*h, f) for h, f in product(self._attention[-3:], self._neurons[-_REACH:])]
            options += [(*self._attention[-1], self._neurons[0]), (*self._attention[0], self._neurons[-1])]
        else:
            options += [(*h, neurons) for h in self._attention]
            options += [(*heads, f) for f in _around(self._neurons, neurons)]
        yield from (s for s in dict.fromkeys(options) if s != shape and s in self._index)

    def _ranked(self, changes: Changes, room: np.ndarray) -> Iterator[tuple[int, ...]]:
        """Yield single changes and pairs that fit by their additive costs, the least predicted loss first."""
        n = len(changes.damage)
        single = (changes.cost <= room[:, None]).all(0)
        up, down = np.flatnonzero(changes.damage < 0), np.flatnonzero((changes.cost < 0).any(0))
        fits = np.ones((len(up), len(down)), bool)
        for cost, left in zip(changes.cost, room, strict=True):
            fits &= cost[up][:, None] + cost[down][None] <= left
        fits &= changes.layer[up][:, None] != changes.layer[down][None]
        value = np.where(fits, changes.damage[up][:, None] + changes.damage[down][None], np.inf)
        values = np.concatenate([np.where(single, changes.damage, np.inf), value.ravel()])
        for place in np.argsort(values, kind="stable"):
            if not np.isfinite(values[place]):
                return
            yield (int(place),) if place < n else (
                int(up[(place - n) // len(down)]), int(down[(place - n) % len(down)])
            )  # fmt: skip


class UniformMoves:
    """Other shapes, widths and sets of kept blocks of a uniform network.

    Args:
        dense: the whole network.
        lattice: the levels.
        limits: costs that must be kept.
    """

    def __init__(self, dense: Architecture, lattice: Lattice, limits: Sequence[CostLimit]) -> None:
        self.dense, self.lattice, self.limits = dense, lattice, limits
        self._widths = sorted({*lattice.embd, dense.n_embd})

    def best(
        self, arch: Architecture, model: DamageModel, weights: np.ndarray, *, n: int, known: set[Architecture]
    ) -> list[Architecture]:
        """Return the n moves of the least predicted loss that keep the limits and are not known, the best first."""
        moves = [new for new in dict.fromkeys(self._around(arch, model, weights)) if new not in known]
        width = dict(zip(self._widths, model.of_widths(self._widths, arch, weights), strict=True))
        value = np.array([model.features(new) @ weights.ravel() + width[new.n_embd] for new in moves])
        held = all_hold(self.limits, moves)
        order = [i for i in np.argsort(value, kind="stable") if held[i]]
        return [moves[i] for i in order[:n]]

    def planned(
        self, arch: Architecture, model: DamageModel, weights: np.ndarray, *, known: set[Architecture]
    ) -> list[Architecture]:
        """Return nothing: there is no programme of uniform networks."""
        return []

    def _around(self, arch: Architecture, model: DamageModel, weights: np.ndarray) -> Iterator[Architecture]:
        shape = (arch.n_head[0], arch.n_query_groups[0], arch.intermediate_size[0])
        gone = [i for i in self.dense.layers if i not in set(arch.layers)]
        for dropped in self._drops(arch, shape, gone, model, weights):
            yield uniform(self.dense, shape, dropped, arch.n_embd)
        heads, neurons = sorted(self.lattice.attention), sorted(self.lattice.neurons)
        shapes = [(h, g, f) for (h, g), f in product(heads, _around(neurons, shape[2]))]
        for width in _around(self._widths, arch.n_embd, 1):
            for new in shapes:
                yield uniform(self.dense, new, gone, width)
                for dropped in self._one_more_or_less(arch, new, gone, model, weights):
                    yield uniform(self.dense, new, dropped, width)

    def _drops(
        self, arch: Architecture, shape: Shape, gone: list[int], model: DamageModel, weights: np.ndarray
    ) -> Iterator[list[int]]:
        """Yield the sets of dropped blocks after one exchange."""
        for back, out in product(gone, arch.layers):
            yield [i for i in gone if i != back] + [out]
        yield from self._one_more_or_less(arch, shape, gone, model, weights)

    def _one_more_or_less(
        self, arch: Architecture, shape: Shape, gone: list[int], model: DamageModel, weights: np.ndarray
    ) -> Iterator[list[int]]:
        """Yield the dropped blocks with the cheapest one more, and without the dearest one."""

        def price(layer: int) -> float:
            change = np.array(model.of_block(layer, *GONE)) - np.array(model.of_block(layer, *shape))
            return float(change @ weights[:, layer])

        if len(arch.layers) > 1:
            yield [*gone, min(arch.layers, key=price)]
        if gone:
            dearest = max(gone, key=price)
            yield [i for i in gone if i != dearest]


def _shapes(arch: Architecture) -> dict[int, Shape]:
    rows = zip(arch.n_head, arch.n_query_groups, arch.intermediate_size, strict=True)
    return dict(zip(arch.layers, rows, strict=True))


def _network(arch: Architecture, shapes: dict[int, Shape]) -> Architecture:
    kept = {layer: shape for layer, shape in sorted(shapes.items()) if shape != GONE}
    heads, groups, neurons = zip(*kept.values(), strict=True)
    return Architecture(arch.n_embd, heads, groups, neurons, tuple(kept), arch.bias)


def _around(levels: Sequence[int], level: int, reach: int = _REACH) -> list[int]:
    """Return the levels next to one, itself, and the two ends."""
    place = int(np.searchsorted(levels, level))
    near = levels[max(0, place - reach) : place + reach + 1]
    return sorted({levels[0], *near, levels[-1]})
