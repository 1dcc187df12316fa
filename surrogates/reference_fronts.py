"""Frozen reference fronts and bounds of a space: what search results are normalised and compared by. No torch.

A folder holds `fronts.npz` and `fronts.json` (what they are, how they were made, SHA-256). Objectives are named
"perplexity" or "latency_ms@a100"; all values are minimised, so those of metrics that are better when higher have the
other sign. Arrays of `fronts.npz`:

* "<objective>.extremes" (2,): smallest and largest value over the space.
* "<objective>,<objective>.front" (k, 2), its points ascending in the first objective; ".ideal" (2,), ".nadir" (2,);
  ".genes" (k, g) int64: the architectures of the front.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supernet.artifacts import atomic_path, read_json, write_json
from surrogates.campaign import TargetKey

ARRAYS, CARD = "fronts.npz", "fronts.json"
WHAT = "paretolm reference fronts"


@dataclass(frozen=True)
class ReferenceFront:
    """The best known trade-off of two objectives, minimised.

    Attributes:
        front: (k, 2), none dominates another.
        ideal: (2,) the smallest value of each objective.
        nadir: (2,) the largest value of each objective on the front.
        genes: (k, g) of the architectures.
    """

    front: np.ndarray
    ideal: np.ndarray
    nadir: np.ndarray
    genes: np.ndarray

    def swapped(self) -> ReferenceFront:
        """Return it with the objectives the other way round, its points ascending in the new first one."""
        return ReferenceFront(self.front[::-1, ::-1], self.ideal[::-1], self.nadir[::-1], self.genes[::-1])


@dataclass(frozen=True)
class ReferenceFronts:
    """Fronts and extremes of a space.

    Attributes:
        fronts: by the labels of two objectives.
        extremes: smallest and largest value over the space by the label of an objective, minimised.
    """

    fronts: Mapping[tuple[str, str], ReferenceFront]
    extremes: Mapping[str, tuple[float, float]]

    def front(self, labels: Sequence[str]) -> ReferenceFront | None:
        """Return the front of two objectives in this order, None where none is shipped."""
        if len(labels) != 2:
            return None
        a, b = labels
        if (b, a) in self.fronts:
            return self.fronts[b, a].swapped()
        return self.fronts.get((a, b))

    @classmethod
    def load(cls, folder: str | Path) -> ReferenceFronts:
        """Read what `save` wrote; empty where the folder holds none.

        Raises:
            ValueError: a damaged file; names it.
        """
        folder = Path(folder)
        if not (folder / CARD).is_file():
            return cls({}, {})
        card = read_json(folder / CARD)
        raw = (folder / ARRAYS).read_bytes() if (folder / ARRAYS).is_file() else b""
        if hashlib.sha256(raw).hexdigest() != card.get("sha256"):
            raise ValueError(
                f"{folder / ARRAYS} is damaged: its SHA-256 is not the one in {CARD}. Install paretolm again"
            )
        with np.load(io.BytesIO(raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        pairs = [name.removesuffix(".front") for name in arrays if name.endswith(".front")]
        fronts = {
            (pair.split(",")[0], pair.split(",")[1]): ReferenceFront(
                *(arrays[f"{pair}.{part}"] for part in ("front", "ideal", "nadir", "genes"))
            )
            for pair in pairs
        }
        ends = {k.removesuffix(".extremes"): v.tolist() for k, v in arrays.items() if k.endswith(".extremes")}
        return cls(fronts, {name: (low, high) for name, (low, high) in ends.items()})

    def save(self, folder: str | Path, *, how: Mapping[str, Any]) -> Path:
        """Write both files and return the folder; `how` goes into the card: command, data, search, versions."""
        folder = Path(folder)
        arrays: dict[str, Any] = {f"{name}.extremes": np.array(ends, float) for name, ends in self.extremes.items()}
        for (a, b), known in self.fronts.items():
            arrays |= {f"{a},{b}.{part}": getattr(known, part) for part in ("front", "ideal", "nadir", "genes")}
        with atomic_path(folder / ARRAYS) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        digest = hashlib.sha256((folder / ARRAYS).read_bytes()).hexdigest()
        write_json(folder / CARD, {"what": WHAT, "sha256": digest, **how})
        return folder


def objective_label(target: TargetKey) -> str:
    """Return what an objective is called in the files.

    Example:
        >>> objective_label(TargetKey("latency_ms", "a100")), objective_label(TargetKey("perplexity"))
        ('latency_ms@a100', 'perplexity')
    """
    return target.metric if target.device == TargetKey("").device else f"{target.metric}@{target.device}"
