"""Medians and quartiles of many lists of samples at once, plain and with the machine's drift divided out. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

QUARTILES = (25, 50, 75)


def quartiles(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the quartiles of each list, (n, 3); NaN for empty lists.

    Args:
        values: the samples of all lists, one list after the other, (sum of lengths,).
        lengths: the number of samples of each list, (n,).

    Example:
        >>> quartiles(np.array([1.0, 2.0, 3.0, 7.0]), np.array([3, 1])).tolist()
        [[1.5, 2.0, 2.5], [7.0, 7.0, 7.0]]
    """
    return _by_length(values, lengths, lambda block: np.percentile(block, QUARTILES, axis=1).T, 3)


def adjusted(frame: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return median and interquartile range of repeat / reference repeat, in units of the reference's usual median.

    Repeats are taken in turn with those of the reference, so a disturbance shorter than a row hits both of a pair: the
    median of the ratios survives it, the ratio of the medians does not. Rows without a reference keep their own.

    Args:
        frame: rows of a table of measurements; only those with reference repeats cost time.
    """
    has_reference = frame["reference_median"].notna() | (frame["reference_repeats"].str.len() > 0)
    rows = frame[has_reference]
    if not len(rows):
        return frame["median"].copy(), frame["iqr"].copy()
    groups = rows.groupby(["space", "device", "workload", "metric", "reference"])["reference_median"]
    usual = groups.transform("median")
    low, middle, high = _ratio_quartiles(list(rows["repeats"]), list(rows["reference_repeats"])).T
    median, iqr = (usual * middle).reindex(frame.index), (usual * (high - low)).reindex(frame.index)
    return median.fillna(frame["median"]), iqr.fillna(frame["iqr"])


def _ratio_quartiles(repeats: list[np.ndarray], references: list[np.ndarray]) -> np.ndarray:
    """Return quartiles (n, 3) of repeats over the reference's: pair by pair, or over its median where not paired.

    NaN where the reference is missing or holds a zero.
    """
    lengths, n_references = _lengths(repeats), _lengths(references)
    samples, reference = _flat(repeats), _flat(references)
    paired = lengths == n_references
    divisor = np.repeat(_by_length(reference, n_references, lambda b: np.median(b, axis=1)[:, None], 1)[:, 0], lengths)
    divisor[np.repeat(paired, lengths)] = reference[np.repeat(paired, n_references)]
    zero = _by_length(reference, n_references, lambda b: (b == 0).any(axis=1)[:, None], 1)[:, 0] != 0  # NaN: missing
    divisor[np.repeat(zero, lengths)] = np.nan
    return quartiles(samples / divisor, lengths)


def _by_length(
    values: np.ndarray, lengths: np.ndarray, function: Callable[[np.ndarray], np.ndarray], width: int
) -> np.ndarray:
    """Apply a function of blocks (m, length) -> (m, width) to all lists of a length at once; NaN for empty lists."""
    result = np.full((len(lengths), width), np.nan)
    for rows, block in _blocks(values, lengths):
        result[rows] = function(block)
    return result


def _blocks(values: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give the rows (m,) that have a length, and their samples (m, length)."""
    starts = np.cumsum(lengths) - lengths
    for length in np.unique(lengths[lengths > 0]).tolist():
        rows = np.flatnonzero(lengths == length)
        yield rows, values[starts[rows][:, None] + np.arange(length)]


def _lengths(lists: list[np.ndarray]) -> np.ndarray:
    return np.fromiter(map(len, lists), np.int64, len(lists))


def _flat(lists: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([*lists, np.empty(0)])
