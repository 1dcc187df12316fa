"""What a report is made of: everything a run folder holds, read once into one frozen value. No torch.

Every part is optional. What is not there, or cannot be read, is named in `ReportData.absent` with the reason, so that
the report can say so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw_profiles.table import ANY_DEVICE, MeasurementTable
from search.picks import PICKS, Pick, load_picks
from search.report_predictions import Predictions, load_predictions
from search.result import EVALUATIONS, STATE, SUMMARY, SearchResult
from supernet.artifacts import read_json
from supernet.artifacts import versions as installed_versions
from supernet.space import SearchSpace
from supernet.spaces import load_space

if TYPE_CHECKING:
    import pandas as pd

METRICS_FILE, MEASUREMENTS, RUN_FILE, SAMPLE = "metrics.csv", "measurements.parquet", "run.json", "sample.txt"
PARTS: Mapping[str, str] = {  # part -> where it is looked for
    "training": f"train/{METRICS_FILE}, of `paretolm train`",
    "measurements": f"{MEASUREMENTS}/, of `paretolm profile`",
    "predictions": "surrogates/, of `paretolm fit`",
    "searches": f"search/<name>/{SUMMARY}, of `paretolm search`",
    "picks": f"{PICKS}, the picks measured again",
    "sample": f"{SAMPLE}, text that a network wrote",
    "summary": f"{SUMMARY}, the run's numbers",
}
_STAGES = ("train", "profile", "measurements", "fit", "surrogates", "search", "picks")


@dataclass(frozen=True)
class Command:
    """A command line and the stage that it ran."""

    stage: str
    line: str


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    Attributes:
        run_dir: the folder that was read.
        absent: parts of `PARTS` that are not there or damaged, with the reason.
        training: metrics.csv, a row a logged step: `step`, `train/...`, `val/...`.
        measurements: what `MeasurementTable.read` gives.
        predictions: out-of-fold predictions of the surrogates.
        searches: results by name.
        picks: networks measured again.
        sample: generated text; empty without.
        summary: the run's summary.json; empty without.
        space: the search space; None where the run does not say.
        commands: as they were run, in the order of the stages.
        versions: of the packages that made the run; empty where it does not say.
        report_versions: of the packages that make the report.
    """

    run_dir: Path
    absent: Mapping[str, str] = field(default_factory=dict)
    training: pd.DataFrame | None = None
    measurements: pd.DataFrame | None = None
    predictions: tuple[Predictions, ...] = ()
    searches: Mapping[str, SearchResult] = field(default_factory=dict)
    picks: tuple[Pick, ...] = ()
    sample: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    space: SearchSpace | None = None
    commands: tuple[Command, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    report_versions: Mapping[str, str] = field(default_factory=installed_versions)

    @cached_property
    def largest(self) -> Pick | None:
        """The pick that is the space's largest network; None where there is none."""
        if self.space is None:
            return None
        arch = self.space.largest()
        return next((pick for pick in self.picks if pick.architecture == arch), None)


def load_report_data(run_dir: str | Path) -> ReportData:
    """Read a run folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds none of the parts of a report; lists what was looked for.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give the folder of a run, run=<folder>")
    readers: dict[str, Callable[[Path], Any]] = {
        "training": _training, "measurements": _measurements, "predictions": load_predictions, "searches": _searches,
        "picks": _picks, "sample": _sample, "summary": lambda f: read_json(f / SUMMARY),
    }  # fmt: skip
    found: dict[str, Any] = {}
    absent: dict[str, str] = {}
    for part, read in readers.items():
        try:
            found[part] = read(folder)
        except FileNotFoundError:
            absent[part] = "not in this run"
        except (ValueError, KeyError, TypeError, OSError) as error:
            absent[part] = f"cannot be read: {error}"
    if not found:
        looked = "\n".join(f"  {where}{_reason(absent[part])}" for part, where in PARTS.items())
        raise ValueError(f"{folder} holds nothing to report. Looked for:\n{looked}")
    runs = _run_files(folder)
    return ReportData(
        run_dir=folder,
        absent=absent,
        **found,
        space=_space(folder, found),
        commands=_commands(runs),
        versions=next((run["versions"] for _, run in runs if run.get("versions")), {}),
    )


def _reason(text: str) -> str:
    return "" if text == "not in this run" else f" ({text})"


# --- parts --------------------------------------------------------------------------------------------------------


def _first(paths: Iterable[Path], what: str) -> Path:
    path = min(paths, key=lambda p: (len(p.parts), str(p)), default=None)
    if path is None:
        raise FileNotFoundError(what)
    return path


def _training(folder: Path) -> pd.DataFrame:
    import pandas as pd

    path = _first([*folder.glob(METRICS_FILE), *(folder / "train").rglob(METRICS_FILE)], METRICS_FILE)
    frame = pd.read_csv(path, on_bad_lines="skip")
    if "step" not in frame or frame.empty:
        raise ValueError(f"{path} holds no logged steps")
    frame = frame.apply(pd.to_numeric, errors="coerce").dropna(subset=["step"])
    return frame.sort_values("step", kind="stable").reset_index(drop=True)


def _measurements(folder: Path) -> pd.DataFrame:
    """Read all tables of the run; those of the picks only where there is no other, for they are no random sample."""
    import pandas as pd

    paths = sorted({*folder.glob(MEASUREMENTS), *folder.glob(f"*/{MEASUREMENTS}"), *folder.glob(f"*/*/{MEASUREMENTS}")})
    paths = [path for path in paths if path.parent.name != "picks"] or paths
    if not paths:
        raise FileNotFoundError(MEASUREMENTS)
    frame = pd.concat([MeasurementTable(path).read() for path in paths], ignore_index=True)
    if frame.empty:
        raise ValueError(f"{paths[0]} holds no measurements")
    return frame


def _searches(folder: Path) -> dict[str, SearchResult]:
    """Read every search below search/, by its folder's name; the search of that folder itself by its algorithm."""
    root = folder / "search" if (folder / "search").is_dir() else folder
    paths = sorted(path.parent for path in root.rglob(EVALUATIONS) if (path.parent / SUMMARY).is_file())
    if not paths:
        raise FileNotFoundError(EVALUATIONS)
    found: dict[str, SearchResult] = {}
    for path in paths:
        result = SearchResult.load(path)
        name = result.algorithm if path == root else path.name
        name = name if name not in found else path.relative_to(root).as_posix()
        found[name] = result
    return found


def _picks(folder: Path) -> tuple[Pick, ...]:
    return load_picks(_first([*folder.glob(PICKS), *folder.glob(f"*/{PICKS}")], PICKS))


def _sample(folder: Path) -> str:
    return (folder / SAMPLE).read_text(encoding="utf-8", errors="replace")


def _space(folder: Path, found: Mapping[str, Any]) -> SearchSpace | None:
    """Return the search space from a saved supernet, a search's state, or by name; None where none of them tells."""
    stored: list[Any] = [read_json(path) for path in sorted(folder.glob("train/**/space.json"))]
    stored += [read_json(path)["search"].get("space") for path in _search_states(folder)]
    stored += [r.details.get("space") for r in found.get("searches", {}).values()]
    if "measurements" in found:
        stored += list(found["measurements"]["space"].unique())
    stored.append(found.get("summary", {}).get("space"))
    for source in stored:
        if not source:
            continue
        try:
            return load_space(source)
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            continue
    return None


def _search_states(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob(STATE) if (path.parent / EVALUATIONS).is_file())


# --- how it was made ----------------------------------------------------------------------------------------------


def _run_files(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (stage, run.json) of the run and its stages, in order."""
    found = []
    for path in [*folder.glob(RUN_FILE), *folder.glob(f"*/{RUN_FILE}"), *folder.glob(f"*/*/{RUN_FILE}")]:
        try:
            run = read_json(path)
        except ValueError:
            continue
        if isinstance(run, dict):
            stage = path.parent.relative_to(folder).as_posix()
            found.append(("whole run" if stage == "." else stage, run))
    return sorted(found, key=lambda item: _stage_order(item[0]))


def _stage_order(stage: str) -> tuple[int, str]:
    first = stage.split("/")[0]
    return (-1 if stage == "whole run" else _STAGES.index(first) if first in _STAGES else len(_STAGES), stage)


def _commands(runs: list[tuple[str, dict[str, Any]]]) -> tuple[Command, ...]:
    return tuple(Command(stage, run["command"]) for stage, run in runs if run.get("command"))


def device_card(measurements: pd.DataFrame | None) -> dict[str, Any]:
    """Return the facts about the device that the newest hardware measurement carries; empty without one."""
    if measurements is None:
        return {}
    rows = measurements[measurements["device"] != ANY_DEVICE].sort_values("timestamp")
    for text in reversed(rows["extra"].tolist()):
        extra = json.loads(text or "{}")
        card = extra.get("device_card") or extra.get("card") or extra.get("device")
        if isinstance(card, dict):
            return card
    return {}
