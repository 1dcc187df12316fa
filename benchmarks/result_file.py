"""Writes what a benchmark found, with date, exact command, machine and versions."""

import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hw_profiles.device import current_device
from supernet.artifacts import versions, write_json


def write_result(output: str | Path, **found: Any) -> Path:
    """Write a JSON file and print where it is."""
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python " + shlex.join([f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": current_device("cpu").card,
        "versions": versions(),
        **found,
    }
    path = write_json(output, result)
    print(f"written to {path}")
    return path
