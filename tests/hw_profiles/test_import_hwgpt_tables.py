import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hwgpt_fakes import CPUS, GPUS, FakeBenchmark

from hw_profiles.importers.hwgpt_devices import Selection
from hw_profiles.importers.hwgpt_tables import import_hwgpt_tables
from hw_profiles.table import MeasurementTable
from supernet.architecture import Architecture
from supernet.cost import parameter_counts
from supernet.spaces import load_space

FOLDER = Path(__file__).parents[2].parent / "shared" / "hwgpt_bench"
ONLY_S = Selection(scales=("s",))


@pytest.fixture(scope="module")
def benchmark():
    return FakeBenchmark("s", n=40)


@pytest.fixture
def tidy(benchmark, tmp_path):
    """A folder of tidy tables of scale s that tests may change."""
    return benchmark.write_tidy(tmp_path / "tidy")


def rows_of(table, metric, device):
    frame = MeasurementTable(table).read()
    return frame[(frame["metric"] == metric) & (frame["device"] == device)].set_index("order")


def edit(path, change):
    frame = pq.read_table(path).to_pandas()
    pq.write_table(pa.Table.from_pandas(change(frame), preserve_index=False), path)


def test_every_observation_becomes_a_row_in_the_tables_units(benchmark, tidy, tmp_path):
    result = import_hwgpt_tables(tidy, tmp_path / "t", selection=ONLY_S)
    measured = sum(i < len(benchmark.quality) for i in benchmark.kept)
    assert result.added == {"gpt-s": 36 * len(benchmark.kept) + 2 * measured}
    i = benchmark.kept[1]
    row = rows_of(tmp_path / "t", "latency_ms", "cpu_xeon_gold").loc[i]
    source = benchmark.latency["cpu_xeon_gold"][i]
    expected = [
        v * (1000 if u == "s" else 1) for v, u in zip(source["times_profiler_cpu"], source["unit_cpu"], strict=True)
    ]
    assert list(row["repeats"]) == pytest.approx(expected, rel=1e-7)
    assert row["median"] == pytest.approx(np.median(expected))
    assert row["iqr"] == pytest.approx(np.subtract(*np.percentile(expected, (75, 25))), rel=1e-5)
    assert (row["workload"], row["unit"], row["n_repeats"]) == ("prefill-b8-t1024-float32", "ms", 10)
    assert (row["batch_size"], row["seq_len"], row["threads"]) == (8, 1024, 8)
    assert row["timestamp"] == datetime(2024, 5, 20, tzinfo=UTC)
    arch = benchmark.archs[i]
    n = arch["sample_n_layer"]
    assert row["architecture"] == Architecture(
        arch["sample_embed_dim"], arch["sample_n_head"][:n], arch["sample_n_head"][:n],
        [r * arch["sample_embed_dim"] for r in arch["sample_mlp_ratio"][:n]], range(n), arch["sample_bias"],
    ).id  # fmt: skip


def test_energies_are_the_trackers_on_gpus_and_codecarbons_on_cpus(benchmark, tidy, tmp_path):
    import_hwgpt_tables(tidy, tmp_path / "t", selection=ONLY_S)
    i = benchmark.kept[0]
    gpu = rows_of(tmp_path / "t", "energy_mj", "p100").loc[i]
    assert gpu["n_repeats"] == 50
    assert list(gpu["repeats"]) == pytest.approx(
        [v * 3.6e6 for v in benchmark.tracker["p100"][i]["energy_gpu"]], rel=2e-4
    )
    for metric, device, kind in (("energy_mj", "cpu_amd_7502", "cpu"), ("host_energy_mj", "a100", "gpu")):
        row, source = rows_of(tmp_path / "t", metric, device).loc[i], benchmark.latency[device][i]
        facts = json.loads(row["extra"])
        assert list(row["repeats"]) == pytest.approx([source[f"mean_energy_{kind}"] * 3.6e6])
        assert facts["std_mj"] == pytest.approx(source[f"std_energy_{kind}"] * 3.6e6)
        assert facts["n_runs"] == 10
    assert json.loads(rows_of(tmp_path / "t", "energy_mj", "cpu_amd_7513").loc[i]["extra"])["n_runs"] == 1
    for metric, device in (
        ("host_energy_mj", "p100"),
        ("energy_mj", "cpu_p100_host"),
        ("host_energy_mj", "cpu_amd_7502"),
    ):
        assert not len(rows_of(tmp_path / "t", metric, device))


