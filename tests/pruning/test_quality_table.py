import json

import numpy as np
import pytest
from pruning_supernets import largest_arch
from quality_fakes import LATTICE, direct_kl, made_up_quality, ordered_database

from pruning.depth import without_blocks
from pruning.lattice import Lattice
from pruning.quality_table import _Run as Run
from pruning.quality_table import _unrounded, measure_quality
from supernet.architecture import Architecture

PYTHIA = Lattice(neurons=(20, 64), attention=((3, 3), (4, 4)), embd=(32,))


def with_block(dense, layer, heads, groups, neurons):
    """Return the dense network with one block changed."""
    if not heads and not neurons:
        return without_blocks(dense, [layer])
    columns = (dense.n_head, dense.n_query_groups, dense.intermediate_size)
    new = zip(columns, (heads, groups, neurons), strict=True)
    changed = [tuple(value if i == layer else x for i, x in enumerate(column)) for column, value in new]
    return Architecture(dense.n_embd, *changed, dense.layers, dense.bias)


@pytest.mark.parametrize(("family", "intercept"), [("llama-gqa6", False), ("llama-gqa6", True), ("pythia", False)])
def test_measured_entries_are_the_divergence_with_one_block_changed(family, intercept):
    database, blocks = ordered_database(family, intercept=intercept)
    dense = largest_arch(database.supernet.config)
    lattice = LATTICE if family == "llama-gqa6" else PYTHIA
    table = measure_quality(database, blocks, lattice, levels_per_part=None, batch_size=3)
    (heads, groups), neurons = lattice.attention[-1], lattice.neurons[-1]
    for layer in (0, 3):
        assert table.damage(layer, heads, groups, neurons) == 0
        narrower = [(heads, groups, f) for f in lattice.neurons[:-1]]
        fewer = [(*level, neurons) for level in lattice.attention[:-1]]
        for shape in [(0, 0, neurons), (heads, groups, 0), (0, 0, 0), *narrower, *fewer]:
            expected = direct_kl(database, with_block(dense, layer, *shape), blocks)
            assert table.damage(layer, *shape) == pytest.approx(expected, rel=2e-3, abs=2e-6)
    assert table.measured == set(table.parts)
    first = table.damage(1, *lattice.attention[0], lattice.neurons[0])
    assert first == pytest.approx(
        table.part(1, "attention", lattice.attention[0]) + table.part(1, "mlp", (lattice.neurons[0],))
    )


def test_bf16_is_near_float32_when_what_rounding_adds_is_taken_off(tmp_path):
    database, blocks = ordered_database()
    exact = measure_quality(database, blocks, LATTICE)
    fast = measure_quality(database, blocks, LATTICE, precision="bf16", path=tmp_path / "quality.jsonl")
    raw = dict(json.loads(line) for line in (tmp_path / "quality.jsonl").read_text().splitlines()[1:])
    added = {int(key.split("-")[0]): raw.pop(key) for key in list(raw) if key.endswith("rounding")}
    assert set(added) == set(range(exact.n_layer))  # four of its four layers
    for layer, kl in added.items():  # the least entry of a layer is float32's then
        least = min(
            (entry for entry in exact.measured if entry[0] == layer and exact.parts[entry]), key=exact.parts.get
        )
        assert fast.parts[least] == pytest.approx(exact.parts[least], rel=1e-3)
        assert raw[f"{layer}-{least[1]}-{'x'.join(map(str, least[2]))}"] - kl == pytest.approx(
            exact.parts[least], rel=1e-3
        )
    entries = [entry for entry in exact.measured if exact.parts[entry]]
    left = [abs(fast.parts[entry] / exact.parts[entry] - 1) for entry in entries]
    assert max(left) < 0.1 and fast.gone == pytest.approx(exact.gone, rel=0.05)


def test_little_is_left_of_an_entry_that_rounding_made():
    known = {"0-block-0": 1.0, "0-rounding": 0.5, "2-block-0": 0.4, "2-rounding": 0.5, "1-mlp-8": 3.0}
    found = _unrounded(known, 3)
    assert (found["0-block-0"], found["1-mlp-8"]) == (0.5, 2.5)
    assert found["2-block-0"] == pytest.approx(0.2 * 0.4)
    assert _unrounded({"0-block-0": 1.0}, 3) == {"0-block-0": 1.0}


