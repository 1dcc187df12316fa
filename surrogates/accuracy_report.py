"""How good surrogates are on architectures they have not seen: every score, ceiling and baseline, and goals. No torch.

Measurements of a long series drift with the hour, so every target is scored twice: against values as published (raw)
and against values with the drift divided out (adjusted), with the intervals that belong to each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from surrogates.noise import Ceiling, ceiling
from surrogates.validation import Scores, parameter_count_scores, score_target, scores

PARAMETER_COUNT = "parameter_count"
_DIGITS = 5  # significant ones that are saved


@dataclass(frozen=True)
class TargetTest:
    """Held-out measurements of one target, and what was predicted for them.

    Attributes:
        space: name of the search space.
        metric: what was measured.
        device: where; "any" for metrics that depend on none.
        n_train: rows the surrogate was fitted to.
        raw: (n,) measured medians as published.
        adjusted: (n,) the same with the drift of the hour divided out.
        predicted: (n,) predicted medians.
        widths: (n,) network widths.
        levels: (q,) of the quantiles, ascending.
        quantiles: (n, q) predicted for adjusted values.
        raw_quantiles: (n, q) predicted for values as published.
        parameters: (n,) parameter counts.
        repeats: (n, r) samples behind the medians; None where there is one.
        baselines: predictions (n,) of other models, by name.
    """

    space: str
    metric: str
    device: str
    n_train: int
    raw: np.ndarray
    adjusted: np.ndarray
    predicted: np.ndarray
    widths: np.ndarray
    levels: np.ndarray
    quantiles: np.ndarray
    raw_quantiles: np.ndarray
    parameters: np.ndarray
    repeats: np.ndarray | None = None
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.raw)
        named = {name: getattr(self, name) for name in ("adjusted", "predicted", "widths", "parameters")}
        for name, values in {**named, **self.baselines}.items():
            if np.shape(values) != (n,):
                raise ValueError(f"{self.title}: {name} has shape {np.shape(values)}, measurements ({n},)")

    @property
    def title(self) -> str:
        """The target in words: space, metric and device."""
        return f"{self.space} {self.metric}" + ("" if self.device == "any" else f" {self.device}")


@dataclass(frozen=True)
class TargetReport:
    """The scores of one target on held-out architectures.

    Attributes:
        space: name of the search space.
        metric: what was predicted.
        device: where it was measured.
        n_train: rows the surrogate was fitted to.
        raw: scores against values as published.
        adjusted: scores against values with the drift divided out.
        ceiling: what the noise of repeats leaves possible, values as published.
        adjusted_ceiling: the same with the drift divided out.
        raw_baselines: scores of other models and of the parameter count, by name, against values as published.
        baselines: the same against adjusted values.
        drift: robust standard deviation of log(raw / adjusted).
    """

    space: str
    metric: str
    device: str
    n_train: int
    raw: Scores
    adjusted: Scores
    ceiling: Ceiling
    adjusted_ceiling: Ceiling
    raw_baselines: Mapping[str, Scores]
    baselines: Mapping[str, Scores]
    drift: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types, numbers rounded, NaN as None."""
        values = {name: getattr(self, name) for name in ("space", "metric", "device", "n_train", "drift")}
        values |= {"raw": self.raw.to_dict(), "adjusted": self.adjusted.to_dict()}
        values |= {"ceiling": vars(self.ceiling), "adjusted_ceiling": vars(self.adjusted_ceiling)}
        for name in ("raw_baselines", "baselines"):
            values[name] = {key: _short(found.to_dict()) for key, found in getattr(self, name).items()}
        return dict(_rounded(values))


def report_target(test: TargetTest, *, rng: np.random.Generator) -> TargetReport:
    """Score the predictions of one target.

    Args:
        test: what was measured and predicted.
        rng: of the simulated ceilings.

    Raises:
        ValueError: shapes that differ, or numbers that are not finite.
    """
    factor = test.raw / test.adjusted
    adjusted_repeats = None if test.repeats is None else test.repeats / factor[:, None]
    logs = np.log(factor)
    return TargetReport(
        test.space, test.metric, test.device, test.n_train,
        raw=score_target(test.raw, test.predicted, test.levels, test.raw_quantiles, widths=test.widths),
        adjusted=score_target(test.adjusted, test.predicted, test.levels, test.quantiles, widths=test.widths),
        ceiling=ceiling(test.repeats, widths=test.widths, rng=rng),
        adjusted_ceiling=ceiling(adjusted_repeats, widths=test.widths, rng=rng),
        raw_baselines=_baselines(test, test.raw), baselines=_baselines(test, test.adjusted),
        drift=float(1.4826 * np.median(np.abs(logs - np.median(logs)))),
    )  # fmt: skip


