import pytest

from hw_profiles.importers.csv_rows import import_csv
from hw_profiles.importers.units import UNITS, conversion_factor
from hw_profiles.table import METRICS, MeasurementTable
from supernet.spaces import load_space

TINY = load_space("tiny")
SMALL, LARGE = TINY.smallest().id, TINY.largest().id
HEADER = "space,architecture,metric,unit,device,workload,value"
LATENCY = f"tiny,{SMALL},latency_ms,ms,box,prefill-b1-t64-float32,1.5"


@pytest.fixture
def file(tmp_path):
    def write(*lines, header=HEADER):
        path = tmp_path / "mine.csv"
        path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return path

    return write


def imported(path, tmp_path, **arguments):
    import_csv(path, tmp_path / "t", **arguments)
    return MeasurementTable(tmp_path / "t").read()


@pytest.mark.parametrize(
    ("metric", "unit", "factor"),
    [
        ("latency_ms", "s", 1e3), ("latency_ms", "ms", 1), ("latency_ms", "us", 1e-3), ("energy_mj", "J", 1e3),
        ("energy_mj", "Wh", 3.6e6), ("energy_mj", "kWh", 3.6e9), ("memory_mib", "bytes", 2**-20),
        ("memory_mib", "MB", 1e6 / 2**20), ("memory_mib", "GiB", 1024), ("perplexity", "1", 1),
    ],
)  # fmt: skip
def test_values_are_converted_to_the_tables_units(metric, unit, factor, file, tmp_path):
    (row,) = imported(file(f"tiny,{SMALL},{metric},{unit},box,prefill-b1-t64-float32,1.5"), tmp_path).to_dict("records")
    assert row["median"] == pytest.approx(1.5 * factor)
    assert row["unit"] == METRICS[metric].unit
    assert row["device"] == ("box" if METRICS[metric].per_device else "any")


def test_the_tables_own_units_are_known_and_are_1():
    assert all(known[own] == 1 for own, known in UNITS.items())
    assert all(conversion_factor(name, metric.unit) == 1 for name, metric in METRICS.items())


def test_repeats_are_kept_in_any_common_form(file, tmp_path):
    header = HEADER.replace("value", "repeats")
    lines = [LATENCY.replace("1.5", "1.0;3.0 ; 2"), LATENCY.replace(SMALL, LARGE).replace("1.5", "4 6")]
    frame = imported(file(*lines, header=header), tmp_path)
    assert [list(repeats) for repeats in frame["repeats"]] == [[1.0, 3.0, 2.0], [4.0, 6.0]]
    assert frame["median"].tolist() == [2.0, 5.0]
    assert frame["order"].tolist() == [0, 1]


def test_columns_may_come_in_any_order_with_others_between(file, tmp_path):
    header = "value,order,note,workload,device,unit,metric,architecture"
    line = f"1.5,17,hello,decode-b1-c64-float32,box,ms,latency_ms,{SMALL}"
    (row,) = imported(file(line, header=header), tmp_path, space="tiny").to_dict("records")
    assert (row["space"], row["phase"], row["cache_len"], row["order"]) == ("tiny", "decode", 64, 17)


def test_architectures_may_be_hwgpt_benchs_strings(file, tmp_path):
    text = "gpt-s-10-192-" + "2-" * 10 + "4-" * 10 + "False"
    (row,) = imported(file(LATENCY.replace("tiny", "gpt-s").replace(SMALL, text)), tmp_path).to_dict("records")
    assert row["architecture"] == "e192-l0_9-h4x10-f384x10-b0"


def test_importing_again_adds_only_what_is_new(file, tmp_path):
    first = import_csv(file(LATENCY), tmp_path / "t")
    assert str(first).startswith("1 rows of tiny imported from ")
    again = import_csv(file(LATENCY, LATENCY.replace(SMALL, LARGE)), tmp_path / "t")
    assert (again.added, again.known) == ({"tiny": 1}, {"tiny": 1})
    assert len(MeasurementTable(tmp_path / "t").read()) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (LATENCY.replace(",ms,", ",sec,"), "line 2: latency_ms cannot be in 'sec'; known units: ns, us"),
        (LATENCY.replace(",ms,", ",J,"), "latency_ms cannot be in 'J'"),
        (LATENCY.replace(",ms,", ",,"), "latency_ms cannot be in ''"),
        (LATENCY.replace("latency_ms", "latency"), "metric 'latency' is not known; did you mean latency_ms"),
        (LATENCY.replace("1.5", "nan"), "repeats holds nan"),
        (LATENCY.replace("1.5", "-1.5"), "repeats holds -1.5"),
        (LATENCY.replace("1.5", "fast"), "line 2: could not convert string to float: 'fast'"),
        (LATENCY.replace("1.5", ""), r"value \(or repeats\) is empty"),
        (LATENCY.replace("box", ""), "device is empty"),
        (LATENCY.replace("prefill-b1-t64-float32", "b1"), "'b1' is no workload id"),
        (LATENCY.replace(SMALL, "e63-l0_1-h1x2-f64x2-b0"), "n_embd = 63 is not in space 'tiny'; allowed: 64, 96"),
        (LATENCY.replace(SMALL, "big"), "'big' is no architecture id"),
        (LATENCY.replace("tiny", "tyni"), "no search space 'tyni'; near matches: .*'tiny'"),
    ],
)
def test_bad_lines_are_refused_and_nothing_is_written(line, message, file, tmp_path):
    with pytest.raises(ValueError, match=message):
        import_csv(file(line), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_mixed_units_of_one_series_are_refused(file, tmp_path):
    other = LATENCY.replace(SMALL, LARGE).replace(",ms,", ",s,")
    with pytest.raises(ValueError, match=r"latency_ms of box \(prefill-b1-t64-float32\) has mixed units: ms, s"):
        import_csv(file(LATENCY, other), tmp_path / "t")
    on_another_device = other.replace("box", "other")
    assert len(imported(file(LATENCY, on_another_device), tmp_path)) == 2


def test_a_measurement_given_twice_is_refused_by_line(file, tmp_path):
    with pytest.raises(ValueError, match=r"line 4: latency_ms of .* is given twice; put the samples"):
        import_csv(file(LATENCY, LATENCY.replace("box", "other"), LATENCY), tmp_path / "t")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.replace("space,", "where,"), r"lacks the columns \['space'\]"),
        (HEADER.replace("unit", "units").replace("device", "machine"), r"lacks the columns \['unit', 'device'\]"),
        (HEADER.replace("value", "mean"), r"lacks the columns \['value \(or repeats\)'\]"),
    ],
)
def test_missing_columns_are_named(header, message, file, tmp_path):
    with pytest.raises(ValueError, match=message):
        import_csv(file(LATENCY, header=header), tmp_path / "t")


def test_missing_and_empty_files_are_named(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.csv does not exist"):
        import_csv(tmp_path / "none.csv", tmp_path / "t")
    with pytest.raises(ValueError, match=r"mine.csv has no rows"):
        import_csv(file(), tmp_path / "t")
    (tmp_path / "mine.csv").write_text("")
    with pytest.raises(ValueError, match=r"mine.csv is no CSV file"):
        import_csv(tmp_path / "mine.csv", tmp_path / "t")
