"""TPE: Optuna's multivariate, multi-objective tree-structured Parzen estimator (Ozaki et al. 2022); Optuna is optional.

Every gene is an integer parameter. What TPE proposes and is known already is told to it again and not evaluated.

Optuna's sampler has no state that JSON holds, so a state has its seed and everything it was asked and told in order,
and `load_state` repeats that: it takes as long as the search took to propose, without the evaluations.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from search.algorithms.front_archive import check_same_objectives
from search.algorithms.gene_arrays import Genes
from search.algorithms.optimizer import BaseOptimizer
from supernet.architecture import Architecture
from supernet.encoding import from_genes, gene_names, gene_sizes, repair_genes, to_genes
from supernet.space import SearchSpace

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

_TRIES = 100  # proposals that are all known before a random architecture takes their place
_VIOLATION = "violation"
_Values = list[float] | None  # None: no result
_Result = tuple[_Values, float]  # values and violation


class TPE(BaseOptimizer):
    """Optuna's TPESampler(multivariate=True) over the genes of a space.

    Args:
        space: where to search.
        rng: the only source of randomness.
        n_initial: random architectures before TPE proposes.

    Raises:
        ImportError: Optuna is not installed.
    """

    name = "tpe"

    def __init__(self, space: SearchSpace, *, rng: np.random.Generator, n_initial: int = 10) -> None:
        super().__init__(space, rng=rng)
        if n_initial < 1:
            raise ValueError(f"n_initial = {n_initial}: TPE needs at least one architecture to start from")
        _require_optuna()
        self.n_initial = n_initial
        self._sampler = _Sampler(space, int(rng.integers(2**31)), n_initial)
        self._trials: dict[Architecture, int] = {}  # what TPE proposed and nobody has told
        self._results: dict[Architecture, _Result] = {}

    def settings(self) -> dict[str, Any]:
        """Return the number of random architectures."""
        return {"n_initial": self.n_initial}

    def _propose(self, n: int) -> list[Architecture]:
        """Return up to `n` new architectures, at most to the end of the random ones."""
        room = self.n_initial - len(self._seen)
        wanted = min(n, self.n_left, room if room > 0 else n)
        return [self._give_out(self._random_new() if room > 0 else self._next()) for _ in range(wanted)]

    def _next(self) -> Architecture:
        for _ in range(_TRIES if self._sampler.has_started else 0):
            number, row = self._sampler.ask()
            arch = from_genes(self.space, repair_genes(self.space, row, self._rng))
            if arch not in self._seen:
                self._trials[arch] = number
                return arch
            self._sampler.tell(number, self._results.get(arch, (None, 0.0)))
        return self._random_new()

    def tell(self, archs: Sequence[Architecture], values: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Give the results to TPE."""
        points, missed = self._receive(archs, values, violation)
        for arch, row, miss in zip(archs, points.tolist(), missed.tolist(), strict=True):
            good = bool(np.isfinite(row).all() and np.isfinite(miss))
            result = (row, miss) if good else (None, 0.0)
            self._results[arch] = result
            if arch in self._trials:
                self._sampler.tell(self._trials.pop(arch), result)
            else:
                self._sampler.add(to_genes(self.space, [arch])[0], result)

    # --- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return Optuna's seed, all that it was asked and told, the results and the generator."""
        return super().state() | {
            "seed": self._sampler.seed,
            "events": self._sampler.events,
            "trials": {arch.id: number for arch, number in self._trials.items()},
            "results": {arch.id: result for arch, result in self._results.items()},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`: Optuna goes through it again; ValueError for another algorithm, setting or space."""
        super().load_state(state)
        self._sampler = _Sampler(self.space, state["seed"], self.n_initial)
        self._sampler.repeat(state["events"])
        self._trials = {Architecture.from_id(i): number for i, number in state["trials"].items()}
        self._results = {Architecture.from_id(i): (values, miss) for i, (values, miss) in state["results"].items()}


class _Sampler:
    """An Optuna study that remembers what was done to it.

    Attributes:
        seed: of Optuna's sampler.
        events: in plain JSON types: ["ask"], ["tell", trial, values, violation], ["add", genes, values, violation].
    """

    def __init__(self, space: SearchSpace, seed: int, n_initial: int) -> None:
        from optuna.distributions import IntDistribution

        self.seed = seed
        self.events: list[list[Any]] = []
        self._n_initial = n_initial
        sizes = zip(gene_names(space), gene_sizes(space).tolist(), strict=True)
        self._genes: dict[str, Any] = {name: IntDistribution(0, size - 1) for name, size in sizes}
        self._study: Study | None = None  # from the first values on, which say how many objectives there are
        self._open: dict[int, Trial] = {}

    @property
    def has_started(self) -> bool:
        """Whether there is a result to propose from."""
        return self._study is not None

    def ask(self) -> tuple[int, Genes]:
        """Return the number of a trial and its genes."""
        assert self._study is not None
        self.events.append(["ask"])
        trial = self._study.ask(self._genes)
        self._open[trial.number] = trial
        return trial.number, np.array([trial.params[name] for name in self._genes], dtype=np.int64)

    def tell(self, number: int, result: _Result) -> None:
        """Finish a trial; without values it has failed."""
        from optuna.trial import TrialState

        assert self._study is not None
        self.events.append(["tell", number, *result])
        values, missed = result
        self._check(values)
        trial = self._open.pop(number)
        trial.set_user_attr(_VIOLATION, missed)
        self._study.tell(trial, values, state=None if values else TrialState.FAIL)

    def add(self, genes: Genes, result: _Result) -> None:
        """Take a result of genes that TPE did not propose; without values it is left out."""
        if result[0] is None:
            return
        if self._study is None:
            self._study = _new_study(len(result[0]), self.seed, self._n_initial)
        self._study.enqueue_trial(dict(zip(self._genes, genes.tolist(), strict=True)))
        number, _ = self.ask()
        self.tell(number, result)
        self.events[-2:] = [["add", genes.tolist(), *result]]

    def repeat(self, events: Sequence[Sequence[Any]]) -> None:
        """Do all of `events`."""
        for what, *rest in events:
            if what == "ask":
                self.ask()
            elif what == "tell":
                self.tell(rest[0], (rest[1], rest[2]))
            else:
                self.add(np.array(rest[0], dtype=np.int64), (rest[1], rest[2]))

    def _check(self, values: _Values) -> None:
        assert self._study is not None
        if values is not None:
            check_same_objectives(np.empty((0, len(self._study.directions))), np.array([values]))


def _new_study(n_objectives: int, seed: int, n_initial: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that multivariate and constraints are experimental
        sampler = optuna.samplers.TPESampler(
            multivariate=True, constant_liar=True, n_startup_trials=n_initial, seed=seed, constraints_func=_constraints
        )
    return optuna.create_study(directions=["minimize"] * n_objectives, sampler=sampler)


def _constraints(trial: FrozenTrial) -> list[float]:
    return [float(trial.user_attrs[_VIOLATION])]


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ImportError("algorithm 'tpe' is Optuna's, which is not installed: pip install optuna") from error
