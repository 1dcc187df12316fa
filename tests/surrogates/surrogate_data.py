"""Synthetic measurements for the tests of the surrogates: exact costs, noise, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hw_profiles.device import Workload
from hw_profiles.table import METRICS, Measurement, MeasurementTable
from supernet.architecture import Architecture
from supernet.cost import mac_counts, parameter_counts
from supernet.space import SearchSpace

DEVICE = "test-cpu-1t"
WORKLOAD = Workload(1, 64)


def small_space(**changes: object) -> SearchSpace:
    fields = {
        "name": "small", "n_embd": (32, 48, 64), "n_layer": (2, 3, 4), "n_head": (1, 2, 4), "mlp_ratio": (1, 2, 4),
        "config": {"head_size": 16, "vocab_size": 128, "padded_vocab_size": 128, "block_size": 64},
    }  # fmt: skip
    return SearchSpace(**(fields | changes))  # type: ignore[arg-type]


def sampled(space: SearchSpace, n: int, seed: int = 0) -> list[Architecture]:
    return space.sample_unique(n, np.random.default_rng(seed))


def latency_ms(space: SearchSpace, archs: Sequence[Architecture]) -> np.ndarray:
    """A fixed time, a time a layer, and a time a multiply-add."""
    work = mac_counts(space.model_config, archs, seq_len=64).total
    depth = np.array([arch.n_layer for arch in archs])
    return 0.3 + 0.2 * depth + work / 4e6


def perplexity(space: SearchSpace, archs: Sequence[Architecture]) -> np.ndarray:
    return 900 * parameter_counts(space.model_config, archs).decoder.astype(float) ** -0.35


def noisy(values: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    return values * np.exp(share * np.random.default_rng(seed).standard_normal(len(values)))


def measurements(
    space: SearchSpace, archs: Sequence[Architecture], values: Sequence[float], *, metric: str = "latency_ms",
    device: str = DEVICE, workload: Workload = WORKLOAD, references: Sequence[float] | None = None,
) -> list[Measurement]:  # fmt: skip
    return [
        Measurement(
            space=space.name, architecture=arch.id, metric=metric, unit=METRICS[metric].unit,
            device=device if METRICS[metric].per_device else "any", workload=workload, repeats=(float(value),),
            reference_repeats=() if references is None else (float(references[i]),), order=i,
            reference="" if references is None else space.largest().id,
        )
        for i, (arch, value) in enumerate(zip(archs, values, strict=True))
    ]  # fmt: skip


def table_of(folder: Path, rows: Sequence[Measurement]) -> MeasurementTable:
    table = MeasurementTable(folder / "measurements")
    table.append(rows)
    return table


def latency_and_perplexity(folder: Path, space: SearchSpace, n: int = 40, noise: float = 0.02) -> MeasurementTable:
    archs = sampled(space, n)
    rows = measurements(space, archs, noisy(latency_ms(space, archs), noise))
    rows += measurements(space, archs, noisy(perplexity(space, archs), noise, seed=1), metric="perplexity")
    return table_of(folder, rows)


def frame_of(folder: Path, rows: Sequence[Measurement]) -> pd.DataFrame:
    return table_of(folder, rows).read()
