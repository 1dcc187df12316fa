"""The networks that a run picked and measured again: one row each, kept as `picks.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from search.result import read_parquet, write_parquet
from supernet.architecture import Architecture
from supernet.cost import ParameterCount

PICKS = "picks.parquet"
_PARTS = tuple(field.name for field in fields(ParameterCount))


@dataclass(frozen=True)
class Pick:
    """A sub-network that was chosen on predictions and then measured.

    Attributes:
        name: what tables and drawings call it, e.g. "nsga2 3" or "largest"; unique among the picks.
        search: name of the search that chose it; empty for a network of reference, such as the largest.
        architecture: the network.
        parameters: exact parameters by part.
        latency_ms: median of the repeats of the extracted network, with the machine's drift divided out by those of
            the reference network that were taken in turn (`adjusted_median` of the table).
        latency_iqr_ms: interquartile range of the same.
        n_repeats: how many there were.
        predicted_latency_ms: what the surrogate had said; NaN where none was asked.
        perplexity: of the supernet's weights on held-out text.
        perplexity_stderr: standard error over that text, in units of perplexity.
        predicted_perplexity: what the surrogate had said; NaN where none was asked.
        device: `Device.name` of the latency.
        workload: `Workload.id` of the latency.

    Raises:
        ValueError: a measured value that is not positive, a negative spread, or no repeats.
    """

    name: str
    search: str
    architecture: Architecture
    parameters: ParameterCount
    latency_ms: float
    latency_iqr_ms: float
    n_repeats: int
    perplexity: float
    perplexity_stderr: float
    predicted_latency_ms: float = float("nan")
    predicted_perplexity: float = float("nan")
    device: str = ""
    workload: str = ""

    def __post_init__(self) -> None:
        bad = [n for n in ("latency_ms", "perplexity") if not 0 < getattr(self, n) < float("inf")]
        bad += [n for n in ("latency_iqr_ms", "perplexity_stderr") if not getattr(self, n) >= 0]
        bad += ["n_repeats"] if self.n_repeats < 1 else []
        if bad:
            shown = ", ".join(f"{name} = {getattr(self, name)}" for name in bad)
            raise ValueError(f"pick {self.name!r}: {shown}; measured values are positive, spreads >= 0, repeats >= 1")


def save_picks(path: str | Path, picks: Sequence[Pick]) -> Path:
    """Write picks as Parquet, atomically: the fields of `Pick`, with `params_<part>` columns, and return the path.

    Raises:
        ValueError: no picks, or two of one name.
    """
    import pandas as pd

    names = [pick.name for pick in picks]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"picks are named {names}: give at least one, each name once")
    rows = []
    for pick in picks:
        row = {f.name: getattr(pick, f.name) for f in fields(Pick) if f.name not in ("architecture", "parameters")}
        parts = {f"params_{part}": count for part, count in asdict(pick.parameters).items()}
        rows.append({**row, "architecture": pick.architecture.id, **parts})
    write_parquet(Path(path), pd.DataFrame(rows))
    return Path(path)


def load_picks(path: str | Path) -> tuple[Pick, ...]:
    """Read what `save_picks` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or lacks a column; names it.
    """
    frame = read_parquet(Path(path))
    own = [field.name for field in fields(Pick) if field.name != "parameters"]
    columns = [*own, *(f"params_{part}" for part in _PARTS)]
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"{path} is no table of picks: it lacks the columns {missing}")
    return tuple(_pick(row) for row in frame[columns].to_dict("records"))


def _pick(row: dict) -> Pick:
    parameters = ParameterCount(**{part: int(row.pop(f"params_{part}")) for part in _PARTS})
    return Pick(**{**row, "architecture": Architecture.from_id(row["architecture"]), "parameters": parameters})
