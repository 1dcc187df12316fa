"""Overlays: corrected output projections over the entangled weights, one for each (layer, part, level).

A pruned network is `extract(supernet, arch)` with the overlays of its levels. They are computed when first asked for
and kept, in memory or as safetensors files in a folder, so that a search pays for each level once and a killed run
goes on where it stopped.

Shapes: C n_embd, s inputs that stay at a level.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import litgpt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from pruning.levels import Level, check_level, is_whole, kept_inputs, levels_of, nested_order
from pruning.moments import Moments, check_moments
from pruning.pruned import Pruned, add_biases, put_projection
from pruning.reconstruction import PrefixSolver, Solution
from pruning.structure import Part, check_uniform, output_projection
from supernet.architecture import Architecture
from supernet.artifacts import atomic_path, read_json, write_json
from supernet.extract import extract
from supernet.model import Supernet

Key = tuple[int, Part, Level]
_CARD = "overlays.json"


@dataclass(frozen=True, slots=True)
class OverlaySettings:
    """How overlays are made.

    Attributes:
        reconstruct: least squares; False keeps the plain mask.
        intercept: a bias that makes up for the mean of what goes (with reconstruct=False: FLAP's compensation).
        damping: of the least squares, relative to the second moments' diagonal; None goes by the number of tokens
            (`reconstruction.default_damping`).
    """

    reconstruct: bool = True
    intercept: bool = False
    damping: float | None = None


class OverlayDatabase:
    """The overlays of one importance-ordered supernet, computed when first asked for.

    Args:
        supernet: the network, in its final order.
        moments: of its projections' inputs, in the same order.
        settings: how overlays are made.
        folder: where they are kept; None keeps them in memory.

    Raises:
        ValueError: the moments are of another network, or the folder holds overlays of another network, of other
            moments or settings.
    """

    def __init__(
        self,
        supernet: Supernet,
        moments: Moments,
        *,
        settings: OverlaySettings | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.supernet, self.moments, self.settings = supernet, moments, settings or OverlaySettings()
        self.folder = None if folder is None else Path(folder)
        sizes = check_uniform(supernet)
        check_moments(moments, sizes)
        self._n_layer = sizes.n_layer
        self._known: dict[Key, Solution] = {}
        self._solver: tuple[object, PrefixSolver | None] = (None, None)
        if self.folder is not None:
            self._check_folder(self.folder)

    def overlay(self, layer: int, part: Part, level: Level) -> Solution:
        """Return the corrected projection of a level, (C, s), and its errors.

        Raises:
            ValueError: the supernet does not have this level.
        """
        level = check_level(self.supernet.config, part, tuple(level))
        key = (layer, part, level)
        if key not in self._known:
            solution = self._read(key)
            if solution is None:
                solution = self._solve(key)
                self._write(key, solution)
            if self.folder is not None:
                return solution  # the file is the store: a large network's overlays do not fit in memory
            self._known[key] = solution
        return self._known[key]

    def compute(self, levels: Mapping[Part, Iterable[Level]], *, progress: bool = False) -> dict[Key, float]:
        """Compute these levels of every layer, and return the relative error of each."""
        wanted = [
            (layer, part, tuple(level))
            for layer in range(self._n_layer)
            for part, some in levels.items()
            for level in sorted(some, key=lambda level: (level[0] // level[-1], level))
        ]
        bar = tqdm(wanted, unit="level", desc="least squares", disable=not progress)
        return {key: self.overlay(*key).error for key in bar}

    def apply(self, gpt: litgpt.GPT, arch: Architecture) -> Pruned:
        """Put the overlays of `arch` into a network that `extract(supernet, arch)` gave; it is changed in place.

        Where intercepts are used, all linear layers that litgpt's `Config.bias` governs get biases, zero where there
        was none; the returned architecture says so.
        """
        chosen = {
            (position, part): self.overlay(layer, part, level)
            for position, layer, part, level in levels_of(arch)
            if not is_whole(self.supernet.config, part, level)
        }
        if any(solution.intercept is not None for solution in chosen.values()):
            arch = add_biases(gpt, arch)
        for (position, part), solution in chosen.items():
            put_projection(gpt.transformer.h[position], part, solution)
        return Pruned(gpt, arch)

    def extract(self, arch: Architecture) -> Pruned:
        """Return the pruned network: the sub-network with its overlays."""
        return self.apply(extract(self.supernet, arch), arch)

    # --- solving ---------------------------------------------------------------------------------------------------

    def _solve(self, key: Key) -> Solution:
        layer, part, level = key
        order = nested_order(self.supernet.config, part, level)
        return self._solver_of(layer, part, order).solve(len(kept_inputs(self.supernet.config, part, level)))

    def _solver_of(self, layer: int, part: Part, order: list[int]) -> PrefixSolver:
        """Return the solver of one projection; the last one is kept, since levels are asked for one after another."""
        name = (layer, part, tuple(order))
        if self._solver[0] != name or self._solver[1] is None:
            projection = output_projection(self.supernet.transformer.h[layer], part)
            assert projection is not None
            index = torch.tensor(order, device=projection.weight.device)
            solver = PrefixSolver(
                projection.weight[:, index],
                self.moments.of(layer, part).reordered(index),
                damping=self.settings.damping,
                reconstruct=self.settings.reconstruct,
                intercept=self.settings.intercept,
                where=f"layer {layer}, {part}",
            )
            self._solver = (name, solver)
        return self._solver[1]  # type: ignore[return-value]

    # --- files -----------------------------------------------------------------------------------------------------

    def _path(self, key: Key) -> Path | None:
        layer, part, level = key
        return self.folder and self.folder / f"{layer:03d}-{part}-{'x'.join(map(str, level))}.safetensors"

    def _read(self, key: Key) -> Solution | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        projection = output_projection(self.supernet.transformer.h[key[0]], key[1])
        assert projection is not None
        place = projection.weight.device
        try:
            with safe_open(path, framework="pt", device=str(place)) as file:
                errors = json.loads((file.metadata() or {})["errors"])
                names = set(file.keys())
                intercept = file.get_tensor("intercept") if "intercept" in names else None
                return Solution(file.get_tensor("weight"), intercept, *errors)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): delete it and run again") from error

    def _write(self, key: Key, solution: Solution) -> None:
        path = self._path(key)
        if path is None:
            return
        tensors = {"weight": solution.weight.cpu().contiguous()}
        if solution.intercept is not None:
            tensors["intercept"] = solution.intercept.cpu().contiguous()
        errors = json.dumps([solution.error, solution.mask_error])
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"errors": errors, "format": "pt"})

    def _check_folder(self, folder: Path) -> None:
        mine = {"settings": asdict(self.settings), "fingerprint": self._fingerprint()}
        if (folder / _CARD).is_file():
            stored = read_json(folder / _CARD)
            if stored != mine:
                raise ValueError(
                    f"{folder} holds overlays of another network, other calibration text or other settings "
                    f"({stored.get('settings')}): give another folder, or delete it"
                )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise ValueError(f"{folder} is not empty and holds no overlays ({_CARD}): give another folder")
            write_json(folder / _CARD, mine)

    def _fingerprint(self) -> str:
        """Return a hash of the projections and of their inputs' moments."""
        digest = hashlib.sha256()
        for (layer, part), inputs in sorted(self.moments.inputs.items()):
            projection = output_projection(self.supernet.transformer.h[layer], part)
            assert projection is not None
            for tensor in (projection.weight, inputs.mean, inputs.second.diagonal()):
                digest.update(_bytes(tensor))
        return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
