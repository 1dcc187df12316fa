import math
from itertools import pairwise

import numpy as np
import pytest
from litgpt.config import Config
from pruning_supernets import FAMILIES, kv_cache_ratio, largest_arch
from quality_fakes import LATTICE, made_up_quality, ordered_database, parameter_limit

from pruning.candidates import _plans, _plans_around, propose, rank
from pruning.cost_limits import CostLimit, all_hold, parameter_ratio
from pruning.depth import without_blocks
from pruning.depth_search import influence_drop, iterative_drop
from pruning.lattice import Lattice
from pruning.programme import build_problem, shapes_of
from pruning.quality_table import measure_quality
from pruning.true_loss import CalibrationLoss
from pruning.uniform_search import uniform, uniform_networks


@pytest.fixture(scope="module")
def ground():
    database, blocks = ordered_database()
    return measure_quality(database, blocks, LATTICE), CalibrationLoss(database, blocks), database


def kv_limit(config, dense, limit):
    return CostLimit("KV cache", kv_cache_ratio(config, dense, seq_len=16), limit)


@pytest.mark.parametrize("ratio", [0.85, 0.6, 0.3])
def test_all_candidates_keep_the_limit_and_each_kind_is_there(ground, ratio):
    quality, loss, database = ground
    limits = [parameter_limit(database.supernet.config, ratio)]
    found = propose(loss, quality, LATTICE, limits)
    assert all_hold(limits, [c.arch for c in found]).all() and max(c.cost for c in found) <= ratio
    assert {c.kind for c in found} == {"programme", "uniform", "depth"}
    assert all(c.arch.is_uniform for c in found if c.kind == "uniform")
    assert {"Block Influence", "iterative drop of blocks"} & {c.name for c in found}
    ranked = rank(loss, found, keep=3)
    assert {c.kind for c in ranked} == {"programme", "uniform", "depth"}
    assert [c.loss for c in ranked] == sorted(c.loss for c in ranked)
    for kind in ("programme", "uniform", "depth"):
        best = min(loss(c.arch) for c in found if c.kind == kind)
        assert min(c.loss for c in ranked if c.kind == kind) == best
    assert ranked[0].loss == min(loss(c.arch) for c in found)


def test_the_best_plan_for_parameters_is_in_the_pool_of_a_latency_budget(ground):
    quality, loss, database = ground
    config, dense = database.supernet.config, loss.dense
    limits = [CostLimit("latency", kv_cache_ratio(config, dense, seq_len=16), 0.6)]
    found = propose(loss, quality, LATTICE, limits)
    own = [c for c in found if c.kind == "parameters"]
    assert own and all_hold(limits, [c.arch for c in own]).all()
    size = parameter_ratio(config, dense, tied=False, decoder=True)
    for candidate in own:  # nothing as small is expected to do less damage
        limit = CostLimit("parameters", size, float(size([candidate.arch])[0]))
        (plan,) = _plans_around(build_problem(quality, LATTICE, dense, [limit.predict]), [limit], 1)
        assert quality.total(candidate.arch) == pytest.approx(plan.damage, rel=0.02)
    ranked = rank(loss, found, keep=1)
    assert ranked[0].loss <= min(loss(c.arch) for c in own)


def test_plans_use_the_limit_however_many_the_curve_has():
    """30 blocks have thousands of plans: those a little below the limit must be among the few that are looked at."""
    config = Config(**{**FAMILIES["llama-gqa6"], "n_layer": 30})
    dense, lattice = largest_arch(config), Lattice(tuple(range(4, 49, 4)), LATTICE.attention, (config.n_embd,))
    rng = np.random.default_rng(0)
    price = {shape: rng.uniform(0.9, 1.1) * (shape[0] + shape[2]) for shape in shapes_of(lattice, (6, 2, 48))}

    def cost(archs):
        rows = [zip(a.n_head, a.n_query_groups, a.intermediate_size, strict=True) for a in archs]
        return np.array([sum(price[shape] for shape in row) for row in rows]) / (30 * price[6, 2, 48])

    plans = list(_plans(made_up_quality(config, lattice), lattice, dense, [CostLimit("cost", cost, 0.7)], 3))
    found = cost([arch for _, arch in plans])
    assert len(plans) >= 12 and (found <= 0.7).all() and found.min() > 0.69


