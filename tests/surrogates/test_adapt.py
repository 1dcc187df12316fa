import re
from pathlib import Path

import numpy as np
import pytest
from adaptation_fakes import DEVICES, FakeModel, far, near
from surrogate_data import frame_of, measurements, noisy, sampled, small_space

from hw_profiles.device import Workload
from surrogates.adapt import adapt_device, fit_blend
from surrogates.adapt_input import MIN_ROWS, measured_values
from surrogates.adaptation_terms import FEATURES, DeviceFeatures
from surrogates.adapted import AdaptedDevice
from surrogates.calibration import ResidualQuantiles
from surrogates.campaign import TargetKey
from surrogates.layer_features import LayerFeatures
from surrogates.levels import LEVELS
from surrogates.targets import Targets

MODEL = FakeModel()
SPACE = MODEL.space
NEW = sampled(SPACE, 300, seed=9)
WORKLOAD = "prefill-b1-t128-float32"


def measured(values: object = near, n: int = 20, *, noise: float = 0.003, seed: int = 0) -> Targets:
    archs = sampled(SPACE, n, seed=seed)
    exact = values(MODEL, archs)  # type: ignore[operator]
    return measured_values(archs, noisy(exact, noise, seed=seed), space=SPACE, workload=WORKLOAD)


def predicted(device: AdaptedDevice, metric: str = "latency_ms") -> np.ndarray:
    target = next(t for t in device.bind(MODEL) if t.target.metric == metric)
    genes = np.array(MODEL_GENES)
    return target.predict(genes, MODEL.predict(genes))


def genes_of_new() -> np.ndarray:
    from supernet.encoding import to_genes

    return to_genes(SPACE, NEW)


MODEL_GENES = genes_of_new()


def error(device: AdaptedDevice, values: object = near) -> float:
    return float(np.abs(predicted(device) / values(MODEL, NEW) - 1).mean())  # type: ignore[operator]


def test_features_are_sums_over_the_kept_blocks() -> None:
    layers, names = LayerFeatures(SPACE), LayerFeatures(SPACE).tree_names
    expected = layers.trees(MODEL_GENES)[:, [names.index(name) for name in FEATURES]]
    np.testing.assert_array_equal(MODEL.features(MODEL_GENES), expected)
    with pytest.raises(ValueError, match="layer_choice='subset'"):
        DeviceFeatures(small_space(layer_choice="subset"))


# --- what it predicts ---------------------------------------------------------------------------------------------


def test_a_device_like_the_sources_is_predicted_better_than_from_scratch() -> None:
    data = measured(n=12)
    device = adapt_device(MODEL, [data], name="mybox")
    scores = device.metrics["latency_ms"].report.scores
    assert error(device) < 0.02
    assert scores["blend"]["mape"] < 0.7 * scores["scratch"]["mape"]


def test_a_device_unlike_all_sources_is_learned_from_scratch() -> None:
    device = adapt_device(MODEL, [measured(far, 30)], name="mybox")
    report = device.metrics["latency_ms"].report
    assert sum(report.shares[way] for way in ("source", "source_unit", "nonnegative")) < 0.01
    assert max(report.shares, key=lambda way: report.shares[way]) == "scratch"
    assert report.scores["source"]["mape"] > 5 * report.scores["scratch"]["mape"]
    assert error(device, far) < 0.01


