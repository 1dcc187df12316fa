"""Lists of architectures in files: CSV, text or JSON. No torch."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from supernet.architecture import Architecture, parse_architecture


def read_architectures(path: str | Path) -> list[Architecture]:
    """Read architectures from a file.

    Args:
        path: .csv with a column "architecture" of ids (others are ignored); .txt with an id a line (empty lines and
            lines that start with # are skipped); .json with a list of ids or of mappings of `Architecture`'s fields.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, no architectures in it, or one that cannot be read (its number is named).
    """
    path = Path(path)
    readers = {".csv": _csv, ".txt": _txt, ".json": _json}
    if path.suffix not in readers:
        raise ValueError(f"{path}: a list of architectures is a {', '.join(readers)} file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; it should list architectures")
    values = readers[path.suffix](path)
    if not values:
        raise ValueError(f"{path} lists no architectures")
    return [_parsed(value, f"{path}, entry {number}") for number, value in enumerate(values, start=1)]


def _csv(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "architecture" not in (reader.fieldnames or ()):
            raise ValueError(f"{path} has no column 'architecture'; its columns are {reader.fieldnames}")
        return [row["architecture"] for row in reader]


def _txt(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _json(path: Path) -> list[Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, list):
        raise ValueError(f"{path} holds a {type(values).__name__}; give a list of ids or of mappings")
    return values


def _parsed(value: Any, where: str) -> Architecture:
    try:
        return parse_architecture(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
