"""The folder of a recovery: what the run is of, and its result once it is finished."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import litgpt
import torch

from pruning.pruned import Pruned
from pruning.recovery_data import Blocks, fingerprint
from pruning.recovery_settings import RecoverySettings
from supernet.artifacts import read_json, write_json
from supernet.checkpoint import load_subnet, save_subnet

RUN, RESULT, NETWORK, CHECKPOINTS = "run.json", "recovered.json", "network", "checkpoints"
_FREE = ("checkpoint_every", "check_batch_size", "wandb_project")  # settings that change nothing of the result


def run_identity(
    pruned: Pruned,
    dense: litgpt.GPT | None,
    train: Blocks,
    held_out: Mapping[str, Blocks],
    settings: RecoverySettings,
) -> dict[str, Any]:
    """Return what two runs must share to be the same, as plain JSON types."""
    plain = {name: value for name, value in asdict(settings).items() if name not in _FREE}
    plain["lora"]["parts"] = list(plain["lora"]["parts"])
    return {
        "settings": plain,
        "network": f"{pruned.arch.id} {weights_fingerprint(pruned.gpt)}",
        "teacher": None if dense is None else weights_fingerprint(dense),
        "train": fingerprint(train),
        "held_out": {name: fingerprint(blocks) for name, blocks in held_out.items()},
    }


def weights_fingerprint(gpt: litgpt.GPT) -> str:
    """Return a hash of all parameters."""
    digest = hashlib.sha256()
    for name, parameter in gpt.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def start_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Note what the folder's run is of.

    Raises:
        ValueError: it holds another run (names what differs).
    """
    if (folder / RUN).is_file():
        _check_same(folder, read_json(folder / RUN), identity)
        return
    write_json(folder / RUN, identity)


def read_finished(folder: Path) -> tuple[litgpt.GPT, dict[str, Any]] | None:
    """Return the network and the result of a finished run; None where it is not finished."""
    if not (folder / RESULT).is_file():
        return None
    gpt, _ = load_subnet(folder / NETWORK)
    return gpt, read_json(folder / RESULT)


def write_finished(folder: Path, pruned: Pruned, result: dict[str, Any]) -> None:
    """Write the network, then the result that says that it is whole."""
    save_subnet(folder / NETWORK, pruned.gpt, pruned.arch, card={"scores": {"held_out_loss": result["after"]}})
    write_json(folder / RESULT, result)


def _check_same(folder: Path, stored: dict[str, Any], mine: dict[str, Any]) -> None:
    def flat(values: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, **{f"settings.{k}": v for k, v in values.get("settings", {}).items()}, "settings": None}

    then, now = flat(stored), flat(mine)
    changed = [f"{name} was {then.get(name)!r}, is {value!r}" for name, value in now.items() if then.get(name) != value]
    if changed:
        raise ValueError(f"{folder} holds another recovery: {'; '.join(changed)}. Give another folder, or delete it.")
