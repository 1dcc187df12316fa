"""Reading Universal Binary JSON, the form in which XGBoost saves models (ubjson.org, draft 12). No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

_NUMBERS: dict[int, tuple[np.dtype[Any], int]] = {  # marker -> numpy type, bytes; UBJSON is big-endian
    ord("i"): (np.dtype(">i1"), 1), ord("U"): (np.dtype(">u1"), 1), ord("I"): (np.dtype(">i2"), 2),
    ord("l"): (np.dtype(">i4"), 4), ord("L"): (np.dtype(">i8"), 8), ord("d"): (np.dtype(">f4"), 4),
    ord("D"): (np.dtype(">f8"), 8),
}  # fmt: skip
_LENGTHS = {ord("i"): 1, ord("U"): 1, ord("I"): 2, ord("l"): 4, ord("L"): 8}
_CONSTANTS = {ord("T"): True, ord("F"): False, ord("Z"): None}
_STRING, _CHAR, _NOTHING = ord("S"), ord("C"), ord("N")
_ARRAY, _ARRAY_END, _OBJECT, _OBJECT_END = ord("["), ord("]"), ord("{"), ord("}")
_TYPE, _COUNT, _UNSIGNED = ord("$"), ord("#"), ord("U")


def parse_ubjson(raw: bytes) -> Any:
    r"""Return the value that the bytes hold: dicts, lists, strings and numbers; arrays of one number type as numpy.

    Raises:
        ValueError: the bytes are no UBJSON, or stop early.

    Example:
        >>> parse_ubjson(b"{i\x01a[$U#i\x02\x07\x08}")
        {'a': array([7, 8], dtype=uint8)}
    """
    try:
        return _value(raw, 0, None)[0]
    except (IndexError, ValueError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no UBJSON, or damaged: {error}") from error


# Every function takes the place where something starts and returns it with the place where it ends: a model has
# thousands of small arrays, and attributes of a reader would take twice as long.


def _value(raw: bytes, at: int, marker: int | None) -> tuple[Any, int]:
    """Read a value; `marker` is its type where that was given before."""
    if marker is None:
        marker, at = raw[at], at + 1
        while marker == _NOTHING:
            marker, at = raw[at], at + 1
    if marker == _ARRAY:
        return _array(raw, at)
    if marker == _OBJECT:
        return _object(raw, at)
    if marker == _STRING:
        return _string(raw, at)
    if marker in _NUMBERS:
        dtype, size = _NUMBERS[marker]
        return np.frombuffer(raw, dtype, 1, at)[0].item(), at + size
    if marker in _CONSTANTS:
        return _CONSTANTS[marker], at
    if marker == _CHAR:
        return chr(raw[at]), at + 1
    raise ValueError(f"unknown marker {chr(marker)!r} before byte {at}")


def _length(raw: bytes, at: int) -> tuple[int, int]:
    size = _LENGTHS.get(raw[at])
    if size is None:
        raise ValueError(f"a length starts with {chr(raw[at])!r} at byte {at}")
    end = at + 1 + size
    number = int.from_bytes(raw[at + 1 : end], "big", signed=raw[at] != _UNSIGNED)
    if not 0 <= number <= len(raw):
        raise ValueError(f"a length of {number} at byte {at}")
    return number, end


def _string(raw: bytes, at: int) -> tuple[str, int]:
    length, at = _length(raw, at)
    if at + length > len(raw):
        raise ValueError("the bytes end inside a string")
    return raw[at : at + length].decode("utf-8"), at + length


def _container(raw: bytes, at: int) -> tuple[int | None, int | None, int]:
    """Read the type and the number of the entries, where they are given ahead."""
    kind = None
    if raw[at] == _TYPE:
        kind, at = raw[at + 1], at + 2
        if raw[at] != _COUNT:
            raise ValueError(f"a type without a count at byte {at}")
    if raw[at] != _COUNT:
        return None, None, at
    count, at = _length(raw, at + 1)
    return kind, count, at


def _array(raw: bytes, at: int) -> tuple[Any, int]:
    kind, count, at = _container(raw, at)
    if kind in _NUMBERS and count is not None:
        assert kind is not None
        dtype, size = _NUMBERS[kind]
        return np.frombuffer(raw, dtype, count, at) if count else np.empty(0, dtype), at + size * count
    values: list[Any] = []
    while len(values) < count if count is not None else raw[at] != _ARRAY_END:
        value, at = _value(raw, at, kind)
        values.append(value)
    return values, at + (count is None)


def _object(raw: bytes, at: int) -> tuple[dict[str, Any], int]:
    kind, count, at = _container(raw, at)
    fields: dict[str, Any] = {}
    while len(fields) < count if count is not None else raw[at] != _OBJECT_END:
        name, at = _string(raw, at)
        fields[name], at = _value(raw, at, kind)
    return fields, at + (count is None)
