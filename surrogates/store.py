"""Surrogates on disk: XGBoost UBJ, numpy arrays, a card with SHA-256 of both; no pickle. No torch.

A set is a folder with one folder a metric: `card.json`, `arrays.npz` and, where the model has trees, `model.ubj`
(several: `model_0.ubj`, ...); where its intervals have, `intervals.ubj`. A set is replaced as a whole: a kill or a full
disk leaves the old one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from sklearn.base import BaseEstimator

from supernet.artifacts import read_json, versions, write_json
from supernet.space import SearchSpace
from surrogates.calibration import ConformalSurrogate
from surrogates.features import feature_names
from surrogates.fitted import FitReport, FittedSurrogate, SurrogateSet
from surrogates.intervals import intervals_from, kind_of
from surrogates.models import LinearSurrogate, ResidualSurrogate, XGBoostSurrogate
from surrogates.normalised import NormalisedSurrogate
from surrogates.prediction import FittedState, Surrogate
from surrogates.quantile_regression import QuantileRegression
from surrogates.validation import Scores

FORMAT = 1
WHAT = "paretolm surrogate"
_MODELS = {
    c.__name__: c
    for c in (
        XGBoostSurrogate, LinearSurrogate, ResidualSurrogate, ConformalSurrogate, NormalisedSurrogate,
        QuantileRegression,
    )
}  # fmt: skip
RUN_SUBFOLDER = "surrogates"  # of the run folder of `paretolm fit`
_ARRAYS = "arrays.npz"

# --- one surrogate ------------------------------------------------------------------------------------------------


def save_surrogate(folder: str | Path, surrogate: FittedSurrogate, *, command: str, table: str = "") -> Path:
    """Write a surrogate to a folder, which is replaced as a whole if it holds one; returns the folder.

    Args:
        folder: where.
        surrogate: what.
        command: how it was made, for the card.
        table: which measurements it was made from, for the card.

    Raises:
        ValueError: the folder holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / "card.json").is_file() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else than a surrogate: give another folder")
    _replace_folder(folder, lambda new: _write(new, surrogate, command, table))
    return folder


def load_surrogate(folder: str | Path) -> FittedSurrogate:
    """Read what `save_surrogate` wrote.

    Raises:
        FileNotFoundError: there is no surrogate.
        ValueError: a file is damaged (named), or written by another version of paretolm.
    """
    folder = Path(folder)
    _recover(folder)
    if not (folder / "card.json").is_file():
        raise FileNotFoundError(f"{folder} holds no surrogate (no card.json): `paretolm fit` makes one")
    card = read_json(folder / "card.json")
    try:
        return _read(folder, card)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'card.json'} is damaged or of another version of paretolm ({error!r}): run `paretolm fit` again"
        ) from error


def _write(folder: Path, surrogate: FittedSurrogate, command: str, table: str) -> None:
    state, intervals, report = surrogate.model.state(), surrogate.calibration.state(), surrogate.report
    arrays = {f"model.{name}": value for name, value in state.arrays.items()} | {
        "rows.architecture": np.array(report.architectures),
        "rows.measured": report.measured,
    }
    arrays |= {f"calibration.{name}": value for name, value in intervals.arrays.items()}
    arrays |= {f"predicted.{name}": values for name, values in report.predictions.items()}
    np.savez(folder / _ARRAYS, allow_pickle=False, **arrays)
    boosters = _named("model", state.boosters) | _named("intervals", intervals.boosters)
    for name, raw in boosters.items():
        (folder / name).write_bytes(raw)
    files = {name: _sha256(folder / name) for name in (_ARRAYS, *boosters)}
    write_json(folder / "card.json", _card(surrogate, files, command, table))


def _named(stem: str, boosters: Sequence[bytes]) -> dict[str, bytes]:
    """Return boosters by file name."""
    return {f"{stem}_{i}.ubj" if len(boosters) > 1 else f"{stem}.ubj": raw for i, raw in enumerate(boosters)}


