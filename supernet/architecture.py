"""One sub-network as a value: which blocks are kept and how wide each part is. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from numbers import Integral, Real
from typing import Any

_FIELDS = ("n_embd", "n_head", "n_query_groups", "intermediate_size", "layers", "bias")
_RANGES, _RUNS = (rf"(\d+(?:{mark}\d+)?(?:\.\d+(?:{mark}\d+)?)*)" for mark in "_x")
_ID = re.compile(rf"e(\d+)-l{_RANGES}-h{_RUNS}(?:-g{_RUNS})?-f{_RUNS}-b([01])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A sub-network of a supernet, in litgpt's words; hashable, equal when the networks are equal.

    Attributes:
        n_embd: residual width, the same in all layers.
        n_head: query heads of each kept layer; 0 where the block has no attention.
        n_query_groups: key/value groups of each kept layer (equal to `n_head` for multi-head attention).
        intermediate_size: MLP neurons of each kept layer; 0 where the block has no MLP.
        layers: indices of the supernet's blocks that are kept, ascending.
        bias: whether the linear layers governed by litgpt's `Config.bias` have a bias.

    Raises:
        ValueError: negative sizes, sizes of unequal length, heads that the groups do not divide, or a kept block
            with neither attention nor MLP.

    Example:
        >>> arch = Architecture.uniform(n_embd=64, n_layer=3, n_head=4, intermediate_size=256)
        >>> arch.id
        'e64-l0_2-h4x3-f256x3-b1'
        >>> Architecture.from_id(arch.id) == arch
        True
    """

    n_embd: int
    n_head: tuple[int, ...]
    n_query_groups: tuple[int, ...]
    intermediate_size: tuple[int, ...]
    layers: tuple[int, ...]
    bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_embd", _integer("n_embd", self.n_embd))
        for name in ("n_head", "n_query_groups", "intermediate_size", "layers"):
            object.__setattr__(self, name, _integers(name, getattr(self, name)))
        object.__setattr__(self, "bias", _boolean(self.bias))
        if not self.layers:
            raise ValueError("layers is empty: an architecture keeps at least one block")
        if list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise ValueError(f"layers = {self.layers}: give distinct block indices >= 0 in ascending order")
        for name in ("n_head", "n_query_groups", "intermediate_size"):
            values = getattr(self, name)
            if len(values) != len(self.layers):
                raise ValueError(
                    f"{name} has {len(values)} entries for {len(self.layers)} kept layers: give one a layer"
                )
            if min(values) < 0:
                raise ValueError(f"{name} = {values}: every entry must be at least 0 (0 leaves that part out)")
        if self.n_embd < 1:
            raise ValueError(f"n_embd = {self.n_embd}: must be at least 1")
        for i, (heads, groups) in enumerate(zip(self.n_head, self.n_query_groups, strict=True)):
            if not groups or not heads:
                self._check_without_attention(i)
            elif heads % groups:
                raise ValueError(f"n_head[{i}] = {heads} is not a multiple of n_query_groups[{i}] = {groups}")

    def _check_without_attention(self, i: int) -> None:
        heads, groups = self.n_head[i], self.n_query_groups[i]
        if heads or groups:
            raise ValueError(
                f"n_head[{i}] = {heads} and n_query_groups[{i}] = {groups}: a block without attention has 0 of both"
            )
        if not self.intermediate_size[i]:
            raise ValueError(
                f"n_head[{i}] = 0 and intermediate_size[{i}] = 0: block {self.layers[i]} has neither attention nor "
                "MLP; leave it out of layers"
            )

    @classmethod
    def uniform(
        cls,
        *,
        n_embd: int,
        n_layer: int,
        n_head: int,
        intermediate_size: int,
        n_query_groups: int | None = None,
        bias: bool = True,
    ) -> Architecture:
        """Return the architecture with the first `n_layer` blocks, all of the same shape."""
        return cls(
            n_embd=n_embd, n_head=(n_head,) * n_layer, n_query_groups=(n_query_groups or n_head,) * n_layer,
            intermediate_size=(intermediate_size,) * n_layer, layers=tuple(range(n_layer)), bias=bias,
        )  # fmt: skip

    @property
    def n_layer(self) -> int:
        """Number of kept blocks."""
        return len(self.layers)

    @property
    def is_uniform(self) -> bool:
        """Whether every kept block has attention and MLP of the same shape: one plain litgpt or HF config says it."""
        sizes = (self.n_head, self.n_query_groups, self.intermediate_size)
        return self.is_complete and all(len(set(values)) == 1 for values in sizes)

    @property
    def is_complete(self) -> bool:
        """Whether every kept block has both attention and MLP."""
        return all(self.n_head) and all(self.intermediate_size)

    @property
    def id(self) -> str:
        """Canonical string, safe in file names and shells; `from_id` is its inverse."""
        groups = "" if self.n_query_groups == self.n_head else f"-g{_run_lengths(self.n_query_groups)}"
        return (
            f"e{self.n_embd}-l{_ranges(self.layers)}-h{_run_lengths(self.n_head)}{groups}"
            f"-f{_run_lengths(self.intermediate_size)}-b{int(self.bias)}"
        )

    @classmethod
    def from_id(cls, text: str) -> Architecture:
        """Read the string that `id` gives.

        Raises:
            ValueError: the text is not of that form.
        """
        match = _ID.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no architecture id; one looks like 'e64-l0_2-h4x3-f256x3-b1'")
        embd, layers, heads, groups, mlp, bias = match.groups()
        n_head = _from_run_lengths(heads)
        return cls(
            n_embd=int(embd),
            n_head=n_head,
            n_query_groups=_from_run_lengths(groups) if groups else n_head,
            intermediate_size=_from_run_lengths(mlp),
            layers=_from_ranges(layers),
            bias=bias == "1",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        values = {name: getattr(self, name) for name in _FIELDS}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Read what `to_dict` gives.

        Raises:
            ValueError: a field is missing or unknown.
        """
        unknown, missing = set(data) - set(_FIELDS), set(_FIELDS) - set(data) - {"bias"}
        if unknown or missing:
            raise ValueError(
                f"not an architecture: missing {sorted(missing)}, unknown {sorted(unknown)}; fields are {list(_FIELDS)}"
            )
        return cls(**data)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read what `to_json` gives.

        Raises:
            ValueError: the text is no JSON object with these fields.
        """
        data = json.loads(text)
        if not isinstance(data, Mapping):
            raise ValueError(f"{text!r} is no architecture: give a JSON object with the fields {list(_FIELDS)}")
        return cls.from_dict(data)

    def __str__(self) -> str:
        return self.id


def parse_architecture(value: Architecture | str | Mapping[str, Any]) -> Architecture:
    """Read an architecture from any of its forms: itself, an id, a JSON line, or a mapping of its fields."""
    if isinstance(value, Architecture):
        return value
    if isinstance(value, str):
        return Architecture.from_json(value) if value.lstrip().startswith("{") else Architecture.from_id(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no architecture: give an Architecture, its id, a JSON object or a mapping")
    return Architecture.from_dict(value)


def _integer(name: str, value: Any) -> int:
    if type(value) is int:  # the common case, fast: search builds millions
        return value
    if isinstance(value, bool) or not isinstance(value, Real) or value != value // 1:  # 2.0 and numpy integers pass
        raise ValueError(f"{name} = {value!r}: must be an integer")
    return int(float(value)) if not isinstance(value, Integral) else int(value)


def _integers(name: str, values: Any) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name} = {values!r}: must be a sequence of integers, one for each kept layer")
    return tuple(_integer(f"{name}[{i}]", value) for i, value in enumerate(values))


def _boolean(value: Any) -> bool:
    if isinstance(value, str) or value not in (True, False):  # 0, 1 and numpy booleans pass, "False" does not
        raise ValueError(f"bias = {value!r}: must be True or False")
    return bool(value)


def _run_lengths(values: Iterable[int]) -> str:
    runs = ((value, len(list(run))) for value, run in groupby(values))
    return ".".join(f"{value}x{count}" if count > 1 else str(value) for value, count in runs)


def _from_run_lengths(text: str) -> tuple[int, ...]:
    values: list[int] = []
    for part in text.split("."):
        value, _, count = part.partition("x")
        values += [int(value)] * int(count or 1)
    return tuple(values)


def _ranges(values: tuple[int, ...]) -> str:
    parts: list[str] = []
    for _, run in groupby(enumerate(values), key=lambda pair: pair[1] - pair[0]):
        members = [value for _, value in run]
        parts.append(f"{members[0]}_{members[-1]}" if len(members) > 1 else str(members[0]))
    return ".".join(parts)


def _from_ranges(text: str) -> tuple[int, ...]:
    values: list[int] = []
    for part in text.split("."):
        first, _, last = part.partition("_")
        values += range(int(first), int(last or first) + 1)
    return tuple(values)
