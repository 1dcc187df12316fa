"""The methods of a pruning study as families of networks, and ours, from the same texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from pruning_study import Study

from pruning.baselines import BASELINES, baseline, depth_family
from pruning.cost_limits import CostFunction, CostLimit, parameter_ratio
from pruning.depth_search import iterative_drop
from pruning.device_costs import known_lattice
from pruning.families import Family, given_family
from pruning.final import Final, finish
from pruning.lattice import Lattice
from pruning.matching import Match, match_latency, match_params
from pruning.ordered import put_in_order
from pruning.overlay import OverlayDatabase
from pruning.programme import build_problem, trade_off
from pruning.pruned import Pruned
from pruning.quality_table import QualityTable, measure_quality
from pruning.solve import PruneResult, prune_to_budget
from pruning.true_loss import CalibrationLoss
from supernet.architecture import Architecture
from supernet.checkpoint import load_subnet, save_subnet

OURS = "ours"
UNIFORM = "uniform"  # not a peer: all of ours but the choice of widths by layer
_MOST_PLANS = 128  # of a Pareto curve that are kept as a family
_TRUNK_TOLERANCE = 0.002  # biases that a method adds are no reason for another width
_LEAST_DEPTH = 0.55  # share of trunk parameters at which dropping blocks ends


@dataclass(frozen=True)
class Goal:
    """What networks are made equal in.

    Attributes:
        name: of the goal.
        metric: "latency" (measured, of `workload`) or "trunk" (parameters of all but embedding and head).
        target: relative to the dense network.
        workload: of the latency.
    """

    name: str
    metric: str
    target: float
    workload: str = "prefill"

    @property
    def budget(self) -> dict[str, str]:
        """The budget as `prune_to_budget` takes it."""
        name = "latency" if self.metric == "latency" else "decoder_params"
        return {name: f"{100 * (self.target - 1):+.6g}%"}


ONE_SHOT = (
    Goal("prefill -25%", "latency", 0.75),
    Goal("trunk parameters -25%", "trunk", 0.75),
    Goal("trunk parameters -12.5%", "trunk", 0.875),
)
CONTRACT = tuple(
    Goal(f"{workload} -{cut}%", "latency", 1 - cut / 100, workload)
    for workload in ("prefill", "decode")
    for cut in (15, 25, 40)
)


def families(study: Study, draw: int) -> Mapping[str, Callable[[], Family]]:
    """Return how each baseline's family is made."""
    found: dict[str, Callable[[], Family]] = {
        name: lambda name=name: baseline(name, study.prepared(draw)) for name in BASELINES
    }
    found["iterative-drop"] = partial(iterative_drop_family, study, draw)
    found["parameter-choice"] = partial(parameter_choice_family, study, draw)
    found[UNIFORM] = partial(uniform_family, study, draw)
    return found


@dataclass(frozen=True, eq=False)
class Evidence:
    """What choices by measured damage look at: levels, overlays in the order of OBS, the quality table."""

    lattice: Lattice
    database: OverlayDatabase
    quality: QualityTable


def evidence(study: Study, draw: int) -> Evidence:
    """Return the evidence of a draw: that of `prune_to_budget`, in the same files, so nothing is computed twice."""
    ordered, folder = put_in_order(study.our_evidence(draw)), study.run_folder(draw, "prefill")
    lattice = known_lattice(folder / "device") or Lattice.coarse(study.config)
    database = OverlayDatabase(ordered.supernet, ordered.moments, folder=folder / "overlays")
    quality = measure_quality(
        database, study.texts(draw).for_table, lattice, precision=study.search_precision,
        path=folder / "quality.jsonl", progress=study.progress,
    )  # fmt: skip
    return Evidence(lattice, database, quality)


def iterative_drop_family(study: Study, draw: int) -> Family:
    """Return networks without the blocks whose loss hurts least, scored anew after each (SLEB, Song et al. 2024)."""
    removal = study.record(f"removal/draw-{draw}", lambda: _removal(study, draw))
    return depth_family(study.prepared(draw), "iterative-drop", removal)


def _removal(study: Study, draw: int) -> list[int]:
    known = evidence(study, draw)
    path = study.run_folder(draw, "prefill") / "losses.jsonl"
    loss = CalibrationLoss(known.database, study.texts(draw).for_ranking, precision=study.search_precision, path=path)
    archs = iterative_drop(
        loss, study.whole, known.quality, [CostLimit("trunk parameters", _trunk(study), _LEAST_DEPTH)],
        progress=study.progress,
    )  # fmt: skip
    return [(set(before.layers) - set(after.layers)).pop() for before, after in pairwise(archs)]


