"""The last predictions, by network: a bounded cache that threads share. No torch."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import numpy as np


class PredictionCache:
    """Rows of predictions by the bytes of canonical genes; the one that was not asked for the longest leaves first.

    Args:
        size: how many rows it holds; 0 for none.

    Raises:
        ValueError: a negative size.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"cache_size = {size}: give 0 (no cache) or the number of architectures to remember")
        self.size = size
        self._rows: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: bytes) -> np.ndarray | None:
        """Return the row of a network, or None. Do not write to it."""
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
            return row

    def put(self, key: bytes, row: np.ndarray) -> None:
        """Remember the row of a network."""
        if not self.size:
            return
        with self._lock:
            self._rows[key] = row
            self._rows.move_to_end(key)
            while len(self._rows) > self.size:
                self._rows.popitem(last=False)
