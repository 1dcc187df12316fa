"""A table of text, for HTML and Markdown alike, and how its cells are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from search.number_format import NONE

TESTED = "p < 0.05, paired Wilcoxon, Holm's correction over all pairs and panels of a case"


@dataclass(frozen=True)
class ReportTable:
    """A table of text.

    Attributes:
        section: of the report that it belongs to.
        title: what it shows.
        note: how to read it.
        head: names of the columns; the first `left` hold words, the others numbers.
        rows: of cells.
        bold: (row, column) of the best cells.
        left: columns of words.
    """

    section: str
    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[tuple[int, int]] = frozenset()
    left: int = 1


def range_cell(values: ArrayLike) -> str:
    """Return the smallest and the largest of whole numbers."""
    array = np.asarray(values, dtype=float)
    low, high = int(array.min()), int(array.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def whole_cell(value: float) -> str:
    """Return a rounded number; a dash where it is not finite."""
    return f"{value:,.0f}" if np.isfinite(value) else NONE


def decimal_cell(value: float) -> str:
    """Return a number with three decimals; a dash where it is not finite."""
    return f"{value:.3f}" if np.isfinite(value) else NONE


def column_best(rows: Sequence[Sequence[str]], columns: range) -> frozenset[tuple[int, int]]:
    """Return the cells with the lowest number of each column."""
    best = set()
    for j in columns:
        numbers = {i: float(row[j].replace(",", "")) for i, row in enumerate(rows) if row[j] != NONE}
        best |= {(i, j) for i, value in numbers.items() if value == min(numbers.values())}
    return frozenset(best)
