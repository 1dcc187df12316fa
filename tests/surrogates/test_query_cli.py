import csv
import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from benchmark_fakes import TARGETS, fake_files

import surrogates.benchmark as benchmark_module
from surrogates import query_cli
from surrogates.benchmark import Benchmark


@pytest.fixture
def b(monkeypatch):
    monkeypatch.setattr(benchmark_module, "load_benchmark", lambda *_, **__: fake_files())
    return Benchmark("small")


@pytest.fixture
def run(b, monkeypatch, capsys):
    def call(command, *arguments):
        monkeypatch.setattr(sys, "argv", [f"paretolm {command}", *map(str, arguments)])
        status = getattr(query_cli, command)()
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_csv_and_json_hold_what_the_benchmark_answers(run, b):
    archs = [b.space.largest(), b.space.smallest()]
    asked = ("--arch", *(arch.id for arch in archs), "--metric", "latency,ppl", "--device", "a100,h100")
    expected = b.query(archs, ("latency", "ppl"), ("a100", "h100"), quantiles=(0.05, 0.95), out="records")
    for form, read in (("json", json.loads), ("csv", lambda text: list(csv.DictReader(io.StringIO(text))))):
        status, out, err = run("query", *asked, "--quantiles", ".05,.95", "--format", form)
        assert status == 0 and not err
        found = read(out)
        assert len(found) == len(expected) == 6
        for row, known in zip(found, expected, strict=True):
            assert list(row) == list(known)
            for name, value in known.items():
                assert type(value)(row[name]) == value


def test_a_table_has_units_and_the_numbers_within_100_columns(run, b):
    arch = b.space.largest()
    status, out, _ = run("query", "--arch", arch.id, "--quantiles", ".05,.95")
    assert status == 0
    assert f"#1 {arch.id}" in out
    assert max(map(len, out.splitlines())) <= 100
    frame = b.query(arch, quantiles=(0.05, 0.95))
    for metric, device in {column[:2] for column in frame.columns}:
        line = next(line for line in out.splitlines() if line.split()[:1] == [metric] and line.split()[2] == device)
        assert line.split()[1] == frame.attrs["units"][metric]
        found = [float(cell.replace(",", "")) for cell in line.split()[3:]]
        np.testing.assert_allclose(
            found, frame[[(metric, device, stat) for stat in ("median", "q0.05", "q0.95")]].to_numpy()[0], rtol=1e-4
        )


def test_few_columns_make_a_line_for_each_architecture(run, b):
    _, out, _ = run("query", "--sample", "3", "--seed", "5", "--metric", "latency,n_params", "--device", "a100")
    lines = out.splitlines()
    archs = [b.space.sample(rng) for rng in [np.random.default_rng(5)] for _ in range(3)]
    assert lines[:3] == [f"#{i} {arch.id}" for i, arch in enumerate(archs, start=1)]
    assert [line.split() for line in lines[4:8]] == [
        ["latency_ms", "n_params"], ["[ms]", "[parameters]"], ["a100", "any"], ["median", "median"],
    ]  # fmt: skip
    values = b.query(archs, ("latency", "n_params"), "a100", out="numpy")
    for i, line in enumerate(lines[8:]):
        mark, *cells = line.split()
        assert mark == f"#{i + 1}"
        np.testing.assert_allclose([float(cell.replace(",", "")) for cell in cells], values[i], rtol=1e-4)


def test_many_architectures_and_targets_stay_within_100_columns_and_lose_nothing(run, b):
    _, out, _ = run("query", "--sample", "30", "--quantiles", ".5")
    assert max(map(len, out.splitlines())) <= 100
    assert all(f"#{i} median" in out for i in range(1, 31))


def test_files_of_every_kind_list_architectures(run, b, tmp_path):
    archs = [b.space.largest(), b.space.smallest()]
    ids = [arch.id for arch in archs]
    (tmp_path / "a.txt").write_text("# two\n" + "\n".join(ids) + "\n\n")
    (tmp_path / "a.jsonl").write_text("\n".join(arch.to_json() for arch in archs))
    (tmp_path / "a.json").write_text(json.dumps([arch.to_dict() for arch in archs]))
    pd.DataFrame({"architecture": ids, "other": [1, 2]}).to_csv(tmp_path / "a.csv")
    pd.DataFrame({"architecture": ids}).to_parquet(tmp_path / "a.parquet")
    _, expected, _ = run("query", "--arch", *ids, "--format", "csv")
    for path in sorted(tmp_path.iterdir()):
        status, out, err = run("query", "--arch", path, "--format", "csv")
        assert (status, out, err) == (0, expected, ""), path
    _, both, _ = run("query", "--arch", tmp_path / "a.txt", ids[0], "--sample", "1", "--format", "json")
    assert [row["architecture"] for row in json.loads(both)][:: len(TARGETS) + 4][:3] == [*ids, ids[0]]


def test_noise_is_drawn_from_the_seed(run, b):
    asked = ("query", "--arch", b.space.largest().id, "--metric", "latency", "--format", "json", "--noise")
    rows = json.loads(run(*asked, "--seed", "1")[1])
    expected = b.query(b.space.largest(), "latency", noise=True, seed=1, out="records")
    assert rows == expected and "draw" in rows[0]
    status, _, err = run(*asked)
    assert status == 1 and "--noise needs --seed" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--arch", "e99-l0-h1-f8-b1"], "n_embd = 99 is not in space 'small'; allowed: 32, 48, 64"),
        (["--sample", "1", "--device", "h10"], "no device 'h10'; near matches: h100"),
        (["--sample", "1", "--metric", "latncy"], "no metric 'latncy'; near matches: latency"),
        (["--sample", "1", "--device", "h100", "--metric", "memory"], "devices that have it: a100"),
        (["--sample", "1", "--quantiles", "0,5"], "between 0 and 1"),
        (["--sample", "1", "--quantiles", "x"], "--quantiles x"),
        (["--sample", "1", "--metric", ","], "at least one"),
        ([], "give --arch"),
        (["--sample", "-1"], "give --arch"),
    ],
)
def test_mistakes_are_one_message_and_exit_status_1(run, arguments, message):
    status, out, err = run("query", *arguments)
    assert status == 1 and not out
    assert message in err and err.startswith("paretolm query: ") and len(err.splitlines()) == 1


def test_a_file_with_a_bad_entry_is_named(run, tmp_path):
    path = tmp_path / "archs.txt"
    path.write_text("e32-l0_1-h1x2-f32x2-b1\nnonsense\n")
    status, _, err = run("query", "--arch", path)
    assert status == 1 and f"{path}: architecture 1: 'nonsense'" in err


def test_devices_and_metrics_are_listed_in_every_format(run, b):
    for command, frame in (("devices", b.devices), ("metrics", b.metrics)):
        _, table, _ = run(command)
        assert all(name in table for name in frame.index)
        assert max(map(len, table.splitlines())) <= 105
        _, text, _ = run(command, "--format", "csv")
        assert [row[frame.index.name] for row in csv.DictReader(io.StringIO(text))] == frame.index.tolist()
        _, text, _ = run(command, "--format", "json")
        assert [row[frame.index.name] for row in json.loads(text)] == frame.index.tolist()


def test_the_card_is_printed(run, b):
    status, out, _ = run("card")
    assert status == 0 and out.strip() == b.card().strip()


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from surrogates import query_cli; sys.argv = ['paretolm query', '--help']\n"
        "try: query_cli.query()\n"
        "except SystemExit as end: print(end.code, [m for m in ('numpy', 'pandas', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "0 []"
    assert "usage: paretolm query" in found.stdout and "--quantiles" in found.stdout
