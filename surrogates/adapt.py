"""A new device from 10 to 50 measurements: predict it from the shipped devices, and say how well. No torch.

Every way of `adaptation_models` predicts each measured row from the others (leave-one-out). Their mean is used, with
shares that fall steeply with that error: on HW-GPT-Bench, each device held out in turn, it was better than the single
winner at every number of rows (benchmarks/run_adaptation.py). Learning from scratch is one of the ways.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace as changed
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from hw_profiles.device import Workload
from supernet.artifacts import versions
from supernet.encoding import to_genes
from surrogates.adapt_input import (
    check_count,
    check_name,
    check_ratios,
    described_hardware,
    repeat_noise,
    source_columns,
    wanted_targets,
)
from surrogates.adaptation_models import FLOOR, Candidate, fit_candidates
from surrogates.adaptation_terms import DeviceFeatures, Terms
from surrogates.adapted import AdaptationReport, AdaptedDevice, AdaptedMetric, Blend, SourceModel
from surrogates.campaign import TargetKey
from surrogates.targets import Targets
from surrogates.validation import interval_scores, scores

if TYPE_CHECKING:
    import pandas as pd

BLEND = "blend"
_SHARPNESS = 0.25  # shares are (leave-one-out error) ** (-_SHARPNESS * n)

# --- a device -----------------------------------------------------------------------------------------------------


def adapt_device(
    model: SourceModel, measurements: pd.DataFrame | Sequence[Targets], *, name: str,
    metrics: Sequence[str] | None = None, device: str | None = None, workload: Workload | str | None = None,
    reserved: Collection[str] = (), replace: bool = False, hardware: str = "", command: str = "",
) -> AdaptedDevice:  # fmt: skip
    """Adapt the surrogates of a space to a new device.

    Args:
        model: the surrogate of the space.
        measurements: what `hw_profiles.table.MeasurementTable.read` gives; or `adapt_input.measured_values`, one a
            metric.
        name: of the new device: letters, digits, "-", "_" and ".".
        metrics: names; None for all measured ones that shipped devices have.
        device: which device of a table that has several.
        workload: which input of a table that has several.
        reserved: further names that are taken, beside the model's devices.
        replace: allow the name of a shipped device.
        hardware: what the device is, in words; empty for what the table says.
        command: how it was asked for, for the card.

    Raises:
        ValueError: a name that is taken or not possible; a metric that shipped devices lack; too few rows (says how
            many are needed); values that are not finite and positive, or in mixed units; a table of another space;
            several devices or workloads to choose from.
    """
    check_name(name, {target.device for target in model.targets} | set(reserved), replace=replace)
    wanted = wanted_targets(model, measurements, metrics, device, workload)
    noise = repeat_noise(measurements)
    adapted = {data.metric: _adapted_metric(model, data, name, noise) for data in wanted}
    return AdaptedDevice(
        name, model.space, adapted, hardware or described_hardware(measurements, wanted[0].device), command,
        datetime.now(UTC).isoformat(timespec="seconds"), versions(),
    )  # fmt: skip


# --- a metric -----------------------------------------------------------------------------------------------------


def fit_blend(
    sources: np.ndarray, features: np.ndarray, y: np.ndarray, *, widths: Sequence[int]
) -> tuple[Blend, tuple[Candidate, ...], np.ndarray]:
    """Fit all ways to predict measurements, and their mean.

    Args:
        sources: (n, S) positive medians of the sources.
        features: (n, 5) `adaptation_terms.DeviceFeatures`.
        y: (n,) positive measurements.
        widths: the values of n_embd of the space.

    Returns:
        The blend; the candidates, the last of which is the blend, with leave-one-out predictions at fixed shares; the
        shares of the others.

    Raises:
        ValueError: fewer than MIN_ROWS rows, or more than MAX_ROWS.
    """
    check_count(len(y))
    terms = Terms(np.asarray(sorted(widths), float), np.shape(sources)[1])
    found = fit_candidates(terms, np.asarray(sources, float), np.asarray(features, float), y)
    logs = np.log([max(candidate.loo_error(y), 1e-9) for candidate in found])
    shares = np.exp(-_SHARPNESS * len(y) * (logs - logs.min()))
    shares /= shares.sum()
    only = next(i for i, candidate in enumerate(found) if candidate.log_affine is not None)
    coef = sum((share * c.coef for share, c in zip(shares, found, strict=True)), np.zeros(terms.size))
    affine, source = found[only].log_affine or (0.0, 1.0), found[only].source or 0
    blend = Blend(terms, coef, source, np.array([*affine, shares[only]]), FLOOR * float(y.min()))
    loo = sum((share * c.loo for share, c in zip(shares, found, strict=True)), np.zeros(len(y)))
    return blend, (*found, Candidate(BLEND, coef, loo)), shares


def _adapted_metric(
    model: SourceModel, data: Targets, name: str, noise: Mapping[tuple[str, str, str], float]
) -> AdaptedMetric:
    columns = source_columns(model, data.metric)
    genes = to_genes(model.space, data.archs)
    sources, features = model.predict(genes)[:, columns], DeviceFeatures(model.space)(genes)
    check_ratios(data, sources)
    blend, found, shares = fit_blend(sources, features, data.y, widths=model.space.n_embd)
    keys = tuple(TargetKey(*model.targets[i]) for i in columns)
    report = AdaptationReport(
        tuple(arch.id for arch in data.archs), data.y, sources,
        loo={c.name: c.loo for c in found},
        scores={c.name: _scores(data.y, c.loo, features[:, 0]) for c in found},
        shares={c.name: float(share) for c, share in zip(found, shares, strict=False)},
        best_source=keys[blend.log_source],
    )  # fmt: skip
    return AdaptedMetric(
        TargetKey(data.metric, name), data.unit, data.workload, data.device, keys, blend,
        np.sort(np.log(data.y / found[-1].loo)), noise.get((data.metric, data.device, data.workload), float("nan")),
        report,
    )  # fmt: skip


def _scores(y: np.ndarray, loo: np.ndarray, widths: np.ndarray) -> dict[str, Any]:
    """Score leave-one-out predictions; the interval of a row is made from the residuals of the others."""
    found = scores(y, loo, widths=widths)
    return changed(found, intervals=interval_scores(y, loo, np.arange(len(y)))).to_dict()
