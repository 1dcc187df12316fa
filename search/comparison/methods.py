"""The methods of a comparison by name: which algorithm with which settings, how many evaluations. No torch.

A *point* method is a training-free front: it searches hardware metrics, which are free, with a proxy of perplexity and
is charged for the perplexity of every member of the front it finds. Its result counts only as a whole.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from search.algorithms.optimizer import OptimizerFactory

ALL = "all"
N_EVALUATIONS, N_BAYESIAN = 300, 100  # of perplexity


@dataclass(frozen=True)
class Method:
    """One competitor.

    Attributes:
        name: in files and reports.
        what: one line about it.
        algorithm: "module:class" of its optimizer; None for point methods.
        settings: arguments of the class; of a point method, `front` of its evolution and the most it looks at.
        proxy: of a point method: what ranks networks in place of perplexity (`training_free.PROXIES`).
        batch: architectures asked for at once: a whole generation where the algorithm works by generations (their
            results do not depend on it), all for random search, else 1, so that it learns from each.
        n_evaluations: by default.
        seconds: about how long a run takes; long ones start first.
        packages: optional packages it needs.
        extra: of paretolm's, which installs them.
        noise_package: optional package with which the optimizer can be told that values have noise.
    """

    name: str
    what: str
    algorithm: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    proxy: str | None = None
    batch: int = 1
    n_evaluations: int = N_EVALUATIONS
    seconds: float = 1.0
    packages: tuple[str, ...] = ()
    extra: str = ""
    noise_package: str = ""

    @property
    def is_point(self) -> bool:
        """Whether it is a training-free front."""
        return self.proxy is not None

    @property
    def identity(self) -> dict[str, Any]:
        """What its results depend on, in plain JSON types."""
        return {"algorithm": self.algorithm, "settings": dict(self.settings), "proxy": self.proxy, "batch": self.batch}

    def missing(self) -> str | None:
        """Return why it cannot run here, None where it can."""
        if absent := [package for package in self.packages if find_spec(package) is None]:
            return f"needs {' and '.join(absent)}, not installed: pip install 'paretolm[{self.extra}]'"
        if self.algorithm and find_spec(self.algorithm.partition(":")[0]) is None:
            return "is not part of this version of paretolm"
        return None

    @property
    def is_told_of_noise(self) -> bool:
        """Whether its optimizer is told when values have noise; ehvi's needs BoTorch then."""
        return self.noise_package != "" and find_spec(self.noise_package) is not None

    def factory(self, *, n_free: int, is_noisy: bool = False) -> OptimizerFactory:
        """Return what builds the optimizer.

        Args:
            n_free: evaluations of free objectives, for algorithms that have an inner search.
            is_noisy: whether values have noise.
        """
        assert self.algorithm is not None, f"{self.name} is a point method"
        module, _, name = self.algorithm.partition(":")
        algorithm = getattr(import_module(module), name)
        given = dict(self.settings)
        if "n_free" in inspect.signature(algorithm).parameters:
            given["n_free"] = n_free
        if is_noisy and self.is_told_of_noise:
            given["noise"] = True
        return partial(algorithm, **given)


def _methods() -> list[Method]:
    at = "search.algorithms."
    bayesian: dict[str, Any] = {"n_evaluations": N_BAYESIAN, "seconds": 6}
    pymoo: dict[str, Any] = {"packages": ("pymoo",), "extra": "pymoo", "batch": 20}
    twenty, local = {"population": 20, "crossover": 0.9}, {"sweep": False}
    return [
        Method("random", "uniform genes, no network twice", f"{at}random_search:RandomSearch", batch=N_EVALUATIONS),
        Method("local-search", "one active gene of a random member of the front", f"{at}local_search:LocalSearch",
               {"genes": "active", **local}),
        Method("local-search-any", "the same with silent genes, as HW-GPT-Bench", f"{at}local_search:LocalSearch",
               {"genes": "any", **local}),
        Method("mo-rea", "regularised evolution, correct ranks", f"{at}mo_rea:MOREA", {"population": 50, "sample": 10}),
        Method("nsga2", "NSGA-II, population 20", f"{at}nsga2:NSGA2", twenty, batch=20),
        Method("nsga2-100", "NSGA-II, population 100", f"{at}nsga2:NSGA2", {"population": 100, "crossover": 0.9},
               batch=100),
        Method("nsga3", "NSGA-III (pymoo), population 20", f"{at}pymoo_adaptor:NSGA3", twenty, **pymoo),
        Method("sms-emoa", "SMS-EMOA (pymoo), population 20", f"{at}pymoo_adaptor:SMSEMOA", twenty, **pymoo),
        Method("tpe", "Optuna's multivariate TPE", f"{at}tpe:TPE", {"n_initial": 10}, n_evaluations=N_BAYESIAN,
               packages=("optuna",), extra="optuna", seconds=5),
        Method("ehvi", "expected hypervolume improvement", f"{at}ehvi:EHVI", noise_package="botorch", **bayesian),
        Method("lsbo", "Bayesian optimisation of the sum of the objectives", f"{at}lsbo:LSBO", **bayesian),
        Method("rsbo", "Bayesian optimisation of random scalarisations", f"{at}rsbo:RSBO", **bayesian),
        Method("lts-warm-start", "60 of the training-free front, then local search", f"{at}lts:LTSWarmStart",
               {"n_front": 60, "front": "strict"}, seconds=3),
        Method("model-guided", "search guided by a model of what was evaluated", f"{at}model_guided:ModelGuided",
               batch=10, seconds=10),
        Method("lts", "training-free front of decoder parameters", None, {"front": "strict"}, "n_params_decoder",
               seconds=3),
        Method("lts-non-embedding", "the same, all parameters but the input embedding", None, {"front": "strict"},
               "n_params_non_embedding", seconds=3),
        Method("lts-flops", "the same, FLOPs", None, {"front": "strict"}, "flops", seconds=3),
        Method("lts-width", "the same, the width alone: one network a width", None, {"front": "hull", "n_free": 5000},
               "n_embd", seconds=2),
    ]  # fmt: skip


METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _methods()})


def find_methods(names: str | Sequence[str]) -> tuple[tuple[Method, ...], dict[str, str]]:
    """Return methods by name, and the reasons by name of those left out.

    Args:
        names: of methods; "all" for every one that can run here, the others are left out.

    Raises:
        KeyError: an unknown name; near matches and all names are given.
        ValueError: no name, one twice, or one given by name that cannot run here.
    """
    if names == ALL:
        reasons = {name: reason for name, method in METHODS.items() if (reason := method.missing())}
        return tuple(method for name, method in METHODS.items() if name not in reasons), reasons
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"methods = {wanted}: give at least one, each once; or {ALL!r}")
    found = tuple(METHODS[check_method(name)] for name in wanted)
    for method in found:
        if reason := method.missing():
            raise ValueError(f"method {method.name!r} {reason}")
    return found, {}


def check_method(name: str) -> str:
    """Return the name.

    Raises:
        KeyError: there is no such method; near matches and all names are given.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=3, cutoff=0.5)
        hint = f"; near matches: {', '.join(near)}" if near else ""
        raise KeyError(f"no method {name!r}{hint}; methods: {', '.join(METHODS)}")
    return name
