from itertools import pairwise, product

import numpy as np
import pytest
from pruning_supernets import build_supernet, kv_cache_ratio, largest_arch
from quality_fakes import LATTICE, made_up_quality, parameter_limit

from pruning.cost_limits import parameter_ratio
from pruning.programme import GONE, Problem, block_costs, build_problem, plan_within, shapes_of, trade_off
from supernet.architecture import Architecture
from supernet.cost import parameter_counts

SHAPES = ((2, 1, 8), (2, 1, 16), (4, 2, 16), (0, 0, 8), GONE)
DENSE = Architecture.uniform(n_embd=8, n_layer=4, n_head=4, n_query_groups=2, intermediate_size=16, bias=False)


def random_problem(seed, *, n_costs=1, integers=False):
    rng = np.random.default_rng(seed)
    costs = [
        rng.integers(1, 40, (4, 5)).astype(float) if integers else rng.uniform(0.01, 0.2, (4, 5))
        for _ in range(n_costs)
    ]
    for cost in costs:
        cost[:, -1] = 0
    damage = rng.uniform(0, 1, (4, 5))
    damage[:, -1] += 1  # a network without blocks, which is none, is the worst
    return Problem(DENSE, SHAPES, damage, tuple(costs), (0.1,) * n_costs)


def options_of(arch):
    """Return which option each block took."""
    own = {i: arch.layers.index(i) for i in arch.layers}
    shapes = [(arch.n_head[k], arch.n_query_groups[k], arch.intermediate_size[k]) for k in range(arch.n_layer)]
    return [SHAPES.index(shapes[own[i]]) if i in own else SHAPES.index(GONE) for i in range(4)]


def every_plan(problem):
    """Yield the costs and damage of every combination but the empty one."""
    for choice in product(range(5), repeat=4):
        if any(k != 4 for k in choice):
            rows = np.arange(4)
            yield (
                [c[rows, choice].sum() + f for c, f in zip(problem.costs, problem.fixed, strict=True)],
                problem.damage[rows, choice].sum(),
            )


@pytest.mark.parametrize("seed", range(5))
def test_integer_costs_give_the_exact_front_of_all_combinations(seed):
    problem = random_problem(seed, integers=True)
    points = sorted((cost[0], damage) for cost, damage in every_plan(problem))
    front = [p for i, p in enumerate(points) if all(p[1] < q[1] for q in points[:i])]
    found = [(plan.cost, plan.damage) for plan in trade_off(problem)]
    np.testing.assert_allclose(found, front)


def test_a_part_of_the_curve_is_spread_over_it():
    problem = random_problem(0)
    front = trade_off(problem)
    assert len(front) >= 8
    within = {"least": front[1].cost - 1e-6, "limit": front[-2].cost + 1e-4, "n_bins": 100_000}
    assert trade_off(problem, **within) == front[1:-1]
    few = trade_off(problem, **within, most=3)
    assert len(few) == 3 and (few[0], few[-1]) == (front[1], front[-2]) and few[1] in front[2:-2]


@pytest.mark.parametrize("seed", range(5))
def test_plans_never_exceed_their_limit_and_are_the_best_up_to_rounding(seed):
    problem = random_problem(seed)
    for limit in (0.25, 0.4, 0.55):
        plan = plan_within(problem, [limit], n_bins=4000)
        best = min(damage for cost, damage in every_plan(problem) if cost[0] <= limit)
        nearly = min(damage for cost, damage in every_plan(problem) if cost[0] <= limit - 4 * limit / 4000)
        assert plan.cost <= limit + 1e-9 and best - 1e-12 <= plan.damage <= nearly + 1e-12


def test_a_plans_numbers_are_those_of_its_architecture():
    problem = random_problem(0)
    for plan in trade_off(problem)[::5]:
        choice = options_of(plan.arch)
        assert plan.cost == pytest.approx(0.1 + problem.costs[0][range(4), choice].sum())
        assert plan.damage == pytest.approx(problem.damage[range(4), choice].sum())


