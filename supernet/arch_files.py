"""Architectures listed in files: text, JSON, CSV, Parquet. No torch."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supernet.architecture import Architecture, parse_architecture


def read_architecture_file(path: str | Path) -> list[Architecture]:
    """Read architectures from a file, in its order.

    Args:
        path: .csv or .parquet with a column "architecture" of ids (others are ignored); .json with a list of ids or of
            mappings of `Architecture`'s fields, or one such mapping; any other text file with an id or a JSON mapping
            a line (empty lines and lines that start with # are skipped).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no architectures in it, or one that cannot be read (file and entry are named).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it should list architectures")
    values = _READERS.get(path.suffix, _lines)(path)
    if not values:
        raise ValueError(f"{path} lists no architectures")
    return [_parsed(value, f"{path}, entry {number}") for number, value in enumerate(values, start=1)]


def _csv(path: Path) -> list[Any]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if "architecture" not in (reader.fieldnames or ()):
            raise ValueError(f"{path} has no column 'architecture'; its columns are {reader.fieldnames}")
        return [row["architecture"] for row in reader]


def _parquet(path: Path) -> list[Any]:
    import pyarrow.parquet as pq

    names = pq.read_schema(path).names
    if "architecture" not in names:
        raise ValueError(f"{path} has no column 'architecture'; its columns are {names}")
    return pq.read_table(path, columns=["architecture"])["architecture"].to_pylist()


def _json(path: Path) -> list[Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, (list, dict)):
        raise ValueError(f"{path} holds a {type(values).__name__}; give a list of ids or of mappings, or one mapping")
    return values if isinstance(values, list) else [values]


def _lines(path: Path) -> list[Any]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


_READERS: Mapping[str, Callable[[Path], list[Any]]] = {".csv": _csv, ".parquet": _parquet, ".json": _json}


def _parsed(value: Any, where: str) -> Architecture:
    try:
        return parse_architecture(value)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error
