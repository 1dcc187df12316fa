"""Command of the surrogates: adapt. Plain options, which people type; `key=value` works as well as `--key value`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from supernet.architecture import Architecture
    from surrogates.adapted import AdaptedDevice, AdaptedMetric, SourceModel

_SYNONYMS = {"device": "name"}
_ASSIGNMENT = re.compile(r"([a-z_-]+)=(.*)", re.DOTALL)


def adapt() -> int:
    """Predict a new device from 10 to 50 measurements; propose what to measure next."""
    options = parse(sys.argv[1:])
    try:
        print(_proposed(options) if options.propose else _adapted(options))
        return 0
    except (ValueError, KeyError, FileNotFoundError) as error:
        print(f"{sys.argv[0]}: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        return 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(
        prog="paretolm adapt",
        description="Predict a new device from a handful of measurements by `paretolm profile`, starting from the "
        "shipped devices; or propose which architectures to measure. key=value is the same as --key value.",
        epilog="paretolm adapt --propose 20 --out archs.txt; paretolm profile space=gpt-s archs.file=archs.txt "
        "table=mine.parquet; paretolm adapt --table mine.parquet --name mybox",
    )
    add = parser.add_argument
    add("--name", metavar="NAME", help="of the new device (also: device=NAME)")
    add("--table", metavar="PATH", help="measurements: the folder or .parquet file of `paretolm profile`")
    add("--space", metavar="NAME", help="search space; default: the table's, or gpt-s")
    add("--metric", metavar="NAMES", help="comma-separated (latency, energy, memory); default: all measured ones")
    add("--table-device", metavar="NAME", help="which device of a table that has several")
    add("--workload", metavar="ID", help="which input of a table that has several, e.g. prefill-b1-t128-float32")
    add("--out", metavar="PATH", help="folder of the device, default devices/<space>/<name>; of --propose: a text file")
    add("--replace", action="store_true", help="allow the name of a shipped device")
    add("--propose", metavar="N", type=int, default=0, help="write N architectures to measure next, instead")
    add("--method", default="d_optimal", help="of --propose: d_optimal, farthest_point or random")
    add("--seed", metavar="S", type=int, default=0, help="of --propose")
    options = parser.parse_args(_as_options(arguments))
    if not options.propose and not (options.table and options.name):
        parser.error("give --table and --name, or --propose N")
    return options


def _as_options(arguments: Sequence[str]) -> list[str]:
    """Return arguments with key=value as --key=value, except where it is the value of an option."""
    changed: list[str] = []
    value_follows = False
    for text in arguments:
        match = None if value_follows else _ASSIGNMENT.fullmatch(text)
        if match and not text.startswith("-"):
            text = f"--{_SYNONYMS.get(match[1], match[1]).replace('_', '-')}={match[2]}"
        changed.append(text)
        value_follows = text.startswith("--") and "=" not in text and text != "--replace"
    return changed


# --- adapt --------------------------------------------------------------------------------------------------------


def _adapted(options: argparse.Namespace) -> str:
    from pathlib import Path

    from hw_profiles.table import MeasurementTable
    from supernet.dispatch import command_line
    from surrogates.adapt import adapt_device
    from surrogates.device_store import save_device

    frame = MeasurementTable(options.table).read()
    model = _shipped_model(options.space or _only_space(frame))
    device = adapt_device(
        model, frame, name=options.name, metrics=_metrics(options.metric), device=options.table_device,
        workload=options.workload, replace=options.replace, command=command_line(),
    )  # fmt: skip
    folder = save_device(options.out or Path("devices", model.space.name, device.name), device)
    return f"{summary(device)}\nDevice {device.name}: {folder}"


def summary(device: AdaptedDevice) -> str:
    """Return leave-one-out scores of each metric, beside learning from scratch and the best source alone."""
    return "\n".join(line for metric in device.metrics.values() for line in _summary_lines(metric))


def _summary_lines(metric: AdaptedMetric) -> list[str]:
    from math import exp

    from surrogates.levels import rows_needed

    report = metric.report
    rows = [("blend", f"what {metric.target.device} uses"), ("source", f"best source, {report.best_source.device}")]
    lines = [f"{metric.target.metric} [{metric.unit}], {metric.workload}, {metric.n} architectures, leave-one-out:"]
    for name, what in [*rows, ("scratch", "from scratch, without other devices")]:
        score = report.scores[name]
        lines.append(f"  {what:<38} MAPE {score['mape']:6.2f} %   Kendall {_number(score['kendall'])}")
    levels = (0.05, 0.95)
    if (needed := rows_needed(levels)) <= metric.n:
        low, high = (100 * (exp(value) - 1) for value in metric.log_quantiles(levels))
        return [*lines, f"  90 % interval {low:+.1f} % to {high:+.1f} %"]
    return [*lines, f"  90 % intervals need {needed} architectures: measure {needed - metric.n} more"]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _metrics(text: str | None) -> list[str] | None:
    from surrogates.benchmark_targets import ALIASES

    return None if text is None else [ALIASES.get(name.strip(), name.strip()) for name in text.split(",")]


def _only_space(frame: pd.DataFrame) -> str:
    names = sorted(map(str, frame["space"].unique()))
    if len(names) != 1:
        raise ValueError(f"the table holds {', '.join(names) or 'no'} spaces: choose one with --space")
    return names[0]


def _shipped_model(space: str) -> SourceModel:
    from surrogates.benchmark_files import shipped_folder
    from surrogates.space_store import load_space_model

    return load_space_model(shipped_folder(space))


# --- propose ------------------------------------------------------------------------------------------------------


def _proposed(options: argparse.Namespace) -> str:
    from pathlib import Path

    from supernet.artifacts import write_text
    from supernet.spaces import load_space
    from surrogates.design import propose

    frame = _read_table(options.table)
    space = load_space(options.space or ("gpt-s" if frame is None else _only_space(frame)))
    measured = [] if frame is None else _measured(frame, space.name)
    archs = propose(
        space, options.propose, measured=[space.validate(arch) for arch in measured], method=options.method,
        seed=options.seed,
    )  # fmt: skip
    path = Path(options.out or "archs.txt")
    if path.exists():
        raise ValueError(f"{path} exists and is not overwritten: delete it, or give another --out")
    head = f"# {len(archs)} architectures of {space.name}, {options.method}, seed {options.seed}"
    write_text(path, "\n".join([head, *(arch.id for arch in archs)]) + "\n")
    command = f"paretolm profile space={space.name} archs.file={path}"
    return f"{len(archs)} architectures: {path} (measure them: {command})"


def _read_table(table: str | None) -> pd.DataFrame | None:
    from hw_profiles.table import MeasurementTable

    return None if table is None else MeasurementTable(table).read()


def _measured(frame: pd.DataFrame, space: str) -> list[Architecture]:
    from supernet.architecture import Architecture

    rows = frame[frame["space"] == space]
    return [Architecture.from_id(text) for text in rows["architecture"].unique()]
