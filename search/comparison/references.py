"""Reference fronts of cases: shipped where they are, else searched for. No torch.

A folder holds `<benchmark>.npz` and `<benchmark>.json`. The card says which fitted benchmark (its digest) the fronts
belong to, and which case and panel the arrays "<i>.front" (k, m), "<i>.ideal" and "<i>.nadir" (m,) and "<i>.genes"
(k, g) uint8 are of. Shipped are the fronts of every width; that of the whole space is what they leave of each other.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from search.comparison.cases import Case, benchmark_of
from search.comparison.records import ALL, CaseReference, width_panel
from search.frozen_fronts import corners, front_of, frozen_front
from search.linear_trade_offs import linear_trade_offs
from supernet.artifacts import atomic_path, read_json, write_json
from surrogates.benchmark import Benchmark
from surrogates.layer_features import LayerFeatures
from surrogates.reference_fronts import ReferenceFront

if TYPE_CHECKING:
    from search.comparison.settings import Settings

DATA = Path(__file__).parent / "data"  # shipped: two files a benchmark
WHAT = "paretolm comparison references"
MOST, MOST_OF_MORE = 600, 1000  # points of a front of 2, and of more objectives
Panels = Mapping[str, ReferenceFront]  # by "n_embd=192", ...


# --- searching --------------------------------------------------------------------------------------------------------


class Effort(NamedTuple):
    """Of a search for a front; see `frozen_front`."""

    generations: int = 20
    children: int = 1000
    sweeps: int = 30


FULL = Effort()
MODEST = Effort(generations=5, children=500, sweeps=1)  # for cases without shipped fronts


def width_front(
    case: Case, benchmark: Benchmark, n_embd: int, *, seed: int = 0, effort: Effort = FULL,
    known: np.ndarray | None = None,
) -> ReferenceFront | None:  # fmt: skip
    """Search for the front of a case among networks of one width, from the trade-offs of linear models on.

    Args:
        case: objectives and budgets; noise does not matter.
        benchmark: what answers.
        n_embd: the width.
        seed: of the search.
        effort: of the search.
        known: genes (n, g) of networks of that width to start from.

    Returns:
        The front; None where no network of alike blocks of this width meets the budgets.
    """
    features, width = LayerFeatures(benchmark.space), benchmark.space.n_embd.index(n_embd)

    def values(genes: np.ndarray) -> np.ndarray:
        return case.scored_values(benchmark, genes)

    ends = features.check(corners(features))
    if not np.isfinite(values(ends[ends[:, 0] == width])).any():
        return None
    rng = np.random.default_rng(seed)
    starts = [linear_trade_offs(lambda genes: case.measure(benchmark, genes)[0], features, rng, width=width)]
    starts += [] if known is None else [known]
    return frozen_front(
        values, features, rng, width=width, known=np.concatenate(starts), **effort._asdict(),
        most=MOST if len(case.targets) == 2 else MOST_OF_MORE,
    )  # fmt: skip


def case_reference(case: Case, widths: Panels) -> CaseReference:
    """Return the reference of a case from the fronts of its widths."""
    genes = np.concatenate([front.genes for front in widths.values()])
    values = np.concatenate([front.front for front in widths.values()])
    return CaseReference(case.name, case.names, case.units, {ALL: front_of(genes, values), **widths})


# --- files ------------------------------------------------------------------------------------------------------------


def save_references(
    folder: Path, benchmark: Benchmark, fronts: Mapping[str, Panels], *, how: Mapping[str, Any]
) -> Path:
    """Write the fronts of the widths of cases (by `clean_name`) of one benchmark; return the card's path.

    Args:
        folder: where.
        benchmark: what they are of; the fronts are refused for any other.
        fronts: of each case, by width.
        how: for the card: command, search, versions.
    """
    name = benchmark.space.name
    places: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for case, panels in fronts.items():
        for panel, front in panels.items():
            parts = {"front": front.front, "ideal": front.ideal, "nadir": front.nadir}
            parts["genes"] = front.genes.astype(np.uint8)
            arrays |= {f"{len(places)}.{part}": array for part, array in parts.items()}
            places.append({"case": case, "panel": panel, "n": len(front.front)})
    with atomic_path(folder / f"{name}.npz") as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    sha256 = hashlib.sha256((folder / f"{name}.npz").read_bytes()).hexdigest()
    card = {"what": WHAT, "benchmark": name, "digest": benchmark.digest, "sha256": sha256, "fronts": places, **how}
    return write_json(folder / f"{name}.json", card)


def load_references(benchmark: Benchmark, folder: Path = DATA) -> dict[str, dict[str, ReferenceFront]]:
    """Read what `save_references` wrote: fronts by case, then by width; none where there is no file.

    Raises:
        ValueError: a damaged file, or fronts of another fitted model of this space; names them.
    """
    name = benchmark.space.name
    path = folder / f"{name}.json"
    if not path.is_file():
        return {}
    card = read_json(path)
    raw = (folder / f"{name}.npz").read_bytes() if (folder / f"{name}.npz").is_file() else b""
    if hashlib.sha256(raw).hexdigest() != card.get("sha256"):
        raise ValueError(
            f"{folder / name}.npz is damaged: its SHA-256 is not the one in {path}. Install paretolm again"
        )
    if card.get("digest") != benchmark.digest:
        raise ValueError(
            f"{path} is stale: its reference fronts belong to another fit of the benchmark {name!r} (digest "
            f"{card.get('digest')}, installed is {benchmark.digest}). Make them again: benchmarks/make_references.py"
        )
    found: dict[str, dict[str, ReferenceFront]] = {}
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        for i, place in enumerate(card["fronts"]):
            front, ideal, nadir, genes = (file[f"{i}.{part}"] for part in ("front", "ideal", "nadir", "genes"))
            found.setdefault(place["case"], {})[place["panel"]] = ReferenceFront(
                front, ideal, nadir, genes.astype(np.int64)
            )
    return found


# --- of a comparison --------------------------------------------------------------------------------------------------


def shipped_references(settings: Settings) -> dict[str, Panels]:
    """Return the shipped fronts of the settings' cases by `clean_name`, of those that have some.

    Raises:
        ValueError: damaged or stale files.
    """
    found: dict[str, Panels] = {}
    for name in dict.fromkeys(case.benchmark for case in settings.cases):
        found |= load_references(benchmark_of(name))
    return {case.clean_name: found[case.clean_name] for case in settings.cases if case.clean_name in found}


def references_of(
    settings: Settings, shipped: Mapping[str, Panels], folder: Path
) -> tuple[dict[str, CaseReference], dict[str, str]]:
    """Return the references of all cases by name, and where each comes from.

    Cases without shipped fronts get those of all that the runs in `folder` found and of a modest search from there.

    Raises:
        ValueError: nothing that was tried meets the budgets of a case.
    """
    widths = dict(shipped)
    for case in settings.cases:
        if case.clean_name not in widths:
            benchmark = benchmark_of(case.benchmark, settings.devices_of(case))
            widths[case.clean_name] = _searched(case, benchmark, folder)
    sources = {case.name: _SHIPPED if case.clean_name in shipped else _SEARCHED for case in settings.cases}
    return {case.name: case_reference(case, widths[case.clean_name]) for case in settings.cases}, sources


_SHIPPED = "shipped"
_SEARCHED = "searched here: all that the runs found, and a modest search from there; another comparison has others"


def _searched(case: Case, benchmark: Benchmark, folder: Path) -> dict[str, ReferenceFront]:
    genes = _found_genes(case, benchmark, folder)
    values = case.scored_values(benchmark, genes)
    widths = {}
    for index, n_embd in enumerate(benchmark.space.n_embd):
        rows = (genes[:, 0] == index) & np.isfinite(values).all(axis=1)
        known = front_of(genes[rows], values[rows]).genes if rows.any() else None
        front = width_front(case, benchmark, n_embd, known=known, effort=MODEST)
        if front is not None:
            widths[width_panel(n_embd)] = front
    if not widths:
        raise ValueError(f"{case.name}: no network that was tried meets the budgets; relax them")
    return widths


def _found_genes(case: Case, benchmark: Benchmark, folder: Path) -> np.ndarray:
    """Return the distinct networks that the runs of a case evaluated."""
    import pyarrow.parquet as pq

    from search.comparison.storage import EVALUATIONS

    table = pq.read_table(folder / EVALUATIONS, columns=["architecture"], filters=[("case", "=", case.name)])
    return np.unique(benchmark.genes(table["architecture"].to_pylist()), axis=0)
