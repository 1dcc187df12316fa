"""A measuring process that fails on purpose: run as `python faulty_worker.py <architecture> error|kill|slow`."""

import os
import signal
import sys
import time

from hw_profiles import worker


class FaultySession:
    """Raises for, or dies of, one architecture; "slow" takes its time for every one."""

    def __init__(self, setup):
        self.session = worker.open_session(setup)

    def measure(self, arch):
        if sys.argv[2] == "slow":
            time.sleep(0.1)
        elif arch.id == sys.argv[1] and sys.argv[2] == "kill":
            print("about to die", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        elif arch.id == sys.argv[1]:
            raise MemoryError("no room for it")
        return self.session.measure(arch)


if __name__ == "__main__":
    sys.exit(worker.main(open_session=FaultySession))
