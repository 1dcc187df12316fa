"""Files that are written whole or not at all, and the card that says where an artefact comes from. No torch."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
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
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path, *, names: Collection[str]) -> Iterator[Path]:
    """Give a temporary folder beside `folder` that replaces it when the block ends without an error.

    After an error, a kill or a full disk the old folder is still there (`restore_folder` finds it again if the kill
    fell between the two renames).

    Args:
        folder: its parents are made when needed.
        names: the files that may be replaced.

    Raises:
        ValueError: `folder` holds other files, which would be lost; or it is a file.
    """
    folder = restore_folder(folder)
    if folder.exists():
        others = sorted({path.name for path in folder.iterdir()} - set(names)) if folder.is_dir() else ["(a file)"]
        if others:
            raise ValueError(f"{folder} holds {', '.join(others[:5])}, which this would delete: give another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.chmod(0o666 & ~_umask())  # safetensors makes files private, and mkdtemp folders
        temporary.chmod(0o777 & ~_umask())
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def restore_folder(folder: str | Path) -> Path:
    """Return the folder's resolved path; the old one is put back if a kill fell while it was being replaced."""
    folder = Path(folder).resolve()
    previous = _previous(folder)
    if previous.is_dir() and not folder.exists():
        previous.rename(folder)
    return folder


def _previous(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")


def _swap(new: Path, folder: Path) -> None:
    """Let `new` take the place of `folder`: two renames, since no portable call replaces a folder that is not empty."""
    previous = _previous(folder)
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    try:
        new.rename(folder)
    except OSError:
        restore_folder(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


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