def parameter_choice_family(study: Study, draw: int) -> Family:
    """Return the best networks for their parameters, whatever their latency: a programme over the quality table."""
    known = evidence(study, draw)
    plans = trade_off(build_problem(known.quality, known.lattice, study.whole, [_trunk(study)]))
    archs = [plan.arch for plan in plans[:: max(1, len(plans) // _MOST_PLANS)]]
    return given_family("parameter-choice", [*archs, study.whole], study.config, known.database.extract)


def uniform_family(study: Study, draw: int) -> Family:
    """Return obs-ls's uniform widths with all that ours does to weights: ours differs from it by the choice alone."""
    shapes = baseline("obs-ls", study.prepared(draw))
    make = _maker(study, draw)
    return replace(shapes, name=UNIFORM, make=lambda size: make(shapes.arch(size)).pruned)


def _trunk(study: Study) -> CostFunction:
    tied = study.loaded.supernet.tie_embeddings
    return parameter_ratio(study.config, study.whole, tied=tied, decoder=True)


def match(study: Study, family: Family, goal: Goal, target: float) -> Match:
    """Return the network of a family that is equal to `target` in what the goal says."""
    if goal.metric == "latency":
        return match_latency(family, target, study.ratio(goal.workload, target=target))
    return match_params(family, target, study.config, tolerance=_TRUNK_TOLERANCE)


# --- ours -----------------------------------------------------------------------------------------------------------


def slug(goal: Goal) -> str:
    """Return a goal's name as a file's."""
    return goal.name.replace(" ", "-").replace("%", "")


def ours_folder(study: Study, goal: Goal, draw: int) -> Path:
    """Return where our network for a goal is kept."""
    return study.folder / "networks" / f"draw-{draw}" / slug(goal)


def ours(study: Study, goal: Goal, draw: int) -> dict[str, Any]:
    """Return what `prune_to_budget` says about our network for a goal, which is made and saved if it is not yet."""
    return study.record(f"ours/draw-{draw}/{slug(goal)}", partial(_prune, study, goal, draw))


def our_network(study: Study, goal: Goal, draw: int) -> Pruned:
    """Return our network for a goal."""
    ours(study, goal, draw)
    return Pruned(*load_subnet(ours_folder(study, goal, draw)))


def remake(study: Study, goal: Goal, draw: int, arch: Architecture) -> Pruned:
    """Make and save our network for a goal with an architecture that an earlier search found: its weights anew."""
    final = _maker(study, draw)(arch)
    save_subnet(ours_folder(study, goal, draw), final.pruned.gpt, final.pruned.arch)
    study.record(
        f"ours/draw-{draw}/{slug(goal)}", lambda: {"goal": goal.name, "arch": arch.id, "way": final.way, "remade": True}
    )
    return final.pruned


def _maker(study: Study, draw: int) -> Callable[[Architecture], Final]:
    """Return what makes networks of architectures with all that ours does to weights, kept in the draw's folder."""
    prepared, folder = study.our_evidence(draw), study.run_folder(draw, "prefill")
    ordered = put_in_order(prepared)
    database = OverlayDatabase(ordered.supernet, ordered.moments, folder=folder / "overlays")
    settings = study.settings.ours.resolved(prepared.supernet)
    return partial(
        finish, database, texts=study.texts(draw), dense=ordered.supernet, folder=folder / "networks",
        distillation=settings.distillation, precision=settings.precision, progress=study.progress,
    )  # fmt: skip


def prune(study: Study, goal: Goal, draw: int) -> PruneResult:
    """Prune to a goal; what a draw's folder keeps is not computed again."""
    study.our_evidence(draw)  # `prune_to_budget` finds it in the folder
    return prune_to_budget(
        study.loaded, goal.budget, study.settings.texts(draw), workload=study.settings.workloads[goal.workload],
        settings=study.settings.ours, folder=study.run_folder(draw, goal.workload), progress=study.progress,
    )  # fmt: skip


def _prune(study: Study, goal: Goal, draw: int) -> dict[str, Any]:
    found = prune(study, goal, draw)
    save_subnet(ours_folder(study, goal, draw), found.final.pruned.gpt, found.final.pruned.arch)
    return said(goal, found)


def said(goal: Goal, found: PruneResult) -> dict[str, Any]:
    """Return what a result says of itself, in plain JSON types."""
    before, after = found.final.before, found.final.after
    return {
        "goal": goal.name, "arch": found.final.pruned.arch.id, "asked": str(found.budget), "met": found.met,
        "used": found.used, "predicted": found.predicted,
        "measured": None if found.measured is None else found.measured.to_dict(),
        "way": found.final.way, "notes": list(found.notes), "n_tried": len(found.tried),
        "mape": None if found.costs.model is None else found.costs.model.mape,
        "perplexity": [None if one is None else one.perplexity for one in (before, after)],
    }  # fmt: skip
