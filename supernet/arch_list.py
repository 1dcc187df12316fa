"""Architectures as a command line names them: ids, names, a number of random ones, or a file. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from supernet.arch_files import read_architecture_file
from supernet.architecture import Architecture, parse_architecture
from supernet.space import SearchSpace

NAMES = ("largest", "smallest")


def read_architectures(
    what: str | int | Path | Sequence[str | int], space: SearchSpace | None, *, seed: int = 0
) -> list[Architecture]:
    """Return the architectures that `what` names, each once, in order.

    Args:
        what: one of these, several with commas between them, or a list of them: "largest", "smallest"; a number (so
            many random ones); an architecture id; a file, see `read_architecture_file`.
        space: where names and random ones come from, and what all must lie in; None allows ids and files only.
        seed: of the random ones.

    Raises:
        ValueError: nothing is named, something is not an architecture, lies outside the space, or needs a space.
        FileNotFoundError: there is no such file.
    """
    rng, found = np.random.default_rng(seed), list[Architecture]()
    for item in _items(what):
        found += _named(str(item).strip(), space, rng, found)
    if not found:
        raise ValueError("no architecture is named: give largest, smallest, a number, ids, or a file")
    if space is not None:
        for arch in found:
            space.validate(arch)
    return list(dict.fromkeys(found))


def _items(what: str | int | Path | Sequence[str | int]) -> list[str | int | Path]:
    if isinstance(what, str):
        return [what] if what.lstrip().startswith("{") else list(what.split(","))
    return [what] if isinstance(what, (int, Path)) else list(what)


def _named(
    item: str, space: SearchSpace | None, rng: np.random.Generator, found: Sequence[Architecture]
) -> list[Architecture]:
    if item in NAMES or item.isdigit():
        if space is None:
            raise ValueError(
                f"{item!r} needs a search space, and none is stored with this supernet: give ids or a file"
            )
        if item in NAMES:
            return [space.largest() if item == "largest" else space.smallest()]
        return space.sample_unique(int(item), rng, exclude=[a for a in found if a in space])
    path = Path(item).expanduser()
    if path.is_file():
        return read_architecture_file(path)
    try:
        return [parse_architecture(item)]
    except ValueError as error:
        if "/" in item or path.suffix in (".json", ".jsonl", ".txt", ".csv", ".parquet"):
            raise FileNotFoundError(f"no file {item} with architectures") from error
        raise ValueError(f"{error} Or give {', '.join(NAMES)}, a number of random ones, or a file.") from error
