"""The cache of evaluations: a file of JSON lines that several processes may append to at once. No torch.

A line is one network's scores on all text, {"architecture": id, "scores": {...}}, or its sums over ranges of blocks,
{"architecture": id, "ranges": [[start, stop, n_tokens, loss_sum, squares], ...]}. Lines are appended under a lock of
the file (flock; on systems without it by a single write), so those of several processes never mix; a line that a kill
cut short is left out with a warning, and the next one begins on a line of its own.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from search.live_records import QualityRecord, RangeLoss

_log = logging.getLogger(__name__)


class QualityCache:
    """What is known of networks, by architecture id.

    Args:
        file: where it is kept; None for memory only.

    Attributes:
        scores: of networks that were evaluated on all text at once.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.scores: dict[str, QualityRecord] = {}
        self._ranges: dict[str, dict[int, dict[int, RangeLoss]]] = {}  # by id, start and stop
        self._read = 0  # bytes of the file that are known
        self._lines = 0
        self.refresh()

    def ids(self) -> set[str]:
        """Return the networks of which anything is known."""
        return {*self.scores, *self._ranges}

    def chain(self, arch_id: str, stop: int) -> list[RangeLoss]:
        """Return known ranges that follow one another from block 0 as far as possible, to `stop` at most."""
        known = self._ranges.get(arch_id, {})
        reached: dict[int, RangeLoss | None] = {0: None}  # by where a chain ends, its last range
        for place in sorted({*known, 0}):
            if place in reached:
                for end, part in known.get(place, {}).items():
                    if end <= stop:
                        reached.setdefault(end, part)
        found: list[RangeLoss] = []
        last = reached[max(reached)]
        while last is not None:
            found.append(last)
            last = reached[last.start]
        return found[::-1]

    def add_scores(self, records: Mapping[str, QualityRecord]) -> None:
        """Keep scores on all text, by architecture id."""
        self.scores |= records
        self._append([{"architecture": i, "scores": r.to_plain()} for i, r in records.items()])

    def add_ranges(self, parts: Mapping[str, Sequence[RangeLoss]]) -> None:
        """Keep sums over ranges of blocks, by architecture id."""
        for arch_id, ranges in parts.items():
            self._know(arch_id, ranges)
        self._append([{"architecture": i, "ranges": [p.to_plain() for p in own]} for i, own in parts.items()])

    def refresh(self) -> None:
        """Read the lines that other processes have appended."""
        if self.file is None or not self.file.is_file():
            return
        with self.file.open("rb") as stream, _locked(stream):
            self._catch_up(stream)

    def _catch_up(self, stream: BinaryIO) -> None:
        stream.seek(self._read)
        for line in stream.read().splitlines():
            self._lines += 1
            self._take(line)
        self._read = stream.tell()

    def _take(self, line: bytes) -> None:
        if not line:
            return
        try:
            data = json.loads(line)
            if "ranges" in data:
                self._know(data["architecture"], [RangeLoss.from_plain(part) for part in data["ranges"]])
            else:
                self.scores[data["architecture"]] = QualityRecord.from_plain(data["scores"])
        except (ValueError, KeyError, TypeError, AttributeError):
            _log.warning("%s line %d is damaged and left out", self.file, self._lines)

    def _know(self, arch_id: str, ranges: Sequence[RangeLoss]) -> None:
        known = self._ranges.setdefault(arch_id, {})
        for part in ranges:
            known.setdefault(part.start, {})[part.stop] = part

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        if self.file is None or not lines:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        with self.file.open("ab+") as stream, _locked(stream):
            self._catch_up(stream)
            if self._read and not _ends_a_line(stream):
                text = b"\n" + text
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
            self._read += len(text)
            self._lines += len(lines)


def _ends_a_line(stream: BinaryIO) -> bool:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1) == b"\n"


@contextmanager
def _locked(stream: BinaryIO) -> Iterator[None]:
    """Hold the file's lock: shared to read, exclusive to append."""
    try:
        import fcntl
    except ImportError:  # no such locks here; appending is then one write
        yield
        return
    fcntl.flock(stream, fcntl.LOCK_EX if stream.writable() else fcntl.LOCK_SH)
    try:
        yield
    finally:
        fcntl.flock(stream, fcntl.LOCK_UN)
