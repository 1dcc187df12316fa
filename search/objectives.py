"""What a search minimises: closed-form costs, surrogate predictions, tables, and the negation of any of them. No torch.

The objective that evaluates a real supernet is in live.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from hw_profiles.table import METRICS
from search.pareto import Floats
from supernet.architecture import Architecture
from supernet.cost import kv_cache_elements, mac_counts, parameter_counts
from supernet.litgpt_config import ModelConfig

if TYPE_CHECKING:
    from surrogates.fitted import FittedSurrogate

if TYPE_CHECKING:
    pass

QUALITY_METRICS = ("perplexity", "loss", "bits_per_byte")  # each value stands for one evaluation of a network


class Objective(Protocol):
    """One number for each architecture, minimised; NaN means that there is no result."""

    @property
    def name(self) -> str:
        """Column name; ends with the unit where the metric has one (latency_ms)."""
        ...

    @property
    def unit(self) -> str:
        """Unit for axes and tables."""
        ...

    @property
    def is_free(self) -> bool:
        """Whether it costs no evaluation of a network's quality (hardware and size: yes, perplexity: no)."""
        ...

    @property
    def identity(self) -> str:
        """What the numbers come from; a search resumes only with objectives of the same identity."""
        ...

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return values (n,)."""
        ...


def free_objectives(objectives: Sequence[Objective], purpose: str) -> list[Objective]:
    """Return those of the objectives that cost no evaluation of quality.

    Args:
        objectives: of a search.
        purpose: what needs some of each kind, for the message.

    Raises:
        ValueError: none is free, or all are.
    """
    free = [o for o in objectives if o.is_free]
    if not free or len(free) == len(objectives):
        raise ValueError(
            f"{purpose} stands in for a measured quality against free objectives; of "
            f"{[o.name for o in objectives]} {len(free)} are free: give at least one of each kind"
        )
    return free


# --- closed-form costs ------------------------------------------------------------------------------------------------

COST_METRICS = tuple(metric.name for metric in METRICS.values() if metric.exact)
BYTES_PER_ELEMENT = 2  # of the KV cache: 16-bit floats


@dataclass(frozen=True)
class CostObjective:
    """An exact cost from supernet.cost; needs no model and no device.

    Attributes:
        metric: one of n_params, n_params_decoder (without embedding and head), macs, flops, kv_cache_mib.
        config: litgpt Config of the supernet, `space.model_config`.
        seq_len: tokens of a sequence (macs, flops, kv_cache_mib); None for the longest that the supernet takes.
        batch_size: sequences of a batch (macs, flops, kv_cache_mib).
    """

    metric: str
    config: ModelConfig = field(repr=False)
    seq_len: int | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.metric not in COST_METRICS:
            raise ValueError(f"metric = {self.metric!r} has no closed form; allowed: {', '.join(COST_METRICS)}")

    @property
    def name(self) -> str:
        """The metric."""
        return self.metric

    @property
    def unit(self) -> str:
        """Unit of the metric."""
        return METRICS[self.metric].unit

    @property
    def is_free(self) -> bool:
        """Always."""
        return True

    @property
    def tokens(self) -> int:
        """Tokens of a sequence."""
        return self.seq_len or self.config.block_size

    @property
    def identity(self) -> str:
        """The metric and, where it depends on it, the workload."""
        workload = "" if self.metric.startswith("n_params") else f" of {self.batch_size} x {self.tokens} tokens"
        return f"cost {self.metric}{workload}"

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return costs (n,)."""
        return np.asarray(self._costs(archs), dtype=np.float64)

    def _costs(self, archs: Sequence[Architecture]) -> NDArray[np.int64] | Floats:
        if self.metric == "n_params":
            return parameter_counts(self.config, archs).total
        if self.metric == "n_params_decoder":
            return parameter_counts(self.config, archs).decoder
        if self.metric == "kv_cache_mib":
            elements = kv_cache_elements(self.config, archs, seq_len=self.tokens)
            return self.batch_size * BYTES_PER_ELEMENT * elements / 2**20
        macs = self.batch_size * mac_counts(self.config, archs, seq_len=self.tokens).total
        return 2 * macs if self.metric == "flops" else macs


