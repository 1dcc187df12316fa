"""The numbers of one raw observation of HW-GPT-Bench, checked and in the tidy tables' units. No torch.

`row` is the observation's dictionary and `where` its file, for messages; all raise ValueError when a field is missing
or not as expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hw_profiles.importers.hwgpt_devices import TRACKER_REPEATS

_MILLISECONDS = {"s": 1e3, "ms": 1.0, "us": 1e-3}  # units that torch.profiler prints


def times_ms(row: Mapping[str, Any], where: str, kind: str, repeats: int) -> list[float]:
    """Return the times of an observation in ms."""
    values, units = _list(row, f"times_profiler_{kind}", where), _get(row, f"unit_{kind}", where)
    units = [units] * len(values) if isinstance(units, str) else units
    if len(values) != repeats or len(units) != repeats:
        raise ValueError(f"{where}: expected {repeats} times with units, found {len(values)} and {len(units)}")
    unknown = sorted({str(unit) for unit in units} - set(_MILLISECONDS))
    if unknown:
        raise ValueError(f"{where}: unit_{kind} holds {unknown[0]!r}; expected {', '.join(_MILLISECONDS)}")
    return [value * _MILLISECONDS[unit] for value, unit in zip(values, units, strict=True)]


def tracker_wh(row: Mapping[str, Any], where: str) -> list[float]:
    """Return the power tracker's energies in Wh."""
    if (unit := _get(row, "unit_energy", where)) != "KWh":
        raise ValueError(f"{where}: unit_energy is {unit!r}; expected 'KWh' (the label; the values are Wh)")
    values = _list(row, "energy_gpu", where)
    if len(values) != TRACKER_REPEATS:
        raise ValueError(f"{where}: energy_gpu has {len(values)} repeats; expected {TRACKER_REPEATS}")
    return values


def codecarbon_wh(row: Mapping[str, Any], where: str, name: str) -> float:
    """Return a mean or standard deviation of CodeCarbon in Wh."""
    if (unit := _get(row, "unit_energy", where)) != "Wh":
        raise ValueError(f"{where}: unit_energy is {unit!r}; expected 'Wh'")
    return number(row, name, where)


def _list(row: Mapping[str, Any], name: str, where: str) -> list[float]:
    values = _get(row, name, where)
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise ValueError(f"{where}: {name} is a {type(values).__name__}; expected a list of numbers")
    return [_float(value, name, where) for value in values]


def number(row: Mapping[str, Any], name: str, where: str) -> float:
    """Return a field that is one number."""
    return _float(_get(row, name, where), name, where)


def _float(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where}: {name} holds {value!r}; expected a number")
    return float(value)


def _get(row: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise ValueError(f"{where}: expected {name!r} in every observation; found {sorted(map(str, row))}")
    return row[name]
