"""What all tests share."""

import logging
import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: its children would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was():
    """Undo what a command run inside a test does to logging (Hydra configures it for the whole process)."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    disabled = {name: log.disabled for name, log in logging.root.manager.loggerDict.items() if hasattr(log, "disabled")}
    yield
    root.handlers[:], root.level = handlers, level
    for name, log in logging.root.manager.loggerDict.items():
        if hasattr(log, "disabled"):
            log.disabled = disabled.get(name, False)
