"""Results of a query as a frame, an array, records, CSV or a table to read. No torch.

Shapes: n architectures, k targets, s statistics; values are (n, k * s), the statistics of a target beside each other.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from surrogates.campaign import TargetKey

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 100  # characters of a line of a table
LEVELS = ("metric", "device", "stat")


@dataclass(frozen=True)
class QueryColumns:
    """What the columns of a result hold.

    Attributes:
        targets: k metrics and devices.
        units: of each target.
        stats: s statistics of each target: "median" or "draw", then quantiles such as "q0.05".
    """

    targets: tuple[TargetKey, ...]
    units: tuple[str, ...]
    stats: tuple[str, ...]

    @cached_property
    def index(self) -> pd.MultiIndex:
        """Columns (metric, device, stat); made once, since making them takes longer than a query."""
        import pandas as pd

        keys = [(*target, stat) for target in self.targets for stat in self.stats]
        return pd.MultiIndex.from_tuples(keys, names=list(LEVELS))

    @cached_property
    def unit_of(self) -> dict[str, str]:
        """Unit of each metric."""
        return {target.metric: unit for target, unit in zip(self.targets, self.units, strict=True)}


def stat_name(level: float) -> str:
    """Return what a quantile's column is called.

    Example:
        >>> stat_name(0.05)
        'q0.05'
    """
    return f"q{level:g}"


def to_frame(values: np.ndarray, ids: Sequence[str], columns: QueryColumns) -> pd.DataFrame:
    """Return a frame, one row an architecture; units are in `attrs["units"]`."""
    import pandas as pd

    names = np.empty(len(ids), object)
    names[:] = ids
    index = pd.Index(names, dtype=object, name="architecture", copy=False)
    frame = pd.DataFrame(values, index=index, columns=columns.index, copy=False)
    frame.attrs = {"units": dict(columns.unit_of)}
    return frame


def to_records(values: np.ndarray, ids: Sequence[str], columns: QueryColumns) -> list[dict[str, Any]]:
    """Return one dict for each architecture and target: architecture, metric, device, unit, and the statistics."""
    heads = [
        {"metric": target.metric, "device": target.device, "unit": unit}
        for target, unit in zip(columns.targets, columns.units, strict=True)
    ]
    s = len(columns.stats)
    return [
        {"architecture": name, **head, **dict(zip(columns.stats, row[i * s : (i + 1) * s], strict=True))}
        for name, row in zip(ids, values.tolist(), strict=True)
        for i, head in enumerate(heads)
    ]


def to_csv(values: np.ndarray, ids: Sequence[str], columns: QueryColumns) -> str:
    """Return the records as CSV, with a line of names."""
    text = io.StringIO()
    names = ["architecture", "metric", "device", "unit", *columns.stats]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(to_records(values, ids, columns))
    return text.getvalue()


def to_table(values: np.ndarray, ids: Sequence[str], columns: QueryColumns) -> str:
    """Return a text of at most 100 characters a line (unless an id is longer), units included.

    Few columns: a line for each architecture. Many: a line for each target, architectures side by side.
    """
    marks = [f"#{i}" for i in range(1, len(ids) + 1)]
    cells = [[_number(value) for value in row] for row in values.tolist()]
    legend = "\n".join(f"{mark} {name}" for mark, name in zip(marks, ids, strict=True))
    body = _by_architecture(columns, marks, cells)
    if _width(body) > WIDTH:
        body = "\n\n".join(_by_target(columns, marks, cells))
    return f"{legend}\n\n{body}"


def _by_architecture(columns: QueryColumns, marks: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a table with a line for each architecture."""
    heads = [
        (target.metric, f"[{unit}]", target.device, stat)
        for target, unit in zip(columns.targets, columns.units, strict=True)
        for stat in columns.stats
    ]
    header = [["", *column] for column in zip(*heads, strict=True)]
    return aligned([*header, *([mark, *row] for mark, row in zip(marks, cells, strict=True))], left=1)


def _by_target(columns: QueryColumns, marks: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Return tables with a line for each target, as many architectures beside each other as fit."""
    labels = [["metric", "unit", "device"]]
    labels += [[t.metric, unit, t.device] for t, unit in zip(columns.targets, columns.units, strict=True)]
    s = len(columns.stats)
    blocks = []
    for mark, row in zip(marks, cells, strict=True):
        head = [f"{mark} {columns.stats[0]}", *columns.stats[1:]] if s > 1 else [mark]
        blocks.append([head, *(list(row[i : i + s]) for i in range(0, len(row), s))])
    tables: list[str] = []
    while blocks:
        fits = 1
        while fits < len(blocks) and _width(aligned(_beside(labels, blocks[: fits + 1]), left=3)) <= WIDTH:
            fits += 1
        tables.append(aligned(_beside(labels, blocks[:fits]), left=3))
        blocks = blocks[fits:]
    return tables


def _beside(labels: list[list[str]], blocks: list[list[list[str]]]) -> list[list[str]]:
    return [[*label, *(cell for block in blocks for cell in block[i])] for i, label in enumerate(labels)]


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Return rows as columns of text, the first `left` of them to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _number(value: float) -> str:
    """Return a number with five digits, whole numbers with all of them."""
    if value == int(value) and abs(value) >= 1e4:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"
