import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_latency_table import CONFIG, DECODE, LATTICE, PREFILL, WHOLE

from pruning.budget import METRICS, parse_budget, parse_limit, resolve
from pruning.budget_values import best_values, counted_values, dense_values, smallest_architectures, timed_values
from pruning.latency_table import LatencyTable
from supernet.architecture import Architecture
from supernet.cost import kv_cache_bytes, parameter_count

SIZES = [name for name in METRICS if name != "tokens_per_s"]
percents = st.floats(0.1, 99.9).map(lambda x: round(x, 3))
spaces = st.sampled_from(["", " ", "  "])


@given(st.sampled_from(SIZES), percents, spaces, st.sampled_from(["-", "\u2212", "\u2013"]))
def test_less_by_a_share_is_that_share_less_of_the_dense_model(metric, percent, space, minus):
    limit = parse_limit(metric, f"{space}{minus}{space}{percent}{space}%{space}")
    assert limit.value is None and limit.ratio == pytest.approx(1 - percent / 100)


@given(st.sampled_from(SIZES), percents, spaces)
def test_shares_and_factors_say_the_same(metric, percent, space):
    share = parse_limit(metric, f"{percent}{space}%")
    assert share.ratio == pytest.approx(percent / 100)
    factor = f"{percent / 100:.6f}"
    for text in (f"x{space}{factor}", f"{factor}{space}x", f"X{factor}", f"\u00d7{factor}"):
        assert parse_limit(metric, text).ratio == pytest.approx(percent / 100, rel=1e-4)


@given(st.floats(1, 1e6), spaces)
def test_absolute_times_are_in_ms(number, space):
    for unit, factor in {"ms": 1, "s": 1e3, "us": 1e-3, "": 1}.items():
        assert parse_limit("latency", f"{number!r}{space}{unit}").value == pytest.approx(number * factor)
    assert parse_limit("latency", number).value == number and parse_limit("latency", number).ratio is None


