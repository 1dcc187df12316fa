"""A space's surrogate on disk: XGBoost UBJ, numpy arrays, a card with SHA-256 of both; no pickle. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from supernet.artifacts import atomic_folder, read_json, versions, write_json
from supernet.space import SearchSpace
from surrogates.campaign import TargetKey
from surrogates.packing_features import packing_names
from surrogates.space_model import Residual, SpaceModel, Spread, Trend
from surrogates.tree_ensemble import TreeEnsemble

FORMAT = 1
WHAT = "paretolm benchmark"
CARD, ARRAYS = "card.json", "arrays.npz"
_FRONTS = ("fronts.json", "fronts.npz")  # of `surrogates.reference_fronts`: they belong to one model


def save_space_model(folder: str | Path, model: SpaceModel, card: Mapping[str, Any]) -> Path:
    """Write a model to a folder, whole or not at all, and return that. Reference fronts of an older one are dropped.

    Args:
        folder: where.
        model: what.
        card: what is to be said about it: "what" in words, "targets" in the model's order, "anomalies", ...

    Raises:
        ValueError: the card's targets are not the model's.
    """
    told = [TargetKey(entry["metric"], entry["device"]) for entry in card["targets"]]
    if told != list(model.targets):
        raise ValueError(f"the card tells of {len(told)} targets, the model has {len(model.targets)}, or others")
    boosters = [f"residual_{i}.ubj" for i in range(len(model.residuals))]
    with atomic_folder(folder, names={CARD, ARRAYS, *_FRONTS, *boosters}) as new:
        np.savez_compressed(new / ARRAYS, allow_pickle=False, **_arrays(model))
        for name, part in zip(boosters, model.residuals, strict=True):
            (new / name).write_bytes(bytes(part.booster.save_raw("ubj")))
        digests = {name: _sha256(new / name) for name in (ARRAYS, *boosters)}
        own = {"format": FORMAT, "kind": WHAT, "space": model.space.to_dict(), "sha256": digests}
        made = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions()}
        write_json(new / CARD, {**own, **card, **made, "columns": _columns(model)})
    return Path(folder)


def load_space_model(folder: str | Path) -> SpaceModel:
    """Read what `save_space_model` wrote.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: a file is damaged or missing (named), or of another version of paretolm.
    """
    folder = Path(folder)
    if not (folder / CARD).is_file():
        raise FileNotFoundError(f"{folder} holds no benchmark (no {CARD})")
    card = read_json(folder / CARD)
    try:
        if (card["kind"], card["format"]) != (WHAT, FORMAT):
            found = f"{card['kind']!r} of format {card['format']}"
            raise ValueError(f"{folder / CARD} is {found}; expected {WHAT!r} {FORMAT}")
        for name, digest in card["sha256"].items():
            _check(folder / name, digest)
        return _read(folder, card)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / CARD} is damaged or of another version of paretolm ({error!r}): install it again"
        ) from error


def _arrays(model: SpaceModel) -> dict[str, np.ndarray]:
    trend, spread = model.trend, model.spread
    arrays = {
        "trend.coef": trend.coef, "trend.log": trend.log, "trend.floor": trend.floor,
        "spread.levels": spread.levels, "spread.device": spread.device.astype(np.float32),
        "spread.published": spread.published.astype(np.float32), "spread.noise": spread.noise.astype(np.float32),
    }  # fmt: skip
    for i, part in enumerate(model.residuals):
        arrays |= {f"residual_{i}.targets": part.targets, f"residual_{i}.scale": part.scale}
        arrays[f"residual_{i}.table"] = np.array(part.table)
    return arrays


def _columns(model: SpaceModel) -> dict[str, list[str]]:
    """Return the features that coefficients and trees belong to: a guard against another version's."""
    features = model.features
    return {
        "trend": ["1", *features.linear_names, *features.position_names],
        "trees": list(features.tree_names),
        "position_trees": list(features.position_tree_names),
        "packing": list(packing_names(features)),
    }


def _read(folder: Path, card: Mapping[str, Any]) -> SpaceModel:
    with np.load(folder / ARRAYS, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    names = [name for name in card["sha256"] if name.endswith(".ubj")]
    model = SpaceModel(
        SearchSpace.from_dict(card["space"]),
        [TargetKey(entry["metric"], entry["device"]) for entry in card["targets"]],
        trend=Trend(arrays["trend.coef"], arrays["trend.log"], arrays["trend.floor"]),
        residuals=[_residual(folder / name, name.removesuffix(".ubj"), arrays) for name in names],
        spread=Spread(
            arrays["spread.levels"], arrays["spread.device"].astype(float), arrays["spread.published"].astype(float),
            arrays["spread.noise"].astype(float),
        ),
    )  # fmt: skip
    if card["columns"] != _columns(model):
        raise ValueError(f"{folder}: its features are not those of this version of paretolm: install it again")
    return model


def _residual(path: Path, name: str, arrays: Mapping[str, np.ndarray]) -> Residual:
    booster = TreeEnsemble(path.read_bytes())  # imports XGBoost for large batches only
    return Residual(booster, arrays[f"{name}.targets"], arrays[f"{name}.scale"], str(arrays[f"{name}.table"]))


def _check(path: Path, digest: str) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing: install paretolm again, or restore the file")
    if _sha256(path) != digest:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is not the one in {CARD}. Install paretolm again, or restore it"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
