"""The whole trade-off of cost and damage in one dynamic programme: a multiple-choice knapsack over blocks.

Each block takes one option: a shape (heads, groups, neurons; a part may be absent) or being left out. Costs are cut
into bins and rounded up, so a plan never costs more than its bin says; apart from that rounding the plans are optimal
for additive costs and damages. Integers with a common divisor are not rounded at all where they fit into the bins.

Several limits: the programme runs on the first; the others enter the damage with multipliers that are raised until all
hold (`plan_within`; Lagrange's relaxation). Plans between the multipliers' corners are not found, so the result may be
a little worse than the best; single changes that still fit are made at the end.

Shapes: L blocks, K options of each, B bins. No torch.
Structured pruning by a programme over levels: ZipLM, Kurtic et al. 2023; SPDY, Frantar and Alistarh 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from math import gcd

import numpy as np

from pruning.cost_limits import CostFunction
from pruning.lattice import Lattice
from pruning.quality_table import QualityTable
from supernet.architecture import Architecture

Shape = tuple[int, int, int]  # heads, groups, neurons
GONE: Shape = (0, 0, 0)
_BINS = 8000
_ROUNDING = 1e-9
_ROUNDS = 24  # of the search for multipliers


@dataclass(frozen=True)
class Plan:
    """An architecture with its predicted cost and the quality table's damage."""

    arch: Architecture
    cost: float
    damage: float


@dataclass(frozen=True)
class Problem:
    """What the programme chooses from.

    Attributes:
        dense: the whole network (for width and bias).
        shapes: the K options; `GONE` is the last.
        damage: (L, K) in nats; infinite where an option is not allowed.
        costs: one (L, K) array for each cost.
        fixed: the cost of what lies around the blocks, one for each cost.
    """

    dense: Architecture
    shapes: tuple[Shape, ...]
    damage: np.ndarray
    costs: tuple[np.ndarray, ...]
    fixed: tuple[float, ...]

    def arch(self, choice: Sequence[int] | np.ndarray) -> Architecture:
        """Return the architecture of one option for each block."""
        chosen = [(layer, self.shapes[k]) for layer, k in enumerate(choice) if self.shapes[k] != GONE]
        layers, shapes = zip(*chosen, strict=True)
        heads, groups, neurons = zip(*shapes, strict=True)
        return Architecture(self.dense.n_embd, heads, groups, neurons, layers, self.dense.bias)

    def plan(self, choice: np.ndarray) -> Plan:
        """Return the plan of one option for each block, with its first cost, not rounded."""
        cost = self.fixed[0] + float(_sum(self.costs[0], choice))
        return Plan(self.arch(choice), cost, float(_sum(self.damage, choice)))


def shapes_of(lattice: Lattice, whole: Shape, *, complete: bool = False) -> tuple[Shape, ...]:
    """Return all shapes of a block, `GONE` last; `complete` leaves out blocks without attention or MLP."""
    heads = sorted({*map(tuple, lattice.attention), whole[:2]} | (set() if complete else {(0, 0)}))
    neurons = sorted({*lattice.neurons, whole[2]} | (set() if complete else {0}))
    found = [(h, g, f) for (h, g), f in product(heads, neurons)]
    return (*(shape for shape in found if shape != GONE), GONE)


def build_problem(
    quality: QualityTable,
    lattice: Lattice,
    dense: Architecture,
    costs: Sequence[CostFunction],
    *,
    complete: bool = False,
) -> Problem:
    """Return the problem of pruning each block by itself.

    Args:
        quality: the damages.
        lattice: the levels.
        dense: the whole network.
        costs: cost functions that sum over blocks (`LatencyTable.predict`, parameters, KV cache), the first is the
            programme's own.
        complete: every kept block has attention and MLP.
    """
    shapes = shapes_of(
        lattice, (dense.n_head[0], dense.n_query_groups[0], dense.intermediate_size[0]), complete=complete
    )
    found = [block_costs(cost, dense, shapes) for cost in costs]
    return Problem(dense, shapes, quality.damages(shapes), tuple(c for c, _ in found), tuple(f for _, f in found))


