"""Where training text comes from: files, folders, or Python's own standard library. No torch."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import os
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

STDLIB = "stdlib"
TEXT_EXTENSIONS = (".txt", ".md", ".rst", ".py", ".raw", ".tokens")
_STDLIB_LEFT_OUT = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__", "turtledemo"}
)
_CHUNK = 1 << 21  # bytes read, and about the characters tokenised, at once


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus.

    Attributes:
        name: its path relative to the source, with forward slashes: the same on every machine.
        path: where it is.
        n_bytes: how much of its (unpacked) text is used, from its start.
        sha256: hash of those bytes.
    """

    name: str
    path: Path
    n_bytes: int
    sha256: str

    def pieces(self) -> Iterator[str]:
        """Yield the text in pieces of about two million characters that end at a line end.

        Raises:
            ValueError: the file is not UTF-8, or is a damaged .gz; names it.
        """
        decoder = codecs.getincrementaldecoder("utf-8")()
        carried, done = "", 0
        try:
            for chunk in _chunks(self.path, self.n_bytes):
                text = carried + decoder.decode(chunk)
                done += len(chunk)
                cut = text.rfind("\n") + 1
                carried = text[cut:]
                if cut:
                    yield text[:cut]
            carried += decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            where = f"near byte {done + error.start}: {error.reason}"
            raise ValueError(f"{self.path} is not UTF-8 text ({where}); convert it, e.g. with iconv") from error
        if carried:
            yield carried


def find_documents(
    source: str | Path | Sequence[str | Path],
    *,
    extensions: Sequence[str] = TEXT_EXTENSIONS,
    max_bytes: int | None = None,
) -> list[Document]:
    """Return the texts of a source, in an order that is a random one and the same on every machine.

    Documents are ordered by a hash of their names, so that the last tenth, or the first megabyte, is a fair sample.
    Empty texts and exact copies of another text are left out: a copy could be trained on and validated on.

    Args:
        source: "stdlib"; a file (plain or .gz); a folder, searched recursively; or several of those.
        extensions: the file names taken from a folder, besides those with .gz after them. A file given by its own
            path is taken whatever its name.
        max_bytes: use so much text at the most; the last document is cut at a line end.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: there is no text.
    """
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"max_bytes = {max_bytes}: give a positive number, or null for all")
    files = sorted(_files(source, extensions), key=lambda file: (_hash(file[0].encode()), file[0]))
    documents: list[Document] = []
    seen: set[str] = set()
    left = max_bytes
    for name, path in files:
        document = _read_document(name, path, left)
        if document is None or document.sha256 in seen:
            continue
        seen.add(document.sha256)
        documents.append(document)
        left = None if left is None else left - document.n_bytes
        if left == 0:
            break
    if not documents:
        kinds = ", ".join(extensions)
        raise ValueError(f"no text in {source}: {len(files)} file(s) found ({kinds}), none with text in it")
    return documents


def stdlib_files() -> list[tuple[str, Path]]:
    """Return name and path of the standard library's Python files, sorted; tests and installed packages left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _STDLIB_LEFT_OUT]
        files += [Path(folder) / name for name in names if name.endswith(".py")]
    return sorted((path.relative_to(root).as_posix(), path) for path in files if _is_utf8(path))


def _files(source: str | Path | Sequence[str | Path], extensions: Sequence[str]) -> list[tuple[str, Path]]:
    """Return name and path of every file of a source."""
    if isinstance(source, (str, Path)):
        return stdlib_files() if str(source) == STDLIB else _files_at(Path(source), extensions)
    if not source:
        raise ValueError("source is an empty list: give 'stdlib', a file, a folder, or several of those")
    found: list[tuple[str, Path]] = []
    for i, one in enumerate(source):
        found += [(f"{i}/{name}", path) for name, path in _files(one, extensions)]
    return found


def _files_at(path: Path, extensions: Sequence[str]) -> list[tuple[str, Path]]:
    path = path.expanduser()
    if path.is_file():
        return [(path.name, path)]
    if not path.is_dir():
        raise FileNotFoundError(f"no text at {path}: give 'stdlib', an existing file, or a folder")
    endings = tuple(e for name in extensions for e in (name, f"{name}.gz"))
    return [
        (file.relative_to(path).as_posix(), file)
        for file in path.rglob("*")
        if file.name.endswith(endings) and file.is_file()
    ]


def _read_document(name: str, path: Path, limit: int | None) -> Document | None:
    """Hash a file, up to `limit` bytes cut at a line end; None when nothing is left of it."""
    digest, n_bytes = hashlib.sha256(), 0
    for chunk in _chunks(path, None if limit is None else limit + 1):
        digest.update(chunk)
        n_bytes += len(chunk)
    if limit is not None and n_bytes > limit:
        n_bytes = _line_end(path, limit)
        digest = hashlib.sha256()
        for chunk in _chunks(path, n_bytes):
            digest.update(chunk)
    return Document(name, path, n_bytes, digest.hexdigest()) if n_bytes else None


def _line_end(path: Path, limit: int) -> int:
    """Return the last line end within the first `limit` bytes, or else the last end of a UTF-8 character."""
    end, done, tail = 0, 0, b""
    for chunk in _chunks(path, limit):
        end = max(end, done + chunk.rfind(b"\n") + 1) if b"\n" in chunk else end
        done += len(chunk)
        tail = (tail + chunk)[-4:]
    return end or done - _partial_character(tail)


def _partial_character(tail: bytes) -> int:
    """Return how many bytes at the end of `tail` (up to 4 bytes) begin a UTF-8 character without ending it."""
    for back, byte in enumerate(reversed(tail), start=1):
        if byte & 0xC0 != 0x80:  # no continuation byte: the character starts here
            size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return back if size > back else 0
    return 0


def _chunks(path: Path, limit: int | None) -> Iterator[bytes]:
    """Yield the unpacked bytes of a file, at most `limit` of them."""
    left = limit
    try:
        with _open(path) as file:
            while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
                yield chunk
                left = None if left is None else left - len(chunk)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged .gz file: {error}") from error


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _is_utf8(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
