from functools import partial

import numpy as np
import pytest
from pruning_supernets import largest_arch, random_arch
from quality_fakes import LATTICE, ordered_database, parameter_limit

from pruning.candidates import propose
from pruning.quality_table import measure_quality
from pruning.raced_loss import RacedLoss
from pruning.refine import refine
from pruning.true_loss import CalibrationLoss
from pruning.uniform_search import uniform


def raced(folder, n_first=2):
    database, blocks = ordered_database()
    return RacedLoss.split(partial(CalibrationLoss, database), blocks, n_first, folder), database, blocks


def test_the_loss_in_two_parts_is_that_on_all_of_the_text(tmp_path):
    loss, database, blocks = raced(tmp_path)
    rng, whole = np.random.default_rng(0), CalibrationLoss(database, blocks)
    archs = [random_arch(database.supernet.config, rng) for _ in range(5)]
    np.testing.assert_allclose(loss.many(archs), whole.many(archs), rtol=1e-5)
    assert loss.asked == dict(zip(archs, loss.many(archs), strict=True)) and loss.n_tokens == whole.n_tokens
    short, *_ = raced(tmp_path / "short", n_first=len(blocks))
    assert short.rest is None and short(archs[0]) == pytest.approx(loss(archs[0]), rel=1e-5)
    assert short.against(archs[0], archs[1]) == (short(archs[0]), True)


def test_what_is_clearly_worse_is_not_run_on_the_rest(tmp_path):
    loss, database, _ = raced(tmp_path)
    dense = largest_arch(database.supernet.config)
    good, bad = uniform(dense, (6, 2, 36), []), uniform(dense, (1, 1, 12), [1])
    assert loss.first(bad) > 1.5 * loss.first(good)
    own = loss(good)
    before = loss.rest.n_evaluations
    value, whole = loss.against(bad, good)
    assert not whole and loss.rest.n_evaluations == before and bad not in loss.asked
    assert value == pytest.approx(own + loss.first(bad) - loss.first(good))
    assert loss.against(good, bad) == (own, True)
    better, complete = loss.against(dense, good)
    assert complete and better == pytest.approx(0, abs=1e-6) and loss.rest.n_evaluations == before + 1


def test_a_race_ends_nearly_as_well_as_full_evaluations_and_resumes(tmp_path):
    loss, database, blocks = raced(tmp_path)
    limit = parameter_limit(database.supernet.config, 0.55)
    quality = measure_quality(database, blocks, LATTICE)
    start = min((c.arch for c in propose(loss.first, quality, LATTICE, [limit])), key=loss)
    search = partial(refine, starts=[start], limits=[limit], quality=quality, lattice=LATTICE, n_evaluations=40)
    full, fast = search(CalibrationLoss(database, blocks)), search(loss, race=loss.against)
    assert fast.n_evaluations == full.n_evaluations == 40 and len(fast.visited) < 40 == len(full.visited)
    assert fast.arch in fast.visited and fast.loss == loss(fast.arch) <= loss(start)
    assert full.start - fast.loss >= 0.5 * (full.start - full.loss)
    again, *_ = raced(tmp_path)
    assert search(again, race=again.against) == fast
    assert again.first.n_evaluations == again.rest.n_evaluations == 0
    assert again.asked == {arch: loss(arch) for arch in fast.visited}
