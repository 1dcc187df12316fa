"""The objective that evaluates a real supernet; torch is imported when the first network is evaluated, not before.

Every evaluation is written to a cache keyed by weights, data and architecture (live_cache.py), so that a killed search,
a baseline and a re-measurement never evaluate the same network twice. `from_supernet` gives the objective of a saved
supernet (live_supernet.py), which can also be evaluated on a part of the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from search.live_cache import QualityCache
from search.live_records import QualityRecord
from search.pareto import Floats
from supernet.architecture import Architecture

if TYPE_CHECKING:
    from search.engines import EngineSettings
    from search.live_supernet import SupernetObjective

__all__ = ["Evaluator", "LivePerplexityObjective", "Quality", "QualityRecord"]

Quality = Literal["perplexity", "loss", "bits_per_byte"]
_UNITS = {"perplexity": "", "loss": "nats/token", "bits_per_byte": "bits/byte"}
Evaluator = Callable[[Sequence[Architecture]], Sequence[QualityRecord]]


class LivePerplexityObjective:
    """Quality of sub-networks of a trained supernet on validation text.

    Args:
        evaluator: scores architectures; see `from_supernet`.
        source: names weights and data; part of the identity and of the cache's file name.
        metric: perplexity, loss or bits_per_byte.
        cache_dir: folder of the cache, which several processes may share; None keeps it in memory.
    """

    is_free = False

    def __init__(
        self, evaluator: Evaluator, *, source: str, metric: Quality = "perplexity", cache_dir: str | Path | None = None
    ) -> None:
        if metric not in _UNITS:
            raise ValueError(f"metric = {metric!r}; allowed: {', '.join(_UNITS)}")
        self._evaluator = evaluator
        self._source = source
        self.metric = metric
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        self._cache = QualityCache(Path(cache_dir) / f"quality-{digest}.jsonl" if cache_dir else None)

    @classmethod
    def from_supernet(
        cls,
        folder: str | Path,
        blocks: np.ndarray,
        *,
        n_bytes: int | None = None,
        metric: Quality = "perplexity",
        cache_dir: str | Path | None = None,
        batch_size: int = 8,
        device: str = "cpu",
        precision: str = "32",
        engine: EngineSettings | None = None,
    ) -> SupernetObjective:
        """Return the objective of a saved supernet.

        Args:
            folder: what supernet.checkpoint.save_supernet wrote.
            blocks: validation tokens (n, T+1).
            n_bytes: bytes of text behind the targets, for bits_per_byte.
            metric: perplexity, loss or bits_per_byte.
            cache_dir: folder of the cache.
            batch_size: blocks evaluated together.
            device: torch device.
            precision: "32" or "bf16".
            engine: where networks are evaluated; None for this process.

        Raises:
            FileNotFoundError: the folder holds no supernet.
            ValueError: an unknown metric, or bits_per_byte without n_bytes.
            ImportError: the engine is Ray and Ray is not installed.
        """
        from search.live_supernet import supernet_objective

        return supernet_objective(
            folder, blocks, n_bytes=n_bytes, metric=metric, cache_dir=cache_dir, batch_size=batch_size, device=device,
            precision=precision, engine=engine,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """The metric."""
        return self.metric

    @property
    def unit(self) -> str:
        """Unit of the metric."""
        return _UNITS[self.metric]

    @property
    def identity(self) -> str:
        """The metric, the weights and the data."""
        return f"{self.metric} of {self._source}"

    @property
    def n_evaluated(self) -> int:
        """Networks evaluated so far, those of earlier runs that the cache holds included."""
        return len(self._cache.ids())

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return values (n,)."""
        return np.array([getattr(record, self.metric) for record in self.records(archs)], dtype=np.float64)

    def records(self, archs: Sequence[Architecture]) -> list[QualityRecord]:
        """Return all scores of the architectures; those not in the cache are evaluated together and added to it."""
        scores = self._cache.scores
        if any(arch.id not in scores for arch in archs):
            self._cache.refresh()  # another process may have evaluated them
        new = [arch for arch in dict.fromkeys(archs) if arch.id not in scores]
        if new:
            found = dict(zip((arch.id for arch in new), self._evaluator(new), strict=True))
            self._cache.add_scores(found)
        return [scores[arch.id] for arch in archs]
