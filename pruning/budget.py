"""What the user asks for: limits of latency, throughput, parameters, memory and KV cache. No torch.

    latency: -25%  75%  x0.75  12ms  0.5s  12 (ms)         params, decoder_params: -25%  100M  1.2B  100000000
    tokens_per_s: +30%  x1.3  120 tok/s  120               memory, kv_cache: -25%  64MiB  1GB  67108864 (bytes)

Several hold at once. `resolve` turns them into absolute limits with the dense model's values.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hw_profiles.device import Workload

_TIMES = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}
_BYTES = {
    "": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30,
    "tib": 2.0**40,
}  # fmt: skip
_RATES = {"": 1.0, "tok/s": 1.0, "token/s": 1.0, "tokens/s": 1.0, "t/s": 1.0, "tps": 1.0, "ktok/s": 1e3}
_SIGNS = {0x2212: "-", 0x2013: "-", 0xD7: "x"}  # minus sign, dash and multiplication sign, as pasted from a text
_NUMBER = r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?)"
_RELATIVE = re.compile(rf"([+-]?){_NUMBER}%")
_FACTOR = re.compile(rf"(?:x{_NUMBER}|{_NUMBER}x)")
_ABSOLUTE = re.compile(rf"{_NUMBER}([a-zµ/]*)")


@dataclass(frozen=True)
class _Metric:
    units: Mapping[str, float]
    unit: str  # for messages
    examples: str
    is_minimum: bool = False


METRICS: Mapping[str, _Metric] = {
    "latency": _Metric(_TIMES | {"": 1.0}, "ms", "-25%, 75%, x0.75, 12ms, 0.5s, 12 (ms)"),
    "tokens_per_s": _Metric(_RATES, "tokens/s", "+30%, x1.3, 120 tok/s, 120", is_minimum=True),
    "params": _Metric(_COUNTS, "parameters", "-25%, x0.75, 100M, 1.2B, 100000000"),
    "decoder_params": _Metric(_COUNTS, "parameters", "-25%, x0.75, 80M, 1.2B, 80000000"),
    "memory": _Metric(_BYTES, "bytes", "-25%, x0.75, 64MiB, 1GB, 67108864 (bytes)"),
    "kv_cache": _Metric(_BYTES, "bytes", "-25%, x0.75, 8MiB, 1GB, 8388608 (bytes)"),
}
MEASURED = ("latency", "tokens_per_s")


@dataclass(frozen=True)
class Limit:
    """One limit as it was asked for.

    Attributes:
        metric: one of METRICS.
        value: absolute, in ms, tokens/s, parameters or bytes; None when it is relative.
        ratio: to the dense model's value; None when it is absolute.
        asked: what the user wrote.
    """

    metric: str
    value: float | None
    ratio: float | None
    asked: str

    @property
    def is_minimum(self) -> bool:
        """Whether at least this much is asked for (tokens_per_s), instead of at most."""
        return METRICS[self.metric].is_minimum

    def __str__(self) -> str:
        return f"{self.metric} {self.asked}"


@dataclass(frozen=True)
class ResolvedLimit:
    """A limit with the dense model's value.

    Attributes:
        limit: as it was asked for.
        value: absolute.
        ratio: `value` over the dense model's.
        dense: the dense model's value.
    """

    limit: Limit
    value: float
    ratio: float
    dense: float

    @property
    def metric(self) -> str:
        """What is limited."""
        return self.limit.metric

    @property
    def latency_ratio(self) -> float | None:
        """The largest latency over the dense model's that this allows; None for what is not measured."""
        if self.metric == "latency":
            return self.ratio
        return 1 / self.ratio if self.metric == "tokens_per_s" else None

    @property
    def is_met_by_dense(self) -> bool:
        """Whether nothing has to be pruned for it."""
        return self.met_by(self.dense)

    def met_by(self, value: float) -> bool:
        """Return whether a network with this value meets it (rounding of the last digits counts as met)."""
        slack = 1e-9 * abs(self.value)
        return value >= self.value - slack if self.limit.is_minimum else value <= self.value + slack

    def used(self, value: float) -> float:
        """Return which share of what is allowed a network uses; above 1 the limit is missed."""
        return self.value / value if self.limit.is_minimum else value / self.value

    def __str__(self) -> str:
        sign = ">=" if self.limit.is_minimum else "<="
        return f"{self.metric} {sign} {show(self.metric, self.value)} (x{self.ratio:.4g} of the dense model)"


@dataclass(frozen=True)
class ResolvedBudget:
    """All limits of a run."""

    limits: tuple[ResolvedLimit, ...]

    @property
    def latency_ratio(self) -> float | None:
        """The largest latency over the dense model's that all limits allow; None when none is about time."""
        return min((r for limit in self.limits if (r := limit.latency_ratio) is not None), default=None)

    @property
    def counted(self) -> tuple[ResolvedLimit, ...]:
        """The limits that are counted exactly, not measured."""
        return tuple(limit for limit in self.limits if limit.metric not in MEASURED)

    def met_by(self, values: Mapping[str, float]) -> bool:
        """Return whether a network with these values (by metric) meets every limit.

        Raises:
            KeyError: the value of a limited metric is missing.
        """
        return all(limit.met_by(values[limit.metric]) for limit in self.limits)

    def check_reachable(self, best: Mapping[str, float]) -> None:
        """Refuse limits that no network of the search meets.

        Args:
            best: for each metric the smallest value that any network reaches (of tokens_per_s the largest).

        Raises:
            ValueError: names each limit that cannot be met and what can be reached.
        """
        missed = [limit for limit in self.limits if limit.metric in best and not limit.met_by(best[limit.metric])]
        if missed:
            raise ValueError("; ".join(_unreachable(limit, best[limit.metric]) for limit in missed))

    def __str__(self) -> str:
        return ", ".join(map(str, self.limits))


