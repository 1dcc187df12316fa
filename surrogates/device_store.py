"""Added devices on disk: a folder with `card.json` and `arrays.npz`, checked by SHA-256; no pickle. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from supernet.artifacts import atomic_folder, read_json, restore_folder, write_json
from supernet.space import SearchSpace
from surrogates.adaptation_terms import Terms
from surrogates.adapted import AdaptationReport, AdaptedDevice, AdaptedMetric, Blend
from surrogates.campaign import TargetKey
from surrogates.levels import levels_possible

WHAT, FORMAT = "paretolm device", 1
_CARD, _ARRAYS = "card.json", "arrays.npz"


def save_device(folder: str | Path, device: AdaptedDevice, *, reserved: Collection[str] = ()) -> Path:
    """Write a device to a new folder, whole or not at all, and return that.

    Args:
        folder: where; it must not exist, or be empty.
        device: what.
        reserved: names that are taken.

    Raises:
        ValueError: the folder holds something, or the name is taken; nothing is overwritten.
    """
    folder = restore_folder(folder)
    if device.name in reserved:
        raise ValueError(f"there is a device {device.name!r} already: give another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = f"device {_name_in(folder)!r}" if (folder / _CARD).is_file() else "something else"
        raise ValueError(f"{folder} holds {what} already, which is not overwritten: delete it, or give another name")
    with atomic_folder(folder, names=(_CARD, _ARRAYS)) as new:
        arrays = {
            f"{m.target.metric}.{name}": value for m in device.metrics.values() for name, value in _arrays(m).items()
        }
        np.savez(new / _ARRAYS, allow_pickle=False, **arrays)
        write_json(new / _CARD, _card(device, {_ARRAYS: _sha256(new / _ARRAYS)}))
    return folder


def load_device(folder: str | Path) -> AdaptedDevice:
    """Read what `save_device` wrote.

    Raises:
        FileNotFoundError: there is no device.
        ValueError: a file is damaged (named), or of another version of paretolm.
    """
    folder = Path(folder)
    if not (folder / _CARD).is_file():
        raise FileNotFoundError(f"{folder} holds no device (no {_CARD}): `paretolm adapt` makes one")
    card = read_json(folder / _CARD)
    try:
        return _read(folder, card)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / _CARD} is damaged or of another version of paretolm ({error!r}): run `paretolm adapt` again"
        ) from error


def device_folders(folder: str | Path) -> list[Path]:
    """Return the folders inside `folder` that hold a device, sorted; none where it does not exist."""
    return sorted(card.parent for card in Path(folder).glob(f"*/{_CARD}") if not card.parent.name.startswith("."))


# --- writing ------------------------------------------------------------------------------------------------------


def _card(device: AdaptedDevice, digests: Mapping[str, str]) -> dict[str, Any]:
    return {
        "what": WHAT,
        "format": FORMAT,
        "name": device.name,
        "hardware": device.hardware,
        "command": device.command,
        "metrics": {name: _metric_card(metric) for name, metric in device.metrics.items()},
        "space": device.space.to_dict(),
        "sha256": dict(digests),
        "created": device.created,
        "versions": dict(device.versions or {}),
    }


def _metric_card(metric: AdaptedMetric) -> dict[str, Any]:
    report = metric.report
    levels = levels_possible(metric.n)
    return {
        "unit": metric.unit,
        "workload": metric.workload,
        "measured_on": metric.measured_on,
        "n": metric.n,
        "noise": None if np.isnan(metric.noise) else metric.noise,
        "sources": [list(source) for source in metric.sources],
        "best_source": list(report.best_source),
        "log_source": metric.blend.log_source,
        "shares": dict(report.shares),
        "leave_one_out": dict(report.scores),
        "quantiles": {f"{q:g}": float(np.exp(v)) for q, v in zip(levels, metric.log_quantiles(levels), strict=True)},
    }


def _arrays(metric: AdaptedMetric) -> dict[str, np.ndarray]:
    blend, report = metric.blend, metric.report
    own = {
        "widths": blend.terms.widths, "coef": blend.coef, "log_affine": blend.log_affine,
        "floor": np.array(blend.floor), "residuals": metric.residuals,
        "architectures": np.array(report.architectures), "measured": report.measured, "sources": report.sources,
    }  # fmt: skip
    return own | {f"loo.{name}": values for name, values in report.loo.items()}


# --- reading ------------------------------------------------------------------------------------------------------


def _read(folder: Path, card: Mapping[str, Any]) -> AdaptedDevice:
    if card["what"] != WHAT or card["format"] != FORMAT:
        raise ValueError(f"{folder / _CARD} is of {card['what']!r} format {card['format']}; expected {WHAT!r} {FORMAT}")
    path = folder / _ARRAYS
    if not path.is_file():
        raise ValueError(f"{path} is missing: restore it or run `paretolm adapt` again")
    if _sha256(path) != card["sha256"][_ARRAYS]:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is not the one in {_CARD}. Restore it or run `paretolm adapt` again"
        )
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    metrics = {name: _metric(card["name"], name, facts, arrays) for name, facts in card["metrics"].items()}
    return AdaptedDevice(
        card["name"], SearchSpace.from_dict(card["space"]), metrics, card["hardware"], card["command"],
        card["created"], card["versions"],
    )  # fmt: skip


def _metric(device: str, name: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> AdaptedMetric:
    own = {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}
    sources = tuple(TargetKey(*source) for source in facts["sources"])
    blend = Blend(
        Terms(own["widths"], len(sources)), own["coef"], facts["log_source"], own["log_affine"], float(own["floor"])
    )
    report = AdaptationReport(
        tuple(own["architectures"].tolist()), own["measured"], own["sources"],
        loo={key.removeprefix("loo."): value for key, value in own.items() if key.startswith("loo.")},
        scores=facts["leave_one_out"],
        shares=facts["shares"], best_source=TargetKey(*facts["best_source"]),
    )  # fmt: skip
    noise = float("nan") if facts["noise"] is None else float(facts["noise"])
    return AdaptedMetric(
        TargetKey(name, device), facts["unit"], facts["workload"], facts["measured_on"], sources, blend,
        own["residuals"], noise, report,
    )  # fmt: skip


def _name_in(folder: Path) -> str:
    return str(read_json(folder / _CARD).get("name", folder.name))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
