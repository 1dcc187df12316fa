"""The live objective of a saved supernet: on all validation text or on a part of it, in one process or in several.

The blocks of text are taken in an order whose every beginning is spread over the whole text, and are evaluated in
ranges of that order. The cache keeps the sums of each range, so that a network evaluated on a third of the text pays
only for the other two thirds when it is evaluated on all of it. A full evaluation is cut at the same places
(`CUTS`), so that a network's perplexity is the same number, bit for bit, whether it came in one step or by parts; with
parts of other sizes it differs by the rounding of 32-bit arithmetic (about 1e-7 of it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from search.engines import EngineSettings, Task
from search.fidelity import rung_fidelities
from search.live import LivePerplexityObjective, Quality
from search.live_evaluation import RangeEvaluator, Span, packed
from search.live_records import QualityRecord, combined
from search.pareto import Floats
from supernet.architecture import Architecture

CUTS = rung_fidelities(eta=3, n_rungs=4)  # 1/27, 1/9, 1/3, 1


class SupernetObjective(LivePerplexityObjective):
    """Quality of a supernet's sub-networks on validation text, or on a part of it.

    Args:
        evaluate: scores ranges of blocks; see `supernet_objective`.
        n_blocks: blocks of all text.
        seq_len: tokens predicted in a block.
        n_bytes: bytes of text behind all of them; None when unknown.
        source: names weights and data.
        metric: perplexity, loss or bits_per_byte.
        cache_dir: folder of the cache; None keeps it in memory.
    """

    def __init__(
        self,
        evaluate: RangeEvaluator,
        *,
        n_blocks: int,
        seq_len: int,
        n_bytes: int | None,
        source: str,
        metric: Quality = "perplexity",
        cache_dir: str | Path | None = None,
    ) -> None:
        super().__init__(_unused, source=source, metric=metric, cache_dir=cache_dir)
        self._evaluate = evaluate
        self._n_blocks = n_blocks
        self._seq_len = seq_len
        self._n_bytes = n_bytes

    def n_blocks(self, fidelity: float) -> int:
        """Return the number of blocks that a share of the text stands for.

        Raises:
            ValueError: a share that is not above 0 and at most 1.
        """
        if not 0 < fidelity <= 1:
            raise ValueError(f"fidelity = {fidelity}: give a share of the text, above 0 and at most 1")
        return max(1, round(fidelity * self._n_blocks))

    def tokens(self, fidelity: float = 1.0) -> int:
        """Return the number of tokens that a network predicts at a fidelity."""
        return self.n_blocks(fidelity) * self._seq_len

    def at(self, archs: Sequence[Architecture], fidelities: Sequence[float]) -> Floats:
        """Return values (n,), each measured on its own share (n,) of the text; what was measured before is not again.

        Bits per byte of a part take the bytes of its text to be the same share of all bytes.
        """
        records = self.records_at(archs, fidelities)
        return np.array([getattr(record, self.metric) for record in records], dtype=np.float64)

    def records(self, archs: Sequence[Architecture]) -> list[QualityRecord]:
        """Return all scores of the architectures on all text; what the cache lacks is evaluated and added to it."""
        return self.records_at(archs, [1.0] * len(archs))

    def records_at(self, archs: Sequence[Architecture], fidelities: Sequence[float]) -> list[QualityRecord]:
        """Return all scores of the architectures, each on its share of the text."""
        stops = [self.n_blocks(fidelity) for fidelity in fidelities]
        pairs = list(zip(archs, stops, strict=True))
        if self._missing(pairs):
            self._cache.refresh()  # another process may have evaluated them
        if missing := self._missing(pairs):
            for parts in self._evaluate(missing):
                self._cache.add_ranges(parts)
        return [self._record(arch.id, stop) for arch, stop in pairs]

    def close(self) -> None:
        """End the workers; the next evaluation starts them again."""
        self._evaluate.close()

    def _missing(self, pairs: Sequence[tuple[Architecture, int]]) -> dict[Architecture, tuple[Span, ...]]:
        """Return the ranges that are to be evaluated, by architecture."""
        furthest: dict[Architecture, int] = {}
        for arch, stop in pairs:
            furthest[arch] = max(stop, furthest.get(arch, 0))
        spans = {arch: self._lacking(arch.id, stop) for arch, stop in furthest.items()}
        return {arch: own for arch, own in spans.items() if own}

    def _lacking(self, arch_id: str, stop: int) -> tuple[Span, ...]:
        if stop == self._n_blocks and arch_id in self._cache.scores:
            return ()
        chain = self._cache.chain(arch_id, stop)
        start = chain[-1].stop if chain else 0
        cuts = [cut for cut in dict.fromkeys(map(self.n_blocks, CUTS)) if start < cut < stop]
        places = [start, *cuts, stop]
        return tuple(pair for pair in pairwise(places) if pair[0] < pair[1])

    def _record(self, arch_id: str, stop: int) -> QualityRecord:
        if stop == self._n_blocks and arch_id in self._cache.scores:
            return self._cache.scores[arch_id]
        share = stop / self._n_blocks
        return combined(self._cache.chain(arch_id, stop), n_bytes=self._n_bytes and self._n_bytes * share)


def _unused(archs: Sequence[Architecture]) -> list[QualityRecord]:
    raise AssertionError("a supernet is evaluated in ranges")


# --- a saved supernet -------------------------------------------------------------------------------------------------


def supernet_objective(
    folder: str | Path,
    blocks: np.ndarray,
    *,
    n_bytes: int | None,
    metric: Quality,
    cache_dir: str | Path | None,
    batch_size: int,
    device: str,
    precision: str,
    engine: EngineSettings | None,
) -> SupernetObjective:
    """Return the objective of a saved supernet; see `LivePerplexityObjective.from_supernet`."""
    folder, engine = Path(folder), (engine or EngineSettings()).resolved()
    if metric == "bits_per_byte" and n_bytes is None:
        raise ValueError("bits_per_byte needs the length of the text: give n_bytes")
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} holds no supernet (model.safetensors is missing)")
    with (folder / "model.safetensors").open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    tokens = np.ascontiguousarray(blocks, dtype=np.int64)
    data = hashlib.sha256(tokens.tobytes()).hexdigest()[:16]
    task = Task(
        "search.live_evaluation:open_evaluation",
        {
            "folder": str(folder.resolve()), "blocks": packed(tokens[spread_order(len(tokens))]),
            "batch_size": batch_size, "device": device, "precision": precision, "threads": engine.worker_threads,
        },
    )  # fmt: skip
    return SupernetObjective(
        RangeEvaluator(task, engine),
        n_blocks=len(blocks), seq_len=blocks.shape[1] - 1, n_bytes=n_bytes, metric=metric, cache_dir=cache_dir,
        source=f"supernet {weights}, {len(blocks)} blocks {data}, {n_bytes} bytes, precision {precision}",
    )  # fmt: skip


def spread_order(n: int) -> list[int]:
    """Return 0 .. n-1 ordered so that every beginning of the list is spread over the whole (van der Corput, base 2).

    Example:
        >>> spread_order(6)
        [0, 4, 2, 1, 5, 3]
    """
    bits = max(1, (n - 1).bit_length())
    return sorted(range(n), key=lambda i: int(format(i, f"0{bits}b")[::-1], 2))
