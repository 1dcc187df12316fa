import itertools
from dataclasses import replace

import numpy as np
import pytest
from pruning_supernets import build_supernet, kv_cache_ratio, largest_arch
from quality_fakes import LATTICE, made_up_quality, ordered_database, parameter_limit

from pruning.candidates import propose
from pruning.cost_limits import CostLimit, all_hold
from pruning.damage_model import DamageModel
from pruning.moves import HeterogeneousMoves, UniformMoves
from pruning.programme import GONE, build_problem, plan_within, shapes_of
from pruning.quality_table import measure_quality
from pruning.refine import refine
from pruning.true_loss import CalibrationLoss
from pruning.uniform_search import uniform

CONFIG = build_supernet("llama-gqa6").config
DENSE = largest_arch(CONFIG)
QUALITY = made_up_quality(CONFIG, LATTICE)
LIMIT = parameter_limit(CONFIG, 0.55)


class SkewedLoss:
    """The table's damages with other weights of the blocks, and an interaction: what a search has to find out."""

    dense = DENSE

    def __init__(self, seed=0):
        self.weights = np.random.default_rng(seed).uniform(0.3, 3, (3, 4))
        self.model, self.n = DamageModel(QUALITY, rng=np.random.default_rng(0)), 0

    def __call__(self, arch):
        self.n += 1
        value = float(self.model.features(arch) @ self.weights.ravel())
        return value + 0.05 * value**2


def best_known(loss):
    """Return the loss of the best plan with the true weights, but for the interaction."""
    problem = build_problem(QUALITY, LATTICE, DENSE, [LIMIT.predict])
    weighted = [[np.dot(loss.model.of_block(i, *s), loss.weights[:, i]) for s in problem.shapes] for i in range(4)]
    return loss(plan_within(replace(problem, damage=np.array(weighted)), [LIMIT.limit]).arch)


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_nearly_the_best_of_another_loss_than_the_tables(seed):
    loss = SkewedLoss(seed)
    start = plan_within(build_problem(QUALITY, LATTICE, DENSE, [LIMIT.predict]), [LIMIT.limit]).arch
    found = refine(loss, [start], [LIMIT], QUALITY, LATTICE, n_evaluations=150, seed=seed)
    best, first = best_known(loss), loss(start)
    assert found.loss <= first and LIMIT.holds([found.arch])[0] and loss(found.arch) == found.loss
    assert found.loss <= best * 1.02 + 1e-9


def test_the_result_is_never_worse_than_the_best_start_and_counts_what_it_asked_for():
    loss = SkewedLoss()
    starts = [uniform(DENSE, (3, 1, 36), [2]), uniform(DENSE, (6, 2, 24), [1, 3])]
    found = refine(loss, starts, [LIMIT], QUALITY, LATTICE, n_evaluations=20)
    assert found.loss <= min(map(loss, starts)) == found.start and found.n_evaluations <= 20
    assert [value for *_, value in found.history] == sorted((v for *_, v in found.history), reverse=True)
    assert found.history[-1][1:] == (found.arch.id, found.loss)
    one = refine(SkewedLoss(), starts[:1], [LIMIT], QUALITY, LATTICE, n_evaluations=1)
    assert one.arch == starts[0] and one.ended == "evaluations"
    none = refine(SkewedLoss(), starts[:1], [LIMIT], QUALITY, LATTICE, seconds=0)
    assert none.arch == starts[0] and none.ended == "seconds"


def test_one_seed_gives_one_search():
    start = uniform(DENSE, (3, 1, 36), [2])
    found = [refine(SkewedLoss(), [start], [LIMIT], QUALITY, LATTICE, n_evaluations=40, seed=s) for s in (1, 1, 2)]
    assert found[0].history == found[1].history != found[2].history


