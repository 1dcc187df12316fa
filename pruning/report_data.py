"""What the report of a pruning run shows, as one value that JSON holds. No torch.

Every part but the model's name and the shapes is optional; the report leaves out what is not there. Unknown numbers are
None. Ratios of latency are to the dense model, measured by turns (dense = 1).
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from supernet.architecture import Architecture
from supernet.artifacts import read_json, versions, write_json

T = TypeVar("T")

DENSE, OURS = "dense", "ours"


@dataclass(frozen=True)
class BudgetLine:
    """One limit of the budget.

    Attributes:
        metric: what is limited, with its unit: "latency (ms)", "parameters".
        asked: as the user wrote it: "-25%".
        limit: the largest value allowed (of throughput the smallest), in the metric's unit.
        predicted: what the search expected of the result.
        measured: what the result has; counted ones are exact.
        higher_is_better: whether the limit is a least value (tokens/s).
    """

    metric: str
    asked: str
    limit: float
    predicted: float | None = None
    measured: float | None = None
    higher_is_better: bool = False

    @property
    def holds(self) -> bool | None:
        """Whether the measured value keeps the limit; None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.higher_is_better else self.measured <= self.limit

    @property
    def used(self) -> float | None:
        """Measured value over the limit (of throughput the inverse): 1 is the whole budget."""
        if not self.measured or not self.limit:
            return None
        return self.limit / self.measured if self.higher_is_better else self.measured / self.limit


@dataclass(frozen=True)
class Network:
    """A network of the table and of the Pareto plot.

    Attributes:
        name: shown in both; unique.
        series: "dense", "ours", or the name of a method ("FLAP", "candidates"): networks of a series look alike.
        loss: nats a token on `PruneReport.texts`' first text, or on calibration text for candidates.
        perplexity: by text.
        latency_ratio: measured, to the dense model; `latency_low` and `latency_high` are the ends of its 95 % interval.
        latency_ms: measured median.
        tokens_per_s: measured.
        n_params: parameters.
        memory_mib: of the weights as stored.
        kv_cache_mib: of the workload's positions.
        in_table: whether the table has a row of it; candidates of the search need none.
    """

    name: str
    series: str
    loss: float | None = None
    perplexity: Mapping[str, float] = field(default_factory=dict)
    latency_ratio: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    latency_ms: float | None = None
    tokens_per_s: float | None = None
    n_params: int | None = None
    memory_mib: float | None = None
    kv_cache_mib: float | None = None
    in_table: bool = True


@dataclass(frozen=True)
class PredictedLatency:
    """A latency that was predicted and then measured, as ratios to the dense model.

    Attributes:
        predicted: the median that was predicted.
        measured: the median that was measured.
        upper: the bound that was promised; None where there was none.
        series: "held out" (not seen by the model), "candidate" (of a round), "result".
    """

    predicted: float
    measured: float
    upper: float | None = None
    series: str = "held out"


@dataclass(frozen=True)
class TextSample:
    """Two continuations of a beginning.

    Attributes:
        prompt: the beginning.
        dense: what the dense network writes after it.
        pruned: what the pruned network writes.
    """

    prompt: str
    dense: str
    pruned: str


@dataclass(frozen=True)
class TaskScore:
    """A zero-shot score before and after: `metric` of `task`, between 0 and 1."""

    task: str
    metric: str
    before: float
    after: float


@dataclass(frozen=True)
class ExportLine:
    """An export: format, folder, class, the call that loads it, parameters in the file, difference of the logits."""

    format: str
    folder: str
    class_name: str
    loads_with: str
    n_params: int | None = None
    max_difference: float | None = None


@dataclass(frozen=True)
class CommandLine:
    """A command line and what it does."""

    stage: str
    line: str


@dataclass(frozen=True)
class PruneReport:
    """All that the report of a pruning run shows.

    Attributes:
        model: name of the dense model.
        dense: its architecture.
        pruned: the result's architecture in the importance-ordered supernet.
        workload: id of the workload that latencies are of.
        device: its name.
        budget: what was asked.
        latency_limit: the budget's latency, as a ratio to the dense model; for the plots.
        networks: for the Pareto plot and the table; one is of series "dense", one or more of "ours".
        texts: names of the texts that `Network.perplexity` knows, in order; the first is the plot's.
        predictions: predicted and measured latencies.
        samples: texts before and after.
        scores: zero-shot accuracy before and after.
        exports: what was written.
        commands: to repeat the run.
        versions: of packages.
        facts: of the device, the calibration text, the settings: name -> text.
        seconds: by step, in order.
        notes: what a reader must know, a paragraph each.
        made: date and time, ISO.
    """

    model: str
    dense: Architecture
    pruned: Architecture
    workload: str = ""
    device: str = ""
    budget: tuple[BudgetLine, ...] = ()
    latency_limit: float | None = None
    networks: tuple[Network, ...] = ()
    texts: tuple[str, ...] = ()
    predictions: tuple[PredictedLatency, ...] = ()
    samples: tuple[TextSample, ...] = ()
    scores: tuple[TaskScore, ...] = ()
    exports: tuple[ExportLine, ...] = ()
    commands: tuple[CommandLine, ...] = ()
    versions: Mapping[str, str] = field(default_factory=versions)
    facts: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    made: str = ""

    def __post_init__(self) -> None:
        names = [network.name for network in self.networks]
        if len(set(names)) < len(names):
            raise ValueError(f"networks have the same name twice: {sorted({n for n in names if names.count(n) > 1})}")

    def of_series(self, series: str) -> Network | None:
        """Return the first network of a series; None where there is none."""
        return next((network for network in self.networks if network.series == series), None)

    def to_json(self) -> str:
        """Return the report as JSON; numbers that are not finite become null."""
        return json.dumps(_plain(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> PruneReport:
        """Read what `to_json` gives.

        Raises:
            ValueError: no such JSON; names the field.
        """
        return _read(cls, json.loads(text), "report")

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON, atomically."""
        return write_json(path, _plain(self))

    @classmethod
    def load(cls, path: str | Path) -> PruneReport:
        """Read what `save` wrote."""
        return _read(cls, read_json(path), str(path))


def _plain(value: Any) -> Any:
    if isinstance(value, Architecture):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read(kind: type[T], data: Any, where: str) -> T:
    """Return a dataclass of its plain form."""
    if kind is Architecture:
        return Architecture.from_dict(data)  # type: ignore[return-value]
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected the fields of a {kind.__name__}, found {type(data).__name__}")
    hints, known = typing.get_type_hints(kind), {f.name for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - known):
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; a {kind.__name__} has {', '.join(sorted(known))}")
    values = {name: _read_field(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_field(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, type) and (is_dataclass(hint)):
        return _read(hint, value, where)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return tuple(_read_field(item, each, f"{where}[{i}]") for i, each in enumerate(value))
    if value is None and typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return math.nan if hint is float else value
    return value
