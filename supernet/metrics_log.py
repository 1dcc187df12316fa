"""metrics.csv: one row for each logged step or validation of a run, complete and without repeats after any resume."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from supernet.artifacts import write_text

_FIRST = "step"


class MetricsLog(Logger):
    """A Lightning logger that keeps `metrics.csv`.

    A row holds the number of finished steps and the metrics known then; validation has rows of its own, in which the
    training columns are empty. Rows are appended and flushed at once, so a kill loses at most the row being written.

    Args:
        path: the file; continued when it exists.
        resume_step: the step of the checkpoint that the run continues from: later rows are dropped, because the run
            will write them again.
    """

    def __init__(self, path: str | Path, *, resume_step: int = 0) -> None:
        super().__init__()
        self._path = Path(path)
        self._resume_step = resume_step
        self._columns: list[str] | None = None  # None until the file was opened by the process that writes

    @property
    def name(self) -> str:
        """Name of the log."""
        return "metrics"

    @property
    def version(self) -> str:
        """A run has one log."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: a run's settings are in its config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row; new metrics extend the header."""
        if self._columns is None:
            self._open()
        assert self._columns is not None
        new = [name for name in metrics if name not in self._columns]
        if new:
            rows = read_metrics(self._path)
            self._columns = [*(self._columns or [_FIRST]), *new]
            self._rewrite(rows)
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(_line([step, *(metrics.get(name) for name in self._columns[1:])]))

    def _open(self) -> None:
        """Keep the whole rows up to the resumed step of an earlier file."""
        rows = [row for row in read_metrics(self._path) if row[_FIRST] <= self._resume_step]
        self._columns = list(dict.fromkeys([_FIRST, *(name for row in rows for name in row)]))
        self._rewrite(rows)

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        assert self._columns is not None
        body = (_line([int(row[_FIRST]), *(row.get(name) for name in self._columns[1:])]) for row in rows)
        write_text(self._path, _line(self._columns) + "".join(body))


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.csv, in order, each with "step" and the metrics that it holds.

    A last row that was cut off by a kill is left out; a file that does not exist has no rows.
    """
    path = Path(path)
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = []
    for record in csv.DictReader(io.StringIO(whole)):
        row = {name: float(value) for name, value in record.items() if name and value}
        if _FIRST in row and None not in record:
            rows.append(row)
    return rows


def _line(values: list[Any]) -> str:
    """Return one CSV line; floats are written so that they read back exactly."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(["" if _is_missing(v) else v for v in values])
    return buffer.getvalue()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
