"""Objectives and budgets that cost no evaluation of quality, on arrays of genes, with decoder parameters for quality.

What `LTSWarmStart` searches inside. An objective that offers `of_genes(genes (n, g)) -> (n,)` is evaluated on arrays;
any other one gets architectures, which take about ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from search.algorithms.gene_arrays import GeneArrays, Genes
from search.algorithms.optimizer import OptimizerFactory
from search.budget import Budget, Constraint, constrain
from search.objectives import CostObjective, NegatedObjective, Objective, free_objectives
from search.pareto import Floats
from supernet.architecture import Architecture
from supernet.space import SearchSpace
from surrogates.exact_costs import EXACT_METRICS, ExactCosts

_Evaluate = Callable[[Genes], tuple[Floats, Floats]]


@runtime_checkable
class GeneObjective(Protocol):
    """An objective that also reads canonical genes."""

    def of_genes(self, genes: Genes) -> Floats:
        """Return values (n,) of canonical genes (n, g)."""
        ...


@dataclass(frozen=True)
class FreeProblem:
    """Free objectives, the proxy of quality first, and free budgets.

    Attributes:
        identity: what the numbers come from; a search resumes only with the same.
        evaluate: canonical genes (n, g) -> values (n, m), minimised, NaN without a result, and violation (n,).
    """

    identity: str
    evaluate: _Evaluate = field(repr=False)


def free_problem(
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    proxy: Objective | None = None,
    budgets: Sequence[Budget | Constraint] = (),
) -> FreeProblem:
    """Return the free objectives of a search with a proxy in place of those that cost an evaluation of quality.

    Args:
        space: where to search.
        objectives: those of the search; their free ones are kept.
        proxy: what to maximise; None for decoder parameters.
        budgets: hard limits; those on a quality are left to the search itself.

    Raises:
        ValueError: the objectives leave nothing to do: none is free, or all are.
    """
    free = free_objectives(objectives, "the training-free front")
    limits = [c for c in constrain(budgets, objectives, space) if c.objective.is_free]
    minimised = [NegatedObjective(proxy or CostObjective("n_params_decoder", space.model_config)), *free]
    identity = "; ".join([*(o.identity for o in minimised), *(f"{c.budget} by {c.objective.identity}" for c in limits)])
    return FreeProblem(identity, _Evaluator(space, minimised, limits))


def with_free_problem(
    algorithm: OptimizerFactory,
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    budgets: Sequence[Budget | Constraint] = (),
) -> OptimizerFactory:
    """Return the algorithm with the `free` problem of a search where it takes one and has none; others unchanged.

    Args:
        algorithm: a class, or functools.partial of one, such as conf/algorithm/*.yaml make.
        space: where to search.
        objectives: of the search.
        budgets: of the search.

    Raises:
        ValueError: as `free_problem`.
    """
    function: Any = algorithm
    given: dict[str, Any] = {}
    if isinstance(algorithm, partial):
        function, given = algorithm.func, algorithm.keywords
    if not getattr(function, "needs_free_problem", False) or "free" in given:
        return algorithm
    return partial(function, **given, free=free_problem(space, objectives, budgets=budgets))


class _Evaluator:
    """Values and violation of canonical genes."""

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> None:
        self._arrays = GeneArrays(space)
        self._objectives = objectives
        self._constraints = constraints
        try:
            self._exact: ExactCosts | None = ExactCosts(space)
        except ValueError:  # a space of another form: costs take architectures
            self._exact = None

    def __call__(self, genes: Genes) -> tuple[Floats, Floats]:
        table = _Table(self._arrays, genes, self._exact)
        values = np.column_stack([table.values(o) for o in self._objectives])
        violation = np.zeros(len(genes))
        for constraint in self._constraints:
            violation += constraint.violation(table.values(constraint.objective))
        return values, violation


class _Table:
    """Values of one batch of genes: each objective evaluated once, architectures made only where they are needed."""

    def __init__(self, arrays: GeneArrays, genes: Genes, exact: ExactCosts | None) -> None:
        self._arrays = arrays
        self._genes = genes
        self._exact = exact
        self._known: dict[str, Floats] = {}
        self._archs: list[Architecture] | None = None

    def values(self, objective: Objective) -> Floats:
        if isinstance(objective, NegatedObjective):
            return -self.values(objective.objective)
        if objective.identity not in self._known:
            self._known[objective.identity] = np.asarray(self._evaluate(objective), dtype=np.float64)
        return self._known[objective.identity]

    def _evaluate(self, objective: Objective) -> Floats:
        if self._exact and _is_exact(objective, self._arrays.space, self._exact):
            return np.asarray(self._exact(self._genes)[:, EXACT_METRICS.index(objective.name)], dtype=np.float64)
        if isinstance(objective, GeneObjective):
            return objective.of_genes(self._genes)
        if self._archs is None:
            self._archs = self._arrays.architectures(self._genes)
        return objective(self._archs)


def _is_exact(objective: Objective, space: SearchSpace, exact: ExactCosts) -> bool:
    """Return whether ExactCosts has just this cost."""
    if not isinstance(objective, CostObjective):
        return False
    if objective.metric not in EXACT_METRICS or objective.config != space.model_config:
        return False
    return objective.metric.startswith("n_params") or (objective.tokens, objective.batch_size) == (exact.seq_len, 1)