def test_levels_that_were_not_measured_lie_between_measured_ones_and_near_the_truth():
    database, blocks = ordered_database()
    full = measure_quality(database, blocks, LATTICE, levels_per_part=None)
    table = measure_quality(database, blocks, LATTICE, levels_per_part=1)
    assert len(table.measured) < len(full.measured) and set(table.parts) == set(full.parts)
    for entry in table.measured:
        assert table.parts[entry] == pytest.approx(full.parts[entry], abs=1e-9)
    others = sorted(set(table.parts) - table.measured)
    found, truth = (np.array([t.parts[entry] for entry in others]) for t in (table, full))
    assert np.abs(np.log(found / truth)).mean() < 0.7
    for layer in range(full.n_layer):
        widths = [table.part(layer, "mlp", (n,)) for n in (0, *LATTICE.neurons)]
        assert widths == sorted(widths, reverse=True)


def test_the_least_error_is_measured_in_every_third_layer_and_follows_the_common_slope_elsewhere():
    database, blocks = ordered_database()
    full = measure_quality(database, blocks, LATTICE, levels_per_part=None)
    table = measure_quality(database, blocks, LATTICE, levels_per_part=2)
    left_out = []
    for layer in range(full.n_layer):
        for part, whole in (("attention", LATTICE.attention[-1]), ("mlp", LATTICE.neurons[-1:])):
            own = {e: database.overlay(*e).error for e in full.parts if e[:2] == (layer, part)
                   and e[2] != whole and e[2][0]}  # fmt: skip
            least = min(own, key=own.__getitem__)
            assert (least in table.measured) == (layer % 3 == 0)
            left_out += [least] if least not in table.measured else []
    assert left_out
    assert np.abs([np.log(table.parts[e] / full.parts[e]) for e in left_out]).mean() < 0.5


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    database, blocks = ordered_database()
    path, whole = tmp_path / "quality.jsonl", measure_quality(database, blocks, LATTICE)
    done, real = [], Run._divergence

    def counted(self, *args):
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(args)
        return real(self, *args)

    monkeypatch.setattr(Run, "_divergence", counted)
    with pytest.raises(KeyboardInterrupt):
        measure_quality(database, blocks, LATTICE, path=path)
    assert len(path.read_text().splitlines()) == 8
    monkeypatch.setattr(Run, "_divergence", real)
    table = measure_quality(database, blocks, LATTICE, path=path)
    assert table.parts == whole.parts and table.gone == whole.gone
    monkeypatch.setattr(Run, "_divergence", lambda *_: pytest.fail("measured again"))
    assert measure_quality(database, blocks, LATTICE, path=path).parts == whole.parts


def test_a_file_of_another_text_is_refused(tmp_path):
    database, blocks = ordered_database()
    measure_quality(database, blocks, LATTICE, path=tmp_path / "quality.jsonl")
    with pytest.raises(ValueError, match="belongs to another network, text or settings"):
        measure_quality(database, blocks[:3], LATTICE, path=tmp_path / "quality.jsonl")


def test_the_tables_rows_are_plain_and_its_total_sums_blocks():
    database, blocks = ordered_database()
    table = measure_quality(database, blocks, LATTICE)
    rows = json.loads(json.dumps(table.rows()))
    assert len(rows) == len(table.parts) + table.n_layer
    arch = Architecture(32, (3, 0), (1, 0), (48, 12), (0, 2), bias=False)
    expected = table.part(0, "attention", (3, 1)) + table.gone[1] + table.damage(2, 0, 0, 12) + table.gone[3]
    assert table.total(arch) == pytest.approx(expected)
    np.testing.assert_allclose(table.damages([(3, 1, 48), (0, 0, 0)])[2], [table.damage(2, 3, 1, 48), table.gone[2]])
    with pytest.raises(KeyError, match="no level"):
        table.damage(0, 6, 2, 13)


def test_attention_can_be_weighted():
    config = ordered_database()[0].supernet.config
    table = made_up_quality(config, LATTICE)
    heavier = table.weighted(2.0)
    assert heavier.damage(1, 1, 1, 48) == 2 * table.damage(1, 1, 1, 48) > 0
    assert heavier.damage(1, 6, 2, 12) == table.damage(1, 6, 2, 12) > 0
    assert heavier.damage(1, 0, 0, 0) == table.damage(1, 0, 0, 0)
    assert heavier.damage(1, 3, 1, 24) == 2 * table.damage(1, 3, 1, 48) + table.damage(1, 6, 2, 24)
