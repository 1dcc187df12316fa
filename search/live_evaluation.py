"""Evaluates ranges of blocks of text by a supernet on an engine, and what its workers do. Torch only in the workers."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from search.engines import Engine, EngineSettings, Task, open_engine
from search.live_records import RangeLoss
from supernet.architecture import Architecture

_WAVES = 2  # jobs a worker: more even the load, fewer read the text less often
Span = tuple[int, int]  # blocks from .. to


class RangeEvaluator:
    """Evaluates ranges of blocks on an engine, which is started at the first call.

    Args:
        task: opens the evaluation in a worker; see `open_evaluation`.
        settings: of the engine.
    """

    def __init__(self, task: Task, settings: EngineSettings) -> None:
        self._open: Callable[[], Engine] = partial(open_engine, settings, task)
        self._engine: Engine | None = None

    def __call__(self, missing: Mapping[Architecture, tuple[Span, ...]]) -> Iterator[dict[str, list[RangeLoss]]]:
        """Evaluate ranges and give those of some architectures, by id, as soon as they are done."""
        if self._engine is None:
            self._engine = self._open()
        jobs = _jobs(missing, self._engine.n_workers)
        for index, result in self._engine.results(jobs):
            parts = ([RangeLoss.from_plain(part) for part in own] for own in result["parts"])
            yield dict(zip(jobs[index]["architectures"], parts, strict=True))

    def close(self) -> None:
        """End the workers."""
        if self._engine is not None:
            self._engine.close()


def _jobs(missing: Mapping[Architecture, tuple[Span, ...]], n_workers: int) -> list[dict[str, Any]]:
    """Return jobs of architectures that lack the same ranges, so many that the workers finish about together."""
    groups: dict[tuple[Span, ...], list[str]] = {}
    for arch, spans in missing.items():
        groups.setdefault(spans, []).append(arch.id)
    size = -(-len(missing) // (_WAVES * n_workers)) if n_workers > 1 else len(missing)
    return [
        {"architectures": ids[i : i + size], "spans": [list(span) for span in spans]}
        for spans, ids in groups.items()
        for i in range(0, len(ids), size)
    ]


# --- in the worker ----------------------------------------------------------------------------------------------------


def open_evaluation(
    *, folder: str, blocks: Mapping[str, Any], batch_size: int, device: str, precision: str, threads: int | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Load a supernet and return the function that a worker evaluates jobs with.

    A job is {"architectures": ids, "spans": [[start, stop], ...]}; its result {"parts": [[range, ...], ...]}, in that
    order, ranges as `RangeLoss.to_plain` gives them. Every network runs on the same batches whatever the job holds.

    Args:
        folder: of the supernet; every machine that evaluates must see it.
        blocks: what `packed` gives.
        batch_size: blocks evaluated together.
        device: torch device.
        precision: "32" or "bf16".
        threads: CPU threads of torch; None leaves them as they are.

    Raises:
        FileNotFoundError: this machine does not see the folder.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder} is not there: all machines that evaluate must see the supernet's folder")
    from supernet.checkpoint import load_supernet
    from supernet.evaluate import evaluate

    supernet, table = load_supernet(folder).supernet, _unpacked(blocks)

    def work(job: Mapping[str, Any]) -> dict[str, Any]:
        archs = [Architecture.from_id(i) for i in job["architectures"]]
        parts: list[list[Any]] = [[] for _ in archs]
        for start, stop in job["spans"]:
            found = evaluate(
                supernet, archs, table[start:stop], batch_size=batch_size, device=device, precision=precision
            )
            for own, evaluation in zip(parts, found, strict=True):
                own.append(RangeLoss.of(evaluation, start).to_plain())
        return {"parts": parts}

    def with_threads(job: Mapping[str, Any]) -> dict[str, Any]:
        with _torch_threads(threads):
            return work(job)

    return with_threads


@contextmanager
def _torch_threads(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def packed(tokens: np.ndarray) -> dict[str, Any]:
    """Return token ids (n, T+1) as plain JSON types."""
    small = tokens.astype(np.min_scalar_type(int(tokens.max(initial=0)))) if tokens.min(initial=0) >= 0 else tokens
    return {"dtype": small.dtype.str, "shape": list(small.shape), "data": base64.b64encode(small.tobytes()).decode()}


def _unpacked(packed: Mapping[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(packed["data"]), dtype=packed["dtype"])
    return values.reshape(packed["shape"]).astype(np.int64)
