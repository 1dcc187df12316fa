"""The best architectures told so far: the feasible front, one of equal values; until then the least infeasible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from search.pareto import Floats, constrained_ranks, is_valid, nondominated
from supernet.architecture import Architecture


class FrontArchive:
    """A front that grows by being told; architectures without a result never enter.

    Attributes:
        archs: its members, in the order they were told.
        values: theirs, (n, m).
        violation: theirs, (n,).
    """

    def __init__(self) -> None:
        self.archs: list[Architecture] = []
        self.values: Floats = np.empty((0, 0))
        self.violation: Floats = np.empty(0)

    def __len__(self) -> int:
        return len(self.archs)

    def add(self, archs: Sequence[Architecture], values: Floats, violation: Floats) -> None:
        """Take new results and drop what they dominate.

        Raises:
            ValueError: another number of objectives than before.
        """
        valid = is_valid(values) & np.isfinite(violation)
        if not valid.any():
            return
        values, violation = values[valid], violation[valid]
        if self.archs:
            check_same_objectives(self.values, values)
            values = np.concatenate([self.values, values])
            violation = np.concatenate([self.violation, violation])
        members = [*self.archs, *(arch for arch, ok in zip(archs, valid, strict=True) if ok)]
        best = np.flatnonzero(constrained_ranks(values, violation) == 0)
        best = best[nondominated(values[best], duplicates=False)]
        self.archs = [members[i] for i in best]
        self.values, self.violation = values[best], violation[best]

    def state(self) -> dict[str, Any]:
        """Return the members in plain JSON types."""
        return {
            "archs": [arch.id for arch in self.archs],
            "values": self.values.tolist(),
            "violation": self.violation.tolist(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take the members of `state`."""
        self.archs = [Architecture.from_id(i) for i in state["archs"]]
        self.values = np.array(state["values"], dtype=np.float64) if self.archs else np.empty((0, 0))
        self.violation = np.array(state["violation"], dtype=np.float64)


def check_same_objectives(known: Floats, new: Floats) -> None:
    """Raise ValueError unless both tables of values have as many columns."""
    if known.shape[1] != new.shape[1]:
        raise ValueError(f"told values of {new.shape[1]} objectives, before of {known.shape[1]}: give the same ones")
