"""What a comparison compares: cases, methods, seeds and budgets, read from a configuration. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.comparison.cases import Case, benchmark_of, find_case
from search.comparison.methods import Method, check_method, find_methods
from search.comparison.single_run import RunPlan
from surrogates.benchmark_files import shipped_spaces

DEFAULT = "default"
GRID = ("scales", "devices", "metrics", "budgets", "noise")  # what a grid of cases is made of
KEYS = (*GRID, "more_cases", "methods", "seeds", "n_evaluations", "n_free", "extra_devices")


@dataclass(frozen=True)
class Settings:
    """A comparison: every method with every seed on every case.

    Attributes:
        cases: distinct.
        methods: distinct.
        seeds: distinct; runs of one seed are paired.
        n_evaluations: of perplexity, by method.
        n_free: evaluations of free objectives, for methods with an inner search.
        devices: folders of adapted devices by the name of their benchmark.
        left_out: methods that cannot run here, and why.
    """

    cases: tuple[Case, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...]
    n_evaluations: Mapping[str, int]
    n_free: int = 20_000
    devices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def plans(self) -> list[RunPlan]:
        """Return all runs, by case, method and seed."""
        return [
            RunPlan(case, method, seed, self.n_evaluations[method.name], self.n_free, self.devices_of(case))
            for case in self.cases
            for method in self.methods
            for seed in self.seeds
        ]

    def devices_of(self, case: Case) -> tuple[str, ...]:
        """Return the folders of devices that were added to the benchmark of a case."""
        return tuple(self.devices.get(case.benchmark, ()))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, for files and reports."""
        return {
            "cases": [case.name for case in self.cases],
            "methods": {m.name: m.identity | {"n_evaluations": self.n_evaluations[m.name]} for m in self.methods},
            "seeds": list(self.seeds),
            "n_free": self.n_free,
            "extra_devices": {name: list(folders) for name, folders in self.devices.items()},
            "benchmarks": {c.benchmark: benchmark_of(c.benchmark, self.devices_of(c)).digest for c in self.cases},
        }


def read_settings(values: Mapping[str, Any]) -> Settings:
    """Read settings as conf/compare.yaml gives them.

    Args:
        values: `scales` x `devices` with `metrics`, `budgets` and `noise` are cases; `more_cases` is a list of
            further such grids, where what is not given is as in the first. `methods`: names or "all". `seeds`: how
            many, or a list. `n_evaluations`: one number, or by method with "default". `n_free`, `extra_devices`
            (folders by scale).

    Raises:
        KeyError: an unknown method, metric or device.
        ValueError: an unknown setting or scale, or values that are not possible.
    """
    _check_keys(values, KEYS, "setting")
    devices = {
        str(scale): tuple(str(Path(folder).resolve()) for folder in folders)
        for scale, folders in (values.get("extra_devices") or {}).items()
    }
    methods, left_out = find_methods(values.get("methods", "all"))
    n_free = int(values.get("n_free", 20_000))
    if n_free < 1:
        raise ValueError(f"n_free = {n_free}: give at least 1")
    for name, reason in left_out.items():
        warnings.warn(f"method {name!r} is left out: it {reason}", stacklevel=2)
    return Settings(
        cases=_cases(values, devices), methods=methods, seeds=_seeds(values.get("seeds", 20)),
        n_evaluations=_n_evaluations(values.get("n_evaluations"), methods), n_free=n_free,
        devices=devices, left_out=left_out,
    )  # fmt: skip


def _cases(values: Mapping[str, Any], devices: Mapping[str, tuple[str, ...]]) -> tuple[Case, ...]:
    first = {key: values[key] for key in GRID if key in values}
    cases: dict[str, Case] = {}
    for grid in [first, *(values.get("more_cases") or ())]:
        _check_keys(grid, GRID, "setting of more_cases")
        cases |= {case.name: case for case in _grid({**first, **grid}, devices)}
    if not cases:
        raise ValueError("there are no cases: give scales (gpt-s) and devices (a100)")
    return tuple(cases.values())


def _grid(grid: Mapping[str, Any], devices: Mapping[str, tuple[str, ...]]) -> list[Case]:
    return [
        find_case(
            benchmark_of(str(scale), devices.get(str(scale), ())), device=str(device),
            objectives=_texts(grid.get("metrics", ("perplexity", "latency"))), budgets=grid.get("budgets"),
            is_noisy=bool(grid.get("noise", False)),
        )
        for scale in _texts(grid.get("scales", shipped_spaces()))
        for device in _texts(grid.get("devices", ()))
    ]  # fmt: skip


def _seeds(given: int | Sequence[int]) -> tuple[int, ...]:
    seeds = tuple(range(given)) if isinstance(given, int) else tuple(int(seed) for seed in given)
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds = {given}: give how many (20), or a list of different integers >= 0")
    if len(seeds) < 2:
        warnings.warn("one seed: nothing can be said about chance; statistics need two, better 20", stacklevel=3)
    return seeds


def _n_evaluations(given: int | Mapping[str, int] | None, methods: Sequence[Method]) -> dict[str, int]:
    by_name = {DEFAULT: given} if isinstance(given, int) else dict(given or {})
    for name in by_name:
        if name != DEFAULT:
            check_method(name)
    numbers = {m.name: int(by_name.get(m.name, by_name.get(DEFAULT, m.n_evaluations))) for m in methods}
    if wrong := {name: n for name, n in numbers.items() if n < 1}:
        raise ValueError(f"n_evaluations: {wrong} must be at least 1")
    return numbers


def _texts(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else [str(text) for text in given]


def _check_keys(given: Mapping[str, Any], allowed: Sequence[str], what: str) -> None:
    if unknown := [key for key in given if key not in allowed]:
        raise ValueError(f"no {what} {', '.join(map(repr, unknown))}; there are {', '.join(allowed)}")
