import numpy as np
import pytest
from fake_machine import FakeMachine, block_sizes
from litgpt import Config
from pruning_supernets import FAMILIES

from hw_profiles.device import Workload
from pruning import latency_check
from pruning.lattice import Lattice
from pruning.lattice_search import find_lattice
from pruning.random_networks import like_layers
from pruning.shape_latency import Timing
from pruning.table_measure import measure_table
from supernet.architecture import Architecture

WORKLOAD = Workload(1, 8)
CONFIG = Config(**{**FAMILIES["llama-gqa6"], "n_layer": 8, "n_embd": 64, "intermediate_size": 48})
LATTICE = Lattice.coarse(CONFIG, n_widths=6)
ONCE = Timing(threads=1, repeats=1, warmup=0)


def additive_ms(gpt):
    """Ms of a machine on which parts add up, narrower networks cost in proportion, and 64 words of head cost 0.2."""
    share = gpt.lm_head.in_features / 64
    blocks = sum(0.3 + (0.1 * h + 0.4 * g + 0.5) * bool(h) + (0.06 * f + 0.2) * bool(f)
                 for h, g, f, _ in block_sizes(gpt))  # fmt: skip
    return share * (blocks + 0.2 * gpt.config.padded_vocab_size / 64 + 1.0)


def test_table_recovers_an_additive_machine(monkeypatch):
    config = Config(**{**FAMILIES["llama-gqa6"], "n_layer": 8, "n_embd": 64, "intermediate_size": 48,
                       "vocab_size": 6400, "padded_vocab_size": 6400})  # fmt: skip
    with FakeMachine(additive_ms).installed(monkeypatch):
        table = measure_table(config, LATTICE, WORKLOAD, timing=ONCE)
    dense = like_layers(config, 8)
    ms = 21.0 + 8 * (0.3 + 0.6 + 0.8 + 0.5 + 0.06 * 48 + 0.2)
    assert table.dense_ms == pytest.approx(ms)
    assert table.predict([dense]) == pytest.approx([1.0])
    assert table.fixed == pytest.approx(21.0 / ms) and table.block == pytest.approx(0.3 / ms)
    for (h, g), cost in table.attention.items():
        assert cost == pytest.approx((0.1 * h + 0.4 * g + 0.5) / ms)
    for width, cost in table.mlp.items():
        assert cost == pytest.approx((0.06 * width + 0.2) / ms)
    assert table.workload == WORKLOAD and table.n_layer == 8
    mixed = Architecture(64, (6, 0, 2), (2, 0, 2), (48, 16, 0), (0, 3, 6), False)
    expected = 21.0 + 3 * 0.3 + 1.9 + 3.08 + 1.16 + 1.5
    assert table.predict([mixed]) == pytest.approx([expected / ms])


def test_table_of_a_machine_with_noise_still_sums_to_one_and_costs_grow(monkeypatch):
    with FakeMachine(additive_ms, noise=0.02).installed(monkeypatch):
        table = measure_table(CONFIG, LATTICE, WORKLOAD, timing=ONCE)
    assert table.predict([like_layers(CONFIG, 8)]) == pytest.approx([1.0])
    widths = [table.mlp[width] for width in LATTICE.neurons]
    assert widths == sorted(widths) and min(widths) > 0 and min(table.attention.values()) > 0
    assert table.noise == pytest.approx(0.02, rel=0.1)


def test_cost_of_blocks_is_that_of_the_deep_network_not_of_the_small_one(monkeypatch):
    def cached_ms(gpt):  # blocks of a network that fits the cache cost half
        return additive_ms(gpt) * (1.0 if len(gpt.transformer.h) > 3 else 0.5)

    with FakeMachine(cached_ms).installed(monkeypatch):
        table = measure_table(CONFIG, LATTICE, WORKLOAD, timing=ONCE)
    assert table.predict([like_layers(CONFIG, 8)]) == pytest.approx([1.0])
    assert {"parts_over_block", "fixed_measured_alone", "by_depth"} <= set(table.notes)


def test_a_network_of_one_block_has_a_table(monkeypatch):
    config = Config(**{**FAMILIES["pythia"], "n_layer": 1})
    with FakeMachine(additive_ms).installed(monkeypatch):
        table = measure_table(config, Lattice.coarse(config), WORKLOAD, timing=ONCE)
    assert table.predict([like_layers(config, 1)]) == pytest.approx([1.0])


