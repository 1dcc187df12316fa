from dataclasses import replace

import numpy as np
import pytest
from fake_machine import FakeMachine, block_sizes
from test_latency_table import CONFIG, LATTICE, PREFILL, WHOLE
from test_table_measure import CONFIG as TINY
from test_table_measure import LATTICE as TINY_LATTICE
from test_table_measure import ONCE, WORKLOAD, additive_ms

from pruning.latency_correction import CANDIDATES, FEATURES, correction_from_dict, features, share_of_prior
from pruning.latency_model import LatencyModel, describe, fit_latency_model, measure_and_fit
from pruning.latency_table import LatencyTable
from pruning.random_subnets import random_subnets
from pruning.table_measure import measure_table
from supernet.litgpt_config import check_fits

TABLE = LatencyTable.analytic(CONFIG, LATTICE, PREFILL)


def subnets(n, seed=0):
    return random_subnets(LATTICE, TABLE, n, rng=np.random.default_rng(seed))


def true_ratios(archs):
    """Return ratios on a machine where attention is dearer, MLPs cheaper than the table says, and blocks overlap."""
    parts = TABLE.parts(archs)
    return 0.02 + parts.fixed + 1.3 * parts.attention + 0.85 * parts.mlp + parts.block - 0.08 * parts.mlp**2


def noisy(archs, seed=0, noise=0.01):
    return true_ratios(archs) * np.exp(noise * np.random.default_rng(seed).normal(size=len(archs)))


# --- random networks ------------------------------------------------------------------------------------------------


def test_random_networks_are_spread_over_the_latencies_and_kinds():
    archs = subnets(48)
    ratios = TABLE.predict(archs)
    assert len(set(archs)) == 48
    assert np.histogram(ratios, 6, (0.4, 1.0))[0].min() >= 6
    assert sum(arch.is_uniform for arch in archs) >= 5
    assert sum(not arch.is_complete for arch in archs) >= 10
    assert sum(arch.n_layer < 30 for arch in archs) >= 15
    assert any(arch.n_embd < 576 for arch in archs)
    allowed = {*LATTICE.attention, (0, 0)}
    for arch in archs:
        check_fits(CONFIG, arch)
        assert set(zip(arch.n_head, arch.n_query_groups, strict=True)) <= allowed
        assert set(arch.intermediate_size) <= {0, *LATTICE.neurons}


def test_the_same_seed_gives_the_same_networks():
    assert subnets(10) == subnets(10) != subnets(10, seed=1)


# --- corrections ----------------------------------------------------------------------------------------------------


def test_features_of_the_dense_model_are_whole():
    (row,) = features(TABLE, [WHOLE])
    found = dict(zip(FEATURES, row, strict=True))
    assert found["table"] == pytest.approx(1)
    for name in ("n_embd", "n_layer", "heads", "groups", "neurons"):
        assert found[name] == 1
    for name in ("no_attention", "no_mlp", "heads_std", "neurons_std"):
        assert found[name] == 0


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_correction_survives_json(name):
    archs = subnets(20)
    X = features(TABLE, archs)
    fitted = CANDIDATES[name](X, noisy(archs))
    again = correction_from_dict(fitted.to_dict())
    assert np.array_equal(again.predict(X), fitted.predict(X)) and (fitted.predict(X) > 0).all()


def test_part_factors_recover_a_machine_that_scales_parts():
    archs = subnets(40)
    parts = TABLE.parts(archs)
    fitted = CANDIDATES["parts"](features(TABLE, archs), parts.fixed + 1.4 * parts.attention + 0.8 * parts.mlp)
    assert fitted.factors[2:] == pytest.approx((1.4, 0.8), abs=0.03)


def test_a_table_that_is_right_is_left_alone():
    archs = subnets(40)
    X = features(TABLE, archs)
    for name, fit in CANDIDATES.items():
        assert fit(X, TABLE.predict(archs)).predict(X) == pytest.approx(TABLE.predict(archs), rel=1e-3), name


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_table_takes_over_the_share_of_a_prior_that_networks_measured(share):
    archs = subnets(30)
    attention = {level: 1.4 * cost for level, cost in TABLE.attention.items()}
    other = replace(TABLE, attention=attention, mlp={f: 0.75 * cost for f, cost in TABLE.mlp.items()}, device="other")
    mixed = other.blended(TABLE, share)
    noise = np.exp(0.01 * np.random.default_rng(2).normal(size=len(archs)))
    found = share_of_prior(other.predict(archs), TABLE.predict(archs), mixed.predict(archs) * noise)
    assert found == pytest.approx(share, abs=0.12)
    expected = (1 - share) * other.predict(archs) + share * TABLE.predict(archs)
    assert mixed.predict(archs) == pytest.approx(expected)
    assert mixed.notes["share of analytic"] == share


