"""Units that measurements come in, and their conversion to those of the table. No torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from hw_profiles.table import METRICS

UNITS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {  # unit of the table -> how many of it each known unit is
        "ms": {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 60e3},
        "mJ": {"uJ": 1e-3, "mJ": 1.0, "J": 1e3, "kJ": 1e6, "mWh": 3.6e3, "Wh": 3.6e6, "kWh": 3.6e9},
        "MiB": {
            "B": 2**-20, "bytes": 2**-20, "kB": 1e3 / 2**20, "KiB": 2**-10, "MB": 1e6 / 2**20, "MiB": 1.0,
            "GB": 1e9 / 2**20, "GiB": 1024.0,
        },
    }
)  # fmt: skip


def conversion_factor(metric: str, unit: str) -> float:
    """Return what values in `unit` are multiplied with to be in the metric's own unit.

    Raises:
        ValueError: no such metric (near matches are given), or a unit that it cannot have; names those it can.

    Example:
        >>> conversion_factor("energy_mj", "Wh")
        3600000.0
    """
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"metric {metric!r} is not known{hint} Known: {', '.join(METRICS)}")
    own = METRICS[metric].unit
    known = UNITS.get(own, {own: 1.0})
    if unit not in known:
        raise ValueError(f"{metric} cannot be in {unit!r}; known units: {', '.join(known)}")
    return known[unit]
