"""From a table of measurements to surrogates: tries several models on every metric, keeps the best. No torch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sklearn.base import clone

from hw_profiles.device import Workload
from supernet.cost import parameter_counts
from supernet.space import SearchSpace
from surrogates.candidates import BASELINE, candidate_models
from surrogates.features import feature_names, features, width_column
from surrogates.fitted import FitReport, FittedSurrogate, SurrogateSet
from surrogates.intervals import INTERVALS, make_intervals
from surrogates.prediction import Surrogate
from surrogates.targets import Targets, measured_metrics, targets
from surrogates.validation import CrossValidation, better, cross_validate, interval_scores, parameter_count_scores

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_SCALE_FEATURES = ("n_layer", "log_params_attention", "log_params_mlp")  # that the size of errors may depend on


def fit_surrogates(
    frame: pd.DataFrame,
    space: SearchSpace,
    *,
    metrics: Sequence[str] | None = None,
    device: str | None = None,
    workload: Workload | str | None = None,
    candidates: Mapping[str, Surrogate] | None = None,
    folds: int = 5,
    seed: int = 0,
    criterion: str = "mape",
    intervals: str = "conformal",
) -> SurrogateSet:
    """Fit a surrogate to each metric of a table: the candidate with the best cross-validated score, fitted to all rows.

    The linear baseline and the ranking by parameter count are scored beside it, whether candidates or not. Intervals
    come from the winner's out-of-fold residuals.

    Args:
        frame: what `hw_profiles.table.MeasurementTable.read` gives.
        space: the space of the architectures.
        metrics: names; None for all that were measured.
        device: where per-device metrics were measured; None where the table has one device.
        workload: the input, or its id; None where the table has one.
        candidates: unfitted models by name; None for `candidate_models(space)`.
        folds: of the cross-validation, the same for all candidates.
        seed: of the folds and of the default candidates.
        criterion: "mape", "kendall" or "r2".
        intervals: "conformal", "normalised" or "quantile_regression"; see `surrogates.intervals.make_intervals`.

    Raises:
        ValueError: nothing or not enough to fit, several devices or workloads to choose from, bad or mixed
            measurements, architectures of another space.
    """
    names = list(metrics) if metrics is not None else measured_metrics(frame, space, device=device)
    if not names:
        raise ValueError(f"no measured metric of space {space.name!r} in the table: run `paretolm profile` first")
    models = dict(candidates) if candidates is not None else candidate_models(space, seed=seed)
    data = [targets(frame, space, metric=name, device=device, workload=workload) for name in names]
    for item in data:
        check_rows(item, folds)
    return SurrogateSet(
        [fit_metric(d, space, models, folds=folds, seed=seed, criterion=criterion, intervals=intervals) for d in data]
    )


def fit_metric(
    data: Targets, space: SearchSpace, candidates: Mapping[str, Surrogate], *,
    folds: int = 5, seed: int = 0, criterion: str = "mape", intervals: str = "conformal",
) -> FittedSurrogate:  # fmt: skip
    """Fit the best of `candidates` to the measurements of one metric; see `fit_surrogates`."""
    check_rows(data, folds)
    if intervals not in INTERVALS:
        raise ValueError(f"intervals = {intervals!r}; allowed: {', '.join(INTERVALS)}")
    X = features(space, data.archs)
    parameters = parameter_counts(space.model_config, data.archs)
    widths = X[:, width_column(space)]
    compared = dict(candidates) | {k: v for k, v in candidate_models(space, [BASELINE]).items() if k not in candidates}
    tried: dict[str, CrossValidation] = {}
    for name, model in compared.items():
        tried[name] = cross_validate(lambda m=model: clone(m), X, data.y, folds=folds, seed=seed, widths=widths)  # type: ignore[misc]
        found = tried[name].scores
        log.info("%s, %s: Kendall %.3f, MAPE %.2f %%", data.metric, name, found.kendall, found.mape)
    winner = next(iter(candidates))
    for name in candidates:
        winner = name if better(tried[name].scores, tried[winner].scores, criterion) else winner
    best = tried[winner]
    columns = [feature_names(space).index(name) for name in _SCALE_FEATURES]
    around = partial(make_intervals, intervals, by=width_column(space), columns=columns, seed=seed)
    if intervals != "conformal":
        found = replace(best.scores, intervals=interval_scores(data.y, best.predicted, best.fold, X=X, make=around))
        tried[winner] = replace(best, scores=found)
    report = FitReport(
        winner=winner, criterion=criterion, folds=folds, seed=seed,
        candidates={name: result.scores for name, result in tried.items()},
        parameter_count=parameter_count_scores(data.y, parameters.decoder, widths=widths),
        architectures=tuple(arch.id for arch in data.archs), measured=data.y,
        predictions={name: result.predicted for name, result in tried.items()},
    )  # fmt: skip
    return FittedSurrogate(
        data.metric, data.unit, data.device, data.workload, space, clone(candidates[winner]).fit(X, data.y),
        around(X, data.y, best.predicted), report,
    )  # fmt: skip


def check_rows(data: Targets, folds: int) -> None:
    """Raise ValueError when there are too few architectures for `folds`-fold cross-validation (2 a fold)."""
    if folds < 2:
        raise ValueError(f"folds = {folds}: give at least 2")
    if len(data.archs) < 2 * folds:
        raise ValueError(
            f"{data.metric} was measured for {len(data.archs)} architectures (device {data.device}, workload "
            f"{data.workload}); {folds} folds need at least {2 * folds}: profile more, or lower folds"
        )


def summary(surrogate: FittedSurrogate) -> str:
    """Return one line: the winner's cross-validated scores, beside the linear model's and the parameter count's."""
    report = surrogate.report
    best, linear, count = report.scores, report.linear, report.parameter_count
    return (
        f"{surrogate.metric} [{surrogate.unit}] by {report.winner}: Kendall {best.kendall:.3f}, MAPE {best.mape:.2f} % "
        f"(linear {linear.kendall:.3f}, {linear.mape:.2f} %; parameter count {count.kendall:.3f}), "
        f"{report.folds}-fold, {best.n} architectures"
    )
