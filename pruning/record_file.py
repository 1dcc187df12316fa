"""Numbers that are costly to compute, kept one by one in a file of JSON lines that belongs to one computation.

The first line says which computation (a fingerprint); every other one is a key and its value. Each is appended and
synced before the next is computed. A line that a kill cut short is cut off. No torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supernet.artifacts import write_text


class RecordFile:
    """Keys and numbers.

    Args:
        path: the file, which is made when needed; None keeps them in memory only.
        card: which computation they belong to, plain JSON types.

    Attributes:
        known: the numbers by key.

    Raises:
        ValueError: the file holds records of another computation, or is no such file.
    """

    def __init__(self, path: str | Path | None, *, card: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        self.known: dict[str, float] = {}
        if self.path is None:
            return
        if self.path.is_file():
            self._read(self.path, json.loads(json.dumps(card)))
        else:
            write_text(self.path, json.dumps(card) + "\n")

    def put(self, key: str, value: float) -> None:
        """Keep a number, in the file too before this returns."""
        self.known[key] = float(value)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([key, float(value)]) + "\n")
                stream.flush()
                os.fsync(stream.fileno())

    def _read(self, path: Path, card: Any) -> None:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        lines = whole.splitlines()
        try:
            stored = json.loads(lines[0])
            self.known = {str(key): float(value) for key, value in map(json.loads, lines[1:])}
        except (IndexError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and run again") from error
        if stored != card:
            raise ValueError(
                f"{path} belongs to another network, text or settings ({_difference(stored, card)}): give another "
                "file, or delete it"
            )
        if whole != text:
            write_text(path, whole)


def _difference(stored: Any, card: Mapping[str, Any]) -> str:
    if not isinstance(stored, Mapping):
        return "its first line is no card"
    return ", ".join(sorted(key for key in {*stored, *card} if stored.get(key) != card.get(key)))
