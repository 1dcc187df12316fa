"""Starts a worker process with fixed threads, gives it jobs, and notices when it dies. No torch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hw_profiles.child import child_environment
from search.engine_task import Job, Task

_MISTAKES = {"ValueError": ValueError, "KeyError": KeyError, "FileNotFoundError": FileNotFoundError}


class EngineError(RuntimeError):
    """A job could not be done; the message names the worker and the job."""


class WorkerDiedError(EngineError):
    """A worker ended; the message says how, with the last lines of its standard error."""


def raised(kind: str, message: str) -> Exception:
    """Return the exception that a worker raised: the caller's mistakes by their own types, others as EngineError."""
    return _MISTAKES[kind](message) if kind in _MISTAKES else EngineError(f"{kind}: {message}")


def shortened(job: Job, limit: int = 300) -> str:
    """Return a job as text for messages."""
    text = str(dict(job))
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


class WorkerProcess:
    """One process that does jobs of a task; it starts at once and prepares itself while the caller goes on.

    Args:
        task: what it does.
        threads: CPU threads of its numerical libraries.
    """

    def __init__(self, task: Task, *, threads: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "search.engine_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=child_environment(threads),
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is the engine's to handle
        )
        self._task: Task | None = task

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def do(self, job: Job) -> dict[str, Any]:
        """Return the result of a job.

        Raises:
            WorkerDiedError: the process ended; start another.
            Exception: what the job raised; the process goes on.
        """
        if self._task is not None:
            task, self._task = self._task, None
            self._ask({"task": asdict(task)})
        result: dict[str, Any] = self._ask({"job": job})["result"]
        return result

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._errors):
            try:
                stream.close()  # type: ignore[union-attr]
            except BrokenPipeError:  # a request that was never read
                continue

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (BrokenPipeError, ValueError):  # ValueError: closed by another thread
            line = ""
        if not line.endswith("\n"):  # nothing, or a line cut short
            raise WorkerDiedError(self._obituary())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise raised(reply["kind"], reply["error"])
        return reply

    def _obituary(self) -> str:
        status = self._process.wait()
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        try:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().splitlines()[-3:]
        except ValueError:  # closed by another thread
            last = []
        return f"process {self.pid} {how}" + (f"; its last words: {' | '.join(last)}" if last else "")
