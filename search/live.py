"""The objective that evaluates a real supernet; torch is imported when the first network is evaluated, not before.

Every evaluation is written to a cache keyed by weights, data and architecture, so that a killed search, a baseline and
a re-measurement never evaluate the same network twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from search.pareto import Floats
from supernet.architecture import Architecture

_log = logging.getLogger(__name__)
Quality = Literal["perplexity", "loss", "bits_per_byte"]
_UNITS = {"perplexity": "", "loss": "nats/token", "bits_per_byte": "bits/byte"}


@dataclass(frozen=True)
class QualityRecord:
    """What one network scored on validation text; NaN where there is no number.

    Attributes:
        loss: cross-entropy in nats a token.
        perplexity: exp(loss).
        bits_per_byte: the loss in bits a byte of text.
        stderr: standard error of `loss` over blocks.
        n_tokens: tokens predicted.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    stderr: float
    n_tokens: int

    @classmethod
    def of(cls, evaluation: Any) -> QualityRecord:
        """Read a supernet.evaluate.Evaluation."""
        return cls(
            loss=_number(evaluation.loss),
            perplexity=_number(evaluation.perplexity),
            bits_per_byte=_number(evaluation.bits_per_byte),
            stderr=_number(evaluation.stderr),
            n_tokens=int(evaluation.n_tokens),
        )

    @classmethod
    def from_plain(cls, scores: Mapping[str, Any]) -> QualityRecord:
        """Read what `to_plain` gives."""
        numbers = {name: _number(scores[name]) for name in ("loss", "perplexity", "bits_per_byte", "stderr")}
        return cls(**numbers, n_tokens=int(scores["n_tokens"]))

    def to_plain(self) -> dict[str, float | None]:
        """Return plain JSON types, None for what is no number."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}

    @property
    def perplexity_stderr(self) -> float:
        """Standard error of the perplexity, to first order: perplexity times that of the loss."""
        return self.perplexity * self.stderr


Evaluator = Callable[[Sequence[Architecture]], Sequence[QualityRecord]]


class LivePerplexityObjective:
    """Quality of sub-networks of a trained supernet on validation text.

    Args:
        evaluator: scores architectures; see `from_supernet`.
        source: names weights and data; part of the identity and of the cache's file name.
        metric: perplexity, loss or bits_per_byte.
        cache_dir: folder of the cache; None keeps it in memory.
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
        self._file = Path(cache_dir) / f"quality-{digest}.jsonl" if cache_dir else None
        self._records = _read_records(self._file) if self._file else {}

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
    ) -> LivePerplexityObjective:
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

        Raises:
            FileNotFoundError: the folder holds no supernet.
            ValueError: an unknown metric, or bits_per_byte without n_bytes.
        """
        folder = Path(folder)
        if metric == "bits_per_byte" and n_bytes is None:
            raise ValueError("bits_per_byte needs the length of the text: give n_bytes")
        if not (folder / "model.safetensors").is_file():
            raise FileNotFoundError(f"{folder} holds no supernet (model.safetensors is missing)")
        evaluator = _SupernetEvaluator(
            folder, blocks, n_bytes=n_bytes, batch_size=batch_size, device=device, precision=precision
        )
        with (folder / "model.safetensors").open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        data = hashlib.sha256(np.ascontiguousarray(blocks, dtype=np.int64).tobytes()).hexdigest()[:16]
        source = f"supernet {weights}, {len(blocks)} blocks {data}, {n_bytes} bytes, precision {precision}"
        return cls(evaluator, source=source, metric=metric, cache_dir=cache_dir)

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
        return len(self._records)

    def __call__(self, archs: Sequence[Architecture]) -> Floats:
        """Return values (n,)."""
        return np.array([getattr(record, self.metric) for record in self.records(archs)], dtype=np.float64)

    def records(self, archs: Sequence[Architecture]) -> list[QualityRecord]:
        """Return all scores of the architectures; those not in the cache are evaluated together and added to it."""
        new = [arch for arch in dict.fromkeys(archs) if arch.id not in self._records]
        if new:
            found = dict(zip((arch.id for arch in new), self._evaluator(new), strict=True))
            self._records |= found
            if self._file:
                _append_records(self._file, found)
        return [self._records[arch.id] for arch in archs]


class _SupernetEvaluator:
    """Loads the supernet once, at the first call."""

    def __init__(
        self,
        folder: Path,
        blocks: np.ndarray,
        *,
        n_bytes: int | None,
        batch_size: int,
        device: str,
        precision: str,
    ) -> None:
        self._folder = folder
        self._blocks = blocks
        self._n_bytes = n_bytes
        self._batch_size = batch_size
        self._device = device
        self._precision = precision
        self._supernet: Any = None

    def __call__(self, archs: Sequence[Architecture]) -> list[QualityRecord]:
        from supernet.checkpoint import load_supernet
        from supernet.evaluate import evaluate

        if self._supernet is None:
            self._supernet = load_supernet(self._folder).supernet
        evaluations = evaluate(
            self._supernet,
            list(archs),
            self._blocks,
            batch_size=self._batch_size,
            device=self._device,
            precision=self._precision,
            n_bytes=self._n_bytes,
        )
        return [QualityRecord.of(evaluation) for evaluation in evaluations]


# --- cache ------------------------------------------------------------------------------------------------------------


def _read_records(file: Path) -> dict[str, QualityRecord]:
    """Read one record a line; lines cut short by a kill are named in a warning and evaluated again."""
    records: dict[str, QualityRecord] = {}
    if not file.is_file():
        return records
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            data = json.loads(line)
            records[data["architecture"]] = QualityRecord.from_plain(data["scores"])
        except (ValueError, KeyError, TypeError, AttributeError):
            _log.warning("%s line %d is damaged and left out", file, number)
    return records


def _append_records(file: Path, records: dict[str, QualityRecord]) -> None:
    """Append one line a record; after a line cut short by a kill a new one is begun."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"architecture": i, "scores": r.to_plain()}, allow_nan=False) for i, r in records.items()]
    with file.open("ab+") as stream:
        if stream.tell() > 0:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(("\n".join(lines) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
