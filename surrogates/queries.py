"""Architectures in any form people have them in -> canonical integer genes. No torch.

Forms: `Architecture`; a dict of its fields, of genes, or HW-GPT-Bench's `sample_*` dict; an id, HW-GPT-Bench's
canonical string or a line of JSON; an integer array of genes (n, g) or (g,); a table with a column "architecture",
with HW-GPT-Bench's columns or with gene columns; a sequence that mixes them. Equal networks get equal genes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union

import numpy as np

from hw_profiles.importers.hwgpt_devices import SCALES
from hw_profiles.importers.hwgpt_protocol import architecture_from_canonical, architecture_from_hwgpt
from supernet.architecture import Architecture, parse_architecture
from supernet.encoding import genes_of
from supernet.space import SearchSpace
from surrogates.space_form import check_prefix_layers

if TYPE_CHECKING:
    import pandas as pd

_One: TypeAlias = Architecture | str | Mapping[str, Any] | Sequence[int] | np.ndarray
Architectures: TypeAlias = Union[_One, Iterable[_One], "pd.DataFrame"]
_FORMS = "an Architecture, its id, a dict, an integer array of genes, or a DataFrame with a column 'architecture'"


class GeneReader:
    """Reads architectures of one space.

    Args:
        space: its layers are a prefix of the supernet's, each with genes of its own.

    Raises:
        ValueError: a space of another form.

    Example:
        >>> space = SearchSpace(name="doc", n_embd=(32, 64), n_layer=(1, 2), n_head=(2, 4), mlp_ratio=(2, 4))
        >>> GeneReader(space).genes(["e64-l0-h4-f256-b1", space.smallest(), [1, 0, 0, 1, 1, 1, 1]]).tolist()
        [[1, 0, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 1, 0]]
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = check_prefix_layers(space, "queries")
        known = genes_of(space)
        self.names = [gene.name for gene in known]
        self._meanings = [gene.choices for gene in known]
        self._sizes = np.array([len(gene.choices) for gene in known], np.int64)
        L, least = space.max_layer, min(space.n_layer)
        tail = [*range(3 + least, 3 + L), *range(3 + L + least, 3 + 2 * L)]
        self._tail = np.array(tail, np.int64)  # genes of blocks that shallow networks do not have
        blocks = np.tile(np.arange(least, L), 2)
        self._tail_kept = blocks < np.array(space.n_layer)[:, None]  # (depths, tail genes)
        self._all_kept = np.concatenate(
            [np.ones((len(space.n_layer), 3), bool), np.tile(np.arange(L) < np.array(space.n_layer)[:, None], 2)],
            axis=1,
        )  # (depths, genes)
        scale = space.name.removeprefix("gpt-")
        self._scale = scale if scale in SCALES and space.name != scale else None  # None: found by the width
        self._embd = {width: i for i, width in enumerate(space.n_embd)}
        self._bias = {bias: i for i, bias in enumerate(space.bias_choices)}
        self._depth = {depth: i for i, depth in enumerate(space.n_layer)}
        self._layers = {depth: tuple(range(depth)) for depth in space.n_layer}
        self._attention = {pair: i for i, pair in enumerate(space.attention_choices)}
        self._mlp = [{size: i for i, size in enumerate(space.mlp_choices(width))} for width in space.n_embd]

    def genes(self, archs: Architectures) -> np.ndarray:
        """Return canonical genes (n, g) int64 of architectures in any form, one row each, in their order.

        Raises:
            ValueError: a form that is not known, or an architecture outside the space; says which and what is allowed.
        """
        if isinstance(archs, Architecture):
            return np.array([self._row(archs)], np.int64)
        if isinstance(archs, np.ndarray) and archs.dtype.kind in "iuf":
            return self.canonical(archs)
        if isinstance(archs, (str, Mapping)):
            return np.array([self._one(archs)], np.int64)
        if _is_frame(archs):
            return self._from_frame(archs)
        if not isinstance(archs, Iterable):
            raise ValueError(f"{archs!r} is no architecture: give {_FORMS}, or a sequence of these")
        return self._from_sequence(list(archs))

    def canonical(self, table: np.ndarray) -> np.ndarray:
        """Return genes (n, g) or (g,) as (n, g) int64, checked, those of blocks that are not kept 0.

        Whole numbers of a float type pass, as optimizers give them. The given array is never changed.

        Raises:
            ValueError: another number of genes, or a value that is not allowed; names the gene and its choices.
        """
        whole = table.astype(np.int64)
        rows = whole[None] if whole.ndim == 1 else whole
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            order = f"{', '.join(self.names[:4])}, ..., {self.names[-1]}"
            raise ValueError(
                f"an array of shape {table.shape} holds no genes of space {self.space.name!r}: give (n, "
                f"{len(self.names)}) integers in the order {order}"
            )
        if not len(rows):
            return rows
        if table.dtype.kind == "f" and (whole != table).any():
            raise ValueError(f"genes of {self.space.name!r} are integers; supernet.encoding.repair_genes rounds them")
        if (rows.min(axis=0) < 0).any() or (rows.max(axis=0) >= self._sizes).any():
            rows = self._without_absent(rows)
        rows[:, self._tail] *= self._tail_kept[rows[:, 2]]
        return rows

    def _without_absent(self, rows: np.ndarray) -> np.ndarray:
        """Return genes whose values outside the choices were all of blocks that are not kept, now 0."""
        kept = self._all_kept[np.clip(rows[:, 2], 0, self._sizes[2] - 1)]
        wrong = np.argwhere(((rows < 0) | (rows >= self._sizes)) & kept)
        if len(wrong):
            row, column = wrong[0].tolist()
            meaning = ", ".join(f"{i} ({choice})" for i, choice in enumerate(self._meanings[column]))
            raise ValueError(
                f"architecture {row}: gene {self.names[column]} = {rows[row, column]} is not in space "
                f"{self.space.name!r}; allowed: {meaning}"
            )
        return rows * kept

    # --- one architecture -----------------------------------------------------------------------------------------

    def _row(self, arch: Architecture) -> list[int]:
        """Return the genes of one architecture; dictionaries, since arrays take ten times as long for one."""
        try:
            depth = len(arch.layers)
            absent = [0] * (self.space.max_layer - depth)
            if arch.layers != self._layers[depth]:
                raise KeyError
            embd = self._embd[arch.n_embd]
            attention, mlp = self._attention, self._mlp[embd]
            return [
                embd, self._bias[arch.bias], self._depth[depth],
                *[attention[pair] for pair in zip(arch.n_head, arch.n_query_groups, strict=True)], *absent,
                *[mlp[size] for size in arch.intermediate_size], *absent,
            ]  # fmt: skip
        except KeyError:
            self.space.validate(arch)
            raise AssertionError(f"{arch.id} is in space {self.space.name!r} but has no genes") from None

    def _one(self, value: Any) -> list[int]:
        """Return the genes of one architecture in any form."""
        if isinstance(value, Architecture):
            return self._row(value)
        if isinstance(value, str):
            return self._one_text(value)
        if isinstance(value, Mapping):
            return self._one_mapping(value)
        if isinstance(value, (Sequence, np.ndarray)) and all(isinstance(gene, Integral) for gene in value):
            row: list[int] = self.canonical(np.asarray(value, np.int64))[0].tolist()
            return row
        raise ValueError(f"{value!r} is no architecture: give {_FORMS}")

    def _one_text(self, text: str) -> list[int]:
        if text.startswith("gpt-"):
            return self._row(architecture_from_canonical(text)[1])
        if text.lstrip().startswith("{"):
            import json

            return self._one_mapping(json.loads(text))
        return self._row(parse_architecture(text))

    def _one_mapping(self, fields: Mapping[str, Any]) -> list[int]:
        """Read Architecture's fields, HW-GPT-Bench's sample_* fields, or genes by name."""
        keys = set(fields)
        if any(str(key).startswith("sample_") for key in keys):
            return self._row(architecture_from_hwgpt(fields, scale=self._scale)[1])
        if keys & {"n_head", "intermediate_size", "layers"}:
            return self._row(Architecture.from_dict(fields))
        if unknown := sorted(str(key) for key in keys - set(self.names)):
            near = difflib.get_close_matches(unknown[0], self.names, n=3)
            raise ValueError(
                f"no gene {unknown[0]!r} in space {self.space.name!r}; near matches: {near}; genes: "
                f"{', '.join(self.names)}. (A dict may also hold Architecture's fields, or HW-GPT-Bench's sample_*)"
            )
        row: list[int] = self.canonical(np.array([self._gene(fields, name) for name in self.names]))[0].tolist()
        return row

    def _gene(self, fields: Mapping[str, Any], name: str) -> int:
        """Return a gene of a dict; those of blocks that are not kept may be missing."""
        value = fields.get(name)
        if value is None and name.partition("_")[0] in ("attention", "mlp"):
            depth = fields.get("n_layer", -1)
            if depth in range(len(self.space.n_layer)) and int(name[-2:]) >= self.space.n_layer[depth]:
                return 0
        if not isinstance(value, Integral):
            what = "is missing" if value is None else f"= {value!r}"
            raise ValueError(f"gene {name} {what}: give the index of its choice, an integer from 0")
        return int(value)

    # --- many -----------------------------------------------------------------------------------------------------

    def _from_sequence(self, values: list[Any]) -> np.ndarray:
        if not values:
            return np.empty((0, len(self.names)), np.int64)
        if all(isinstance(value, Integral) for value in values):
            return self.canonical(np.asarray(values, np.int64))
        rows = []
        for i, value in enumerate(values):
            try:
                rows.append(self._one(value))
            except ValueError as error:
                raise ValueError(f"architecture {i}: {error}") from error
        return np.array(rows, np.int64)

    def _from_frame(self, frame: pd.DataFrame) -> np.ndarray:
        """Read a table: ids, genes, or HW-GPT-Bench's columns."""
        columns = [str(name) for name in frame.columns]
        if "architecture" in columns:
            return self._from_sequence(frame["architecture"].tolist())
        if set(self.names) <= set(columns):
            return self.canonical(frame[self.names].to_numpy())
        if {"embed_dim", "n_layer", "bias", "n_head_00", "mlp_ratio_00"} <= set(columns):
            return self._from_hwgpt_columns(frame)
        more = "..." if len(columns) > 8 else ""
        raise ValueError(
            f"the table has the columns {columns[:8]}{more}: give a column 'architecture', the genes {self.names[0]}, "
            f"{self.names[1]}, ..., {self.names[-1]}, or HW-GPT-Bench's embed_dim, n_layer, bias, n_head_00, ..., "
            "mlp_ratio_00, ..."
        )

    def _from_hwgpt_columns(self, frame: pd.DataFrame) -> np.ndarray:
        records = frame.to_dict("records")
        layers = [f"{i:02}" for i in range(self.space.max_layer)]
        layers = [i for i in layers if f"n_head_{i}" in frame and f"mlp_ratio_{i}" in frame]
        return self._from_sequence(
            [
                {
                    "sample_embed_dim": record["embed_dim"],
                    "sample_n_layer": record["n_layer"],
                    "sample_bias": record["bias"],
                    "sample_n_head": [record[f"n_head_{i}"] for i in layers],
                    "sample_mlp_ratio": [record[f"mlp_ratio_{i}"] for i in layers],
                }
                for record in records
            ]
        )


def _is_frame(value: object) -> TypeGuard[pd.DataFrame]:
    """Return whether it is a table, without importing pandas, which takes longer than a query."""
    return type(value).__module__.partition(".")[0] == "pandas" and hasattr(value, "columns")
