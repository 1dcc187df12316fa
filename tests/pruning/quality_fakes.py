"""An importance-ordered tiny network with overlays, and costs, for tests of tables, programmes and searches."""

import numpy as np
import torch
from pruning_supernets import blocks_for, calm_supernet, largest_arch

from pruning.collection import collect_moments
from pruning.cost_limits import CostLimit, parameter_ratio
from pruning.importance import importance
from pruning.lattice import Lattice
from pruning.levels import whole_level
from pruning.overlay import OverlayDatabase, OverlaySettings
from pruning.quality_table import QualityTable
from pruning.reorder import order_by, reorder, reorder_moments
from pruning.structure import PARTS, Sizes

LATTICE = Lattice(neurons=(12, 24, 36, 48), attention=((1, 1), (3, 1), (4, 2), (6, 2)), embd=(16, 32))


def ordered_database(family="llama-gqa6", *, intercept=False, **changes):
    """Return overlays of a tiny network in its importance order, and its calibration blocks."""
    supernet = calm_supernet(family, **changes)
    blocks = blocks_for(supernet, n=8)
    moments = collect_moments(supernet, blocks)
    order = order_by(importance("obs", supernet, moments=moments), channels=False)
    moments = reorder_moments(moments, order, Sizes.of(supernet.config))
    settings = OverlaySettings(intercept=intercept)
    return OverlayDatabase(reorder(supernet, order), moments, settings=settings), blocks


def direct_kl(database, arch, blocks):
    """Return KL(dense || pruned) in nats a token from whole logits, float64."""
    with torch.no_grad():
        p = database.supernet(blocks).double().log_softmax(-1)
        q = database.extract(arch).gpt(blocks).double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def made_up_quality(config, lattice, *, seed=0):
    """Return a quality table of random damages that fall with the level."""
    rng = np.random.default_rng(seed)
    parts, gone = {}, []
    for layer in range(config.n_layer):
        absent = {}
        for part in PARTS:
            whole = whole_level(config, part)
            levels = [(0, 0), *lattice.attention] if part == "attention" else [(0,), *((n,) for n in lattice.neurons)]
            scale = rng.uniform(0.1, 2)
            for level in levels:
                parts[layer, part, level] = scale * (1 - level[0] / whole[0]) ** 2
            absent[part] = scale
        gone.append(sum(absent.values()) * rng.uniform(0.6, 1.3))
    return QualityTable(parts, tuple(gone), frozenset(parts))


def parameter_limit(config, limit, *, decoder=True):
    """Return a limit on the parameters of the blocks."""
    predict = parameter_ratio(config, largest_arch(config), tied=False, decoder=decoder)
    return CostLimit("parameters", predict, limit)
