"""Starts a measuring process with fixed threads, asks it for samples, and notices when it dies. No torch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from hw_profiles.messages import Samples, WorkerSetup
from supernet.huge_pages import with_huge_pages, without_huge_pages

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ChildError(RuntimeError):
    """A request failed; the child goes on."""


class ChildDiedError(ChildError):
    """The measuring process ended; the message says how, with the last lines of its standard error."""


class Child:
    """One measuring process; it starts at once, `wait_until_ready` comes before the first measurement.

    Args:
        setup: how it measures.
        command: what is run; hw_profiles.worker, if not given.
    """

    def __init__(self, setup: WorkerSetup, *, command: Sequence[str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close())
        self._process = subprocess.Popen(
            list(command or worker_command()),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(setup.threads, huge_pages="memory_mib" not in setup.metrics),
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is the profiler's to handle
        )
        self._setup = setup

    def wait_until_ready(self) -> None:
        """Wait until the process has built what it needs.

        Raises:
            ChildError: the setup failed (no such device, unsupported model, ...).
        """
        self._ask({"setup": self._setup.to_dict()})

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def measure(self, architecture: str) -> dict[str, Samples]:
        """Return the samples of an architecture, by metric.

        Raises:
            ChildError: the measurement failed; the child goes on.
            ChildDiedError: the child ended; start another.
        """
        reply = self._ask({"architecture": architecture})
        return {name: Samples.of(**values) for name, values in reply["samples"].items()}

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                stream.close()  # type: ignore[union-attr]
            except BrokenPipeError:  # a request that was never read
                continue

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.endswith("\n"):  # nothing, or a line cut short
            raise ChildDiedError(self._obituary())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ChildError(reply["error"])
        return reply

    def _obituary(self) -> str:
        status = self._process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-3:]
        return f"the measuring process {how}" + (f"; its last words: {' | '.join(last)}" if last else "")


def worker_command() -> list[str]:
    """Return the command of the measuring process."""
    return [sys.executable, "-m", "hw_profiles.worker"]


def child_environment(threads: int, *, huge_pages: bool = True) -> dict[str, str]:
    """Return this process's environment for a measuring one.

    The number of threads is fixed, and idle threads sleep, they do not spin. Memory is kept in huge pages, so that
    page faults are no part of a latency, but where the memory itself is measured.
    """
    fixed = dict.fromkeys(_THREAD_VARIABLES, str(threads)) | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_DYNAMIC": "FALSE"}
    return (with_huge_pages if huge_pages else without_huge_pages)(os.environ | fixed)