def _card(surrogate: FittedSurrogate, files: Mapping[str, str], command: str, table: str) -> dict[str, Any]:
    report = surrogate.report
    return {
        "what": WHAT,
        "format": FORMAT,
        "command": command,
        "metric": surrogate.metric,
        "unit": surrogate.unit,
        "device": surrogate.device,
        "workload": surrogate.workload,
        "data": {"table": table, "rows": len(report.architectures)},
        "scores": {
            "winner": report.winner,
            "criterion": report.criterion,
            "folds": report.folds,
            "seed": report.seed,
            "cross_validated": {name: score.to_dict() for name, score in report.candidates.items()},
            "parameter_count": report.parameter_count.to_dict(),
        },
        "model": describe_model(surrogate.model),
        "intervals": kind_of(surrogate.calibration),
        "space": surrogate.space.to_dict(),
        "features": feature_names(surrogate.space),
        "sha256": dict(files),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def _read(folder: Path, card: Mapping[str, Any]) -> FittedSurrogate:
    if card["what"] != WHAT or card["format"] != FORMAT:
        raise ValueError(
            f"{folder / 'card.json'} is of {card['what']!r} format {card['format']}; expected {WHAT!r} {FORMAT}"
        )
    _check_files(folder, card["sha256"])
    space = SearchSpace.from_dict(card["space"])
    if card["features"] != feature_names(space):
        raise ValueError(
            f"{folder}: the features of this version of paretolm differ from those it was fitted to: "
            "run `paretolm fit` again"
        )
    with np.load(folder / _ARRAYS, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}

    def state(stem: str, prefix: str) -> FittedState:
        names = [name for name in card["sha256"] if name.startswith(stem) and name.endswith(".ubj")]
        inner = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        return FittedState(inner, tuple((folder / name).read_bytes() for name in names))

    return FittedSurrogate(
        card["metric"], card["unit"], card["device"], card["workload"], space,
        build_model(card["model"]).restore(state("model", "model.")),
        intervals_from(card.get("intervals", "conformal"), state("intervals", "calibration.")),
        _report(card["scores"], arrays),
    )  # fmt: skip


def _report(saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> FitReport:
    return FitReport(
        winner=saved["winner"],
        criterion=saved["criterion"],
        folds=saved["folds"],
        seed=saved["seed"],
        candidates={name: Scores.from_dict(score) for name, score in saved["cross_validated"].items()},
        parameter_count=Scores.from_dict(saved["parameter_count"]),
        architectures=tuple(arrays["rows.architecture"].tolist()),
        measured=arrays["rows.measured"],
        predictions={name: arrays[f"predicted.{name}"] for name in saved["cross_validated"]},
    )


# --- sets ---------------------------------------------------------------------------------------------------------


def save_set(folder: str | Path, surrogates: SurrogateSet, *, command: str, table: str = "") -> Path:
    """Write all surrogates of a set, one folder a metric; an older set in `folder` is replaced as a whole.

    Raises:
        ValueError: the folder holds something else.
    """
    folder = Path(folder)
    if folder.exists():
        foreign = [entry.name for entry in sorted(folder.iterdir()) if not (entry / "card.json").is_file()]
        if foreign:
            raise ValueError(f"{folder} holds something else than surrogates ({foreign[0]}): give another folder")

    def fill(new: Path) -> None:
        for metric, surrogate in surrogates.surrogates.items():
            (new / metric).mkdir()
            _write(new / metric, surrogate, command, table)

    _replace_folder(folder, fill)
    return folder


def load_set(folder: str | Path) -> SurrogateSet:
    """Read a set of surrogates, or a single one as a set.

    Args:
        folder: what `save_set` or `save_surrogate` wrote, or the run folder of `paretolm fit`.

    Raises:
        FileNotFoundError: the folder holds no surrogates.
        ValueError: a file is damaged; names it.
    """
    folder = Path(folder)
    _recover(folder)
    if (folder / "card.json").is_file():
        return SurrogateSet([load_surrogate(folder)])
    _recover(folder / RUN_SUBFOLDER)
    if (folder / RUN_SUBFOLDER).is_dir():
        folder = folder / RUN_SUBFOLDER
    inside = sorted(entry.parent for entry in folder.glob("*/card.json") if not entry.parent.name.startswith("."))
    if not inside:
        raise FileNotFoundError(f"{folder} holds no surrogates: `paretolm fit` makes them")
    return SurrogateSet([load_surrogate(entry) for entry in inside])


# --- models as JSON -----------------------------------------------------------------------------------------------


def describe_model(model: Surrogate) -> dict[str, Any]:
    """Return class and settings of a model in JSON types.

    Raises:
        ValueError: a model of a class that cannot be read back.
    """
    name = type(model).__name__
    if _MODELS.get(name) is not type(model):
        raise ValueError(f"a {name} cannot be saved; models that can: {', '.join(_MODELS)}")
    settings = model.get_params(deep=False)
    return {"class": name, "settings": {key: _json(value) for key, value in settings.items()}}


def build_model(description: Mapping[str, Any]) -> Surrogate:
    """Build the unfitted model that `describe_model` described."""
    settings = {key: _from_json(value) for key, value in description["settings"].items()}
    return cast(Surrogate, _MODELS[description["class"]](**settings))


def _json(value: Any) -> Any:
    if isinstance(value, BaseEstimator):
        return describe_model(cast(Surrogate, value))
    if isinstance(value, (tuple, list, np.ndarray)):
        return [item.item() if isinstance(item, np.generic) else item for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return build_model(value)
    return tuple(value) if isinstance(value, list) else value


# --- files --------------------------------------------------------------------------------------------------------


def _check_files(folder: Path, digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: restore it or run `paretolm fit` again")
        if _sha256(path) != digest:
            raise ValueError(
                f"{path} is damaged: its SHA-256 is not the one in card.json. Restore it or run `paretolm fit` again"
            )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replace_folder(folder: Path, fill: Any) -> None:
    """Make a new folder beside `folder`, fill it, and put it in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _recover(folder)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        fill(new)
        for path in new.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        new.chmod(0o777 & ~umask)  # mkdtemp makes folders private
        if folder.exists():
            folder.replace(_old(folder))
        new.replace(folder)
        shutil.rmtree(_old(folder), ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        _recover(folder)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _recover(folder: Path) -> None:
    """Put back the old folder if a kill came between its removal and the arrival of the new one."""
    if _old(folder).exists():
        if folder.exists():
            shutil.rmtree(_old(folder), ignore_errors=True)
        else:
            _old(folder).replace(folder)