# --- negation, tables, functions --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NegatedObjective:
    """An objective to maximise: its values with the other sign, named with a leading minus."""

    objective: Objective

    @property
    def name(self) -> str:
        """The objective's name after a minus sign."""
        return f"-{self.objective.name}"

    @property
    def unit(self) -> str:
        """Unit of the objective."""
        return self.objective.unit

    @property
    def is_free(self) -> bool:
        """As the objective."""
        return self.objective.is_free

    @property
    def identity(self) -> str:
        """As the objective, negated."""
        return f"-({self.objective.identity})"

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return negated values (n,)."""
        return -np.asarray(self.objective(archs), dtype=np.float64)


@dataclass(frozen=True)
class TableObjective:
    """A value looked up by architecture; NaN for architectures the table does not hold.

    Attributes:
        name: column name.
        table: value of each architecture.
        unit: unit of the values.
        is_free: whether looking up costs no evaluation of quality.
    """

    name: str
    table: Mapping[Architecture, float] = field(repr=False)
    unit: str = ""
    is_free: bool = True

    @property
    def identity(self) -> str:
        """Digest of the table."""
        text = "\n".join(sorted(f"{arch.id} {value!r}" for arch, value in self.table.items()))
        return f"table {self.name} {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return values (n,)."""
        return np.array([self.table.get(arch, np.nan) for arch in archs], dtype=np.float64)


@dataclass(frozen=True)
class FunctionObjective:
    """Any Python function of a list of architectures.

    Attributes:
        name: column name; also the identity, so name different functions differently.
        function: returns values (n,) for n architectures.
        unit: unit of the values.
        is_free: whether it costs no evaluation of quality.
    """

    name: str
    function: Callable[[Sequence[Architecture]], Floats] = field(repr=False)
    unit: str = ""
    is_free: bool = True

    @property
    def identity(self) -> str:
        """The name."""
        return f"function {self.name}"

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return values (n,)."""
        return np.asarray(self.function(archs), dtype=np.float64)


# --- surrogates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SurrogateObjective:
    """What a fitted surrogate predicts.

    Attributes:
        surrogate: one metric's, e.g. `surrogates["latency_ms"]` of a SurrogateSet.
        quantile: None for the mean, else a conformal quantile: 0.9 is the value that 90 % of networks stay below, so
            that a search does not chase the surrogate's luckiest errors.
    """

    surrogate: FittedSurrogate = field(repr=False)
    quantile: float | None = None

    def __post_init__(self) -> None:
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise ValueError(f"quantile = {self.quantile}: give a probability between 0 and 1, or None for the mean")

    @property
    def name(self) -> str:
        """The metric; also of a quantile, which bounds the same quantity."""
        return self.surrogate.metric

    @property
    def unit(self) -> str:
        """Unit of the metric."""
        return self.surrogate.unit

    @property
    def device(self) -> str:
        """Where the metric was measured."""
        return self.surrogate.device

    @property
    def is_free(self) -> bool:
        """Whether the metric is not one of quality."""
        return self.surrogate.metric not in QUALITY_METRICS

    @property
    def identity(self) -> str:
        """Metric, device, workload, and a digest of what the surrogate was fitted to and how well."""
        fitted, report = self.surrogate, self.surrogate.report
        digest = hashlib.sha256("\n".join(report.architectures).encode())
        digest.update(np.ascontiguousarray(report.measured, dtype=np.float64).tobytes())
        digest.update(np.ascontiguousarray(report.predicted, dtype=np.float64).tobytes())
        what = "mean" if self.quantile is None else f"quantile {self.quantile:g}"
        where = f"{fitted.device} {fitted.workload}".strip()
        return f"surrogate {fitted.metric} {what} on {where}, {report.winner} {digest.hexdigest()[:16]}"

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return predictions (n,)."""
        if not archs:
            return np.empty(0)
        if self.quantile is None:
            return np.asarray(self.surrogate.predict(archs, levels=()).mean, dtype=np.float64)
        prediction = self.surrogate.predict(archs, levels=(self.quantile,))
        return np.asarray(prediction.quantile(self.quantile), dtype=np.float64)
