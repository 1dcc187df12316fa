"""Tasks that workers of the engine tests do; imported by name in their processes."""

import os
import signal
import time
from pathlib import Path


def open_doubling(*, offset=0):
    def work(job):
        if job["x"] < 0:
            raise ValueError(f"x = {job['x']}: give a positive number")
        time.sleep(job.get("seconds", 0))
        environment = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
        return {"y": 2 * job["x"] + offset, "pid": os.getpid(), **environment}

    return work


def open_dying(*, folder, times):
    """Dies at the first so many jobs with x = 3, in whichever process they come."""

    def work(job):
        deaths = Path(folder) / "deaths"
        so_far = len(deaths.read_text()) if deaths.exists() else 0
        if job["x"] == 3 and so_far < times:
            deaths.write_text("x" * (so_far + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": 2 * job["x"], "pid": os.getpid()}

    return work


def open_failing(*, kind):
    raise {"FileNotFoundError": FileNotFoundError, "RuntimeError": RuntimeError}[kind]("no supernet here")
