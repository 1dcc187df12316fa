"""HW-GPT-Bench's observations as rows of the table of measurements, the same from whichever files they were read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from hw_profiles.importers.bulk import columns
from hw_profiles.importers.hwgpt_arrays import HwgptArchitectures
from hw_profiles.importers.hwgpt_devices import (
    CPU_THREADS,
    ENERGY,
    HOST_ENERGY,
    LATENCY,
    MEMORY,
    MIB_PER_MB,
    MJ_PER_WH,
    PUBLISHED,
    SOURCE,
    n_runs,
    workload_of,
)
from hw_profiles.importers.hwgpt_protocol import space_of
from hw_profiles.table import ANY_DEVICE

_FACTORS = {ENERGY: MJ_PER_WH, HOST_ENERGY: MJ_PER_WH, MEMORY: MIB_PER_MB}
_UPSTREAM_UNITS = {LATENCY: "ms", ENERGY: "Wh", HOST_ENERGY: "Wh", MEMORY: "MB"}
_LARGEST_RATIO = 300  # of medians of one metric on one device; at most 57 in the published data
_ENERGY_BITS = 13  # significant bits of the tracker's repeats in the tidy tables


@dataclass(frozen=True)
class Scale:
    """The architectures of a scale.

    Attributes:
        architectures: all that may have observations.
        order: (n,) arch_id of each: its position in upstream's list, which is the order of measuring.
    """

    architectures: HwgptArchitectures
    order: np.ndarray

    @property
    def name(self) -> str:
        """The scale, s, m or l."""
        return self.architectures.scale

    @cached_property
    def ids(self) -> pa.Array:
        """Architecture ids, (n,) strings."""
        return pa.array([arch.id for arch in self.architectures.architectures], pa.string())


@dataclass(frozen=True)
class Observations:
    """What was observed of one metric on one device.

    Attributes:
        metric: of MEASURED.
        device: of DEVICES, or ANY_DEVICE.
        rows: (n,) which architecture of the scale.
        samples: the repeats of all rows, one row after the other, in the benchmark's unit: ms, Wh, MB or 1.
        lengths: (n,) repeats of each row.
        where: the file, for messages.
        std: (n,) standard deviation of CodeCarbon's runs, Wh; None for the rest.
    """

    metric: str
    device: str
    rows: np.ndarray
    samples: np.ndarray
    lengths: np.ndarray
    where: str
    std: np.ndarray | None = None


def as_published(values: np.ndarray, *, bits: int | None = None) -> np.ndarray:
    """Return values as the tidy tables keep them: 32-bit floats, first rounded to a number of significant bits.

    Both importers pass their values through this, so that they give the same rows. (The tidy tables may have rounded
    to 32 bits first: then about one energy in 4000 differs in its 13th bit.)
    """
    values = np.asarray(values, np.float64)
    if bits is not None:
        mantissa, exponent = np.frexp(values)
        values = np.ldexp(np.rint(mantissa * 2.0**bits), exponent - bits)
    return values.astype(np.float32).astype(np.float64)


def measurement_columns(scale: Scale, found: Observations) -> pa.Table:
    """Return observations as columns of the table's schema, in the table's units.

    Raises:
        ValueError: values that are not finite and above 0, medians so far apart that units must be mixed, or an
            architecture twice; names the file and the architecture.
    """
    tracker = found.metric == ENERGY and found.std is None
    samples = as_published(found.samples, bits=_ENERGY_BITS if tracker else None) * _FACTORS.get(found.metric, 1.0)
    _check_values(scale, found)
    table = columns(
        samples, found.lengths,
        space=space_of(scale.name).name,
        architecture=pa.DictionaryArray.from_arrays(found.rows.astype(np.int32), scale.ids),
        metric=found.metric, device=found.device,
        workload=workload_of(found.metric, scale.name, found.device),
        order=scale.order[found.rows], timestamp=PUBLISHED,
        threads=1 if found.device == ANY_DEVICE else CPU_THREADS, extra=_extra(scale, found),
    )  # fmt: skip
    _check_spread(found, table["median"].to_numpy())
    return table


def _extra(scale: Scale, found: Observations) -> str | list[str]:
    """Return facts as JSON; of CodeCarbon's means the standard deviation and number of the runs."""
    if found.std is None:
        instruments = {LATENCY: "torch.profiler", ENERGY: "nvidia-smi power x time", MEMORY: "torch allocated memory"}
        facts = {"source": SOURCE} | ({"instrument": instruments[found.metric]} if found.metric in instruments else {})
        return json.dumps(facts)
    count = n_runs(scale.name, found.device)
    head = json.dumps({"source": SOURCE, "instrument": "CodeCarbon, mean", "n_runs": count})[:-1]
    return [f'{head}, "std_mj": {value!r}}}' for value in (as_published(found.std) * MJ_PER_WH).tolist()]


def _check_values(scale: Scale, found: Observations) -> None:
    subject = f"{found.where}: {found.metric} of {found.device}"
    order = scale.order[found.rows]
    if len(np.unique(found.rows)) < len(found.rows):
        values, counts = np.unique(order, return_counts=True)
        raise ValueError(f"{subject} has arch_id {values[counts > 1][0]} twice: keep one of them")
    wrong = ~np.isfinite(found.samples) | (found.samples <= 0)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        row = int(np.searchsorted(np.cumsum(found.lengths), at, side="right"))
        raise ValueError(
            f"{subject}, arch_id {order[row]}, is {found.samples[at]} ({int(wrong.sum())} such values): they are "
            f"finite and above 0 {_UPSTREAM_UNITS.get(found.metric, '')}".rstrip()
        )
    if (found.lengths < 1).any():
        raise ValueError(f"{subject}, arch_id {order[found.lengths < 1][0]}, has no repeats; there is at least one")
    if found.std is not None and (wrong := ~np.isfinite(found.std) | (found.std < 0)).any():
        raise ValueError(f"{subject}, arch_id {order[wrong][0]}, has the standard deviation {found.std[wrong][0]}")


def _check_spread(found: Observations, medians: np.ndarray) -> None:
    if len(medians) and medians.max() > _LARGEST_RATIO * medians.min():
        unit = _UPSTREAM_UNITS.get(found.metric, "1")
        raise ValueError(
            f"{found.where}: medians of {found.metric} of {found.device} are {medians.max() / medians.min():.0f} times "
            f"apart, which looks like mixed units; all values of the file are expected in {unit}"
        )