def test_memory_is_in_mib_and_quality_on_no_device(benchmark, tidy, tmp_path):
    import_hwgpt_tables(tidy, tmp_path / "t", selection=ONLY_S)
    i = benchmark.kept[0]
    memory = rows_of(tmp_path / "t", "memory_mib", "rtx2080").loc[i]
    assert memory["median"] * 2**20 == pytest.approx(benchmark.memory["rtx2080"][i]["mean_mem"] * 1e6)
    assert memory["workload"] == "prefill-b8-t1024-float16"
    assert rows_of(tmp_path / "t", "perplexity", "any").loc[i]["median"] == benchmark.quality[i]["perplexity"]
    assert rows_of(tmp_path / "t", "accuracy", "any").loc[i]["median"] == benchmark.quality[i]["accuracy"]


def test_importing_again_adds_nothing_and_says_so(tidy, tmp_path):
    first = import_hwgpt_tables(tidy, tmp_path / "t", selection=Selection(scales=("s",), devices=("a100", "a40")))
    again = import_hwgpt_tables(tidy, tmp_path / "t", selection=Selection(scales=("s",), devices=("a100",)))
    assert again.added == {"gpt-s": 0} and 0 < again.known["gpt-s"] < first.added["gpt-s"]
    assert f"0 rows of gpt-s imported ({again.known['gpt-s']} more were already there) from" in str(again)
    rest = import_hwgpt_tables(tidy, tmp_path / "t", selection=ONLY_S)
    assert rest.known == first.added
    assert len(MeasurementTable(tmp_path / "t").read()) == first.added["gpt-s"] + rest.added["gpt-s"]


def test_only_what_is_selected_is_read(tidy, tmp_path):
    for kind in ("energy_gpu", "energy_codecarbon", "memory", "perplexity"):
        (tidy / f"{kind}_s.parquet").unlink()
    chosen = Selection(scales=("s",), metrics=("latency_ms",), devices=("h100", "cpu_amd_7452"))
    import_hwgpt_tables(tidy, tmp_path / "t", selection=chosen)
    frame = MeasurementTable(tmp_path / "t").read()
    assert set(frame["device"]) == {"h100", "cpu_amd_7452"}
    assert set(frame["metric"]) == {"latency_ms"}


def spoil(column, value, row=3):
    def change(frame):
        frame[column] = [value if i == row else old for i, old in enumerate(frame[column])]
        return frame

    return change


