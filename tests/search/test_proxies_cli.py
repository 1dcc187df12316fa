import csv
import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from lts_data import FOLDER, needs_lts, small_rows

from search.proxies.cli import proxies
from search.proxies.lts_ranking import PROXIES


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["paretolm proxies", *map(str, arguments)])
        status = proxies()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def data(tmp_path):
    rows = pd.concat([small_rows(20), small_rows(20, experiment="pareto_other", seed=1)])
    rows.to_parquet(tmp_path / "lts_architectures.parquet")
    return tmp_path


def test_json_and_csv_hold_the_same_numbers(run, data):
    asked = ("lts", "--data", data, "--resamples", 50)
    status, out, err = run(*asked, "--format", "json")
    records = json.loads(out)
    assert (status, err, len(records)) == (0, "", 2 * len(PROXIES))
    rows = list(csv.DictReader(io.StringIO(run(*asked, "--format", "csv")[1])))
    assert list(rows[0]) == list(records[0])
    for row, record in zip(rows, records, strict=True):
        for name, value in record.items():
            if isinstance(value, float):
                assert float(row[name]) == pytest.approx(value)
            else:
                assert row[name] == ("" if value is None else str(value))


def test_the_table_has_the_decoder_beside_every_proxy_within_120_columns(run, data):
    records = json.loads(run("lts", "--data", data, "--format", "json")[1])
    status, out, _ = run("lts", "--data", data)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 120
    lines = [line.split() for line in out.splitlines() if line.split()[:1] and line.split()[0] in PROXIES]
    assert len(lines) == len(records)
    for line, record in zip(lines, records, strict=True):
        assert line[0] == record["proxy"]
        numbers = [word for word in line[1:] if "." in word and not word.startswith("[") and not word.endswith("]")]
        shown = [record["spearman"], record["kendall"], record["decoder_kendall"], record["kendall_minus_decoder"]]
        np.testing.assert_allclose([float(n) for n in numbers[:4]], shown, atol=5.1e-5)


def test_experiments_level_and_seed_are_obeyed(run, data):
    asked = ("lts", "--data", data, "--format", "json", "--experiment", "pareto_other", "--resamples", 200)
    wide, narrow, other = (json.loads(run(*asked, *more)[1]) for more in ((), ("--level", 0.5), ("--seed", 1)))
    assert {record["experiment"] for record in wide} == {"pareto_other"}
    assert wide == json.loads(run(*asked)[1]) != other
    for a, b in zip(wide, narrow, strict=True):
        if a["proxy"] == "params_ffn":
            assert a["kendall"] == b["kendall"]
            assert a["kendall_low"] < b["kendall_low"] < b["kendall_high"] < a["kendall_high"]


def test_fronts_and_counts_are_shown(run, data):
    fronts = json.loads(run("lts", "--data", data, "--show", "fronts", "--format", "json")[1])
    assert [f["costs"] for f in fronts] == ["latency", "memory", "latency+memory"] * 2
    counts = json.loads(run("lts", "--data", data, "--show", "counts", "--format", "json")[1])
    assert [(c["experiment"], c["n"], c["decoder"]) for c in counts] == [
        ("pareto_small", 20, 20),
        ("pareto_other", 20, 20),
    ]
    for table in ("fronts", "counts"):
        status, out, _ = run("lts", "--data", data, "--show", table)
        assert status == 0 and "pareto_other" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "absent"), "there is no absent: give the folder or file of LTS's table"),
        (("--experiment", "pareto_smal"), "no experiment 'pareto_smal'; near matches: ['pareto_small'"),
        (("--resamples", "0"), "--resamples 0 --level 0.95: give N >= 1 and 0 < P < 1"),
        (("--level", "95"), "--resamples 2000 --level 95.0: give N >= 1 and 0 < P < 1"),
    ],
)
def test_a_mistake_is_one_message(run, data, arguments, message):
    status, out, err = run("lts", "--data", data, *arguments)
    assert (status, out) == (1, "")
    assert message in err and len(err.splitlines()) == 1


@needs_lts
def test_published_correlations_are_printed_to_four_decimals(run):
    out = run("lts", "--data", FOLDER, "--resamples", 50)[1]
    expected = pd.read_csv(FOLDER / "rank_correlations.csv")
    experiment, shown = "", {}
    for line in out.splitlines():
        words = line.split()
        if words and words[0].endswith(":") and words[0][:-1] in set(expected["experiment"]):
            experiment = words[0][:-1]
        elif words and words[0] in PROXIES:
            kendall = words[words.index(next(w for w in words[2:] if w.endswith("]"))) + 1]
            shown[experiment, words[0]] = (float(words[1]), float(kendall))
    assert len(shown) == len(expected) == 77
    for row in expected.itertuples():
        assert shown[row.experiment, row.proxy] == pytest.approx((row.spearman, row.kendall), abs=5.1e-5)


def test_the_command_imports_no_torch(data):
    code = (
        "import sys; from search.proxies.cli import proxies; status = proxies(); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "lts", "--data", str(data), "--resamples", "10"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "pareto_other" in done.stdout