def test_a_killed_table_goes_on_where_it_stopped(monkeypatch, tmp_path):
    with FakeMachine(additive_ms).installed(monkeypatch) as machine:
        whole = measure_table(CONFIG, LATTICE, WORKLOAD, timing=ONCE)
        n = machine.measured
    with FakeMachine(additive_ms, stop_after=5).installed(monkeypatch), pytest.raises(KeyboardInterrupt):
        measure_table(CONFIG, LATTICE, WORKLOAD, timing=ONCE, folder=tmp_path)
    with FakeMachine(additive_ms).installed(monkeypatch) as machine:
        assert measure_table(CONFIG, LATTICE, WORKLOAD, timing=ONCE, folder=tmp_path) == whole
        assert machine.measured == n - 5
        with pytest.raises(ValueError, match="another network, workload or device"):
            measure_table(CONFIG, LATTICE, Workload(2, 8), timing=ONCE, folder=tmp_path)


# --- the lattice ----------------------------------------------------------------------------------------------------


def stepped_ms(gpt):
    """Ms of a machine whose kernels work in tiles of 16 neurons, and two heads at once."""
    return 0.1 + sum(-(-h // 2) + 2.0 * g + -(-f // 16) + 0.01 * c for h, g, f, c in block_sizes(gpt))


def test_lattice_holds_the_widths_that_tiles_fill(monkeypatch):
    config = Config(**{**FAMILIES["llama-gqa6"], "intermediate_size": 192})
    with FakeMachine(stepped_ms).installed(monkeypatch):
        lattice = find_lattice(config, WORKLOAD, timing=ONCE)
    assert lattice.neurons == tuple(range(16, 193, 16))
    assert lattice.attention == ((2, 1), (2, 2), (3, 1), (4, 2), (6, 2))  # 1 head costs what 2 do
    assert lattice.embd[-1] == config.n_embd


def test_residual_widths_are_not_measured_where_they_stay(monkeypatch):
    asked = []

    def ms(gpt):
        asked.append(gpt.config.n_embd)
        return stepped_ms(gpt)

    with FakeMachine(ms).installed(monkeypatch):
        lattice = find_lattice(CONFIG, WORKLOAD, timing=ONCE, embd=False)
        assert lattice.embd == (CONFIG.n_embd,) and set(asked) == {CONFIG.n_embd}
        find_lattice(CONFIG, WORKLOAD, timing=ONCE)
    assert len(set(asked)) > 1


def test_lattice_is_the_whole_part_where_size_costs_nothing(monkeypatch):
    with FakeMachine(lambda gpt: float(len(gpt.transformer.h) + 1)).installed(monkeypatch):
        lattice = find_lattice(CONFIG, WORKLOAD, timing=ONCE)
    assert lattice == Lattice((48,), ((6, 2),), (64,))


def test_noise_does_not_empty_the_lattice(monkeypatch):
    with FakeMachine(additive_ms, noise=0.02, seed=1).installed(monkeypatch):
        lattice = find_lattice(CONFIG, WORKLOAD, timing=ONCE)
    assert len(lattice.neurons) >= 5 and len(lattice.attention) >= 3
    lattice.check(CONFIG)


@pytest.mark.parametrize(
    ("family", "workload"),
    [("llama-gqa6", WORKLOAD), ("gemma2", Workload(1, 1, phase="decode", cache_len=6)), ("phi", WORKLOAD)],
)
def test_lattice_and_table_of_real_networks(monkeypatch, family, workload):
    monkeypatch.setattr(latency_check, "_LEAST_MS", 0.0)  # one call a sample: no need to be accurate
    config = Config(**FAMILIES[family])
    lattice = find_lattice(config, workload, timing=ONCE, n_widths=3)
    table = measure_table(config, Lattice.coarse(config, n_widths=3), workload, timing=ONCE)
    lattice.check(config)
    assert table.predict([like_layers(config, config.n_layer)]) == pytest.approx([1.0])
    assert np.isfinite(table.dense_ms) and table.dense_ms > 0
