"""Where a benchmark's files are and how they become one model, one card and the reference fronts. No torch."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from supernet.artifacts import read_json
from supernet.space import SearchSpace
from surrogates.benchmark_card import BenchmarkCard, TargetCard, flat_scores
from surrogates.benchmark_model import BenchmarkModel
from surrogates.campaign import TargetKey
from surrogates.reference_fronts import ReferenceFronts

if TYPE_CHECKING:
    from surrogates.adapted import AdaptedDevice
    from surrogates.compiled_model import CompiledModel

DATA = Path(__file__).parent / "data"  # shipped: one folder a space


class BenchmarkFiles(NamedTuple):
    """What a benchmark is made of.

    Attributes:
        space: its search space.
        model: what predicts.
        card: what it was fitted to, and how good it is.
        fronts: frozen trade-offs.
        digest: of the fitted model's files, added devices not included.
    """

    space: SearchSpace
    model: BenchmarkModel
    card: BenchmarkCard
    fronts: ReferenceFronts
    digest: str


def shipped_spaces() -> list[str]:
    """Return the names of the spaces that come with a benchmark."""
    return sorted(card.parent.name for card in DATA.glob("*/card.json"))


def load_benchmark(
    space: str | SearchSpace, *, extra_devices: Sequence[str | Path | AdaptedDevice] = (),
    folder: str | Path | None = None,
) -> BenchmarkFiles:  # fmt: skip
    """Read the files of a benchmark; see `Benchmark`."""
    from surrogates.compiled_model import CompiledModel
    from surrogates.space_store import load_space_model

    name = space if isinstance(space, str) else space.name
    place = Path(folder) if folder is not None else shipped_folder(name)
    model = CompiledModel(load_space_model(place))
    if model.space.name != name or (isinstance(space, SearchSpace) and space != model.space):
        raise ValueError(f"{place} is the benchmark of another space {model.space.name!r}, not of {name!r}")
    card = read_card(place)
    devices = [*(shipped_devices(name) if folder is None else ()), *extra_devices]
    full, card = _with_devices(model, card, devices) if devices else (BenchmarkModel(model), card)
    return BenchmarkFiles(model.space, full, card, ReferenceFronts.load(place), model_digest(place))


def model_digest(folder: Path) -> str:
    """Return what tells the fitted models of a folder apart: 16 hexadecimal digits over their files' SHA-256."""
    files = read_json(folder / "card.json").get("sha256", {})
    return hashlib.sha256("\n".join(f"{name} {files[name]}" for name in sorted(files)).encode()).hexdigest()[:16]


def _with_devices(
    model: CompiledModel, card: BenchmarkCard, devices: Sequence[str | Path | AdaptedDevice]
) -> tuple[BenchmarkModel, BenchmarkCard]:
    from surrogates.added_devices import added_targets  # scikit-learn, a second: only for those who add devices

    added = [pair for device in devices for pair in added_targets(device, model)]
    cards = [*card.targets, *(known for _, known in added)]
    full = BenchmarkModel(model, [target for target, _ in added])
    return full, BenchmarkCard(card.space, card.what, cards, card.anomalies)


def shipped_devices(space: str) -> list[Path]:
    """Return the folders of the devices that were measured by paretolm and come with the benchmark of a space."""
    return sorted(card.parent for card in (DATA / "devices" / space).glob("*/card.json"))


def shipped_folder(name: str) -> Path:
    """Return the folder of a shipped benchmark.

    Raises:
        ValueError: there is none of that name; near matches and all names are given.
    """
    names = shipped_spaces()
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.3)
        hint = f"; near matches: {', '.join(near)}" if near else ""
        raise ValueError(f"no benchmark of a space {name!r}{hint}; benchmarks: {', '.join(names) or 'none installed'}")
    return DATA / name


def read_card(folder: Path) -> BenchmarkCard:
    """Read `card.json` of a space's model.

    Raises:
        ValueError: a damaged card; names it.
    """
    path = folder / "card.json"
    card = read_json(path)
    try:
        targets = [_target_card(entry) for entry in card["targets"]]
        return BenchmarkCard(card["space"]["name"], card["what"], targets, tuple(card.get("anomalies", ())))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged or of another version of paretolm ({error!r}): install it again"
        ) from error


def _target_card(entry: Mapping[str, Any]) -> TargetCard:
    return TargetCard(
        TargetKey(entry["metric"], entry["device"]),
        workload=entry["workload"],
        protocol=entry["protocol"],
        n_train=entry["n_train"],
        scores=flat_scores(entry["test"]),
        winner=entry["winner"],
        noise=entry["noise"],
    )
