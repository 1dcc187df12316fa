"""A worker process: reads one JSON request a line, writes one JSON reply a line. Run by engines.ProcessEngine.

    {"task": {"target": "module:function", "arguments": {...}}}  -> {"ready": true}
    {"job": {...}}                                               -> {"result": {...}}
    a request that fails                                         -> {"error": "no such file", "kind": "ValueError"}

It ends as soon as its standard input is closed, even in the middle of a job, so it never outlives its engine.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Thread
from typing import Any, TextIO

from search.engine_task import Job, Task, Work


def reply_to(job: Job, task: Task, work: Work | None) -> tuple[dict[str, Any], Work | None]:
    """Do a job; returns the reply, and what does the next one (the task is opened where there was none)."""
    try:
        work = work or task.open()
        return {"result": work(job)}, work
    except Exception as error:  # the engine raises it again
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        return {"error": message, "kind": type(error).__name__}, work


def serve(requests: Iterable[str], replies: TextIO) -> None:
    """Answer requests, the task before all jobs, until they end."""
    task, work = Task("", {}), None
    for line in requests:
        request = json.loads(line)
        if "task" in request:
            task, work, reply = Task(**request["task"]), None, {"ready": True}
        else:
            reply, work = reply_to(request["job"], task, work)
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _lines(stream: TextIO) -> Iterator[str]:
    """Give the lines of a stream; ends this process when the stream ends, whatever it is doing."""
    lines: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in stream:
            lines.put(line)
        os._exit(0)

    Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def main() -> int:
    """Serve on standard input and output; what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        serve(_lines(sys.stdin), replies)
    except BrokenPipeError:  # the engine was killed while this process worked
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