def parse_budget(mapping: Mapping[str, Any], workload: Workload | None = None) -> tuple[Limit, ...]:
    """Read what the user asks for.

    Args:
        mapping: metric -> limit; limits that are None are left out.
        workload: what latency, tokens/s, memory and KV cache are of; only checked to be there where they are asked for.

    Raises:
        KeyError: an unknown metric; the message lists near matches.
        ValueError: no limit at all, or one that cannot be read or asks for no pruning; says what is allowed.

    Example:
        >>> parse_budget({"latency": "-25%", "params": "100M"}, Workload(1, 512))[1].value
        100000000.0
    """
    limits = tuple(parse_limit(metric, asked) for metric, asked in mapping.items() if asked is not None)
    if not limits:
        raise ValueError(f"no budget: give at least one of {', '.join(METRICS)}, for example latency=-25%")
    needing = [limit.metric for limit in limits if limit.metric in (*MEASURED, "memory", "kv_cache")]
    if workload is None and needing:
        raise ValueError(f"budget.{needing[0]} depends on the input: give a workload, for example prefill-512")
    return limits


def parse_limit(metric: str, asked: Any) -> Limit:
    """Read one limit; see the module for the forms.

    Raises:
        KeyError: an unknown metric.
        ValueError: the limit cannot be read, or makes no sense.
    """
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise KeyError(f"budget.{metric} is unknown; there are {', '.join(METRICS)}.{hint}")
    if isinstance(asked, bool) or not isinstance(asked, (int, float, str)):
        raise _unreadable(metric, asked)
    text = re.sub(r"[\s_]+", "", str(asked)).translate(_SIGNS).lower()
    ratio = _ratio(text)
    if ratio is None:
        return Limit(metric, _absolute(metric, text, asked), None, str(asked).strip())
    wanted = "more than" if METRICS[metric].is_minimum else "less than"
    if not (1 < ratio < math.inf if METRICS[metric].is_minimum else 0 < ratio < 1):
        raise ValueError(
            f"budget.{metric} = {asked!r} is {ratio:.4g} times the dense model's: give {wanted} 1 times it, for "
            f"example {METRICS[metric].examples}"
        )
    return Limit(metric, None, ratio, str(asked).strip())


def resolve(limits: Sequence[Limit], dense: Mapping[str, float]) -> ResolvedBudget:
    """Turn limits into absolute ones.

    Args:
        limits: of `parse_budget`.
        dense: the dense model's value of each metric that is limited, in ms, tokens/s, parameters and bytes.

    Raises:
        KeyError: the dense model's value of a limited metric is missing.
    """
    found = []
    for limit in limits:
        if limit.metric not in dense:
            raise KeyError(f"the dense model's {limit.metric} is not known; there are {', '.join(dense)}")
        base = float(dense[limit.metric])
        value = base * limit.ratio if limit.ratio is not None else float(limit.value or 0.0)
        found.append(ResolvedLimit(limit, value, value / base, base))
    return ResolvedBudget(tuple(found))


def show(metric: str, value: float) -> str:
    """Return a value of a metric with its unit, for people."""
    unit = METRICS[metric].unit
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    if unit == "parameters":
        return f"{value / 1e6:.4g}M parameters"
    return f"{value:.4g} {unit}"


def _ratio(text: str) -> float | None:
    if match := _RELATIVE.fullmatch(text):
        share = float(match[2]) / 100
        return 1 + share if match[1] == "+" else 1 - share if match[1] == "-" else share
    if match := _FACTOR.fullmatch(text):
        return float(match[1] or match[2])
    return None


def _absolute(metric: str, text: str, asked: Any) -> float:
    match, known = _ABSOLUTE.fullmatch(text), METRICS[metric]
    if match is None or match[2] not in known.units:
        raise _unreadable(metric, asked)
    number = float(match[1])
    if not match[2] and 0 < number < 1:
        raise ValueError(
            f"budget.{metric} = {asked!r} can mean {number:g} {known.unit} or {number:g} times the dense model's: "
            f"write x{number:g} for that, or a unit ({known.examples})"
        )
    value = number * known.units[match[2]]
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"budget.{metric} = {asked!r}: give a positive, finite limit, for example {known.examples}")
    return value


def _unreadable(metric: str, asked: Any) -> ValueError:
    return ValueError(f"budget.{metric} = {asked!r} cannot be read; give for example {METRICS[metric].examples}")


def _unreachable(limit: ResolvedLimit, best: float) -> str:
    kind = "largest" if limit.limit.is_minimum else "smallest"
    return (
        f"budget.{limit.metric} = {limit.limit.asked} asks for {show(limit.metric, limit.value)}, which no network of "
        f"this search reaches: the {kind} is {show(limit.metric, best)} (x{best / limit.dense:.4g} of the dense model)"
    )
