"""Ways to drive any search algorithm, and the algorithms that must keep the contracts of ask, tell and state."""

import json
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from search_fakes import features, latency, loss, objectives

from search.algorithms.ehvi import EHVI
from search.algorithms.free_problem import free_problem
from search.algorithms.local_search import LocalSearch
from search.algorithms.lsbo import LSBO
from search.algorithms.lts import LTS, LTSWarmStart
from search.algorithms.mo_rea import MOREA
from search.algorithms.model_guided import ModelGuided
from search.algorithms.nsga2 import NSGA2
from search.algorithms.pymoo_adaptor import NSGA3, SMSEMOA
from search.algorithms.rsbo import RSBO
from search.algorithms.tpe import TPE

needs_pymoo = pytest.mark.skipif(find_spec("pymoo") is None, reason="pymoo is not installed")
needs_botorch = pytest.mark.skipif(find_spec("botorch") is None, reason="botorch is not installed")
needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="optuna is not installed")


def warm_start(space, *, rng, **settings):
    free = free_problem(space, objectives())
    return LTSWarmStart(space, rng=rng, free=free, **({"n_free": 400, "n_front": 15} | settings))


def guided(space, *, rng, **settings):
    small = {"n_free": 400, "n_initial": 15, "generations": 2, "children": 60, "batch": 19}
    return ModelGuided(space, rng=rng, free=free_problem(space, objectives()), **(small | settings))


ALGORITHMS = [
    pytest.param(LocalSearch, id="local_search"),
    pytest.param(partial(LocalSearch, genes="any"), id="local_search_any"),
    pytest.param(partial(LocalSearch, sweep=True), id="local_search_sweep"),
    pytest.param(partial(MOREA, population=20, sample=5), id="mo_rea"),
    pytest.param(LTS, id="lts"),
    pytest.param(partial(LTS, front="hull"), id="lts_hull"),
    pytest.param(warm_start, id="lts_warm_start"),
    pytest.param(guided, id="model_guided"),
    pytest.param(partial(NSGA2, population=100), id="nsga2_100"),
    pytest.param(NSGA3, id="nsga3", marks=needs_pymoo),
    pytest.param(SMSEMOA, id="sms_emoa", marks=needs_pymoo),
    pytest.param(TPE, id="tpe", marks=[needs_optuna, pytest.mark.slow]),
    pytest.param(partial(EHVI, n_random=50, n_mutations=50), id="ehvi", marks=pytest.mark.slow),
    pytest.param(partial(LSBO, random_weights=True, n_random=50), id="lsbo_r", marks=pytest.mark.slow),
    pytest.param(partial(RSBO, scale="range", n_random=50, n_mutations=50), id="rsbo", marks=pytest.mark.slow),
]


def values(archs, m=2):
    """Values (n, m) of 1 to 4 objectives."""
    x = features(archs)
    return np.column_stack([loss(archs), latency(archs), x[:, 2], -x[:, 0]])[:, :m]


def drive(optimizer, n, *, batch=7, evaluate=values, told=None):
    """Return n architectures asked (fewer from an exhausted space); `told` collects the state after every tell."""
    archs = []
    while len(archs) < n:
        wanted = min(batch, n - len(archs))
        asked = optimizer.ask(wanted)
        assert len(asked) <= wanted
        if not asked:
            break
        results = evaluate(asked)
        optimizer.tell(asked, *(results if isinstance(results, tuple) else (results,)))
        archs += asked
        if told is not None:
            told.append((len(archs), json.dumps(optimizer.state(), allow_nan=False)))
    return archs
