"""Files of a checked-out folder, or of one commit of a git repository, without checking it out. No torch."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol


class RawFiles(Protocol):
    """Some files by name, with forward slashes."""

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""

    def read(self, name: str) -> bytes:
        """Return the content of one."""

    def __str__(self) -> str:
        """Return what messages call it."""


class FolderFiles:
    """The files under a folder.

    Args:
        folder: the folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder} is no folder")

    def names(self) -> list[str]:
        """Return the names of all files, sorted; those of .git are left out."""
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if path.parts[0] != ".git")

    def read(self, name: str) -> bytes:
        """Return the content of one."""
        return (self.folder / name).read_bytes()

    def __str__(self) -> str:
        return str(self.folder)


class CommitFiles:
    """The files of a commit, read with `git cat-file` (no filters or drivers of the repository run).

    Args:
        repository: a clone with the commit in its history.
        commit: its name.

    Raises:
        FileNotFoundError: git is not installed.
        ValueError: no git repository, or it does not have the commit.
    """

    def __init__(self, repository: str | Path, commit: str) -> None:
        self.repository, self.commit = Path(repository), commit
        try:
            self._git("rev-parse", "--quiet", "--verify", "--end-of-options", f"{commit}^{{commit}}")
        except ValueError as error:
            raise ValueError(
                f"{self.repository} has no commit {commit}: {error}. Give a clone with its whole history "
                "(git clone without --depth; git fetch --unshallow completes one)"
            ) from error

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        listing = self._git("ls-tree", "-r", "-z", "--name-only", "--full-tree", self.commit)
        return sorted(name for name in listing.decode("utf-8", "replace").split("\0") if name)

    def read(self, name: str) -> bytes:
        """Return the content of one."""
        return self._git("cat-file", "blob", f"{self.commit}:{name}")

    def __str__(self) -> str:
        return f"{self.repository} at {self.commit[:12]}"

    def _git(self, *arguments: str) -> bytes:
        try:
            done = subprocess.run(["git", "-C", str(self.repository), *arguments], capture_output=True)
        except FileNotFoundError as error:
            raise FileNotFoundError("git is not installed; it reads the history of the repository") from error
        if done.returncode:
            text = done.stderr.decode("utf-8", "replace").strip() or f"git {arguments[0]} ended with {done.returncode}"
            raise ValueError(" ".join(text.split()))
        return done.stdout
