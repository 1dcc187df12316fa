"""The table of LTS's trained Transformers (Javaheripi et al. 2022, arXiv 2203.02094): reading and checking it.

One row is one network: GPT-2 or Transformer-XL, random or on a Pareto front of LTS's search, with its published
parameter counts, its validation perplexity (NaN for a few that were not trained to the end) and, on the fronts,
latency and memory on one device. GPT-2 rows are per BPE token, Transformer-XL rows per word: perplexities compare
inside an experiment only. No torch.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

STEM = "lts_architectures"
BACKBONES = ("gpt2", "transformer_xl")
_KINDS = {
    "experiment": "text", "arch": "text", "kind": "text", "backbone": "text", "dataset": "text", "device": "text?",
    "n_layer": "int", "d_model": "int", "d_embed": "int", "d_inner": "ints", "n_head": "ints", "div_val": "int",
    "cutoffs": "ints", "n_token": "int", "tie_weight": "bool", "tie_projs": "bools", "tgt_len": "int", "mem_len": "int",
    "params_adaptive_embedding": "int", "params_attention": "int", "params_ffn": "int", "params_decoder": "int",
    "params_total": "int", "params_attention_formula": "int", "params_decoder_formula": "int", "valid_ppl": "float",
    "latency_ms": "float", "peak_memory_mb": "float",
}  # fmt: skip
_POSITIVE = ("n_layer", "d_model", "d_embed", "div_val", "n_token", "tgt_len", "params_decoder", "params_total")


@dataclass(frozen=True)
class Experiment:
    """One series of networks that can be compared with each other.

    Attributes:
        name: e.g. "random_GPT2_wt103".
        backbone: "gpt2" or "transformer_xl".
        dataset: "wt103" (WikiText-103) or "lm1b" (One Billion Words).
        kind: "random", "random_homogeneous" or "pareto".
        device: where latency and memory were measured ("arm", "corei7", "titanxp"); None without them.
        n: networks.
        n_trained: those with a perplexity.
    """

    name: str
    backbone: str
    dataset: str
    kind: str
    device: str | None
    n: int
    n_trained: int


@dataclass(frozen=True)
class LTSTable:
    """All rows, checked.

    Attributes:
        frame: one row a network; d_inner, n_head, cutoffs and tie_projs are tuples; sizes int64; device "" for none.
        source: the file it came from.
    """

    frame: pd.DataFrame
    source: Path

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """The experiments in the order of the rows."""
        return tuple(_experiment(str(name), rows) for name, rows in self.frame.groupby("experiment", sort=False))

    def names(self, kind: str | None = None) -> tuple[str, ...]:
        """Return the names of the experiments, of one kind only if it is given."""
        return tuple(e.name for e in self.experiments if kind in (None, e.kind))

    def trained(self, experiment: str) -> pd.DataFrame:
        """Return the networks of an experiment that have a perplexity, numbered from 0.

        Raises:
            KeyError: there is no such experiment; near matches are given.
        """
        if experiment not in self.names():
            near = difflib.get_close_matches(experiment, self.names(), n=3, cutoff=0.3)
            raise KeyError(f"no experiment {experiment!r}; near matches: {near}; all: {', '.join(self.names())}")
        rows = self.frame[(self.frame["experiment"] == experiment) & self.frame["valid_ppl"].notna()]
        return rows.reset_index(drop=True)


def _experiment(name: str, rows: pd.DataFrame) -> Experiment:
    first = rows.iloc[0]
    return Experiment(
        name=name, backbone=str(first["backbone"]), dataset=str(first["dataset"]), kind=str(first["kind"]),
        device=str(first["device"]) or None, n=len(rows), n_trained=int(rows["valid_ppl"].notna().sum()),
    )  # fmt: skip


def read_lts_table(path: str | Path) -> LTSTable:
    """Read the table and check it.

    Args:
        path: a .parquet (list columns) or .csv file (lists as JSON), or the folder that holds lts_architectures.parquet
            or lts_architectures.csv.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column is missing or of another kind, or a row contradicts itself; names the row.
    """
    file = _file(Path(path))
    frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)
    if missing := [name for name in _KINDS if name not in frame.columns]:
        raise ValueError(f"{file} is not the table of LTS: it has no columns {missing}; it has {list(frame.columns)}")
    columns = {name: _column(file, name, frame[name].tolist(), kind) for name, kind in _KINDS.items()}
    checked = pd.DataFrame(columns)
    _check(file, checked)
    return LTSTable(checked, file)


def _file(path: Path) -> Path:
    """Return the file that `path` is or holds."""
    candidates = [path / f"{STEM}.parquet", path / f"{STEM}.csv"] if path.is_dir() else [path]
    for file in candidates:
        if file.is_file() and file.suffix in (".parquet", ".csv"):
            return file
    if path.is_file():
        raise ValueError(f"{path} has ending {path.suffix!r}; allowed: .parquet, .csv")
    raise FileNotFoundError(
        f"there is no {' or '.join(map(str, candidates))}: give the folder or file of LTS's table (one row for each "
        "saved model of archai's branch neurips-lts, with a column for each size, count, perplexity and latency)"
    )


def _column(file: Path, name: str, values: Sequence[Any], kind: str) -> Any:
    """Return a column's values in the type that the table promises."""
    try:
        if kind in ("ints", "bools"):
            return [_list(value, int if kind == "ints" else bool) for value in values]
        if kind.startswith("text"):
            return [_text(value, optional=kind.endswith("?")) for value in values]
        if kind == "float":
            return np.array(values, dtype=np.float64)
        return np.array([_exact(value, bool if kind == "bool" else int) for value in values])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: column {name} must hold {kind.rstrip('?')} values: {error}") from error


def _list(value: Any, kind: type[int] | type[bool]) -> tuple[int, ...]:
    items = json.loads(value) if isinstance(value, str) else list(value)
    return tuple(_exact(item, kind) for item in items)


def _exact(value: Any, kind: type[int] | type[bool]) -> int:
    is_bool = isinstance(value, (bool, np.bool_))
    if is_bool != (kind is bool) or value != kind(value):
        raise ValueError(f"{value!r} is no {kind.__name__}")
    return kind(value)


def _text(value: Any, *, optional: bool) -> str:
    if isinstance(value, str):
        return value
    if optional and (value is None or value != value):
        return ""
    raise ValueError(f"{value!r} is no text")


def _check(file: Path, frame: pd.DataFrame) -> None:
    """Raise ValueError, naming the row, where the table contradicts itself."""
    names = frame["experiment"] + "/" + frame["arch"]
    depth = frame["n_layer"]
    faults = {
        "is there twice": names.duplicated(),
        f"has a backbone that is none of {BACKBONES}": ~frame["backbone"].isin(BACKBONES),
        "has a size or count below 1": (frame[list(_POSITIVE)] < 1).any(axis=1),
        "needs one d_inner and one n_head >= 1 for each layer": (frame["d_inner"].map(len) != depth)
        | (frame["n_head"].map(len) != depth) | (frame["n_head"].map(lambda heads: min(heads, default=0)) < 1),
        "has a perplexity, latency or memory that is not positive": (
            frame[["valid_ppl", "latency_ms", "peak_memory_mb"]] <= 0
        ).any(axis=1),
    }  # fmt: skip
    for fault, wrong in faults.items():
        if wrong.any():
            raise ValueError(f"{file}: {names[wrong].iloc[0]} {fault} ({int(wrong.sum())} rows of {len(frame)})")
