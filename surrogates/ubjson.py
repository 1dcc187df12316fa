"""Reading Universal Binary JSON, the form in which XGBoost saves models (ubjson.org, draft 12). No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

_NUMBERS = {  # marker -> numpy type, bytes; UBJSON is big-endian
    ord("i"): (">i1", 1), ord("U"): (">u1", 1), ord("I"): (">i2", 2), ord("l"): (">i4", 4), ord("L"): (">i8", 8),
    ord("d"): (">f4", 4), ord("D"): (">f8", 8),
}  # fmt: skip
_CONSTANTS = {ord("T"): True, ord("F"): False, ord("Z"): None}
_STRING, _CHAR, _NOTHING = ord("S"), ord("C"), ord("N")
_ARRAY, _ARRAY_END, _OBJECT, _OBJECT_END = ord("["), ord("]"), ord("{"), ord("}")
_TYPE, _COUNT = ord("$"), ord("#")


def parse_ubjson(raw: bytes) -> Any:
    r"""Return the value that the bytes hold: dicts, lists, strings and numbers; arrays of one number type as numpy.

    Raises:
        ValueError: the bytes are no UBJSON, or stop early.

    Example:
        >>> parse_ubjson(b"{i\x01a[$U#i\x02\x07\x08}")
        {'a': array([7, 8], dtype=uint8)}
    """
    try:
        return _Reader(raw).value()
    except (IndexError, ValueError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no UBJSON, or damaged: {error}") from error


class _Reader:
    """A place in the bytes."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def value(self, marker: int | None = None) -> Any:
        if marker is None:
            marker = self._marker()
        if marker == _STRING:
            return self._string()
        if marker == _ARRAY:
            return self._array()
        if marker == _OBJECT:
            return self._object()
        if marker in _NUMBERS:
            return self._numbers(marker, 1)[0].item()
        if marker in _CONSTANTS:
            return _CONSTANTS[marker]
        if marker == _CHAR:
            return chr(self._marker())
        raise ValueError(f"unknown marker {chr(marker)!r} at byte {self.at - 1}")

    def _marker(self) -> int:
        marker = self.raw[self.at]
        self.at += 1
        return self._marker() if marker == _NOTHING else marker

    def _numbers(self, marker: int, count: int) -> np.ndarray:
        dtype, size = _NUMBERS[marker]
        values = np.frombuffer(self.raw, dtype, count, self.at)
        self.at += size * count
        return values

    def _integer(self) -> int:
        marker = self._marker()
        size = _NUMBERS[marker][1] if marker in _NUMBERS else 0
        if not size or marker in (ord("d"), ord("D")):
            raise ValueError(f"a length starts with {chr(marker)!r} at byte {self.at - 1}")
        number = int.from_bytes(self.raw[self.at : self.at + size], "big", signed=marker != ord("U"))
        self.at += size
        if number < 0 or number > len(self.raw):
            raise ValueError(f"a length of {number} at byte {self.at}")
        return number

    def _string(self) -> str:
        length = self._integer()
        text = self.raw[self.at : self.at + length]
        self.at += length
        if len(text) < length:
            raise ValueError("the bytes end inside a string")
        return text.decode("utf-8")

    def _container(self) -> tuple[int | None, int | None]:
        """Return the type and the number of the entries, where they are given ahead."""
        kind = None
        if self.raw[self.at] == _TYPE:
            kind = self.raw[self.at + 1]
            self.at += 2
        if self.raw[self.at] != _COUNT:
            if kind is not None:
                raise ValueError(f"a type without a count at byte {self.at}")
            return None, None
        self.at += 1
        return kind, self._integer()

    def _array(self) -> Any:
        kind, count = self._container()
        if kind in _NUMBERS and count is not None:
            assert kind is not None
            return self._numbers(kind, count)
        if count is not None:
            return [self.value(kind) for _ in range(count)]
        values = []
        while (marker := self._marker()) != _ARRAY_END:
            values.append(self.value(marker))
        return values

    def _object(self) -> dict[str, Any]:
        kind, count = self._container()
        fields: dict[str, Any] = {}
        while len(fields) < count if count is not None else self.raw[self.at] != _OBJECT_END:
            name = self._string()
            fields[name] = self.value(kind)
        self.at += count is None
        return fields
