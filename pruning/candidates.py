"""The pool of candidates for a budget: plans of the dynamic programme, uniform networks, depth-only networks.

All keep the limits by predicted cost; the true calibration loss ranks them. The best uniform and the best depth-only
network always stay in the pool, and the best plan for parameters where the limit is one of time, so that what is
chosen from it is never worse than they are.

Quality tables add up what does not quite add up. So plans are also made with the damages raised to a power: above one,
pruning spreads over more blocks, below one it concentrates on fewer; and with those of attention counted more than
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pruning.cost_limits import CostLimit, all_hold, parameter_ratio
from pruning.depth_search import influence_drop, iterative_drop
from pruning.lattice import Lattice
from pruning.programme import Plan, Problem, build_problem, plan_within, trade_off
from pruning.quality_table import QualityTable
from pruning.raced_loss import RacedLoss
from pruning.true_loss import CalibrationLoss, halving
from pruning.uniform_search import uniform_networks
from supernet.architecture import Architecture

Mode = Literal["uniform", "heterogeneous"]
Kind = Literal["programme", "parameters", "uniform", "depth"]
_WEIGHTS_AND_POWERS = ((1.5, 1.0), (1.5, 1.35), (2.0, 1.0), (2.0, 1.35), (1.0, 1.0), (1.0, 1.35))  # best first
_MOST = 250  # plans of a curve, spread over costs near the limit
_REACH = 0.1  # of the additive cost, above and below the limit
_MARGINS = (-0.04, -0.02, 0.0, 0.02, 0.04)  # of the additive cost, which the predicted one differs from


@dataclass(frozen=True)
class Candidate:
    """A network that keeps the limits.

    Attributes:
        name: how it was found.
        kind: which family it is of.
        arch: the network.
        cost: predicted, the first limit's.
        loss: its calibration loss; NaN where it was not computed on all of the text.
    """

    name: str
    kind: Kind
    arch: Architecture
    cost: float
    loss: float = float("nan")


def propose(
    loss: CalibrationLoss,
    quality: QualityTable,
    lattice: Lattice,
    limits: Sequence[CostLimit],
    *,
    mode: Mode = "heterogeneous",
    n_plans: int = 2,
    n_uniform: int = 12,
    shortlist: int | None = 8,
    progress: bool = False,
) -> list[Candidate]:
    """Return all candidates, not ranked; each network once.

    Args:
        loss: for the iterative drops, and the network.
        quality: the quality table.
        lattice: the levels.
        limits: the first one is the programme's.
        mode: "uniform" proposes only networks whose blocks are all of one shape.
        n_plans: plans of each kind of programme.
        n_uniform: uniform networks of the whole width.
        shortlist: of the iterative drops.
        progress: show progress bars.

    Raises:
        ValueError: nothing keeps the limits: names the smallest that can be reached.
    """
    dense = loss.dense
    check_reachable(lattice, dense, limits, mode=mode)
    found = list(_depth(loss, quality, limits, shortlist, progress))
    orders = [_dropped(dense, arch) for name, arch in found if name == "iterative drop of blocks"]
    networks = uniform_networks(quality, lattice, dense, limits, drop_orders=orders, keep=n_uniform)
    named = [("depth", *pair) for pair in found] + [("uniform", f"uniform {i + 1}", a) for i, a in enumerate(networks)]
    if mode == "heterogeneous":
        named += [("programme", name, arch) for name, arch in _plans(quality, lattice, dense, limits, n_plans)]
        if limits[0].name == "latency":
            by_size = _parameter_plans(loss, quality, lattice, limits, n_plans)
            named += [("parameters", name, arch) for name, arch in by_size]
    costs: Sequence[float] = limits[0].predict([arch for _, _, arch in named]).tolist() if named else []
    unique: dict[tuple[str, Architecture], Candidate] = {}
    for (kind, name, arch), cost in zip(named, costs, strict=True):
        unique.setdefault((kind, arch), Candidate(name, kind, arch, float(cost)))  # type: ignore[arg-type]
    return list(unique.values())


def rank(
    loss: CalibrationLoss | RacedLoss,
    candidates: Sequence[Candidate],
    *,
    keep: int = 6,
    first: CalibrationLoss | None = None,
    progress: bool = False,
) -> list[Candidate]:
    """Return the best candidates by the true loss, the best first; the best of each kind is always among them.

    Args:
        loss: the true loss.
        candidates: of `propose`.
        keep: how many.
        first: the loss on less text, to rank by first; only the better half (of each kind) is compared on all of it.
        progress: show progress bars.
    """
    losses: list[CalibrationLoss | RacedLoss] = [loss] if first is None else [first, loss]
    ranked: dict[str, list[Candidate]] = {}
    for kind in dict.fromkeys(candidate.kind for candidate in candidates):
        own = {candidate.arch: candidate for candidate in candidates if candidate.kind == kind}
        values = halving(losses, list(own), keep=min(keep, len(own)), progress=progress)
        ranked[kind] = [replace(own[arch], loss=value) for arch, value in values]
    everything = sorted((c for own in ranked.values() for c in own), key=lambda c: (c.loss, c.cost, c.name))
    best_of_kinds = {own[0] for own in ranked.values()}
    chosen = set(everything[:keep]) | best_of_kinds
    return [candidate for candidate in everything if candidate in chosen]


def quick_candidate(
    loss: CalibrationLoss | RacedLoss,
    first: CalibrationLoss,
    quality: QualityTable,
    lattice: Lattice,
    limits: Sequence[CostLimit],
    *,
    mode: Mode = "heterogeneous",
) -> tuple[Architecture, float] | None:
    """Return the best of a few plans (uniform networks) for some limits and its loss, from few evaluations.

    None where nothing keeps the limits.

    Args:
        loss: the true loss, of the best one alone.
        first: the loss on less text, by which the best is chosen.
        quality: the quality table.
        lattice: the levels.
        limits: the first one is the programme's.
        mode: as in `propose`.
    """
    archs = quick_plans(quality, lattice, loss.dense, limits, mode=mode)
    if not archs:
        return None
    best = min(archs, key=first)
    return best, loss(best)


def quick_plans(
    quality: QualityTable,
    lattice: Lattice,
    dense: Architecture,
    limits: Sequence[CostLimit],
    *,
    mode: Mode = "heterogeneous",
) -> list[Architecture]:
    """Return a few plans (uniform networks) for some limits, the most promising first, without evaluating any."""
    if mode == "heterogeneous":
        return list(dict.fromkeys(arch for _, arch in _plans(quality, lattice, dense, limits, 1)))
    return uniform_networks(quality, lattice, dense, limits, keep=4, keep_narrower=1)


def check_reachable(
    lattice: Lattice, dense: Architecture, limits: Sequence[CostLimit], *, mode: Mode = "heterogeneous"
) -> None:
    """Raise ValueError, naming the smallest that can be reached, where a limit is below it."""
    (heads, groups), neurons = lattice.attention[0], lattice.neurons[0]
    widths = sorted({*lattice.embd, dense.n_embd})
    small = [
        Architecture(c, (h,), (g,), (f,), (0,), dense.bias)
        for c in (widths if mode == "uniform" else [dense.n_embd, *widths])
        for h, g, f in ((heads, groups, neurons), *(() if mode == "uniform" else ((heads, groups, 0), (0, 0, neurons))))
    ]
    for limit in limits:
        smallest = float(np.min(limit.predict(small)))
        if smallest > limit.limit:
            raise ValueError(
                f"{limit.name}: {limit.limit:.4g} of the dense network's is below what pruning can reach; the smallest "
                f"is {smallest:.4g}"
            )


def _dropped(dense: Architecture, arch: Architecture) -> list[int]:
    return [i for i in dense.layers if i not in set(arch.layers)]


def _depth(
    loss: CalibrationLoss,
    quality: QualityTable,
    limits: Sequence[CostLimit],
    shortlist: int | None,
    progress: bool,
) -> Iterator[tuple[str, Architecture]]:
    """Yield depth-only networks that keep the limits."""
    dense = loss.dense
    by_influence = influence_drop(dense, loss.database.moments, limits)
    found = [] if by_influence is None else [("Block Influence", by_influence)]
    path = iterative_drop(loss, dense, quality, limits, shortlist=shortlist, progress=progress)
    found.append(("iterative drop of blocks", path[-1]))
    held = all_hold(limits, [arch for _, arch in found])
    yield from (pair for pair, ok in zip(found, held, strict=True) if ok)


def _plans(
    quality: QualityTable, lattice: Lattice, dense: Architecture, limits: Sequence[CostLimit], n_plans: int
) -> Iterator[tuple[str, Architecture]]:
    """Yield plans that keep the limits, the least damage first, of blocks with any parts and of complete blocks."""
    costs = [limit.of_blocks for limit in limits]
    for complete in (False, True):
        for weight, power in _WEIGHTS_AND_POWERS[: 2 if complete else None]:
            problem = build_problem(quality.weighted(weight), lattice, dense, costs, complete=complete)
            plans = _plans_around(replace(problem, damage=np.maximum(problem.damage, 0) ** power), limits, n_plans)
            what = f"{'complete' if complete else 'any'} blocks, attention x{weight:g}, power {power:g}"
            yield from ((f"programme {i + 1}, {what}", plan.arch) for i, plan in enumerate(plans))


def _parameter_plans(
    loss: CalibrationLoss, quality: QualityTable, lattice: Lattice, limits: Sequence[CostLimit], n_plans: int
) -> Iterator[tuple[str, Architecture]]:
    """Yield the best plans for their number of parameters, whatever they cost, among those that keep the limits."""
    size = parameter_ratio(loss.database.supernet.config, loss.dense, tied=False, decoder=True)
    plans = trade_off(build_problem(quality, lattice, loss.dense, [size]), most=_MOST)
    held = all_hold(limits, [plan.arch for plan in plans])
    kept = sorted((plan for plan, ok in zip(plans, held, strict=True) if ok), key=lambda plan: plan.damage)
    yield from ((f"parameters {i + 1}", plan.arch) for i, plan in enumerate(kept[:n_plans]))


def _plans_around(problem: Problem, limits: Sequence[CostLimit], n_plans: int) -> list[Plan]:
    """Return the plans of the least damage whose predicted costs keep the limits."""
    if len(limits) == 1:
        plans = trade_off(
            problem, limit=(1 + _REACH) * limits[0].limit, least=(1 - _REACH) * limits[0].limit, most=_MOST
        )
    else:
        tried = (plan_within(problem, [limits[0].limit * (1 + m), *(x.limit for x in limits[1:])]) for m in _MARGINS)
        plans = [plan for plan in tried if plan is not None]
    held = all_hold(limits, [plan.arch for plan in plans])
    kept = {plan.arch: plan for plan, ok in zip(plans, held, strict=True) if ok}
    return sorted(kept.values(), key=lambda plan: plan.damage)[:n_plans]
