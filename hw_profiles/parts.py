"""A folder of Parquet part files, each written whole or not at all. No torch.

Every append is one new file, so a kill or a full disk can never damage rows that are already there, and several
processes (also on several hosts) may append to one folder. `pandas.read_parquet(folder)` reads it too.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_REPLACES = b"paretolm.replaces"  # schema metadata of a merged part: names of the parts that it stands for
_DAMAGED = ".damaged-"  # prefix of parts that compact() sets aside; hidden, so that other readers skip them
_ROW_GROUP = 256  # rows that are lost together when a page of a merged part is damaged,
_MOST_GROUPS = 64  # unless a part is so large that it needs larger groups


@dataclass(frozen=True)
class Part:
    """The rows of one part that can be read.

    Attributes:
        path: the file.
        table: its good rows; None when nothing of it can be read.
        replaces: names of the parts that it stands for (after a merge).
        damage: what is wrong with it; empty when all is well.
    """

    path: Path
    table: pa.Table | None
    replaces: frozenset[str] = frozenset()
    damage: str = ""


def write_part(folder: Path, table: pa.Table, *, replaces: Sequence[str] = ()) -> Path:
    """Write a new part file into `folder`, whole or not at all, and return its path.

    Args:
        folder: made when it does not exist.
        table: the rows.
        replaces: names of parts whose rows `table` holds; readers ignore those parts from now on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {_REPLACES: json.dumps(sorted(replaces)).encode()} if replaces else None
    with _temporary(folder) as temporary:
        group = max(_ROW_GROUP, -(-table.num_rows // _MOST_GROUPS))  # each group has its own headers and dictionaries
        pq.write_table(
            table.replace_schema_metadata(metadata), temporary, row_group_size=group, write_page_checksum=True,
            compression="zstd",
        )  # fmt: skip
        _sync(temporary)
        path = _publish(temporary, folder)
    _sync(folder)
    return path


def read_parts(path: Path) -> list[Part]:
    """Read all parts of a folder, or the one file `path`; damaged parts are returned with what is left of them.

    Warns:
        UserWarning: a part is damaged; names it, the reason and how many rows were kept.
    """
    parts = _without_replaced(_read_all(path))
    kept = sum(part.table.num_rows for part in parts if part.table is not None)
    for part in parts:
        if part.damage:
            own = part.table.num_rows if part.table is not None else 0
            warnings.warn(
                f"{part.path} is damaged ({part.damage}): {own} rows of it and {kept} rows in all were kept; "
                "measure again what is missing",
                UserWarning,
                stacklevel=4,
            )
    return parts


def merge_parts(folder: Path) -> Path | None:
    """Write the rows of all parts into one new part, then delete the old ones; returns it, None if nothing was to do.

    A kill at any moment leaves every row readable once: the merged part names the parts that it stands for. Damaged
    parts are set aside under a hidden name, so that other Parquet readers can read the folder. While another process
    merges the same folder nothing is done.
    """
    with _lock(folder) as is_ours:
        return _merge(folder) if is_ours else None


def _merge(folder: Path) -> Path | None:
    everything = _read_all(folder)
    current = _without_replaced(everything)
    tables = [part.table for part in current if part.table is not None]
    if len(everything) < 2 and not any(part.damage for part in everything):
        return None
    merged = (
        write_part(folder, pa.concat_tables(tables), replaces=[p.path.name for p in everything]) if tables else None
    )
    for part in everything:
        if part.damage:
            part.path.replace(folder / f"{_DAMAGED}{part.path.name}")
        else:
            part.path.unlink(missing_ok=True)
    return merged


def part_files(folder: Path) -> list[Path]:
    """Return the part files of a folder in the order of their numbers."""
    return sorted(path for path in folder.glob("*.parquet") if not path.name.startswith((".", "_")))


def _read_all(path: Path) -> list[Part]:
    """Read every part, also while other processes append and merge."""
    if not path.is_dir():
        return [_read_part(path)]
    known: dict[Path, Part] = {}  # a part never changes once it has its name
    while True:
        files = part_files(path)
        try:
            for file in files:
                known[file] = known.get(file) or _read_part(file)
        except FileNotFoundError:  # merged meanwhile: its rows are in a part that the next look finds
            continue
        if set(files) <= set(part_files(path)):  # else a merge may have moved rows past the look at the folder
            return [known[file] for file in files]


def _read_part(path: Path) -> Part:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        return Part(path, None, damage=_one_line(error))
    with file:
        groups, damage = [], ""
        for index in range(file.num_row_groups):
            try:
                groups.append(file.read_row_group(index))
            except (pa.ArrowException, OSError) as error:
                damage = _one_line(error)
        replaces = json.loads((file.schema_arrow.metadata or {}).get(_REPLACES, b"[]"))
        table = pa.concat_tables(groups) if groups else file.schema_arrow.empty_table()
    return Part(path, table.replace_schema_metadata(None), frozenset(replaces), damage)


def _without_replaced(parts: Sequence[Part]) -> list[Part]:
    """Drop parts that a later, merged part stands for (their deletion was interrupted)."""
    replaced = frozenset().union(*(part.replaces for part in parts))
    return [part for part in parts if part.path.name not in replaced]


@contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Give whether this process alone may merge; the lock ends with the process, however that ends."""
    if fcntl is None:  # no such locks (Windows); the table drops what two merges at once would repeat
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=".part-", suffix=".tmp", dir=folder)
    os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    temporary = Path(name)
    temporary.chmod(0o666 & ~umask)  # mkstemp makes files private
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, folder: Path) -> Path:
    """Give a finished file the next free number; never overwrites what another process wrote meanwhile."""
    number = _next_number(folder)
    while True:
        path = folder / f"part-{number:06d}.parquet"
        try:
            os.link(temporary, path)
            return path
        except FileExistsError:
            number += 1
        except OSError:  # a file system without hard links: a name that nobody else can choose
            path = path.with_stem(f"{path.stem}-{uuid.uuid4().hex[:8]}")
            temporary.replace(path)
            return path


def _next_number(folder: Path) -> int:
    names = [path.name.removeprefix(_DAMAGED) for path in folder.glob("*part-*.parquet")]
    names += [path.name.removeprefix(_DAMAGED) for path in folder.glob(f"{_DAMAGED}*")]
    numbers = [int(name[5:11]) for name in names if name.startswith("part-") and name[5:11].isdigit()]
    return max(numbers, default=0) + 1


def _sync(path: Path) -> None:
    """Force a file or a folder entry to the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows does not open folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
