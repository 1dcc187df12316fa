"""The folder of a pruning run: which question it answers, its texts and its moments."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pruning.calibration import check_blocks
from pruning.collection import collect_moments
from pruning.fingerprints import fingerprint
from pruning.first_tokens import with_first_tokens
from pruning.gradients import collect_gradients
from pruning.importance import CRITERIA
from pruning.moments import load_moments, save_moments
from pruning.prepared import Prepared
from pruning.settings import PruneSettings
from pruning.structure import check_uniform
from pruning.texts import CalibrationSettings, Texts, draw_texts
from supernet.artifacts import atomic_path, read_json, write_json
from supernet.checkpoint import LoadedSupernet

_SETTINGS = ("criterion", "intercept", "damping", "embd", "device", "threads", "precision")  # they change what is kept
_CARD, _TEXTS, _MOMENTS = "question.json", "texts.safetensors", "moments.safetensors"


class RunState:
    """The folder of a run.

    Args:
        folder: made when needed.
        loaded: the network.
        calibration: its texts.
        settings: of the run, resolved; those that change what is kept (criterion, ...) belong to the question.

    Raises:
        ValueError: the folder holds a run of another network, text or settings: names what differs.
    """

    def __init__(
        self, folder: Path, loaded: LoadedSupernet, calibration: CalibrationSettings, settings: PruneSettings
    ) -> None:
        self.folder = folder
        mine = _question(loaded, calibration, settings)
        if (folder / _CARD).is_file():
            stored = read_json(folder / _CARD)
            differing = sorted(name for name in mine.keys() | stored.keys() if mine.get(name) != stored.get(name))
            if differing:
                shown = ", ".join(f"{n}: {stored.get(n)!r} there, {mine.get(n)!r} now" for n in differing)
                raise ValueError(f"{folder} holds a run of something else ({shown}): give another run_dir")
        else:
            write_json(folder / _CARD, mine)

    def texts(self) -> Texts | None:
        """Return the texts of the run, if they were drawn."""
        path = self.folder / _TEXTS
        if not path.is_file():
            return None
        found = load_file(path)
        name = read_json(self.folder / "held_out.json")["name"]
        return Texts(found["calibration"], found["search"], found["held_out"], name)

    def keep_texts(self, texts: Texts) -> None:
        """Keep the texts."""
        write_json(self.folder / "held_out.json", {"name": texts.held_out_name})
        tensors = {name: getattr(texts, name).contiguous() for name in ("calibration", "search", "held_out")}
        with atomic_path(self.folder / _TEXTS) as temporary:
            save_file(tensors, temporary)

    @property
    def moments_path(self) -> Path:
        """Where moments are kept."""
        return self.folder / _MOMENTS


def prepared_network(
    loaded: LoadedSupernet,
    calibration: CalibrationSettings,
    state: RunState,
    settings: PruneSettings,
    *,
    progress: bool = False,
) -> tuple[Texts, Prepared]:
    """Return the texts and what calibration tells about the network, from the folder where they are there."""
    supernet = loaded.supernet.eval().to(settings.device)
    check_uniform(supernet)
    texts = state.texts()
    if texts is None:
        texts = draw_texts(loaded, calibration, progress=progress)
        check_blocks(texts.calibration[:, :-1], supernet)
        state.keep_texts(texts)
    if state.moments_path.is_file():
        moments = load_moments(state.moments_path)
    else:
        blocks = texts.calibration[:, :-1]
        plain = collect_moments(supernet, blocks, precision=settings.precision, progress=progress)
        moments = with_first_tokens(supernet, plain, blocks)
        save_moments(state.moments_path, moments)
    gradients = None
    if "gradients" in CRITERIA[settings.criterion].needs:
        gradients = collect_gradients(
            supernet, texts.calibration[:, :-1], precision=settings.precision, progress=progress
        )
    return texts, Prepared(supernet, texts.calibration[:, :-1], moments, gradients, settings.seed)


def _question(loaded: LoadedSupernet, calibration: CalibrationSettings, settings: PruneSettings) -> dict[str, Any]:
    values = asdict(calibration) | {name: getattr(settings, name) for name in _SETTINGS}
    values = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    values["network"] = fingerprint(loaded.supernet, None, torch.zeros(1, 1, dtype=torch.long))
    del values["cache_dir"]
    return json.loads(json.dumps(values, default=str))
