import json

import numpy as np
import pytest
from pruning_supernets import FAMILIES
from test_lattice import SMOLLM2

from hw_profiles.device import Workload
from pruning.latency_table import LatencyTable
from pruning.lattice import Lattice
from supernet.architecture import Architecture
from supernet.litgpt_config import model_config

CONFIG = model_config(SMOLLM2)
LATTICE = Lattice.coarse(CONFIG)
PREFILL = Workload(1, 512, dtype="bfloat16")
DECODE = Workload(1, 1, dtype="bfloat16", phase="decode", cache_len=256)
WHOLE = Architecture.uniform(n_embd=576, n_layer=30, n_head=9, n_query_groups=3, intermediate_size=1536, bias=False)


def table_of(**changes):
    values = {
        "fixed": 0.2, "block": 0.01, "attention": {(1, 1): 0.05, (2, 1): 0.07, (2, 2): 0.08, (4, 2): 0.12},
        "mlp": {8: 0.1, 16: 0.15, 32: 0.27}, "n_layer": 2, "n_embd": 64, "dense_ms": 3.0, "workload": PREFILL,
        "device": "test",
    }  # fmt: skip
    return LatencyTable(**{**values, **changes})


@pytest.mark.parametrize("workload", [PREFILL, DECODE])
@pytest.mark.parametrize("arguments", [SMOLLM2, *FAMILIES.values()])
def test_analytic_table_of_the_dense_model_sums_to_one_and_costs_grow(arguments, workload):
    config = model_config({"block_size": 1024, **arguments, **({} if arguments is SMOLLM2 else {"block_size": 1024})})
    lattice = Lattice.coarse(config)
    table = LatencyTable.analytic(config, lattice, workload)
    whole = Architecture.uniform(
        n_embd=config.n_embd, n_layer=config.n_layer, n_head=config.n_head, n_query_groups=config.n_query_groups,
        intermediate_size=config.intermediate_size, bias=config.bias,
    )  # fmt: skip
    assert table.predict([whole]) == pytest.approx([1.0])
    widths = [table.mlp[width] for width in lattice.neurons]
    assert widths == sorted(widths)
    for h, g in lattice.attention:
        for other, cost in table.attention.items():
            assert (cost >= table.attention[h, g]) or not (other[0] >= h and other[1] >= g)


def test_removing_a_kv_group_saves_more_of_prefill_than_of_decode():
    saved = []
    for workload in (PREFILL, DECODE):
        table = LatencyTable.analytic(CONFIG, LATTICE, workload)
        pruned = Architecture(576, (6,) * 30, (2,) * 30, (1536,) * 30, tuple(range(30)), False)
        saved.append(1 - table.predict([pruned])[0])
    assert saved[0] > saved[1] > 0


def test_prediction_is_the_sum_over_kept_blocks_and_present_parts():
    table = table_of()
    archs = [
        Architecture(64, (4, 2), (2, 1), (32, 16), (0, 1), False),
        Architecture(64, (0, 1), (0, 1), (8, 0), (0, 1), False),
        Architecture(64, (2,), (2,), (32,), (1,), False),
    ]
    expected = [0.2 + 0.02 + 0.12 + 0.27 + 0.07 + 0.15, 0.2 + 0.02 + 0.1 + 0.05, 0.2 + 0.01 + 0.08 + 0.27]
    assert table.predict(archs) == pytest.approx(expected)
    assert table.predict([]).shape == (0,)


def test_widths_between_are_interpolated_and_levels_between_lie_in_their_range():
    table = table_of()
    one = Architecture(64, (4,), (2,), (32,), (0,), False)
    at = {f: table.predict([Architecture(64, (4,), (2,), (f,), (0,), False)])[0] for f in (8, 12, 16, 24, 32)}
    assert at[12] == pytest.approx((at[8] + at[16]) / 2) and at[24] == pytest.approx((at[16] + at[32]) / 2)
    fewer = table_of(attention={(1, 1): 0.05, (2, 2): 0.08, (4, 2): 0.12, (2, 1): 0.06, (6, 3): 0.2})
    between = fewer.predict([Architecture(64, (3,), (3,), (32,), (0,), False)])[0]
    assert 0.27 + 0.21 < between < fewer.predict([Architecture(64, (6,), (3,), (32,), (0,), False)])[0]
    assert table.predict([one])[0] == pytest.approx(0.2 + 0.01 + 0.12 + 0.27)


def test_narrower_networks_cost_in_proportion_or_what_was_measured():
    narrow = Architecture(32, (4,), (2,), (32,), (0,), False)
    assert table_of().predict([narrow])[0] == pytest.approx(0.5 * 0.6)
    assert table_of(embd={32: 0.7}).predict([narrow])[0] == pytest.approx(0.5 * 0.2 + 0.7 * 0.4)


def test_prediction_of_many_equals_prediction_one_by_one():
    table = LatencyTable.analytic(CONFIG, LATTICE, PREFILL)
    rng = np.random.default_rng(0)
    archs = []
    for _ in range(20):
        layers = tuple(np.sort(rng.choice(30, rng.integers(1, 31), replace=False)).tolist())
        levels = [LATTICE.attention[rng.integers(9)] for _ in layers]
        heads, groups = zip(*levels, strict=True)
        archs.append(Architecture(576, heads, groups, tuple(rng.integers(0, 1537, len(layers))), layers, False))
    assert table.predict(archs) == pytest.approx([table.predict([arch])[0] for arch in archs])


def test_networks_larger_than_the_dense_model_are_refused():
    with pytest.raises(ValueError, match="intermediate_size = 64"):
        table_of().predict([Architecture(64, (4,), (2,), (64,), (0,), False)])
    with pytest.raises(ValueError, match="block indices"):
        table_of().predict([Architecture(64, (4,), (2,), (32,), (2,), False)])


def test_table_survives_its_file(tmp_path):
    table = table_of(embd={32: 0.6}, noise=0.01, notes={"how": "test"})
    assert LatencyTable.load(table.save(tmp_path / "table.json")) == table
    data = json.loads((tmp_path / "table.json").read_text())
    del data["mlp"]
    (tmp_path / "table.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="not a latency table"):
        LatencyTable.load(tmp_path / "table.json")


@pytest.mark.parametrize("changes", [{"fixed": -0.1}, {"mlp": {}}, {"mlp": {8: float("nan")}}, {"attention": {}}])
def test_costs_that_make_no_sense_are_refused(changes):
    with pytest.raises(ValueError, match="latency table"):
        table_of(**changes)