def _baselines(test: TargetTest, y: np.ndarray) -> dict[str, Scores]:
    found = {name: scores(y, predicted, widths=test.widths) for name, predicted in test.baselines.items()}
    return {PARAMETER_COUNT: parameter_count_scores(y, test.parameters, widths=test.widths)} | found


def _short(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a baseline without what only intervals have, and little of each width."""
    names = ("n", "r2", "kendall", "spearman", "mape", "within_5", "within_10", "kendall_within_width")
    inside = [{name: part[name] for name in ("width", "n", "r2", "kendall", "mape")} for part in saved["within_width"]]
    return {name: saved[name] for name in names} | {"within_width": inside}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if np.isfinite(value) else None
    return value


# --- goals --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """A figure to reach, and what was reached.

    Attributes:
        name: in words.
        space: name of the search space.
        value: reached; NaN where nothing was measured.
        at_least: lower limit.
        at_most: upper limit.
        first: what a first, untuned fit reached; NaN where it is not known.
        note: which targets miss it, where it is about each.
    """

    name: str
    space: str
    value: float
    at_least: float = float("-inf")
    at_most: float = float("inf")
    first: float = float("nan")
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether the value, to three decimals, lies within the limits."""
        return bool(self.at_least <= round(self.value, 3) <= self.at_most)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types, numbers rounded, infinite ones and NaN as None."""
        return dict(_rounded(vars(self) | {"reached": self.reached}))


def mean_kendall(
    reports: Sequence[TargetReport], space: str, metric: str, devices: Sequence[str], *, adjusted: bool
) -> float:  # fmt: skip
    """Return the mean over devices of Kendall's tau; NaN where one of them was not measured."""
    found = {r.device: (r.adjusted if adjusted else r.raw).kendall for r in _of(reports, space, metric)}
    return float(np.mean([found.get(device, np.nan) for device in devices]))


def ceiling_goal(
    reports: Sequence[TargetReport], space: str, metric: str, devices: Sequence[str], *, name: str, margin: float
) -> Goal:  # fmt: skip
    """Return the goal that the mean adjusted Kendall comes within `margin` of the mean split-half one.

    Devices with a single repeat have no ceiling: the mean ceiling is of the others.
    """
    halves = [r.ceiling.half_kendall for r in _of(reports, space, metric) if r.device in devices]
    known = [half for half in halves if np.isfinite(half)]
    value = mean_kendall(reports, space, metric, devices, adjusted=True)
    top = float(np.mean(known)) if known else float("nan")
    note = f"split-half {top:.3f} over {len(known)} of {len(devices)} devices"
    return Goal(name, space, value, at_least=round(top - margin, 3), note=note)


def coverage_goals(
    reports: Sequence[TargetReport], space: str, *, name: str, nominal: float, margin: float, least_rows: int
) -> list[Goal]:  # fmt: skip
    """Return the goals that intervals hold nominal +- margin of adjusted values: the lowest and the highest coverage.

    Only targets with at least `least_rows` held-out rows count.
    """
    counted = [r for r in reports if r.space == space and r.adjusted.n >= least_rows]
    found = {f"{r.metric} {r.device}": _coverage(r, nominal) for r in counted}
    found = {key: value for key, value in found.items() if np.isfinite(value)}
    if not found:
        return []
    low, high = round(nominal - margin, 6), round(nominal + margin, 6)
    outside = [f"{key} {value:.3f}" for key, value in found.items() if not low <= round(value, 3) <= high]
    note = f"{len(found) - len(outside)} of {len(found)} targets" + (f"; not {', '.join(outside)}" if outside else "")
    return [
        Goal(f"{name}, lowest", space, min(found.values()), low, high, note=note),
        Goal(f"{name}, highest", space, max(found.values()), low, high, note=note),
    ]


def _coverage(report: TargetReport, nominal: float) -> float:
    return next((i.coverage for i in report.adjusted.intervals if i.nominal == nominal), float("nan"))


def _of(reports: Sequence[TargetReport], space: str, metric: str) -> list[TargetReport]:
    return [report for report in reports if (report.space, report.metric) == (space, metric)]
