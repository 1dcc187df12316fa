"""Thousands of HW-GPT-Bench architectures at once: checked, as genes, as `Architecture`s, as canonical strings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from hw_profiles.importers.hwgpt_protocol import (
    HwgptKey,
    boolean,
    bucket_of,
    canonical_text,
    hwgpt_key,
    scale_of,
    space_of,
)
from supernet.architecture import Architecture


@dataclass(frozen=True)
class HwgptArchitectures:
    """n architectures of one scale, in the benchmark's terms; L is the scale's largest number of layers.

    Attributes:
        scale: s, m or l.
        embed_dim: (n,) int64.
        n_layer: (n,) int64.
        bias: (n,) bool.
        n_head: (n, L) int64, 0 after the last layer; so is the next.
        mlp_ratio: (n, L) int64.

    Raises:
        ValueError: a value that the space does not have; names the column, the row and the allowed values.
    """

    scale: str
    embed_dim: np.ndarray
    n_layer: np.ndarray
    bias: np.ndarray
    n_head: np.ndarray
    mlp_ratio: np.ndarray

    def __post_init__(self) -> None:
        space = space_of(self.scale)
        kept = np.arange(space.max_layer) < np.asarray(self.n_layer, np.int64)[:, None]
        for name in ("n_head", "mlp_ratio"):
            values = _padded(np.asarray(getattr(self, name), np.int64), space.max_layer)
            object.__setattr__(self, name, np.where(kept, values, 0))
        for name in ("embed_dim", "n_layer"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.int64))
        object.__setattr__(self, "bias", np.asarray(self.bias, bool))
        allowed = {"embed_dim": space.n_embd, "n_layer": space.n_layer, "n_head": space.n_head}
        for name, choices in {**allowed, "mlp_ratio": space.mlp_ratio or ()}.items():
            wrong = ~np.isin(getattr(self, name), choices)
            if wrong.ndim == 2:
                wrong &= kept
            if wrong.any():
                at = tuple(np.argwhere(wrong)[0].tolist())
                raise ValueError(
                    f"architecture {at[0]} has {name} = {getattr(self, name)[at]}, which is not in space "
                    f"{space.name!r}; allowed: {', '.join(map(str, choices))}"
                )

    def __len__(self) -> int:
        return len(self.embed_dim)

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], *, scale: str | None = None) -> HwgptArchitectures:
        """Read the benchmark's own dictionaries (`sample_embed_dim`, ...); see `architecture_from_hwgpt`.

        Args:
            rows: one a row, at least one; all of one scale.
            scale: s, m or l; None for the one that has the first one's width.

        Raises:
            ValueError: as `architecture_from_hwgpt`.
        """
        return cls.from_keys([hwgpt_key(row) for row in rows], scale=scale)

    @classmethod
    def from_keys(cls, keys: Sequence[HwgptKey], *, scale: str | None = None) -> HwgptArchitectures:
        """Read what `hwgpt_key` gives."""
        if not keys:
            raise ValueError("no architectures: give at least one")
        widths, depths, ratios, heads, biases = zip(*keys, strict=True)
        scale = scale or scale_of(widths[0])
        depth = np.array(depths)
        return cls(scale, np.array(widths), depth, np.array(biases), _spread(heads, depth), _spread(ratios, depth))

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any], *, scale: str) -> HwgptArchitectures:
        """Read the columns of a tidy table: embed_dim, n_layer, bias, n_head_00.., mlp_ratio_00.. (0: no such layer).

        Raises:
            ValueError: a column is missing, or a value is not in the space.
        """
        L = space_of(scale).max_layer
        names = {name: [f"{name}_{i:02}" for i in range(L)] for name in ("n_head", "mlp_ratio")}
        missing = [name for name in chain(("embed_dim", "n_layer", "bias"), *names.values()) if name not in columns]
        if missing:
            raise ValueError(f"the table of architectures of scale {scale} lacks the columns {missing}")
        layers = {name: np.column_stack([np.asarray(columns[c]) for c in found]) for name, found in names.items()}
        bias = np.asarray(columns["bias"])
        if bias.dtype != bool:
            bias = np.array([boolean(value) for value in bias.tolist()], bool)
        return cls(scale, np.asarray(columns["embed_dim"]), np.asarray(columns["n_layer"]), bias, **layers)

    @property
    def genes(self) -> np.ndarray:
        """Canonical genes (n, g) int64 of the space, as `supernet.encoding.to_genes` gives them."""
        space = space_of(self.scale)
        single = [np.searchsorted(space.n_embd, self.embed_dim), np.searchsorted(space.bias_choices, self.bias)]
        depth = np.searchsorted(space.n_layer, self.n_layer)
        kept = self.n_head > 0
        heads = np.searchsorted(space.n_head, self.n_head) * kept
        ratios = np.searchsorted(space.mlp_ratio or (), self.mlp_ratio) * kept
        return np.column_stack([*single, depth, heads, ratios]).astype(np.int64)

    @property
    def keys(self) -> list[HwgptKey]:
        """Width, depth, ratios, heads and bias of each."""
        columns = (self.embed_dim, self.n_layer, self.mlp_ratio, self.n_head, self.bias)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [(width, n, tuple(ratios[:n]), tuple(heads[:n]), bias) for width, n, ratios, heads, bias in rows]

    @property
    def architectures(self) -> list[Architecture]:
        """The same as values of the project."""
        return [
            Architecture(width, heads, heads, tuple(ratio * width for ratio in ratios), tuple(range(depth)), bias)
            for width, depth, ratios, heads, bias in self.keys
        ]

    @property
    def canonical(self) -> list[str]:
        """The benchmark's names of them."""
        return [canonical_text(self.scale, key) for key in self.keys]

    @property
    def buckets(self) -> np.ndarray:
        """Hold-out buckets, (n,) int64."""
        return np.array([bucket_of(text) for text in self.canonical], np.int64)


def _padded(values: np.ndarray, width: int) -> np.ndarray:
    """Return (n, width): columns of layers that are never kept are cut or filled with 0."""
    values = values[:, :width]
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))


def _spread(lists: Sequence[tuple[int, ...]], lengths: np.ndarray) -> np.ndarray:
    """Return lists as rows of an array, filled with 0 behind."""
    table = np.zeros((len(lists), int(lengths.max())), np.int64)
    table[np.arange(table.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(lists), np.int64)
    return table
