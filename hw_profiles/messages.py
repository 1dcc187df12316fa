"""What the profiler and its child process say to each other: one JSON object a line, no pickle. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hw_profiles.device import Workload

RANDOM_WEIGHTS = "random"


@dataclass(frozen=True)
class WorkerSetup:
    """How a child process measures; the first line that it reads.

    Attributes:
        config: keyword arguments of litgpt.Config of the supernet.
        workload: the input.
        metrics: metrics to be sampled for every architecture.
        device: "cpu", "cuda:0", ...
        threads: CPU threads.
        repeats: samples of each metric.
        warmup: untimed calls before them.
        seed: of weights and tokens.
        reference: architecture id of the network that is measured in turn with each; None for memory.
        weights: "random", or the folder of a supernet.
        tie_embeddings: whether embedding and head share one matrix.
    """

    config: Mapping[str, Any]
    workload: Workload
    metrics: tuple[str, ...]
    device: str = "cpu"
    threads: int = 1
    repeats: int = 10
    warmup: int = 3
    seed: int = 0
    reference: str | None = None
    weights: str = RANDOM_WEIGHTS
    tie_embeddings: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WorkerSetup:
        """Read what `to_dict` gives."""
        workload, metrics = Workload(**data["workload"]), tuple(data["metrics"])
        return cls(**(dict(data) | {"workload": workload, "metrics": metrics}))


@dataclass(frozen=True)
class Samples:
    """Raw samples of one metric of one architecture, and those of the reference network taken in turn."""

    repeats: tuple[float, ...]
    reference_repeats: tuple[float, ...] = ()

    @classmethod
    def of(cls, repeats: Sequence[float], reference_repeats: Sequence[float] = ()) -> Samples:
        """Build from any sequences of numbers."""
        return cls(tuple(map(float, repeats)), tuple(map(float, reference_repeats)))

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain JSON types."""
        return {"repeats": list(self.repeats), "reference_repeats": list(self.reference_repeats)}
