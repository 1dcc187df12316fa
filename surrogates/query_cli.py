"""Commands that ask the shipped benchmark: query, devices, metrics, card. Plain options: people type them. No torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from surrogates.benchmark import Benchmark

FORMATS = ("table", "csv", "json")
_ARCH = (
    "an id (e768-l0_11-h12x12-f3072x12-b1), HW-GPT-Bench's gpt-s-12-768-..., a JSON object, or a file: .csv or "
    ".parquet with a column 'architecture', .json, or text with one a line"
)


# --- commands -----------------------------------------------------------------------------------------------------


def query() -> int:
    """Hardware metrics and perplexity of any architecture, at once: shipped surrogates with intervals."""
    parser = _parser("query", query)
    add = parser.add_argument
    add("--arch", nargs="+", action="extend", default=[], metavar="ARCH", help=_ARCH)
    add("--sample", type=int, default=0, metavar="N", help="also N random architectures (of --seed, default 0)")
    add("--device", metavar="NAMES", help="comma-separated; default: all. `paretolm devices` lists them")
    add("--metric", metavar="NAMES", help="comma-separated; default: all. `paretolm metrics` lists them")
    add("--quantiles", metavar="LEVELS", help="comma-separated levels between 0 and 1, e.g. .05,.95")
    add("--drift", action="store_true", help="quantiles of values as published, drift of the hour included")
    add("--noise", action="store_true", help="draw one measurement instead of the median; needs --seed")
    add("--seed", type=int, metavar="S", help="of --noise and --sample")
    return _run(parser, _query)


def devices() -> int:
    """Devices of the shipped benchmark: what they are, what was measured, how good the predictions are."""
    return _run(
        _parser("devices", devices), lambda options: _listed(_benchmark(options).devices, options, _devices_table)
    )


def metrics() -> int:
    """Metrics of the shipped benchmark with their units."""
    return _run(_parser("metrics", metrics), lambda options: _listed(_benchmark(options).metrics, options, _table))


def card() -> int:
    """How everything in the shipped benchmark was measured, its anomalies and its scores."""
    return _run(_parser("card", card, formats=False), lambda options: _benchmark(options).card().rstrip())


# --- bodies -------------------------------------------------------------------------------------------------------


def _query(options: argparse.Namespace) -> str:
    import numpy as np

    from surrogates.query_frame import to_csv, to_records, to_table

    if options.noise and options.seed is None:
        raise ValueError("--noise needs --seed: a draw can be repeated")
    if options.sample < 0 or not (options.sample or options.arch):
        raise ValueError("give --arch (an id or a file), or --sample N with N > 0")
    b = _benchmark(options)
    genes = _genes(b, options)
    names, places, levels = _names(options.metric), _names(options.device), _levels(options.quantiles)
    values: np.ndarray = b.query(
        genes, names, places, quantiles=levels, drift=options.drift, noise=options.noise,
        seed=options.seed if options.noise else None, out="numpy",
    )  # fmt: skip
    columns = b.columns(names, places, quantiles=levels, noise=options.noise)
    if options.format == "json":
        return _json(to_records(values, b.ids(genes), columns))
    return (to_csv if options.format == "csv" else to_table)(values, b.ids(genes), columns).rstrip("\n")


def _genes(b: Benchmark, options: argparse.Namespace) -> Any:
    import numpy as np

    rng = np.random.default_rng(options.seed or 0)
    drawn = [b.space.sample(rng) for _ in range(options.sample)]
    return np.concatenate([*(_genes_of(b, text) for text in options.arch), b.genes(drawn)])


def _genes_of(b: Benchmark, text: str) -> Any:
    """Read the architectures that an argument of --arch stands for: a file, or one architecture."""
    from pathlib import Path

    path = Path(text)
    is_name = text.startswith("{") or ("/" not in text and not path.suffix)
    if is_name and not path.is_file():
        return b.genes(text)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; --arch takes {_ARCH}")
    try:
        return b.genes(_read(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(path: Any) -> Any:
    """Return what a file lists, in a form that a benchmark reads."""
    import json

    import pandas as pd

    if path.suffix == ".csv":
        return pd.read_csv(path)
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _benchmark(options: argparse.Namespace) -> Benchmark:
    from surrogates.benchmark import Benchmark

    return Benchmark(options.space, extra_devices=[folder for text in options.extra for folder in _extra(text)])


def _extra(text: str) -> list[Any]:
    """Return the folder of a device, or those of the devices inside it."""
    from pathlib import Path

    from surrogates.device_store import device_folders

    return device_folders(text) or [Path(text)]


def _listed(frame: pd.DataFrame, options: argparse.Namespace, table: Callable[[pd.DataFrame], str]) -> str:
    if options.format == "json":
        table_of_any = frame.reset_index().astype(object)
        return _json(table_of_any.where(table_of_any.notna(), None).to_dict("records"))  # JSON has no NaN
    return frame.to_csv().rstrip("\n") if options.format == "csv" else table(frame)


def _table(frame: pd.DataFrame) -> str:
    from surrogates.query_frame import aligned

    rows = [[str(cell) for cell in row] for row in frame.reset_index().itertuples(index=False)]
    return aligned([[str(frame.index.name), *map(str, frame.columns)], *rows], left=len(frame.columns) + 1)


def _devices_table(frame: pd.DataFrame) -> str:
    """Return the devices at 100 columns: metrics by their short names, the workload in the card."""
    from surrogates.benchmark_targets import ALIASES
    from surrogates.query_frame import aligned

    short = {long: name for name, long in ALIASES.items()}
    rows = [["device", "kind", "dtype", "batch", "metrics", "rows", "R2", "Kendall", "MAPE %", "cov90"]]
    for name, d in frame.iterrows():
        listed = " ".join(short.get(metric, metric) for metric in d["metrics"].split(", "))
        scores = [f"{d['r2']:.3f}", f"{d['kendall']:.3f}", f"{d['mape']:.2f}", f"{d['coverage90']:.3f}"]
        rows.append([str(name), d["kind"], d["dtype"], str(d["batch_size"]), listed, str(d["n_train"]), *scores])
    note = "Scores are of latency on architectures that the surrogates were not fitted to; `paretolm card` has all."
    return f"{aligned(rows, left=5)}\n\n{note}"


# --- options ------------------------------------------------------------------------------------------------------


def _parser(name: str, command: Callable[[], int], *, formats: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"paretolm {name}", description=(command.__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--space", default="gpt-s", metavar="NAME", help="gpt-s (default), gpt-m or gpt-l")
    add("--extra", nargs="+", action="extend", default=[], metavar="DIR", help="folders of devices of `paretolm adapt`")
    if formats:
        add("--format", choices=FORMATS, default="table", help="default: table")
    return parser


def _run(parser: argparse.ArgumentParser, body: Callable[[argparse.Namespace], str]) -> int:
    """Print what `body` returns; a mistake in what was asked for is one message and exit status 1."""
    options = parser.parse_args(sys.argv[1:])
    try:
        print(body(options))
    except (ValueError, KeyError, FileNotFoundError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{parser.prog}: {message}", file=sys.stderr)
        return 1
    return 0


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _levels(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(level) for level in text.split(",")]
    except ValueError:
        raise ValueError(f"--quantiles {text}: give comma-separated numbers between 0 and 1, e.g. .05,.95") from None


def _json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, allow_nan=False)