def test_uniform_searches_stay_uniform_and_find_the_best_shape():
    loss = SkewedLoss()
    start = uniform(DENSE, (1, 1, 12), [0])
    found = refine(loss, [start], [LIMIT], QUALITY, LATTICE, mode="uniform", n_evaluations=200)
    assert found.arch.is_uniform
    every = [
        uniform(DENSE, (h, g, f), dropped)
        for (h, g), f in itertools.product(LATTICE.attention, LATTICE.neurons)
        for n in range(4) for dropped in itertools.combinations(range(4), n)
    ]  # fmt: skip
    assert found.loss <= 1.02 * min(loss(a) for a, ok in zip(every, all_hold([LIMIT], every), strict=True) if ok)


def test_moves_change_one_block_or_two_and_keep_all_limits():
    limits = [LIMIT, CostLimit("KV cache", kv_cache_ratio(CONFIG, DENSE, seq_len=16), 0.6)]
    moves, model = HeterogeneousMoves(DENSE, LATTICE, limits), DamageModel(QUALITY, rng=np.random.default_rng(0))
    start = uniform(DENSE, (3, 1, 36), [2])
    found = moves.best(start, model, np.ones((3, 4)), n=50, known={start})
    assert len(found) == len(set(found)) == 50 and start not in found and all_hold(limits, found).all()
    own = dict.fromkeys((0, 1, 3), (3, 1, 36)) | {2: GONE}
    for arch in found:
        rows = zip(arch.n_head, arch.n_query_groups, arch.intermediate_size, strict=True)
        new = dict.fromkeys(range(4), GONE) | dict(zip(arch.layers, rows, strict=True))
        assert 1 <= sum(new[i] != own[i] for i in range(4)) <= 2
    values = [model.features(arch).sum() for arch in found]
    assert values == pytest.approx(sorted(values))
    assert moves.best(start, model, np.ones((3, 4)), n=3, known={start, *found[:2]})[0] == found[2]


def test_there_are_moves_for_a_network_that_uses_all_of_a_limit():
    config = build_supernet("llama-gqa6", n_layer=12).config
    lattice = replace(LATTICE, neurons=tuple(range(4, 49, 4)))
    dense, quality = largest_arch(config), made_up_quality(config, lattice)
    start = uniform(dense, (3, 1, 24), [])
    limit = replace(LIMIT, predict=parameter_limit(config, 1).predict)
    limit = replace(limit, limit=float(limit.predict([start])[0]))
    blocks = CostLimit("with more than its blocks", lambda archs: 0.2 + 0.8 * limit.predict(archs), 0, limit.predict)
    for tight in (limit, replace(blocks, limit=float(blocks.predict([start])[0]))):
        moves, model = HeterogeneousMoves(dense, lattice, [tight]), DamageModel(quality, rng=np.random.default_rng(0))
        found = moves.best(start, model, np.ones((3, 12)), n=4, known={start})
        assert len(found) == 4 and tight.holds(found).all()
        (planned,) = moves.planned(start, model, np.ones((3, 12)), known={start})
        assert tight.holds([planned])[0] and tight.predict([planned])[0] > 0.97 * tight.limit


def test_uniform_moves_try_other_widths_shapes_and_blocks():
    moves, model = UniformMoves(DENSE, LATTICE, [LIMIT]), DamageModel(QUALITY, rng=np.random.default_rng(0))
    start = uniform(DENSE, (3, 1, 24), [2])
    found = moves.best(start, model, np.ones((3, 4)), n=1000, known={start})
    assert all(arch.is_uniform for arch in found) and LIMIT.holds(found).all() and start not in found
    assert {a.n_embd for a in found} == {16, 32} and len({a.layers for a in found if a.n_layer == 3}) > 2
    assert len({(a.n_head[0], a.n_query_groups[0]) for a in found}) == 4


