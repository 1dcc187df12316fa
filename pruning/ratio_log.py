"""A file of measured latency ratios, one JSON line each, so that a killed run goes on where it stopped. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supernet.artifacts import write_text


class RatioLog:
    """Results by name, kept in a file as soon as each is known; without a path in memory.

    Args:
        path: of the file; made when it does not exist.
        context: what the results are of (network, workload, device): a file of another context is refused.

    Raises:
        ValueError: the file holds results of another context, or is no such file.
    """

    def __init__(self, path: str | Path | None, context: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.known: dict[str, dict[str, Any]] = {}
        header = json.dumps({"context": dict(context)}, sort_keys=True)
        if self.path is not None and self.path.is_file():
            self._read(self.path, header)
        elif self.path is not None:
            write_text(self.path, header + "\n")

    def add(self, name: str, result: Mapping[str, Any]) -> None:
        """Keep a result; it is on the disk when this returns."""
        self.known[name] = dict(result)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, **result}) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def _read(self, path: Path, header: str) -> None:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if not lines or lines[0].strip() != header:
            raise ValueError(
                f"{path} holds latencies of another network, workload or device: give another folder, or delete it"
            )
        whole = [line for line in lines[1:] if line.endswith("\n")]
        if len(whole) < len(lines) - 1:  # the last line was cut by a kill: take it off, or the next would join it
            write_text(path, "".join([lines[0], *whole]))
        for line in whole:
            try:
                entry = json.loads(line)
                self.known[entry.pop("name")] = entry
            except (json.JSONDecodeError, KeyError, AttributeError) as error:
                raise ValueError(f"{path} is damaged ({error}): delete it and run again") from error
