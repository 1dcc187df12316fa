"""MO-REA: regularised evolution (Real et al. 2019, arXiv:1802.01548) for several objectives.

The population is a queue. A parent is the best of a random sample, by non-dominated rank and, within a front, by
epsilon-net order (as in Schmucker et al. 2021, arXiv:2106.12639); its child has one active gene changed, joins the
queue, and the oldest leaves. syne-tune and HW-GPT-Bench use the sorted list of indices as if it were the rank of each
item, which selects at random; `priority` is the inverse permutation, the rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.algorithms.front_archive import check_same_objectives
from search.algorithms.optimizer import BaseOptimizer
from search.pareto import Floats, as_values, constrained_ranks, is_valid
from supernet.architecture import Architecture
from supernet.space import SearchSpace

_TRIES = 100  # attempts at an unseen child before a random architecture takes its place


class MOREA(BaseOptimizer):
    """Multi-objective regularised evolution.

    Args:
        space: where to search.
        rng: the only source of randomness.
        population: length of the queue; the first so many with a result are random.
        sample: members that compete to be the parent, drawn without replacement.
    """

    name = "mo_rea"

    def __init__(self, space: SearchSpace, *, rng: np.random.Generator, population: int = 50, sample: int = 10) -> None:
        super().__init__(space, rng=rng)
        if not 1 <= sample <= population:
            raise ValueError(f"population = {population}, sample = {sample}: need 1 <= sample <= population")
        self.population = population
        self.sample = sample
        self._queue: list[Architecture] = []  # the oldest first
        self._values: Floats = np.empty((0, 0))  # of the queue
        self._violation: Floats = np.empty(0)
        self._priority = np.empty(0, dtype=np.int64)

    def settings(self) -> dict[str, Any]:
        """Return the sizes."""
        return {"population": self.population, "sample": self.sample}

    # --- ask ----------------------------------------------------------------------------------------------------------

    def _propose(self, n: int) -> list[Architecture]:
        """Return up to `n` new architectures; while the queue fills, only as many as it lacks."""
        lacking = self.population - len(self._queue)
        room = lacking - len(self._pending) if lacking > 0 else n
        wanted = min(n, self.n_left, room if room > 0 else n)  # all in flight: workers go on
        return [self._give_out(self._child() if lacking <= 0 else self._random_new()) for _ in range(wanted)]

    def _child(self) -> Architecture:
        for _ in range(_TRIES):
            entrants = self._rng.choice(len(self._queue), size=self.sample, replace=False)
            parent = self._queue[int(entrants[np.argmin(self._priority[entrants])])]
            child = self.space.mutate(parent, self._rng)
            if child not in self._seen:
                return child
        return self._random_new()

    # --- tell ---------------------------------------------------------------------------------------------------------

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Append those with a result to the queue and drop the oldest."""
        points, missed = self._receive(archs, values, violation)
        valid = np.flatnonzero(is_valid(points) & np.isfinite(missed))
        if not len(valid):
            return
        queue, points, missed = self._queue + [archs[int(i)] for i in valid], points[valid], missed[valid]
        if self._queue:
            check_same_objectives(self._values, points)
            points, missed = np.concatenate([self._values, points]), np.concatenate([self._violation, missed])
        self._set_queue(queue[-self.population :], points[-self.population :], missed[-self.population :])

    def _set_queue(self, queue: list[Architecture], values: Floats, violation: Floats) -> None:
        self._queue, self._values, self._violation = queue, values, violation
        self._priority = priority(values, violation) if queue else np.empty(0, dtype=np.int64)

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the queue and the generator."""
        return super().state() | {
            "queue": [arch.id for arch in self._queue],
            "values": self._values.tolist(),
            "violation": self._violation.tolist(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        queue = [Architecture.from_id(i) for i in state["queue"]]
        values = np.array(state["values"], dtype=np.float64).reshape(len(queue), -1) if queue else np.empty((0, 0))
        self._set_queue(queue, values, np.array(state["violation"], dtype=np.float64))


# --- ranking ----------------------------------------------------------------------------------------------------------


def priority(values: ArrayLike, violation: ArrayLike | None = None) -> NDArray[np.int64]:
    """Return the rank (n,) of each point, 0 for the best and no two alike.

    Points are in the order of their fronts (feasible before infeasible ones, rows without a result last), and within
    a front in epsilon-net order of the values, each objective scaled to the range it has here.

    Args:
        values: (n, m), minimised.
        violation: (n,), 0 where every constraint holds; None for no constraints.

    Example:
        >>> priority([[3, 3], [1, 1], [2, 2]]).tolist()
        [2, 0, 1]
    """
    points = as_values(values)
    fronts = constrained_ranks(points, violation)
    scaled = _scaled(points)
    order: list[int] = []
    for front in np.unique(fronts):
        members = np.flatnonzero(fronts == front)
        order += members[epsilon_net(scaled[members])].tolist()
    rank = np.empty(len(points), dtype=np.int64)
    rank[order] = np.arange(len(points))
    return rank


def epsilon_net(points: Floats) -> NDArray[np.int64]:
    """Return the indices of points (n, m) so that every beginning of the list is spread over all of them.

    The first is the smallest in objective 0; each next one is the furthest (Euclidean) from all before it, of equals
    the first (Clarkson 2006). Points that are not finite come last.

    Example:
        >>> epsilon_net(np.array([[0.0, 1.0], [0.1, 0.9], [0.5, 0.5], [1.0, 0.0]])).tolist()
        [0, 3, 2, 1]
    """
    good = np.flatnonzero(is_valid(points)) if len(points) else np.empty(0, dtype=np.int64)
    order: list[int] = []
    distance = np.full(len(good), np.inf)
    nearest = int(np.argmin(points[good, 0])) if len(good) else 0
    while len(order) < len(good):
        order.append(nearest)
        distance = np.minimum(distance, np.linalg.norm(points[good] - points[good[nearest]], axis=1))
        distance[nearest] = -np.inf
        nearest = int(np.argmax(distance))
    bad = np.setdiff1d(np.arange(len(points)), good)
    return np.concatenate([good[order], bad]).astype(np.int64)


def _scaled(points: Floats) -> Floats:
    """Return values with the valid rows in 0..1 in every objective."""
    valid = is_valid(points)
    if not valid.any():
        return points
    low, high = points[valid].min(axis=0), points[valid].max(axis=0)
    with np.errstate(invalid="ignore"):  # infinities of rows without a result
        return np.asarray((points - low) / np.where(high > low, high - low, 1.0))
