"""Jobs on a Ray cluster: one actor a worker, each holding what the task loads (a supernet), on any of its machines.

Every machine must have paretolm installed and see the supernet's folder. Imported only when Ray is used.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from search.engine_task import Job, Task, Work
from search.engine_worker import reply_to
from search.worker_process import EngineError, raised, shortened

_log = logging.getLogger(__name__)


class RayActor:
    """What runs on the cluster.

    Args:
        task: what it does.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._work: Work | None = None

    def do(self, job: Job) -> dict[str, Any]:
        """Return {"result": ...}, or {"error": ..., "kind": ...} with the machine's name."""
        reply, self._work = reply_to(job, self._task, self._work)
        if "error" in reply:
            reply["error"] += f" (on {socket.gethostname()})"
        return reply


class RayEngine:
    """Does the jobs in Ray actors, which stay for the next jobs.

    Args:
        task: what they do.
        workers: how many; None for as many as the cluster's CPUs (and GPUs) have room for.
        threads: CPUs of each.
        gpus: GPUs of each.
        address: of a running cluster; None starts one on this machine unless RAY_ADDRESS names one.
    """

    def __init__(
        self, task: Task, *, workers: int | None = None, threads: int = 1, gpus: float = 0, address: str | None = None
    ) -> None:
        self._task = task
        self._threads = threads
        self._gpus = gpus
        self._started = _connect(address, None if workers is None else workers * threads)
        self.n_workers = workers or self._room()
        self._actors: list[Any] = []

    def results(self, jobs: Sequence[Job]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give (index, result) as jobs are done; after an error, or Ctrl-C, no actor is left."""
        try:
            yield from self._results(jobs)
        except BaseException:
            self._end_actors()
            raise

    def close(self) -> None:
        """End the actors, and the cluster if it was started here."""
        import ray

        self._end_actors()
        if self._started and ray.is_initialized():
            ray.shutdown()
            self._started = False

    def _results(self, jobs: Sequence[Job]) -> Iterator[tuple[int, dict[str, Any]]]:
        import ray
        from ray.exceptions import RayActorError

        if not self._actors:
            self._actors = [self._actor() for _ in range(self.n_workers)]
        todo = deque((index, job, 1) for index, job in enumerate(jobs))
        idle, flying = deque(range(self.n_workers)), {}  # type: ignore[var-annotated]
        while todo or flying:
            while todo and idle:
                place, (index, job, attempt) = idle.popleft(), todo.popleft()
                flying[self._actors[place].do.remote(dict(job))] = place, index, job, attempt
            (done,), _ = ray.wait(list(flying), num_returns=1)
            place, index, job, attempt = flying.pop(done)
            idle.append(place)
            try:
                reply = ray.get(done)
            except RayActorError as error:
                self._replace(place, job, attempt, error)
                todo.appendleft((index, job, attempt + 1))
                continue
            if "error" in reply:
                raise raised(reply["kind"], reply["error"])
            yield index, reply["result"]

    def _replace(self, place: int, job: Job, attempt: int, error: Exception) -> None:
        """Start an actor in place of one that died, unless its job has ended two."""
        how = " ".join(str(error).split())[:500]
        if attempt > 1:
            raise EngineError(f"Ray actor {place + 1} died twice on one job: {how}. The job: {shortened(job)}")
        _log.warning("Ray actor %d: %s; it is started again", place + 1, how)
        self._actors[place] = self._actor()

    def _actor(self) -> Any:
        import ray

        return ray.remote(RayActor).options(num_cpus=self._threads, num_gpus=self._gpus).remote(self._task)

    def _room(self) -> int:
        import ray

        there = ray.cluster_resources()
        counts = [there.get("CPU", 1) // self._threads]
        if self._gpus:
            counts.append(there.get("GPU", 0) // self._gpus)
        return max(1, int(min(counts)))

    def _end_actors(self) -> None:
        import ray

        actors, self._actors = self._actors, []
        if ray.is_initialized():
            for actor in actors:
                ray.kill(actor)


def _connect(address: str | None, n_cpus: int | None) -> bool:
    """Connect to a cluster, or start one here; returns whether this call did either."""
    import ray

    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports nothing to anybody
    address = address or os.environ.get("RAY_ADDRESS")
    if address:
        ray.init(address=address, log_to_driver=False)
    else:
        ray.init(num_cpus=n_cpus, include_dashboard=False, log_to_driver=False)
    return True