def times(factor, row=3):
    def change(frame):
        frame["latency_ms_repeats"] = [v * factor if i == row else v for i, v in enumerate(frame["latency_ms_repeats"])]
        return frame

    return change


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("latency", spoil("latency_ms_repeats", [1.0, float("nan")]), r"latency_ms of p100, arch_id \d+, is nan"),
        ("latency", spoil("latency_ms_repeats", [1.0, -2.0]), r"latency_ms of p100, arch_id \d+, is -2.0"),
        ("latency", spoil("latency_ms_repeats", [float("inf")]), r"is inf .*finite and above 0 ms"),
        ("latency", spoil("latency_ms_repeats", []), r"arch_id \d+, has no repeats"),
        ("latency", spoil("latency_ms_repeats", None), r"arch_id \d+, has no repeats"),
        ("latency", times(0.001), "1[0-9]{3} times apart, which looks like mixed units; .* expected in ms"),
        ("latency", spoil("device", "a10"), r"no device 'a10'; did you mean a100"),
        ("latency", spoil("arch_id", 4711), "arch_id 4711, which architectures_s.parquet does not"),
        ("latency", lambda frame: pd.concat([frame, frame.tail(1)]), r"cpu_p100_host has arch_id \d+ twice"),
        (
            "latency",
            lambda frame: frame.drop(columns="latency_ms_repeats"),
            r"lacks the columns \['latency_ms_repeats'\]",
        ),
        (
            "latency",
            lambda frame: frame.rename(columns={"latency_ms_repeats": "latency_s_repeats"}),
            "lacks the columns",
        ),
        ("energy_codecarbon", spoil("energy_wh_std", float("nan")), r"has the standard deviation nan"),
        ("energy_codecarbon", spoil("energy_wh_mean", None), r"host_energy_mj of a100, arch_id \d+, is nan"),
        ("memory", spoil("bfloat16_memory_mb", 0.0), r"memory_mib of a100, arch_id \d+, is 0.0 .* above 0 MB"),
        ("perplexity", spoil("perplexity", -1.0), r"perplexity of any, arch_id \d+, is -1.0"),
        ("architectures", spoil("n_head_00", 5), "has n_head = 5, which is not in space 'gpt-s'; allowed: 4, 8, 12"),
        ("architectures", spoil("embed_dim", 256), "embed_dim = 256, which is not in space 'gpt-s'"),
        ("architectures", spoil("arch_id", 0, row=5), "has an arch_id twice"),
        ("architectures", lambda frame: frame.drop(columns="bias"), r"lacks the columns \['bias'\]"),
    ],
)
def test_bad_tables_are_refused_by_file_and_nothing_is_written(kind, change, message, tidy, tmp_path):
    edit(tidy / f"{kind}_s.parquet", change)
    with pytest.raises(ValueError, match=message) as caught:
        import_hwgpt_tables(tidy, tmp_path / "t", selection=ONLY_S)
    assert f"{kind}_s.parquet" in str(caught.value)
    assert not (tmp_path / "t").exists()


def test_a_missing_file_is_named(tidy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"architectures_m.parquet does not exist"):
        import_hwgpt_tables(tidy, tmp_path / "t")
    (tidy / "latency_s.parquet").write_text("not parquet")
    with pytest.raises(ValueError, match=r"latency_s.parquet is no readable Parquet file"):
        import_hwgpt_tables(tidy, tmp_path / "t", selection=ONLY_S)


def test_a_single_file_is_no_target(tidy, tmp_path):
    (tmp_path / "t.parquet").write_text("something of the user's")
    with pytest.raises(ValueError, match="is a single file, which is only read"):
        import_hwgpt_tables(tidy, tmp_path / "t.parquet", selection=ONLY_S)
    assert (tmp_path / "t.parquet").read_text() == "something of the user's"


def test_fakes_cover_all_devices():
    assert len(GPUS | CPUS) == 14


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the tables of HW-GPT-Bench are not beside this checkout")
def test_published_tables_give_the_networks_whose_parameters_were_counted(tmp_path):
    chosen = Selection(scales=("l",), metrics=("latency_ms", "perplexity"), devices=("a100",))
    result = import_hwgpt_tables(FOLDER, tmp_path / "t", selection=chosen)
    assert result.added == {"gpt-l": 9037 + 390}
    rows = rows_of(tmp_path / "t", "latency_ms", "a100").iloc[::100]
    cost = pd.read_parquet(FOLDER / "cost_l.parquet").set_index("arch_id").loc[rows.index]
    space = load_space("gpt-l")
    counts = parameter_counts(space.model_config, [Architecture.from_id(text) for text in rows["architecture"]])
    np.testing.assert_array_equal(counts.total, cost["n_params"])
    source = pd.read_parquet(FOLDER / "latency_l.parquet")
    source = source[source["device"] == "a100"].set_index("arch_id").loc[rows.index]
    np.testing.assert_allclose(rows["median"], source["latency_ms_median"], rtol=1e-6)
