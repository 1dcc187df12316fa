"""Independent jobs in fresh processes of one thread each, which end with the process that started them. No torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

Job = TypeVar("Job")

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def in_workers(
    function: Callable[[Job], None], jobs: Sequence[Job], *, workers: int
) -> Iterator[tuple[Job, BaseException | None]]:
    """Call `function` with every job, in processes, and yield each job when it is done, with its error if it failed.

    Args:
        function: of a module, so that other processes find it.
        jobs: started in their order.
        workers: processes; never more than jobs.

    Raises:
        RuntimeError: a worker was killed.
    """
    if not jobs:
        return
    context, n = multiprocessing.get_context("spawn"), min(workers, len(jobs))
    with _one_thread(), ProcessPoolExecutor(n, context, initializer=_start_worker) as pool:
        futures = {pool.submit(function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise RuntimeError(
                        "a worker was killed, perhaps for want of memory. What is finished is kept: the same command "
                        "goes on"
                    ) from error
                yield futures[future], error
        finally:  # of a caller that stops early too
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the process that started this worker, and end when that is gone, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that are started now use one thread each."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
