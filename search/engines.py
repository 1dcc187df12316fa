"""Where jobs are done: in this process, in processes of this machine (process_engine.py), on Ray (ray_engine.py).

An engine prepares its workers once (each loads the supernet) and gives every job to the next free one. Results do not
depend on which worker did what. A worker that dies is started again and does its job once more; when it dies on the
same job a second time, the error names it. Workers end with the engine, and with this process however that ends.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal, Protocol

from hw_profiles.device import usable_cores
from search.engine_task import Job, Task, Work
from search.process_engine import ProcessEngine
from search.worker_process import EngineError

__all__ = [
    "Engine", "EngineError", "EngineName", "EngineSettings", "Job", "ProcessEngine", "SerialEngine", "Task",
    "open_engine",
]  # fmt: skip

_log = logging.getLogger(__name__)
EngineName = Literal["serial", "processes", "ray", "auto"]
_NAMES = ("serial", "processes", "ray", "auto")


class Engine(Protocol):
    """Does jobs of one task."""

    @property
    def n_workers(self) -> int:
        """How many jobs are done at once."""
        ...

    def results(self, jobs: Sequence[Job]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give (index of the job, result) as jobs are done, in any order.

        Raises:
            EngineError: a worker died twice on one job, or a job failed in an unforeseen way.
            Exception: the caller's mistakes (ValueError, KeyError, FileNotFoundError) that a job raised.
        """
        ...

    def close(self) -> None:
        """End the workers; a later call of `results` starts them again."""
        ...


@dataclass(frozen=True)
class EngineSettings:
    """Which engine, as conf/engine/*.yaml gives it.

    Attributes:
        name: "serial", "processes", "ray", or "auto": Ray where it is installed, else processes, with a warning.
        workers: worker processes or Ray actors; None for one a physical core with processes, and for as many as the
            cluster has room for with Ray.
        threads: CPU threads of each worker; None shares the cores among the processes, is 1 with Ray, and leaves
            torch's own number in this process.
        gpus: GPUs of each Ray actor; set it when the supernet runs on "cuda".
        address: of a running Ray cluster ("auto", "ray://head:10001"); None starts one on this machine, or takes that
            of the environment variable RAY_ADDRESS.

    Raises:
        ValueError: an unknown name, or numbers below 1.
    """

    name: EngineName = "serial"
    workers: int | None = None
    threads: int | None = None
    gpus: float = 0
    address: str | None = None

    def __post_init__(self) -> None:
        if self.name not in _NAMES:
            raise ValueError(f"engine = {self.name!r}; allowed: {', '.join(_NAMES)}")
        for what in ("workers", "threads"):
            value = getattr(self, what)
            if value is not None and value < 1:
                raise ValueError(f"engine.{what} = {value}: give at least 1, or null")

    def resolved(self) -> EngineSettings:
        """Return the settings with "auto" replaced by what is there.

        Raises:
            ImportError: Ray was asked for and is not installed.
        """
        has_ray = find_spec("ray") is not None
        if self.name == "ray" and not has_ray:
            raise ImportError(
                "engine=ray needs Ray, which is not installed: pip install 'paretolm[ray]', or engine=processes"
            )
        if self.name != "auto":
            return self
        if not has_ray:
            _log.warning("Ray is not installed (pip install 'paretolm[ray]'): evaluating in processes of this machine")
        return replace(self, name="ray" if has_ray else "processes")

    @property
    def n_processes(self) -> int:
        """Worker processes on this machine."""
        return self.workers or usable_cores()

    @property
    def worker_threads(self) -> int | None:
        """CPU threads of each worker; None leaves torch's own number."""
        if self.threads is not None or self.name == "serial":
            return self.threads
        return 1 if self.name == "ray" else max(1, usable_cores() // self.n_processes)


def open_engine(settings: EngineSettings, task: Task) -> Engine:
    """Return the engine for a task; its workers start with the first job.

    Raises:
        ImportError: Ray was asked for and is not installed.
    """
    settings = settings.resolved()
    if settings.name == "serial":
        return SerialEngine(task)
    if settings.name == "processes":
        return ProcessEngine(task, workers=settings.n_processes, threads=settings.worker_threads or 1)
    from search.ray_engine import RayEngine

    return RayEngine(
        task, workers=settings.workers, threads=settings.worker_threads or 1, gpus=settings.gpus,
        address=settings.address,
    )  # fmt: skip


class SerialEngine:
    """Does the jobs in this process, one after the other."""

    n_workers = 1

    def __init__(self, task: Task) -> None:
        self._task = task
        self._work: Work | None = None

    def results(self, jobs: Sequence[Job]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give (index, result) in the order of the jobs."""
        for index, job in enumerate(jobs):
            if self._work is None:
                self._work = self._task.open()
            yield index, self._work(job)

    def close(self) -> None:
        """Forget what was loaded."""
        self._work = None
