import json
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from surrogates import tree_ensemble
from surrogates.exact_sums import for_exact_sums
from surrogates.tree_ensemble import FEW_ROWS, MANY_ROWS, TreeEnsemble
from surrogates.ubjson import parse_ubjson

RNG = np.random.default_rng(0)
X = RNG.integers(0, 12, (400, 6)).astype(np.float32) * np.float32(0.7)
Y = np.column_stack([X[:, 0] * X[:, 1], np.sin(X[:, 2]), RNG.standard_normal(400)])


def boosted(targets, **settings):
    settings = {"max_depth": 4, "tree_method": "hist", "multi_strategy": "multi_output_tree", "nthread": 1} | settings
    return xgb.train(settings, xgb.DMatrix(X, targets), 40)


MODELS = {
    "three targets": boosted(Y),
    "one target": boosted(Y[:, 0]),
    "base 0": boosted(Y, base_score=0.0),
    "deep": boosted(Y, max_depth=9, min_child_weight=0),
    "stumps": boosted(Y[:, :2], max_depth=1),
    "lossguide": boosted(Y, grow_policy="lossguide", max_leaves=7, max_depth=0),
    "subsample": boosted(Y[:, 1], subsample=0.5, colsample_bytree=0.5),
    "no splits": boosted(Y, gamma=1e9),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("n", [1, 2, FEW_ROWS, FEW_ROWS + 1, 400])
def test_predictions_have_the_bits_of_xgboosts(name, n):
    model = MODELS[name]
    ensemble = TreeEnsemble(model.save_raw("ubj"))
    expected = model.inplace_predict(X).reshape(400, -1)[:n]
    np.testing.assert_array_equal(ensemble.inplace_predict(X[:n]), expected)
    np.testing.assert_array_equal(ensemble.trees.predict(X[:n]), expected)
    np.testing.assert_array_equal(ensemble.inplace_predict(np.asfortranarray(X[:n])), expected)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_large_batches_have_the_same_bits_in_any_number_of_threads(monkeypatch, n_threads):
    monkeypatch.setattr(tree_ensemble, "threads", lambda: n_threads)
    model = MODELS["three targets"]
    ensemble = TreeEnsemble(model.save_raw("ubj"))
    rows = np.tile(X, (MANY_ROWS // len(X) + 1, 1))
    np.testing.assert_array_equal(ensemble.inplace_predict(rows), ensemble.trees.predict(rows))


@pytest.mark.parametrize(("limit", "expected"), [("1", 1), ("", 4), ("9", 4), ("x", 4), ("0", 4)])
def test_threads_are_those_of_the_process(monkeypatch, limit, expected):
    monkeypatch.setattr(tree_ensemble, "usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", limit)
    assert tree_ensemble.threads.__wrapped__() == expected


def test_rows_beside_a_threshold_go_where_xgboost_sends_them():
    model = MODELS["one target"]
    ensemble = TreeEnsemble(model.save_raw("ubj"))
    thresholds = ensemble.trees.threshold[np.isfinite(ensemble.trees.threshold)]
    near = np.concatenate(
        [thresholds, np.nextafter(thresholds, np.float32(-99)), np.nextafter(thresholds, np.float32(99))]
    )
    rows = np.tile(near[:, None], (1, 6)).astype(np.float32)
    np.testing.assert_array_equal(ensemble.trees.predict(rows), model.inplace_predict(rows)[:, None])


def test_few_rows_need_no_xgboost(tmp_path):
    path = tmp_path / "model.ubj"
    path.write_bytes(MODELS["three targets"].save_raw("ubj"))
    code = (
        "import sys, numpy as np; from surrogates.tree_ensemble import TreeEnsemble; "
        f"TreeEnsemble(open({str(path)!r}, 'rb').read()).inplace_predict(np.zeros((2, 6), np.float32)); "
        "print('xgboost' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_what_is_read_can_be_saved_again():
    raw = bytes(MODELS["three targets"].save_raw("ubj"))
    assert TreeEnsemble(raw).save_raw("ubj") == raw
    with pytest.raises(ValueError, match="allowed: 'ubj'"):
        TreeEnsemble(raw).save_raw("json")


def test_other_models_are_refused():
    linear = xgb.train({"booster": "gblinear"}, xgb.DMatrix(X, Y[:, 0]), 2)
    classes = xgb.train({"objective": "binary:logistic"}, xgb.DMatrix(X, Y[:, 0] > 3), 2)
    apart = xgb.train({"tree_method": "hist"}, xgb.DMatrix(X, Y), 2)
    for model, message in ((linear, "gblinear"), (classes, "binary:logistic"), (apart, "one tree a target")):
        with pytest.raises(ValueError, match=message):
            TreeEnsemble(model.save_raw("ubj"))


def test_damaged_bytes_are_refused():
    raw = bytes(MODELS["one target"].save_raw("ubj"))
    for damaged in (b"", raw[: len(raw) // 2], b"pickle", raw[:40] + b"\xff" + raw[41:]):
        with pytest.raises(ValueError, match=r"UBJSON|damaged"):
            TreeEnsemble(damaged)


def test_ubjson_holds_what_xgboosts_json_holds():
    for model in MODELS.values():
        expected = json.loads(model.save_raw("json"))
        assert plain(parse_ubjson(model.save_raw("ubj"))) == expected


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.floating):
        return pytest.approx(float(value), rel=1e-6, abs=1e-37)
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"Z", None), (b"T", True), (b"N" + b"F", False), (b"i\xff", -1), (b"U\xff", 255), (b"Cx", "x"),
        (b"SU\x02hi", "hi"), (b"[i\x01i\x02]", [1, 2]), (b"[#i\x01Z", [None]), (b"{i\x01aSi\x01b}", {"a": "b"}),
        (b"D?\xf0\0\0\0\0\0\0", 1.0),
    ],
)  # fmt: skip
def test_ubjson_values(raw, value):
    assert parse_ubjson(raw) == value


@given(st.binary(max_size=40))
def test_random_bytes_are_a_value_or_an_error(raw):
    with suppress(ValueError):  # and no other error
        parse_ubjson(raw)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 80))
def test_sums_of_rounded_coefficients_are_exact_in_any_order(seed, k):
    rng = np.random.default_rng(seed)
    coef = rng.standard_normal((2, k, 3)) * 10.0 ** rng.integers(-6, 6, (2, k, 1))
    rounded = for_exact_sums(coef, 36)
    terms = rng.integers(0, 37, (50, k)).astype(float)
    order = rng.permutation(k)
    expected = terms @ rounded[0]
    np.testing.assert_array_equal(terms[:, order] @ rounded[0, order], expected)
    np.testing.assert_array_equal(np.concatenate([row[None] @ rounded[0] for row in terms]), expected)
    largest = np.abs(coef * 36).sum(axis=1, keepdims=True)
    assert (np.abs(rounded - coef) <= 2.0**-51 * largest).all()