def test_in_uniform_mode_all_candidates_are_uniform(ground):
    quality, loss, database = ground
    limits = [parameter_limit(database.supernet.config, 0.6)]
    found = propose(loss, quality, LATTICE, limits, mode="uniform")
    assert found and all(c.arch.is_uniform and c.kind != "programme" for c in found)
    assert {c.arch.n_embd for c in found} == {16, 32}


def test_several_limits_are_all_kept(ground):
    quality, loss, database = ground
    limits = [parameter_limit(database.supernet.config, 0.7), kv_limit(database.supernet.config, loss.dense, 0.5)]
    for mode in ("uniform", "heterogeneous"):
        found = propose(loss, quality, LATTICE, limits, mode=mode)
        assert found and all_hold(limits, [c.arch for c in found]).all()
        assert mode == "uniform" or any(c.kind == "programme" for c in found)


def test_ranking_on_little_text_first_ranks_fewer_on_all(ground):
    quality, _, database = ground
    loss = CalibrationLoss(database, ordered_database()[1], batch_size=2)
    found = propose(loss, quality, LATTICE, [parameter_limit(database.supernet.config, 0.5)])
    before = loss.n_evaluations
    ranked = rank(loss, found, keep=2, first=loss.shorter(2))
    assert loss.n_evaluations - before < len(found) * 0.8
    assert all(c.loss == loss(c.arch) and math.isfinite(c.loss) for c in ranked)


def test_a_limit_that_cannot_be_reached_names_the_smallest(ground):
    quality, loss, database = ground
    with pytest.raises(ValueError, match=r"parameters: 0\.001 .*the smallest is 0\.0"):
        propose(loss, quality, LATTICE, [parameter_limit(database.supernet.config, 0.001)])


# --- depth ---------------------------------------------------------------------------------------------------------


def test_the_drop_without_a_shortlist_is_the_greedy_one(ground):
    quality, loss, database = ground
    limits = [parameter_limit(database.supernet.config, 0.5)]
    path = iterative_drop(loss, loss.dense, quality, limits, shortlist=None)
    assert path[0] == loss.dense and all_hold(limits, path).tolist() == [False] * (len(path) - 1) + [True]
    for before, after in pairwise(path):
        assert loss(after) == min(loss(without_blocks(before, [i])) for i in range(before.n_layer))


def test_block_influence_drops_as_few_as_the_limit_needs(ground):
    _, loss, database = ground
    limit = parameter_limit(database.supernet.config, 0.55)
    arch = influence_drop(loss.dense, database.moments, [limit])
    gone = sorted(set(range(4)) - set(arch.layers))
    assert gone == sorted(database.moments.influence[0].argsort()[:2].tolist())
    assert influence_drop(loss.dense, database.moments, [parameter_limit(database.supernet.config, 0.01)]) is None


# --- uniform -------------------------------------------------------------------------------------------------------


def test_uniform_networks_are_the_best_of_their_table(ground):
    quality, loss, database = ground
    limit = parameter_limit(database.supernet.config, 0.6)
    found = uniform_networks(quality, LATTICE, loss.dense, [limit], keep=1000, keep_narrower=0)
    totals = [quality.total(arch) for arch in found]
    assert totals == sorted(totals) and all_hold([limit], found).all()
    for h, g in LATTICE.attention:
        for f in LATTICE.neurons:
            every = [uniform(loss.dense, (h, g, f), [i for i in range(4) if mask >> i & 1]) for mask in range(15)]
            held = [arch for arch, ok in zip(every, all_hold([limit], every), strict=True) if ok]
            most = max(arch.n_layer for arch in held)
            best = min(quality.total(arch) for arch in held if arch.n_layer == most)
            own = [a for a in found if (a.n_head[0], a.n_query_groups[0], a.intermediate_size[0]) == (h, g, f)]
            assert [quality.total(a) for a in own] == pytest.approx([best])


def test_other_orders_of_dropping_are_tried(ground):
    quality, loss, database = ground
    limit = parameter_limit(database.supernet.config, 0.6)
    found = uniform_networks(quality, LATTICE, loss.dense, [limit], drop_orders=[[3, 2, 1, 0], [0, 1]], keep=1000)
    assert uniform(loss.dense, (6, 2, 48), [3, 2]) in found and uniform(loss.dense, (6, 2, 48), [0, 1]) in found