def block_costs(cost: CostFunction, dense: Architecture, shapes: Sequence[Shape]) -> tuple[np.ndarray, float]:
    """Return what each shape costs in each block, (L, K), and what is left without blocks.

    The cost function is asked about networks of one block and about the dense network only.
    """
    L, whole = dense.n_layer, (dense.n_head[0], dense.n_query_groups[0], dense.intermediate_size[0])
    kept = [shape for shape in shapes if shape != GONE]
    archs = [_one_block(dense, i, shape) for i in range(L) for shape in [whole, *kept]]
    values = np.asarray(cost([dense, *archs]), float)
    alone = values[1:].reshape(L, len(kept) + 1)
    fixed = (float(alone[:, 0].sum()) - values[0]) / (L - 1) if L > 1 else 0.0
    table = np.zeros((L, len(shapes)))
    table[:, [k for k, shape in enumerate(shapes) if shape != GONE]] = alone[:, 1:] - fixed
    return table, fixed


def _one_block(dense: Architecture, layer: int, shape: Shape) -> Architecture:
    h, g, f = shape
    return Architecture(dense.n_embd, (h,), (g,), (f,), (layer,), dense.bias)


def trade_off(
    problem: Problem,
    *,
    limit: float | None = None,
    least: float = 0.0,
    most: int | None = None,
    n_bins: int = _BINS,
) -> list[Plan]:
    """Return the Pareto curve of the first cost against damage, the cheapest plan first.

    Args:
        problem: what is chosen from.
        limit: the curve's end; None is the whole network's cost.
        least: the curve's beginning.
        most: how many plans at most, spread evenly over the curve; None is all.
        n_bins: of the cost.
    """
    room = None if limit is None else limit - problem.fixed[0]
    if room is not None and room <= 0:
        return []
    choices = _choices(problem, n_bins, room=room)
    cost, damage = _sum(problem.costs[0], choices), _sum(problem.damage, choices)
    choices, damage = (array[np.lexsort((damage, cost))] for array in (choices, damage))
    before = np.minimum.accumulate(np.append(np.inf, damage))[:-1]
    front = choices[damage < before]
    front = front[_sum(problem.costs[0], front) + problem.fixed[0] >= least]
    if most is not None and len(front) > most:
        front = front[np.linspace(0, len(front) - 1, most).round().astype(int)]
    return [problem.plan(choice) for choice in front]


def plan_within(problem: Problem, limits: Sequence[float], *, n_bins: int = _BINS) -> Plan | None:
    """Return the plan of the least damage found that keeps one limit for each cost; None where none was found.

    Raises:
        ValueError: not one limit for each cost.
    """
    if len(limits) != len(problem.costs):
        raise ValueError(f"{len(limits)} limits for {len(problem.costs)} costs: give one for each")
    choices = list(_relaxed(problem, limits, n_bins))
    if not choices:
        return None
    best = min(choices, key=lambda choice: _sum(problem.damage, choice))
    return problem.plan(_filled(problem, best, np.asarray(limits)))


def _relaxed(problem: Problem, limits: Sequence[float], n_bins: int) -> Iterator[np.ndarray]:
    """Yield the best options that keep all limits, (L,), of the curve for one set of multipliers after another."""
    others, room = len(limits) - 1, limits[0] - problem.fixed[0]
    weights, low, high = np.zeros(others), np.zeros(others), np.full(others, np.inf)
    for _ in range(_ROUNDS if others and room > 0 else int(room > 0)):
        extra = sum((w * c for w, c in zip(weights, problem.costs[1:], strict=True)), np.zeros(problem.damage.shape))
        choices = _choices(replace(problem, damage=problem.damage + extra), n_bins, room=room)
        spent = np.array([_sum(c, choices) + f for c, f in zip(problem.costs, problem.fixed, strict=True)])
        over = spent > np.asarray(limits)[:, None] + _ROUNDING  # (costs, b)
        damage = _sum(problem.damage, choices)
        if (kept := np.flatnonzero(~over.any(0))).size:
            yield choices[kept[damage[kept].argmin()]]
        if not (affordable := np.flatnonzero(~over[0])).size:
            return
        best = affordable[_sum(problem.damage + extra, choices[affordable]).argmin()]
        missed = over[1:, best]
        if not missed.any() and not weights.any():
            return  # the other limits do not bind
        high = np.where(missed, np.where(weights >= high, np.inf, high), weights)
        low = np.where(missed, weights, np.minimum(low, weights))
        bounded = np.isfinite(high)
        raised = np.where(missed, np.maximum(2 * weights, _first_multiplier(problem)), weights)
        weights = np.where(bounded, (low + np.where(bounded, high, 0)) / 2, raised)


