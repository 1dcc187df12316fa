"""Quality of sub-networks on text as rows of the table of measurements, beside latency and memory. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hw_profiles.device import Workload
from hw_profiles.table import ANY_DEVICE, METRICS, Measurement

if TYPE_CHECKING:
    import pandas as pd

QUALITY_METRICS = ("perplexity", "bits_per_byte", "loss")


def read_evaluations(path: str | Path) -> pd.DataFrame:
    """Return the table that `paretolm evaluate` wrote (.parquet, .csv or .json).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another ending, or it lacks a column.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; `paretolm evaluate output={path}` makes it")
    readers: dict[str, Any] = {".parquet": pd.read_parquet, ".csv": pd.read_csv, ".json": pd.read_json}
    if path.suffix not in readers:
        raise ValueError(f"{path}: evaluations are read from {', '.join(readers)} files")
    frame = readers[path.suffix](path)
    missing = {"architecture", "n_tokens", "n_blocks", *QUALITY_METRICS} - set(frame)
    if missing:
        raise ValueError(f"{path} is no table of evaluations: it lacks the columns {sorted(missing)}")
    return frame


def quality_rows(evaluations: pd.DataFrame, *, space: str, extra: Mapping[str, Any] | None = None) -> list[Measurement]:
    """Return perplexity, bits per byte and loss of each evaluated sub-network as measurements that need no device.

    Args:
        evaluations: what `read_evaluations` gives; rows of the whole model (no architecture) are left out.
        space: name of the search space.
        extra: facts about supernet and text.

    Raises:
        ValueError: a loss that is not finite (names the architecture); NaN bits per byte are left out.
    """
    rows: list[Measurement] = []
    for record in evaluations.to_dict("records"):
        if not record["architecture"]:
            continue
        seq_len = int(record["n_tokens"]) // int(record["n_blocks"])
        for metric in QUALITY_METRICS:
            value = float(record[metric])
            if metric == "bits_per_byte" and np.isnan(value):
                continue
            rows.append(
                Measurement(
                    space=space,
                    architecture=record["architecture"],
                    metric=metric,
                    unit=METRICS[metric].unit,
                    device=ANY_DEVICE,
                    workload=Workload(batch_size=1, seq_len=seq_len),
                    repeats=(value,),
                    extra={"n_tokens": int(record["n_tokens"]), **(extra or {})},
                )
            )
    return rows
