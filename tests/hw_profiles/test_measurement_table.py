import math
from datetime import UTC, datetime

import pandas as pd
import pyarrow as pa
import pytest
from measuring_fakes import WORKLOAD, row

from hw_profiles.counters import check_measurable
from hw_profiles.device import Device, Workload
from hw_profiles.table import METRICS, SCHEMA, Measurement, MeasurementTable


@pytest.fixture
def table(tmp_path):
    return MeasurementTable(tmp_path / "measurements.parquet")


def damage(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edited(table, column, values):
    """Write a part as another program might: one column changed."""
    frame = pd.read_parquet(table.path)
    frame[column] = values
    frame.to_parquet(table.path / "part-000009.parquet")


def test_rows_come_back_as_they_were_written(table):
    table.append(
        [row(extra={"device": {"cores": 2}}, reference="e8-l0-h1-f8-b1", reference_repeats=(4.0, 5.0), order=7)]
    )
    found = table.read().iloc[0]
    assert (found["space"], found["metric"], found["unit"], found["device"]) == ("doc", "latency_ms", "ms", "cpu-1t")
    assert (found["phase"], found["batch_size"], found["seq_len"], found["cache_len"]) == ("prefill", 1, 8, 0)
    assert (found["n_repeats"], found["median"], found["iqr"], found["order"]) == (3, 2.0, 2.5, 7)
    assert list(found["repeats"]) == [1.0, 2.0, 6.0]
    assert list(found["reference_repeats"]) == [4.0, 5.0]
    assert found["reference_median"] == 4.5
    assert found["extra"] == '{"device": {"cores": 2}}'
    assert found["timestamp"] == datetime(2026, 1, 1, tzinfo=UTC)


def test_pandas_reads_the_folder_by_itself(table):
    table.append([row("a1")])
    table.append([row("a2")])
    assert sorted(pd.read_parquet(table.path)["architecture"]) == ["a1", "a2"]


def test_drift_of_the_machine_is_divided_out(table):
    # the machine is half as fast in the second measurement: its reference takes 20 instead of 10 ms
    table.append([row("a1", repeats=(3.0,), reference="r", reference_repeats=(10.0,))])
    table.append([row("a2", repeats=(6.0,), reference="r", reference_repeats=(20.0,))])
    frame = table.read().set_index("architecture")
    assert frame["adjusted_median"].tolist() == [4.5, 4.5]
    assert frame["median"].tolist() == [3.0, 6.0]


def test_a_disturbance_that_hits_both_of_most_pairs_is_divided_out(table):
    # A network 3 x as slow as the reference: the machine is 4 x slower from the middle of two pairs on.
    table.append([row(repeats=(3.0, 12.0, 12.0, 12.0, 3.0), reference_repeats=(1.0, 1.0, 4.0, 4.0, 1.0))])
    table.append([row("e16-l0-h1-f8-b1", repeats=(6.0, 6.0, 6.0), reference_repeats=(1.0, 1.0, 1.0))])
    # medians alone would say 12 / 1; the overall median of the reference's medians is 1
    assert table.read()["adjusted_median"].tolist() == [3.0, 6.0]
    assert table.read()["adjusted_iqr"].tolist() == [0.0, 0.0]
    assert table.read()["iqr"][0] == 9.0


def test_other_reference_networks_do_not_mix_in_the_adjustment(table):
    table.append([row("a1", repeats=(3.0,), reference="r", reference_repeats=(10.0,))])
    table.append([row("a2", repeats=(6.0,), reference="s", reference_repeats=(20.0,))])
    assert table.read()["adjusted_median"].tolist() == [3.0, 6.0]


def test_without_a_reference_the_adjusted_median_is_the_median(table):
    table.append([row()])
    frame = table.read()
    assert frame["adjusted_median"][0] == 2.0
    assert math.isnan(frame["reference_median"][0])


def test_keys_tell_spaces_devices_and_workloads_apart(table):
    assert table.keys() == set()
    decode = Workload(1, 1, phase="decode", cache_len=8)
    table.append([row(), row(workload=decode), row(space="other", metric="n_params", device="any")])
    name = row().architecture
    own = {(name, "latency_ms", "cpu-1t", WORKLOAD.id), (name, "latency_ms", "cpu-1t", decode.id)}
    assert table.keys(space="doc") == own
    assert table.keys() == own | {(name, "n_params", "any", WORKLOAD.id)}
    assert row().key in own


def test_a_truncated_part_is_named_and_the_other_rows_are_kept(table):
    table.append([row("a1"), row("a2")])
    second = table.append([row("a3")])
    table.append([row("a4")])
    damage(second)
    with pytest.warns(
        UserWarning, match=r"part-000002.parquet is damaged .*: 0 rows of it and 3 rows in all were kept"
    ):
        frame = table.read()
    assert frame["architecture"].tolist() == ["a1", "a2", "a4"]


def test_compacting_sets_a_damaged_part_aside_so_that_pandas_can_read_the_folder(table):
    damage(table.append([row("a1")]))
    table.append([row("a2")])
    table.compact()
    assert pd.read_parquet(table.path)["architecture"].tolist() == ["a2"]
    assert (table.path / ".damaged-part-000001.parquet").exists()


def test_compacting_keeps_every_row_in_one_part(table):
    for i in range(5):
        table.append([row(f"a{i}")])
    before = table.read()
    table.compact()
    assert len(list(table.path.glob("*.parquet"))) == 1
    pd.testing.assert_frame_equal(table.read(), before)


def test_the_same_measurement_in_two_parts_counts_once(table):
    table.append([row()])
    table.append([row()])
    assert len(table.read()) == 1


def test_a_single_parquet_file_is_read_and_not_written(table, tmp_path):
    table.append([row()])
    file = tmp_path / "one.parquet"
    table.read().to_parquet(file)
    single = MeasurementTable(file)
    pd.testing.assert_frame_equal(single.read(), table.read())
    with pytest.raises(ValueError, match="single file"):
        single.append([row()])
    damage(file)
    with pytest.raises(ValueError, match=r"one.parquet is no readable"), pytest.warns(match="is damaged"):
        single.read()


def test_a_missing_table_says_which_command_makes_it(table):
    with pytest.raises(FileNotFoundError, match="paretolm profile table="):
        table.read()


def test_mixed_units_are_refused_by_file_and_metric(table):
    table.append([row()])
    edited(table, "unit", ["s"])
    with pytest.raises(ValueError, match=r"part-000009.parquet: unit is 's', but latency_ms is in 'ms'"):
        table.read()


@pytest.mark.parametrize("samples", [[1.0, float("nan")], [-1.0], []])
def test_bad_samples_in_a_file_are_refused_by_file_and_architecture(table, samples):
    table.append([row("a1")])
    edited(table, "repeats", [samples])
    with pytest.raises(ValueError, match=r"part-000009.parquet, row 0 \(latency_ms of a1\): repeats"):
        table.read()


def test_a_foreign_parquet_file_is_refused_by_its_missing_columns(tmp_path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(ValueError, match=r"foreign.parquet is no table of .* lacks the columns \['space'"):
        MeasurementTable(tmp_path / "foreign.parquet").read()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "s"}, "unit is 's', but latency_ms is in 'ms'"),
        ({"repeats": ()}, "repeats is empty"),
        ({"repeats": (1.0, float("nan"))}, "repeats holds nan"),
        ({"repeats": (float("inf"),)}, "repeats holds inf"),
        ({"reference_repeats": (-2.0,)}, "reference_repeats holds -2.0"),
        ({"device": ""}, "device is empty"),
        ({"timestamp": datetime(2026, 1, 1)}, "has no time zone"),
    ],
)
def test_a_bad_measurement_is_refused_before_it_is_written(changes, message):
    with pytest.raises(ValueError, match=message):
        row(**changes)


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'latency' is not known; known: latency_ms"):
        Measurement("doc", "a1", "latency", "ms", "cpu-1t", WORKLOAD, (1.0,))