def test_with_few_bins_plans_still_keep_the_limit():
    problem = random_problem(3)
    for n_bins in (5, 10, 50):
        plan = plan_within(problem, [0.5], n_bins=n_bins)
        assert plan is None or plan.cost <= 0.5
    assert plan_within(problem, [0.5], n_bins=50) is not None


@pytest.mark.parametrize("seed", range(6))
def test_two_limits_are_kept_and_the_plan_is_near_the_best(seed):
    problem = random_problem(seed, n_costs=2)
    limits = [0.45, 0.4]
    plan = plan_within(problem, limits)
    kept = [damage for cost, damage in every_plan(problem) if cost[0] <= limits[0] and cost[1] <= limits[1]]
    alone = [damage for cost, damage in every_plan(problem) if cost[0] <= limits[0]]
    choice = options_of(plan.arch)
    for cost, fixed, limit in zip(problem.costs, problem.fixed, limits, strict=True):
        assert fixed + cost[range(4), choice].sum() <= limit + 1e-9
    assert min(alone) - 1e-12 <= min(kept) <= plan.damage + 1e-12
    assert plan.damage <= min(kept) + 0.4  # of blocks whose damages are 0 to 2


def test_what_cannot_be_reached_is_no_plan():
    assert plan_within(random_problem(0), [0.09]) is None
    with pytest.raises(ValueError, match="give one for each"):
        plan_within(random_problem(0), [0.5, 0.5])


@pytest.mark.parametrize("family", ["llama-gqa6", "qwen2", "gemma2", "olmo2"])
def test_block_costs_add_up_to_the_costs_of_networks(family):
    config = build_supernet(family).config
    dense = largest_arch(config)
    heads, groups = dense.n_head[0], dense.n_query_groups[0]
    lattice = type(LATTICE)(
        neurons=(12, dense.intermediate_size[0]), attention=((heads // groups, 1), (heads, groups)), embd=(32,)
    )
    shapes = shapes_of(lattice, (heads, groups, dense.intermediate_size[0]))
    rng = np.random.default_rng(0)
    for cost in (parameter_ratio(config, dense, tied=False), kv_cache_ratio(config, dense, seq_len=20)):
        table, fixed = block_costs(cost, dense, shapes)
        choice = rng.integers(0, len(shapes), 4)
        problem = Problem(dense, shapes, np.zeros(table.shape), (table,), (fixed,))
        assert problem.plan(choice).cost == pytest.approx(cost([problem.arch(choice)])[0])


def test_ratios_are_those_of_exact_counts():
    config = build_supernet("llama-gqa6").config
    dense = largest_arch(config)
    arch = Architecture(16, (3, 0), (1, 0), (12, 48), (0, 3), bias=False)
    counts = parameter_counts(config, [dense, arch], tied=True)
    assert parameter_ratio(config, dense, tied=True)([arch])[0] == counts.total[1] / counts.total[0]
    assert parameter_ratio(config, dense, tied=True, decoder=True)([arch])[0] == counts.decoder[1] / counts.decoder[0]


def test_the_curve_of_a_real_lattice_ends_with_the_dense_network():
    config = build_supernet("llama-gqa6").config
    dense, limit = largest_arch(config), parameter_limit(config, 0.6)
    for complete in (False, True):
        problem = build_problem(made_up_quality(config, LATTICE), LATTICE, dense, [limit.predict], complete=complete)
        plans = trade_off(problem)
        assert plans[-1].arch == dense and plans[-1].damage == 0 and plans[-1].cost == pytest.approx(1)
        assert all(a.cost < b.cost and a.damage > b.damage for a, b in pairwise(plans))
        assert not complete or all(plan.arch.is_complete for plan in plans)


def test_costs_that_fall_with_size_are_refused():
    problem = random_problem(0)
    with pytest.raises(ValueError, match="negative cost"):
        trade_off(Problem(DENSE, SHAPES, problem.damage, (problem.costs[0] - 0.1,), (0.1,)))
