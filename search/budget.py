"""Hard limits on a search: Budget (metric, limit, device), found among objectives, and refused when unreachable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hw_profiles.table import METRICS
from search.objectives import COST_METRICS, CostObjective, Objective
from search.pareto import Floats
from supernet.architecture import Architecture
from supernet.space import SearchSpace


@dataclass(frozen=True)
class Budget:
    """A limit that every chosen network must meet.

    Attributes:
        metric: name of a metric, with its unit (latency_ms, n_params_decoder, kv_cache_mib, ...).
        limit: the largest value allowed; for metrics where more is better (tokens_per_s) the smallest.
        device: where it holds; None for the only device known, or for metrics without a device.
    """

    metric: str
    limit: float
    device: str | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.limit):
            raise ValueError(f"budget {self.metric}: limit = {self.limit}; give a finite number")

    @property
    def is_minimum(self) -> bool:
        """Whether the limit is the smallest value allowed."""
        return self.metric in METRICS and METRICS[self.metric].higher_is_better

    def __str__(self) -> str:
        sign = ">=" if self.is_minimum else "<="
        return f"{self.metric} {sign} {self.limit:g}" + (f" on {self.device}" if self.device else "")


@dataclass(frozen=True)
class Constraint:
    """A budget and the objective that measures it (unsigned: values in the metric's own direction)."""

    budget: Budget
    objective: Objective = field(repr=False)

    def violation(self, values: Floats) -> Floats:
        """Return by how much (n,) values miss the limit, as a share of it; 0 where it is met, NaN where unknown."""
        excess = values - self.budget.limit
        if self.budget.is_minimum:
            excess = -excess
        return np.maximum(excess, 0.0) / (abs(self.budget.limit) or 1.0)


def budgets_from(limits: Mapping[str, float | Mapping[str, float]]) -> list[Budget]:
    """Read budgets as a configuration gives them: {latency_ms: 12} or {latency_ms: {a100: 3, orin: 12}}."""
    budgets: list[Budget] = []
    for metric, limit in limits.items():
        if isinstance(limit, Mapping):
            budgets += [Budget(metric, float(value), device) for device, value in limit.items()]
        else:
            budgets.append(Budget(metric, float(limit)))
    return budgets


def constrain(
    budgets: Sequence[Budget | Constraint],
    objectives: Sequence[Objective],
    space: SearchSpace,
    *,
    extra: Sequence[Objective] = (),
) -> list[Constraint]:
    """Pair every budget with the objective that measures it: one of the search, one of `extra`, or a closed-form cost.

    Constraints, which are such pairs, stay as they are.

    Raises:
        ValueError: nothing measures the metric, or several devices do and none is named; the message lists them.
    """
    return [
        b if isinstance(b, Constraint) else Constraint(b, _measured_by(b, objectives, extra, space)) for b in budgets
    ]


def _measured_by(
    budget: Budget, objectives: Sequence[Objective], extra: Sequence[Objective], space: SearchSpace
) -> Objective:
    for known in (objectives, extra):
        found = [o for o in known if _measures(o, budget)]
        devices = {_device(o) for o in found}
        if len(devices) > 1:
            places = ", ".join(sorted(str(device) for device in devices))
            raise ValueError(f"budget {budget}: {budget.metric} is known on several devices, name one of {places}")
        if found:
            return found[0]
    if budget.metric in COST_METRICS:
        return CostObjective(budget.metric, space.model_config)
    names = sorted({o.name for o in (*objectives, *extra) if not o.name.startswith("-")} | set(COST_METRICS))
    raise ValueError(f"budget {budget}: nothing measures it here; known metrics: {', '.join(names)}")


def _measures(objective: Objective, budget: Budget) -> bool:
    names = (objective.name, getattr(objective, "metric", objective.name))
    return budget.metric in names and budget.device in (None, _device(objective))


def _device(objective: Objective) -> str | None:
    return getattr(objective, "device", None)


def check_reachable(
    constraints: Sequence[Constraint], space: SearchSpace, rng: np.random.Generator, *, n_samples: int = 1000
) -> None:
    """Raise unless some architecture among the smallest, the largest and a random sample meets each budget.

    Args:
        constraints: what must hold.
        space: where to look.
        rng: draws the sample.
        n_samples: size of the sample for free objectives; others are only tried on the smallest and the largest.

    Raises:
        ValueError: a limit that nothing found reaches; names the best value found and its architecture.
    """
    if not constraints:
        return
    ends = [space.smallest(), space.largest()]
    sample = ends + [space.sample(rng) for _ in range(n_samples)]
    for constraint in constraints:
        archs = sample if constraint.objective.is_free else ends
        values = np.asarray(constraint.objective(archs), dtype=np.float64)
        if not (constraint.violation(values) <= 0).any():
            raise ValueError(_unreachable(constraint, archs, values, space.name))


def _unreachable(constraint: Constraint, archs: Sequence[Architecture], values: Floats, space: str) -> str:
    budget, unit = constraint.budget, constraint.objective.unit
    if np.isnan(values).all():
        return f"budget {budget}: no architecture of space {space!r} that was tried has a value of {budget.metric}"
    kind, pick = ("largest", np.nanargmax) if budget.is_minimum else ("smallest", np.nanargmin)
    best = int(pick(values))
    return (
        f"budget {budget} cannot be met in space {space!r}: the {kind} value found among {len(archs)} architectures "
        f"is {values[best]:.6g} {unit} ({archs[best].id}). Relax the budget or widen the space."
    )