@given(st.integers(1, 10**13), st.sampled_from(["memory", "kv_cache"]))
def test_bytes_know_binary_and_decimal_units(number, metric):
    units = {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    for unit, factor in units.items():
        assert parse_limit(metric, f"{number}{unit}").value == pytest.approx(number * factor)


@pytest.mark.parametrize(
    ("metric", "text", "value"),
    [("params", "100M", 1e8), ("params", "1.2B", 1.2e9), ("decoder_params", "750k", 7.5e5), ("params", 10**8, 1e8),
     ("params", 1e8, 1e8), ("params", "100_000_000", 1e8), ("tokens_per_s", "120 tok/s", 120),
     ("tokens_per_s", "1.5 ktok/s", 1500), ("tokens_per_s", 120, 120), ("latency", "0.5s", 500),
     ("latency", "12", 12), ("latency", "1e1ms", 10), ("memory", "1GB", 1e9), ("memory", "64 MiB", 2**26)],
)  # fmt: skip
def test_forms_of_the_manual(metric, text, value):
    limit = parse_limit(metric, text)
    assert limit.value == pytest.approx(value) and limit.ratio is None and limit.asked == str(text)


def test_throughput_is_asked_for_upwards():
    assert parse_limit("tokens_per_s", "+30%").ratio == pytest.approx(1.3)
    assert parse_limit("tokens_per_s", "x1.3").ratio == pytest.approx(1.3)
    with pytest.raises(ValueError, match=r"more than 1 times"):
        parse_limit("tokens_per_s", "-25%")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "asked", ["", "fast", "25 percent", "12 parsecs", "-12ms", "nan", "inf", float("nan"), float("inf"), -5, "-", "%",
              "x", "12ms ms", True, None, [12], {"a": 1}, "1e999", "--5%", "5%%", "0", 0, "0ms", "x0", "0%", "1e999%"]
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_examples(metric, asked):
    with pytest.raises(ValueError, match=r"for example [-+]\d+%"):
        parse_limit(metric, asked)


@given(st.sampled_from(list(METRICS)), st.text(max_size=12))
def test_any_text_gives_a_sound_limit_or_one_clear_error(metric, text):
    limit, message = None, ""
    try:
        limit = parse_limit(metric, text)
    except ValueError as error:
        message = str(error)
    if limit is None:
        assert f"budget.{metric}" in message and "\n" not in message
    else:
        assert (limit.value is None) != (limit.ratio is None)
        number = limit.value if limit.ratio is None else limit.ratio
        assert number is not None and math.isfinite(number) and number > 0


@pytest.mark.parametrize("metric", SIZES)
@pytest.mark.parametrize("asked", ["+25%", "100%", "x1", "x1.5", "-100%", "-150%", "0%"])
def test_relative_limits_that_prune_nothing_or_everything_are_refused(metric, asked):
    with pytest.raises(ValueError, match="times the dense model's: give less than 1 times it"):
        parse_limit(metric, asked)


@pytest.mark.parametrize("asked", ["0.75", 0.75, ".5"])
def test_bare_numbers_below_one_are_ambiguous(asked):
    with pytest.raises(ValueError, match=r"write x0\.\d+ for that"):
        parse_limit("latency", asked)


def test_unknown_metrics_name_the_nearest():
    with pytest.raises(KeyError, match="Did you mean 'latency'"):
        parse_budget({"latancy": "-25%"}, PREFILL)


def test_a_budget_needs_a_limit_and_timed_ones_a_workload():
    with pytest.raises(ValueError, match="no budget"):
        parse_budget({"latency": None}, PREFILL)
    with pytest.raises(ValueError, match="workload"):
        parse_budget({"params": "-25%", "latency": "-25%"})
    assert [limit.metric for limit in parse_budget({"params": "-25%", "latency": None})] == ["params"]


# --- resolved -------------------------------------------------------------------------------------------------------


def test_limits_resolve_against_the_dense_model():
    budget = resolve(parse_budget({"latency": "-25%", "params": "100M"}, PREFILL), {"latency": 40.0, "params": 1.25e8})
    latency, params = budget.limits
    assert latency.value == pytest.approx(30) and latency.ratio == pytest.approx(0.75)
    assert params.value == 1e8 and params.ratio == pytest.approx(0.8)
    assert budget.latency_ratio == pytest.approx(0.75) and budget.counted == (params,)
    assert budget.met_by({"latency": 30.0, "params": 1e8}) and not budget.met_by({"latency": 30.1, "params": 1e8})
    assert latency.used(24.0) == pytest.approx(0.8)
    with pytest.raises(KeyError, match="memory"):
        resolve(parse_budget({"memory": "-25%"}, PREFILL), {"latency": 1.0})


def test_throughput_limits_the_latency_too():
    budget = resolve(parse_budget({"tokens_per_s": "x2", "latency": "-25%"}, PREFILL), timed_values(40.0, PREFILL))
    assert budget.latency_ratio == pytest.approx(0.5)
    assert budget.limits[0].met_by(timed_values(20.0, PREFILL)["tokens_per_s"])
    assert not budget.limits[0].met_by(timed_values(20.1, PREFILL)["tokens_per_s"])
    assert budget.limits[0].used(4 * 12800) == pytest.approx(0.5)


@given(st.floats(1e-3, 1e12), st.floats(0.01, 0.99))
def test_the_limit_itself_is_met_and_the_dense_model_is_not(dense, ratio):
    (limit,) = resolve([parse_limit("memory", f"x{ratio!r}")], {"memory": dense}).limits
    assert limit.met_by(limit.value) and not limit.is_met_by_dense
    assert not limit.met_by(limit.value * 1.001)


def test_an_absolute_limit_above_the_dense_model_is_met_by_it():
    (limit,) = resolve([parse_limit("params", "200M")], {"params": 1.3e8}).limits
    assert limit.is_met_by_dense and limit.ratio > 1


def test_unreachable_limits_name_the_smallest_reachable():
    budget = resolve(parse_budget({"params": "1M", "latency": "-90%"}, PREFILL), {"params": 1.3e8, "latency": 40.0})
    with pytest.raises(ValueError, match=r"budget\.params = 1M .* the smallest is 28\.5M .*; budget\.latency = -90%"):
        budget.check_reachable({"params": 28.5e6, "latency": 5.0})
    budget.check_reachable({"params": 9e5, "latency": 4.0})
    budget.check_reachable({})


# --- values ---------------------------------------------------------------------------------------------------------


def test_memory_is_weights_and_the_cache_of_the_workload():
    for workload, tied in ((PREFILL, True), (DECODE, False)):
        values = counted_values(CONFIG, [WHOLE], workload, tied=tied)
        cache = kv_cache_bytes(CONFIG, WHOLE, seq_len=workload.n_positions, bytes_per_element=2)
        params = parameter_count(CONFIG, WHOLE, tied=tied)
        assert values["kv_cache"].tolist() == [cache] and values["params"].tolist() == [params.total]
        assert values["memory"].tolist() == [2 * params.total + cache]
        assert values["decoder_params"].tolist() == [params.decoder]


def test_dense_values_hold_every_metric():
    values = dense_values(CONFIG, DECODE, tied=True, dense_ms=20.0)
    assert set(values) == set(METRICS)
    assert values["params"] == 134_515_008 and values["tokens_per_s"] == pytest.approx(50)
    assert set(dense_values(CONFIG, DECODE)) == set(METRICS) - {"latency", "tokens_per_s"}


@pytest.mark.parametrize("complete", [True, False])
def test_nothing_on_the_lattice_is_below_the_best_values(complete):
    table = LatencyTable.analytic(CONFIG, LATTICE, DECODE)
    best = best_values(CONFIG, LATTICE, DECODE, tied=True, complete=complete, latency=table.predict, dense_ms=10.0)
    rng = np.random.default_rng(0)
    archs = smallest_architectures(CONFIG, LATTICE, complete=complete)
    for _ in range(200):
        heads, groups = LATTICE.attention[rng.integers(9)]
        parts = [(heads, groups, int(rng.choice(LATTICE.neurons)))]
        parts += [] if complete else [(0, 0, parts[0][2]), (heads, groups, 0)]
        h, g, f = parts[rng.integers(len(parts))]
        embd = int(rng.choice(LATTICE.embd)) if complete else 576
        n = int(rng.integers(1, 4))
        archs.append(Architecture(embd, (h,) * n, (g,) * n, (f,) * n, tuple(range(n)), False))
    values = counted_values(CONFIG, archs, DECODE, tied=True) | {"latency": table.predict(archs) * 10.0}
    for name, found in values.items():
        assert best[name] == pytest.approx(found.min())
    assert best["tokens_per_s"] == pytest.approx(1e3 / best["latency"])