def test_few_evaluations_go_to_a_width_that_was_seen_to_be_bad():
    asked = []

    class NarrowIsBad(SkewedLoss):
        def __call__(self, arch):
            asked.append(arch.n_embd)
            return super().__call__(arch) + 5.0 * (arch.n_embd < DENSE.n_embd)

    start, loss = uniform(DENSE, (1, 1, 12), [0]), NarrowIsBad()
    found = refine(loss, [start], [LIMIT], QUALITY, LATTICE, mode="uniform", n_evaluations=30)
    assert 1 <= asked.count(16) <= 6  # tried, since nothing was known, and left
    free = refine(SkewedLoss(), [start], [LIMIT], QUALITY, LATTICE, mode="uniform", n_evaluations=30)
    assert found.arch.n_embd == DENSE.n_embd and free.arch.n_embd == 16  # where a width costs nothing, it is taken


def test_what_a_width_costs_is_learnt_and_linear_between_widths():
    model = DamageModel(QUALITY, rng=np.random.default_rng(0))
    reference, weights = uniform(DENSE, (6, 2, 48), [1]), np.full((3, 4), 2.0)
    assert model.of_widths([16], reference, weights).tolist() == [0.0]
    told = {arch: float(model.features(arch) @ weights.ravel()) for arch in (reference, uniform(DENSE, (3, 1, 24), []))}
    for arch, value in told.items():
        model.see(arch, value + 1.0)
        model.see(replace(arch, n_embd=16), value + 4.0)
    assert model.of_widths([16, 24, 32], reference, weights) == pytest.approx([3.0, 1.5, 0.0])


def test_starts_that_miss_a_limit_or_are_not_uniform_are_refused():
    with pytest.raises(ValueError, match="misses a limit"):
        refine(SkewedLoss(), [DENSE], [LIMIT], QUALITY, LATTICE)
    partial = plan_within(build_problem(QUALITY, LATTICE, DENSE, [LIMIT.predict]), [LIMIT.limit]).arch
    with pytest.raises(ValueError, match="is not uniform"):
        refine(SkewedLoss(), [partial], [LIMIT], QUALITY, LATTICE, mode="uniform")
    with pytest.raises(ValueError, match="at least one start"):
        refine(SkewedLoss(), [], [LIMIT], QUALITY, LATTICE)


def test_the_model_learns_the_true_weights_from_what_was_seen():
    loss, rng = SkewedLoss(), np.random.default_rng(0)
    model = DamageModel(QUALITY, rng=np.random.default_rng(1))
    problem = build_problem(QUALITY, LATTICE, DENSE, [LIMIT.predict])
    archs = [problem.arch(rng.integers(0, len(problem.shapes) - 1, 4)) for _ in range(60)]
    for arch in archs[:40]:
        model.see(arch, loss(arch))
    weights = np.mean([model.draw(archs[0]) for _ in range(50)], axis=0)
    truth = np.array([loss(a) - loss(archs[0]) for a in archs[40:]])
    changes = np.array([model.features(a) - model.features(archs[0]) for a in archs[40:]])
    errors = [np.abs(changes @ w.ravel() - truth).mean() for w in (weights, np.ones((3, 4)))]
    assert errors[0] < 0.7 * errors[1]


def test_a_search_on_a_real_network_improves_its_best_candidate_and_resumes(tmp_path):
    database, blocks = ordered_database()
    quality, path = measure_quality(database, blocks, LATTICE), tmp_path / "losses.jsonl"
    loss = CalibrationLoss(database, blocks, path=path)
    pool = sorted(propose(loss, quality, LATTICE, [LIMIT]), key=lambda c: loss(c.arch))
    found = refine(loss, [c.arch for c in pool[:2]], [LIMIT], quality, LATTICE, n_evaluations=40)
    assert found.loss <= loss(pool[0].arch) and LIMIT.holds([found.arch])[0]
    again = CalibrationLoss(database, blocks, path=path)
    repeated = refine(again, [c.arch for c in pool[:2]], [LIMIT], quality, LATTICE, n_evaluations=40)
    assert repeated == found and again.n_evaluations == 0


def test_shapes_without_absent_parts_are_complete():
    shapes = shapes_of(LATTICE, (6, 2, 48), complete=True)
    assert shapes[-1] == GONE and all(h and f for h, _, f in shapes[:-1]) and len(shapes) == 17
