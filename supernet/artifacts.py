"""Files that are written whole or not at all, and the card that says where an artefact comes from. No torch."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "paretolm", "torch", "litgpt", "pytorch-lightning", "transformers", "xgboost", "xgboost-cpu", "scikit-learn",
    "numpy", "pandas", "pyarrow", "moocore", "hydra-core", "wandb",
)  # fmt: skip


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that replaces it when the block ends without an error.

    After an error, a kill or a full disk the old file is still there; the parent folder is made when needed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp" + path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> Path:
    """Write a text file atomically and return its path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write a value as indented JSON, atomically; NaN and infinity are refused."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not JSON; names it.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: not JSON ({error}). Delete it or restore it, then run again.") from error


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on, and of Python (nothing is imported)."""
    import platform

    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_card(
    folder: str | Path, *, what: str, command: str, data: Mapping[str, Any], scores: Mapping[str, Any]
) -> Path:
    """Write `card.json`: what an artefact is, the command and data it was made from, its scores, date and versions."""
    card = {
        "what": what,
        "command": command,
        "data": dict(data),
        "scores": dict(scores),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    return write_json(Path(folder) / "card.json", card)
