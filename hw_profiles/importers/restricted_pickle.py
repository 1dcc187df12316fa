"""Reads pickles that hold plain data and numpy numbers, and nothing else: no code of a file can run. No torch.

The usual restricted unpickler (Python's manual, "Restricting Globals") lets numpy's own reconstruction functions in.
Here not even those run: every global that a file may name is replaced by a stand-in of this module, which builds the
number or the array from its bytes and accepts numeric types alone.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_NUMERIC = "biuf"  # kinds of numpy types: bool, signed, unsigned, float
_LEAVES = frozenset({type(None), bool, int, float, complex, str, bytes})


class RefusedPickleError(ValueError):
    """A pickle names something that is neither plain data nor a numpy number; its `name` is "module.name"."""

    def __init__(self, where: str, name: str) -> None:
        self.name = name
        super().__init__(
            f"{where} is refused: it asks for {name}, which could run code when it is read; allowed are numbers, text, "
            "containers and numpy arrays of numbers. Do not open it with pickle.load unless you trust its author"
        )


def read_pickle(data: bytes, where: str) -> Any:
    """Return what a pickle holds: numbers, text, None, lists, tuples, dicts, sets; numpy numbers as Python's own.

    Args:
        data: the pickle.
        where: what messages call it.

    Raises:
        RefusedPickleError: it names a class or function that is not in the list above.
        ValueError: it is damaged, or is no pickle.
    """
    try:
        return _Plain()(_Unpickler(io.BytesIO(data), where).load())
    except RefusedPickleError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise ValueError(f"{where} is damaged or no pickle of plain data: {type(error).__name__}: {error}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, where: str) -> None:
        super().__init__(file)
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module, name))
        if found is None:
            raise RefusedPickleError(self._where, f"{module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedPickleError(self._where, "persistent_load")


class _Function:
    """A callable that a file cannot change (pickles may set attributes of what they are given)."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise TypeError("a pickle may not change what it is given")


class _Type:
    """Stands for numpy.dtype; its state holds the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"numpy type {name!r}: not a name")
        self.dtype = _numeric(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order, fields = state[1], state[3:5]
        if any(field is not None for field in fields):
            raise TypeError("numpy types with fields are not plain numbers")
        self.dtype = self.dtype.newbyteorder(order) if order in "<>" else self.dtype


class _Array:
    """Stands for a numpy array until the whole file is read."""

    __slots__ = ("values",)

    def __init__(self, *_: Any) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        values = np.frombuffer(_bytes(data), kind.dtype)
        self.values = values.reshape(shape, order="F" if fortran else "C")


def _scalar(kind: _Type, data: Any) -> float | int | bool:
    return np.frombuffer(_bytes(data), kind.dtype, count=1)[0].item()


def _frombuffer(data: Any, kind: _Type, shape: Any, order: str) -> _Array:
    """Build an array as pickle protocol 5 writes it."""
    array = _Array()
    array.values = np.frombuffer(_bytes(data), kind.dtype).reshape(shape, order="F" if order == "F" else "C")
    return array


def _bytes(data: Any) -> bytes:
    if not isinstance(data, (bytes, bytearray)):
        raise TypeError(f"numpy data of type {type(data).__name__}: not plain numbers")
    return bytes(data)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stand for _codecs.encode, by which old protocols write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise TypeError("only latin1 text is encoded")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stand for bytes(), by which old protocols write none."""
    return b""


def _numeric(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    if dtype.kind not in _NUMERIC or dtype.fields is not None or dtype.subdtype is not None:
        raise TypeError(f"numpy type {name!r} does not hold plain numbers")
    return dtype


class _Plain:
    """Puts arrays in the place of their stand-ins; what a file uses twice is visited once, so that it cannot grow."""

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:
        if type(value) in _LEAVES:
            return value
        if id(value) not in self._seen:
            self._seen[id(value)] = self._container(value)
        return self._seen[id(value)]

    def _container(self, value: Any) -> Any:
        if isinstance(value, _Array):
            return value.values
        if isinstance(value, dict):
            return {self(key): self(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return value if _LEAVES.issuperset(map(type, value)) else type(value)(map(self, value))
        raise TypeError(f"holds a {type(value).__name__}, which is no plain data")


def _allowed() -> Mapping[tuple[str, str], Any]:
    array, kind = _Function(_Array), _Function(_Type)
    found: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): array, ("numpy", "dtype"): kind, ("_codecs", "encode"): _Function(_encode),
    }  # fmt: skip
    for core in ("numpy.core", "numpy._core"):  # before and since numpy 2
        found[f"{core}.multiarray", "_reconstruct"] = array
        found[f"{core}.multiarray", "scalar"] = _Function(_scalar)
        found[f"{core}.numeric", "_frombuffer"] = _Function(_frombuffer)
    for module in ("builtins", "__builtin__"):
        found |= {(module, plain.__name__): plain for plain in (set, frozenset, complex)}
        found[module, "bytes"] = _Function(_no_bytes)
    return found


_ALLOWED = _allowed()