def _filled(problem: Problem, choice: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return options after the single changes that lower the damage most and keep all limits."""
    choice, rows = choice.copy(), np.arange(len(choice))
    while True:
        gain = problem.damage[rows, choice][:, None] - problem.damage
        allowed = gain > 0
        for cost, fixed, limit in zip(problem.costs, problem.fixed, limits, strict=True):
            allowed &= fixed + _sum(cost, choice) + cost - cost[rows, choice][:, None] <= limit + _ROUNDING
        if not allowed.any():
            return choice
        layer, option = np.unravel_index(np.where(allowed, gain, -np.inf).argmax(), gain.shape)
        choice[layer] = option


def _sum(table: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Return the sums over blocks of a table (L, K) for options (..., L)."""
    return table[np.arange(len(table)), choices].sum(-1)


def _first_multiplier(problem: Problem) -> float:
    """Return a small multiplier: a thousandth of the damage of all blocks gone."""
    gone = problem.damage[:, -1]
    return 1e-3 * max(float(gone[np.isfinite(gone)].sum()), 1e-9)


# --- the programme ------------------------------------------------------------------------------------------------


def _choices(problem: Problem, n_bins: int, *, room: float | None = None) -> np.ndarray:
    """Return the best options within each bin's cost, (b, L), without repeats and without the empty network."""
    bins, n = _bins(problem.costs[0], n_bins, room)  # (L, K)
    L = len(bins)
    best, taken = np.zeros(n + 1), np.zeros((L, n + 1), np.int32)
    for layer in range(L):
        best, taken[layer] = _after(best, bins[layer], problem.damage[layer])
    place = np.flatnonzero(np.isfinite(best) & np.append(True, best[1:] < best[:-1]))
    choices = np.zeros((len(place), L), np.int64)
    for layer in reversed(range(L)):
        choices[:, layer] = taken[layer, place]
        place = place - bins[layer, choices[:, layer]]
    gone = [k for k, shape in enumerate(problem.shapes) if shape == GONE]
    return np.unique(choices[~np.isin(choices, gone).all(1)], axis=0)


def _after(best: np.ndarray, bins: np.ndarray, damage: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least damage within each bin's cost with one more block, and the option that gives it."""
    found, taken = np.full(len(best), np.inf), np.zeros(len(best), np.int32)
    for k in _undominated(bins, damage):
        step = int(bins[k])
        if step >= len(best):
            continue
        values = best[: len(best) - step] + damage[k]
        better = values < found[step:]
        found[step:][better] = values[better]
        taken[step:][better] = k
    return found, taken


def _undominated(bins: np.ndarray, damage: np.ndarray) -> list[int]:
    """Return the options that no cheaper one is as good as."""
    found, least = [], np.inf
    for k in np.lexsort((damage, bins)):
        if damage[k] < least:
            found.append(int(k))
            least = damage[k]
    return found


def _bins(costs: np.ndarray, n_bins: int, room: float | None) -> tuple[np.ndarray, int]:
    """Return costs in bins, rounded up, (L, K) int64, and how many bins there are."""
    if (costs < -_ROUNDING).any():
        raise ValueError("a block with a negative cost: the cost function does not grow with the network")
    most = float(costs.max(1).sum())
    total = most if room is None else min(most, room)
    whole = costs.astype(np.int64)
    step = reduce(gcd, np.unique(whole).tolist()) if (whole == costs).all() else 0
    if step and total / step <= n_bins:
        return whole // step, int(total // step)
    width = total / n_bins
    bins = np.maximum(np.ceil(costs / width - _ROUNDING), 0).astype(np.int64)
    return bins, n_bins if total < most else int(bins.max(1).sum())  # so that the whole network is in