def columns(*rows):
    return pa.Table.from_pylist([r.record() for r in rows], schema=SCHEMA)


def test_rows_appended_as_columns_are_the_rows_appended_one_by_one(table, tmp_path):
    rows = [row("a1", reference="r", reference_repeats=(4.0, 5.0, 6.0)), row("a2", repeats=(2.0,), extra={"x": 1})]
    table.append(rows)
    other = MeasurementTable(tmp_path / "other")
    encoded = columns(*rows).set_column(1, "architecture", pa.array(["a1", "a2"]).dictionary_encode())
    assert other.append_columns(encoded).exists()
    pd.testing.assert_frame_equal(other.read(), table.read())


def test_bad_columns_are_refused_before_they_are_written(table):
    with pytest.raises(ValueError, match="at least one row"):
        table.append_columns(SCHEMA.empty_table())
    with pytest.raises(ValueError, match=r"lacks the columns \['unit'\]"):
        table.append_columns(columns(row()).drop_columns("unit"))
    with pytest.raises(ValueError, match="unit is 's', but latency_ms is in 'ms'"):
        table.append_columns(columns(row()).set_column(3, "unit", pa.array(["s"])))
    bad = pa.array([[1.0, float("nan")]], pa.list_(pa.float64()))
    with pytest.raises(ValueError, match=r"row 0 \(latency_ms of a1\): repeats"):
        table.append_columns(columns(row("a1")).set_column(SCHEMA.names.index("repeats"), "repeats", bad))
    assert not table.path.exists()


def test_metrics_that_only_others_measure_cannot_be_profiled():
    imported = [name for name, metric in METRICS.items() if metric.imported]
    assert imported == ["host_energy_mj"]
    with pytest.raises(ValueError, match="cannot profile"):
        check_measurable(imported, Device("cpu-1t", "cpu", "cpu", 1, {}))


def test_units_end_the_names_that_have_one():
    endings = {"ms": "_ms", "MiB": "_mib", "mJ": "_mj", "tokens/s": "_per_s"}
    for metric in METRICS.values():
        assert metric.name.endswith(endings.get(metric.unit, ""))
