"""Jobs in worker processes of this machine, each with fixed threads; no process outlives the engine. No torch."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from search.engine_task import Job, Task
from search.worker_process import EngineError, WorkerDiedError, WorkerProcess, shortened

_log = logging.getLogger(__name__)


class ProcessEngine:
    """Does the jobs in worker processes, which stay for the next jobs.

    Args:
        task: what they do.
        workers: how many.
        threads: CPU threads of each.
    """

    def __init__(self, task: Task, *, workers: int, threads: int = 1) -> None:
        self._task = task
        self._threads = threads
        self.n_workers = workers
        self._workers: list[_Worker] = []

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    def results(self, jobs: Sequence[Job]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give (index, result) as jobs are done; after an error, or Ctrl-C, no worker is left."""
        if not self._workers:
            self._workers = [_Worker(number, self._task, self._threads) for number in range(1, self.n_workers + 1)]
        todo = deque(enumerate(jobs))
        answers: SimpleQueue[tuple[int, dict[str, Any]] | BaseException] = SimpleQueue()
        for worker in self._workers[: len(jobs)]:
            Thread(target=_do_all, args=(worker, todo, answers), daemon=True).start()
        try:
            for _ in jobs:
                answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        except BaseException:
            todo.clear()
            self.close()
            raise

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()

    def __del__(self) -> None:
        self.close()


class _Worker:
    """A place for one process at a time."""

    def __init__(self, number: int, task: Task, threads: int) -> None:
        self._number = number
        self._task = task
        self._threads = threads
        self._process: WorkerProcess | None = None
        self._closed = False
        self._lock = Lock()  # between starting and closing

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def do(self, job: Job) -> dict[str, Any]:
        """Return the result of a job; a process that dies is replaced once."""
        try:
            return self._started().do(job)
        except WorkerDiedError as error:
            if self._closed:
                raise
            _log.warning("worker %d: %s; it is started again", self._number, error)
        try:
            return self._started(again=True).do(job)
        except WorkerDiedError as error:
            raise EngineError(
                f"worker {self._number} died twice on one job: {error}. The job: {shortened(job)}"
            ) from error

    def _started(self, *, again: bool = False) -> WorkerProcess:
        with self._lock:
            if self._closed:
                raise EngineError("the engine was closed")
            if again and self._process is not None:
                self._process.close()
                self._process = None
            if self._process is None:
                self._process = WorkerProcess(self._task, threads=self._threads)
            return self._process

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.close()
                self._process = None


def _do_all(worker: _Worker, todo: deque[tuple[int, Job]], answers: SimpleQueue[Any]) -> None:
    """Do jobs until there are none, or one fails."""
    while True:
        try:
            index, job = todo.popleft()
        except IndexError:
            return
        try:
            answers.put((index, worker.do(job)))
        except Exception as error:  # raised again where the results are read
            todo.clear()
            answers.put(error)
            return
