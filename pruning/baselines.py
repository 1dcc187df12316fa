"""The methods of peers in one harness: each gives a `Family` of networks from the same `Prepared` evidence.

What uniform width methods cut is in `families.width_ladders`: the same for all of them. Reconstruction is what the
method itself has: none, FLAP's bias compensation, or least squares from the dense network's moments.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from pruning.depth import block_influence, without_blocks
from pruning.families import Family, Size, uniform_arch, width_ladders
from pruning.importance import importance
from pruning.overlay import OverlayDatabase, OverlaySettings
from pruning.prepared import Prepared
from pruning.pruned import Pruned
from pruning.reorder import order_by, reorder, reorder_moments
from pruning.scores import Importance
from supernet.architecture import Architecture
from supernet.extract import extract

_MASK = OverlaySettings(reconstruct=False)
_COMPENSATED = OverlaySettings(reconstruct=False, intercept=True)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A peer's method.

    Attributes:
        build: evidence -> family.
        source: where it is from.
    """

    build: Callable[[Prepared], Family]
    source: str


def baseline(name: str, prepared: Prepared) -> Family:
    """Return the family of a baseline by its name in `BASELINES`.

    Raises:
        KeyError: an unknown name; the message lists them and near matches.
        ValueError: evidence that it needs is missing.
    """
    if name not in BASELINES:
        near = difflib.get_close_matches(name, BASELINES, n=3, cutoff=0.4)
        raise KeyError(f"no baseline {name!r}; near matches: {near or 'none'}; all: {', '.join(BASELINES)}")
    return BASELINES[name].build(prepared)


# --- width ----------------------------------------------------------------------------------------------------------


def width_family(
    prepared: Prepared, name: str, criterion: str, settings: OverlaySettings = _MASK, *, step: int | None = None
) -> Family:
    """Return networks whose blocks are all as wide, the most important parts kept by a criterion.

    Args:
        prepared: the evidence.
        name: of the family.
        criterion: a name in `importance.CRITERIA`.
        settings: how the output projections are corrected, from the dense network's moments (not sequentially).
        step: as in `width_ladders`.
    """
    database, _ = _ordered(prepared, criterion, settings)

    def arch_of(size: Size) -> Architecture:
        return uniform_arch(prepared.whole, prepared.sizes, size)

    return _width(name, prepared, database, arch_of, step)


def flap_global_family(prepared: Prepared, *, step: int | None = None) -> Family:
    """Return FLAP's global allocation (AL-AM) for MLPs, with its bias compensation.

    Scores are standardised in every layer, and one threshold for the whole network says which neurons stay, so layers
    differ in width (at least one neuron stays). A size is (neurons a layer on average, groups of every layer).
    """
    database, scores = _ordered(prepared, "flap", _COMPENSATED)
    F = prepared.sizes.intermediate_size
    ranked = scores.neurons.flatten().argsort(descending=True, stable=True) // F  # the layer of each neuron, best first

    def arch_of(size: Size) -> Architecture:
        n_layer = prepared.sizes.n_layer
        kept = torch.bincount(ranked[: size[0] * n_layer], minlength=n_layer).clamp(min=1)
        return replace(uniform_arch(prepared.whole, prepared.sizes, size), intermediate_size=tuple(kept.tolist()))

    return _width("flap-global", prepared, database, arch_of, step)


def _ordered(prepared: Prepared, criterion: str, settings: OverlaySettings) -> tuple[OverlayDatabase, Importance]:
    """Return the overlays of the network in the criterion's order, and the scores in the old order."""
    scores = importance(
        criterion, prepared.supernet, moments=prepared.moments, gradients=prepared.gradients, seed=prepared.seed
    )
    order = order_by(scores)
    moments = reorder_moments(prepared.moments, order, prepared.sizes)
    return OverlayDatabase(reorder(prepared.supernet, order), moments, settings=settings), scores


def _width(
    name: str, prepared: Prepared, database: OverlayDatabase, arch_of: Callable[[Size], Architecture], step: int | None
) -> Family:
    settings, whole = database.settings, prepared.whole

    def with_bias(size: Size) -> Architecture:
        arch = arch_of(size)
        return replace(arch, bias=True) if settings.intercept and arch != whole else arch

    def make(size: Size) -> Pruned:
        arch = arch_of(size)
        if not settings.reconstruct and not settings.intercept:
            return Pruned(extract(database.supernet, arch), arch)
        return database.extract(arch)

    return Family(name, width_ladders(prepared.sizes, step=step), with_bias, make)


# --- depth ----------------------------------------------------------------------------------------------------------


def depth_family(prepared: Prepared, name: str, removal: Sequence[int]) -> Family:
    """Return networks without the first k blocks of `removal`, for every k that leaves a block.

    Args:
        prepared: the evidence.
        name: of the family.
        removal: blocks in the order in which they go; blocks that are not named stay in all networks.

    Raises:
        ValueError: a block that is not there, or is named twice.
    """
    n_layer = prepared.sizes.n_layer
    if len(set(removal)) != len(removal) or not set(removal) <= set(range(n_layer)):
        raise ValueError(f"removal = {list(removal)}: name blocks 0 to {n_layer - 1} once each")
    most = min(len(removal), n_layer - 1)

    def arch_of(size: Size) -> Architecture:
        return without_blocks(prepared.whole, list(removal[: n_layer - size[0]]))

    def make(size: Size) -> Pruned:
        arch = arch_of(size)
        return Pruned(extract(prepared.supernet, arch), arch)

    return Family(name, (tuple((n,) for n in range(n_layer - most, n_layer + 1)),), arch_of, make)


def shortgpt_family(prepared: Prepared) -> Family:
    """Return ShortGPT's networks: whole blocks go, the lowest Block Influence first, scored once."""
    return depth_family(prepared, "shortgpt", block_influence(prepared.moments).argsort(stable=True).tolist())


BASELINES: Mapping[str, Baseline] = {
    "random": Baseline(partial(width_family, name="random", criterion="random"), "baseline"),
    "magnitude": Baseline(partial(width_family, name="magnitude", criterion="magnitude"), "Han et al. 2015"),
    "minitron": Baseline(
        partial(width_family, name="minitron", criterion="minitron"), "Muralidharan et al. 2024, arXiv 2407.14679"
    ),
    "wanda-sp": Baseline(
        partial(width_family, name="wanda-sp", criterion="wanda"), "Sun et al. 2023 as structured by An et al. 2023"
    ),
    "flap": Baseline(
        partial(width_family, name="flap", criterion="flap", settings=_COMPENSATED), "An et al. 2023, arXiv 2312.11983"
    ),
    "flap-global": Baseline(flap_global_family, "An et al. 2023, arXiv 2312.11983, AL-AM for MLPs"),
    "shortgpt": Baseline(shortgpt_family, "Men et al. 2024, arXiv 2403.03853"),
    "obs-ls": Baseline(
        partial(width_family, name="obs-ls", criterion="obs", settings=OverlaySettings()),
        "uniform width, OBS order and least squares from the dense network's moments",
    ),
}