def test_more_measurements_predict_better() -> None:
    errors = [
        np.mean([error(adapt_device(MODEL, [measured(n=n, seed=s)], name="x")) for s in range(3)]) for n in (6, 60)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_the_blend_is_the_weighted_mean_of_its_parts() -> None:
    data = measured(n=15)
    sources = MODEL.of(data.archs)[:, :5]
    features = MODEL.features(genes_of(data))
    blend, found, shares = fit_blend(sources, features, data.y, widths=SPACE.n_embd)
    table = blend.terms(sources, features)
    parts = [
        np.exp(c.log_affine[0] + c.log_affine[1] * np.log(sources[:, c.source])) if c.log_affine else table @ c.coef
        for c in found[:-1]
    ]
    assert shares.sum() == pytest.approx(1) and (shares >= 0).all()
    np.testing.assert_allclose(blend.predict(sources, features), shares @ np.array(parts), rtol=1e-9)
    np.testing.assert_allclose(found[-1].loo, shares @ np.array([c.loo for c in found[:-1]]))
    errors = np.array([c.loo_error(data.y) for c in found[:-1]])
    assert (np.argsort(errors) == np.argsort(-shares)).all()


def genes_of(data: Targets) -> np.ndarray:
    from supernet.encoding import to_genes

    return to_genes(SPACE, data.archs)


@pytest.mark.parametrize("way", ["source_unit", "nonnegative", "sources", "scratch"])
def test_leave_one_out_predictions_do_not_see_their_row(way: str) -> None:
    data = measured(n=12)
    changed = data.y.copy()
    changed[4] *= 1.05
    found = {}
    for y in (data.y, changed):
        sources, features = MODEL.of(data.archs)[:, :5], MODEL.features(genes_of(data))
        candidates = fit_blend(sources, features, y, widths=SPACE.n_embd)[1]
        found[y is data.y] = next(c for c in candidates if c.name == way).loo
    own = abs(found[True][4] / found[False][4] - 1)
    assert own < (0.02 if way in ("sources", "scratch") else 1e-4)  # penalties are chosen with all rows, once
    assert not np.allclose(np.delete(found[True], 4), np.delete(found[False], 4), rtol=1e-5)


def test_the_order_of_the_rows_makes_no_difference() -> None:
    data = measured(n=15)
    order = np.random.default_rng(1).permutation(15)
    turned = Targets(
        data.metric, data.unit, data.device, data.workload, tuple(data.archs[i] for i in order), data.y[order]
    )
    one, two = (predicted(adapt_device(MODEL, [d], name="x")) for d in (data, turned))
    np.testing.assert_allclose(one, two, rtol=1e-4)


def test_another_unit_of_time_scales_the_predictions() -> None:
    data = measured(n=15)
    slow = Targets(data.metric, data.unit, data.device, data.workload, data.archs, 1000 * data.y)
    one, two = (predicted(adapt_device(MODEL, [d], name="x")) for d in (data, slow))
    np.testing.assert_allclose(two, 1000 * one, rtol=1e-4)


def test_intervals_hold_new_architectures_as_often_as_they_say() -> None:
    held = []
    for seed in range(12):
        device = adapt_device(MODEL, [measured(n=40, noise=0.02, seed=seed)], name="x")
        low, high = device.metrics["latency_ms"].log_quantiles((0.05, 0.95))
        truth = noisy(near(MODEL, NEW), 0.02, seed=100 + seed)
        ratio = np.log(truth / predicted(device))
        held.append(np.mean((low <= ratio) & (ratio <= high)))
    assert 0.86 < np.mean(held) < 0.96


def test_too_few_rows_for_an_interval_says_how_many_are_needed() -> None:
    metric = adapt_device(MODEL, [measured(n=10)], name="x").metrics["latency_ms"]
    assert len(metric.log_quantiles((0.1, 0.9))) == 2
    with pytest.raises(
        ValueError, match=r"latency_ms of x: quantiles .* at least 19 rows, there are 10: measure 9 more"
    ):
        metric.log_quantiles((0.05, 0.95))


def test_quantiles_are_the_conformal_ones_of_the_leave_one_out_residuals() -> None:
    metric = adapt_device(MODEL, [measured(n=37)], name="x").metrics["latency_ms"]
    expected = ResidualQuantiles.of(metric.report.measured, metric.report.loo["blend"]).quantiles(LEVELS)
    np.testing.assert_allclose(metric.log_quantiles(LEVELS), expected[0], atol=1e-12)
    with pytest.raises(ValueError, match="quantile level 1: give numbers between 0 and 1"):
        metric.log_quantiles((1,))


# --- from a table -------------------------------------------------------------------------------------------------


def test_all_metrics_of_a_table_that_shipped_devices_have_are_adapted(tmp_path: Path) -> None:
    archs = sampled(SPACE, 20)
    medians = MODEL.of(archs)
    rows = measurements(SPACE, archs, 1.3 * medians[:, 1])
    rows += measurements(SPACE, archs, 2.0 * medians[:, 5], metric="energy_mj")
    rows += measurements(SPACE, archs, 1.1 * medians[:, 6], metric="memory_mib")
    rows += measurements(SPACE, archs, medians[:, 6], metric="n_params")
    frame = frame_of(tmp_path, rows)
    device = adapt_device(MODEL, frame, name="mybox", command="test")
    assert list(device.metrics) == ["latency_ms", "energy_mj", "memory_mib"]
    for metric, column, factor in (("latency_ms", 1, 1.3), ("energy_mj", 5, 2.0), ("memory_mib", 6, 1.1)):
        np.testing.assert_allclose(predicted(device, metric), factor * MODEL.of(NEW)[:, column], rtol=0.01)
    energy = device.metrics["energy_mj"]
    assert energy.sources[-1] == TargetKey("energy_mj", "a100") and len(energy.sources) == 6
    assert energy.target == TargetKey("energy_mj", "mybox") and energy.unit == "mJ"
    assert energy.workload == "prefill-b1-t64-float32"
    assert list(adapt_device(MODEL, frame, name="x", metrics=["memory_mib"]).metrics) == ["memory_mib"]


def test_noise_comes_from_the_repeats(tmp_path: Path) -> None:
    from dataclasses import replace

    archs, rng = sampled(SPACE, 30), np.random.default_rng(0)
    rows = measurements(SPACE, archs, near(MODEL, archs))
    rows = [replace(row, repeats=tuple(row.repeats[0] * np.exp(0.04 * rng.standard_normal(20)))) for row in rows]
    target = adapt_device(MODEL, frame_of(tmp_path, rows), name="x").bind(MODEL)[0]
    assert target.noise_std(MODEL_GENES) == pytest.approx(np.full(300, 0.04), rel=0.15)
    assert np.isnan(adapt_device(MODEL, [measured()], name="x").bind(MODEL)[0].noise_std(MODEL_GENES)).all()


# --- bad input ----------------------------------------------------------------------------------------------------


def test_too_few_rows_say_how_many_are_needed() -> None:
    with pytest.raises(
        ValueError, match=rf"3 measured architectures are too few .* at least {MIN_ROWS} .* measure 2 more"
    ):
        adapt_device(MODEL, [measured(n=3)], name="x")
    assert adapt_device(MODEL, [measured(n=MIN_ROWS)], name="x").metrics["latency_ms"].n == MIN_ROWS


@pytest.mark.parametrize("name", ["a100", "any", "", "a/b", "../x", ".hidden", "x" * 65])
def test_names_that_are_taken_or_not_possible_are_refused(name: str) -> None:
    message = "there is a device 'a100' already; devices: a100, cpu-a" if name == "a100" else "give letters, digits"
    with pytest.raises(ValueError, match=message):
        adapt_device(MODEL, [measured()], name=name)


def test_a_shipped_name_is_allowed_on_request_and_reserved_ones_are_not() -> None:
    assert adapt_device(MODEL, [measured()], name="a100", replace=True).name == "a100"
    with pytest.raises(ValueError, match="there is a device 'mine' already"):
        adapt_device(MODEL, [measured()], name="mine", reserved=["mine"])


@pytest.mark.parametrize("value", [float("nan"), -1.0, 0.0, float("inf")])
def test_values_that_are_no_measurements_are_refused(value: float) -> None:
    archs = sampled(SPACE, 6)
    with pytest.raises(ValueError, match=rf"latency_ms of {archs[2].id} is {value} .* finite and above 0"):
        measured_values(archs, [1, 2, value, 3, 4, 5], space=SPACE, workload=WORKLOAD)


def test_lists_that_do_not_fit_are_refused() -> None:
    archs = sampled(SPACE, 6)
    with pytest.raises(ValueError, match=r"6 architectures and values of shape \(5,\)"):
        measured_values(archs, [1.0] * 5, space=SPACE, workload=WORKLOAD)
    with pytest.raises(ValueError, match=rf"{archs[1].id} is there twice \(rows 1 and 5\)"):
        measured_values([*archs[:5], archs[1]], [1.0] * 6, space=SPACE, workload=WORKLOAD)
    with pytest.raises(ValueError, match="latency_ms is in ms, the values are in s: convert"):
        measured_values(archs, [1.0] * 6, space=SPACE, workload=WORKLOAD, unit="s")
    with pytest.raises(ValueError, match="no metric 'latency'; near matches: latency_ms"):
        measured_values(archs, [1.0] * 6, space=SPACE, workload=WORKLOAD, metric="latency")
    with pytest.raises(ValueError, match=r"n_embd = 48 is not in space 'small'"):
        measured_values(archs, [1.0] * 6, space=small_space(n_embd=(16, 64, 80)), workload=Workload(1, 8))


def test_rows_in_mixed_units_are_found() -> None:
    data = measured(n=20)
    mixed = data.y.copy()
    mixed[7] /= 1000
    text = rf"latency_ms of {data.archs[7].id} is .* ms: 1e\+03 times less .* Are all values in ms"
    with pytest.raises(ValueError, match=text.replace("1e\\+03", r"[0-9e+.]+")):
        adapt_device(MODEL, [Targets(data.metric, "ms", "", WORKLOAD, data.archs, mixed)], name="x")


def test_a_table_of_another_space_is_refused(tmp_path: Path) -> None:
    other = small_space(name="other")
    archs = sampled(other, 8)
    frame = frame_of(tmp_path, measurements(other, archs, near(MODEL, archs)))
    with pytest.raises(ValueError, match=r"the table has no space 'small' .* it has: other"):
        adapt_device(MODEL, frame, name="x")


def test_a_table_of_several_devices_asks_which_one(tmp_path: Path) -> None:
    archs = sampled(SPACE, 8)
    rows = measurements(SPACE, archs, near(MODEL, archs), device="one")
    frame = frame_of(tmp_path, rows + measurements(SPACE, archs, 2 * near(MODEL, archs), device="two"))
    with pytest.raises(ValueError, match="several devices: choose one of one, two"):
        adapt_device(MODEL, frame, name="x")
    assert adapt_device(MODEL, frame, name="x", device="two").metrics["latency_ms"].measured_on == "two"


def test_a_metric_that_no_shipped_device_has_is_refused(tmp_path: Path) -> None:
    archs = sampled(SPACE, 8)
    frame = frame_of(tmp_path, measurements(SPACE, archs, near(MODEL, archs), metric="tokens_per_s"))
    with pytest.raises(ValueError, match="measured: tokens_per_s; a device can be adapted for latency_ms, energy_mj"):
        adapt_device(MODEL, frame, name="x")
    with pytest.raises(
        ValueError, match="no shipped device to adapt tokens_per_s from; metrics: latency_ms, energy_mj"
    ):
        adapt_device(MODEL, frame, name="x", metrics=["tokens_per_s"])
    with pytest.raises(ValueError, match="energy_mj was not measured; measured: tokens_per_s"):
        adapt_device(MODEL, frame, name="x", metrics=["energy_mj"])


def test_another_model_or_space_than_it_was_adapted_from_is_refused() -> None:
    device = adapt_device(MODEL, [measured()], name="x")
    with pytest.raises(ValueError, match="another version of the shipped surrogates: adapt it again"):
        device.bind(FakeModel(seed=1))
    with pytest.raises(ValueError, match="adapted for space 'small', not for this 'wide'"):
        device.bind(FakeModel(small_space(name="wide")))
    less = FakeModel()
    less.targets = less.targets[1:]
    with pytest.raises(ValueError, match=re.escape(f"was adapted from latency_ms of {DEVICES[0]}")):
        device.bind(less)