def test_without_networks_both_tables_count_half():
    assert share_of_prior(np.empty(0), np.empty(0), np.empty(0)) == 0.5


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    train = subnets(40)
    return fit_latency_model(TABLE, train, noisy(train))


def test_model_predicts_unseen_networks_better_than_the_table(model):
    fresh = subnets(100, seed=1)
    errors = np.abs(model.predict(fresh) / true_ratios(fresh) - 1)
    assert errors.mean() < 0.02 < np.abs(TABLE.predict(fresh) / true_ratios(fresh) - 1).mean()
    assert model.mape < 0.03 and model.scores["table"] > model.scores[model.choice]
    assert describe(model)["choice"] == model.choice


def test_upper_bound_holds_for_about_as_many_as_it_says(model):
    fresh = subnets(150, seed=50)
    upper, predicted = model.upper(fresh), model.predict(fresh)
    assert (upper >= predicted).all()
    assert np.mean(noisy(fresh, 100) <= upper) >= 0.85  # 0.95 on average over draws of the 40, which spread by 0.04
    assert np.mean(upper / predicted) < 1.06


def test_upper_bound_is_the_order_statistic_of_the_held_out_products(model):
    (fresh,) = subnets(1, seed=5)
    X = features(TABLE, [fresh])
    products = sorted(
        model.folds[k].predict(X)[0] * np.exp(excess) for k, excess in zip(model.fold, model.excess, strict=True)
    )
    assert model.upper([fresh])[0] == pytest.approx(max(products[39 - 1], model.predict([fresh])[0]))  # ceil(41 * 0.95)


def test_no_networks_give_no_predictions(model):
    assert model.predict([]).shape == model.upper([]).shape == (0,)


def test_model_survives_its_folder(model, tmp_path):
    fresh = subnets(10, seed=1)
    again = LatencyModel.load(model.save(tmp_path / "model"))
    assert np.array_equal(again.predict(fresh), model.predict(fresh))
    assert np.array_equal(again.upper(fresh), model.upper(fresh))
    assert (again.mape, again.choice, again.architectures) == (model.mape, model.choice, model.architectures)
    assert again.table == model.table
    (tmp_path / "model" / "latency_model.json").write_text("{}")
    with pytest.raises(ValueError, match="no latency model"):
        LatencyModel.load(tmp_path / "model")
    with pytest.raises(FileNotFoundError):
        LatencyModel.load(tmp_path / "nothing")


@pytest.mark.parametrize(("n", "ratio"), [(5, 0.5), (10, -1.0), (10, float("nan"))])
def test_too_few_networks_or_impossible_ratios_are_refused(n, ratio):
    with pytest.raises(ValueError, match="at least 8 networks"):
        fit_latency_model(TABLE, subnets(n), [ratio] * n)


# --- measuring ------------------------------------------------------------------------------------------------------


def overlapping_ms(gpt):
    """Ms of the additive machine, on which deep networks overlap a little."""
    return additive_ms(gpt) * (1 - 0.01 * len(block_sizes(gpt)))


def test_measuring_and_fitting_reaches_the_machine(monkeypatch):
    with FakeMachine(overlapping_ms, noise=0.005).installed(monkeypatch):
        table = measure_table(TINY, TINY_LATTICE, WORKLOAD, timing=ONCE)
        model = measure_and_fit(TINY, table, TINY_LATTICE, n=16, timing=ONCE)
    assert model.mape < 0.05 and len(model.ratios) == 16


def test_killed_measurements_go_on_where_they_stopped(monkeypatch, tmp_path):
    with FakeMachine(overlapping_ms).installed(monkeypatch):
        table = measure_table(TINY, TINY_LATTICE, WORKLOAD, timing=ONCE)
        whole = measure_and_fit(TINY, table, TINY_LATTICE, n=9, timing=ONCE)
    with FakeMachine(overlapping_ms, stop_after=7).installed(monkeypatch), pytest.raises(KeyboardInterrupt):
        measure_and_fit(TINY, table, TINY_LATTICE, n=9, timing=ONCE, folder=tmp_path)
    with FakeMachine(overlapping_ms).installed(monkeypatch) as machine:
        again = measure_and_fit(TINY, table, TINY_LATTICE, n=9, timing=ONCE, folder=tmp_path)
    assert machine.measured == 2 and np.array_equal(again.ratios, whole.ratios)
