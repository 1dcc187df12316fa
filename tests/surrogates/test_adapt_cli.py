import sys
from pathlib import Path

import pytest
from adaptation_fakes import FakeModel, near
from surrogate_data import measurements, noisy, sampled, table_of

import surrogates.adapt_cli as cli
from supernet.arch_files import read_architecture_file
from surrogates.device_store import load_device

MODEL = FakeModel()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(cli, "_shipped_model", lambda space: MODEL)
    monkeypatch.setattr(sys, "argv", ["paretolm adapt", *arguments])
    return cli.adapt()


def a_table(folder: Path, n: int = 25) -> Path:
    archs = sampled(MODEL.space, n)
    return table_of(folder, measurements(MODEL.space, archs, noisy(near(MODEL, archs), 0.003))).path


def test_a_device_is_adapted_and_its_scores_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = a_table(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "--table", str(table), "--name", "mybox", "--metric", "latency") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "latency_ms [ms], prefill-b1-t64-float32, 25 architectures, leave-one-out:"
    assert [line.split()[0] for line in lines[1:4]] == ["what", "best", "from"]
    assert all("MAPE" in line and "Kendall" in line for line in lines[1:4])
    assert lines[4].startswith("  90 % interval -") and lines[-1].startswith("Device mybox: ")
    device = load_device(tmp_path / "devices" / "small" / "mybox")
    assert device.name == "mybox" and device.command.startswith("paretolm adapt --table")


def test_key_value_arguments_are_options_and_device_is_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = a_table(tmp_path, 8)
    assert run(monkeypatch, f"table={table}", "device=mybox", "--out", str(tmp_path / "k=v")) == 0
    assert load_device(tmp_path / "k=v").name == "mybox"
    assert "90 % intervals need 19 architectures: measure 11 more" in capsys.readouterr().out
    options = cli.parse(["table=t", "device=x", "table_device=d", "metric=latency,energy", "--seed", "3"])
    assert (options.table, options.name, options.table_device, options.metric) == ("t", "x", "d", "latency,energy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--name", "a100"), "there is a device 'a100' already"),
        (("--name", "x", "--metric", "energy"), "energy_mj was not measured; measured: latency_ms"),
        (("--name", "x", "--table-device", "gpu"), "has no device 'gpu'"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    table = a_table(tmp_path)
    assert run(monkeypatch, "--table", str(table), "--out", str(tmp_path / "out"), *arguments) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("paretolm adapt: ") and message in shown.err and shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_device_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--table", str(a_table(tmp_path)), "--name", "mybox", "--out", str(tmp_path / "out"))
    assert run(monkeypatch, *arguments) == 0
    before = (tmp_path / "out" / "card.json").read_bytes()
    assert run(monkeypatch, *arguments) == 1
    assert "holds device 'mybox' already, which is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "out" / "card.json").read_bytes() == before


def test_proposals_are_a_list_that_profile_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "archs.txt"
    assert run(monkeypatch, "--propose", "6", "--space", "gpt-s", "--out", str(out)) == 0
    archs = read_architecture_file(out)
    assert len(set(archs)) == 6 and {arch.n_embd for arch in archs} == {192, 384, 768}
    assert "paretolm profile space=gpt-s archs.file=" in capsys.readouterr().out
    assert run(monkeypatch, "--propose", "6", "--space", "gpt-s", "--out", str(out)) == 1
    assert "exists and is not overwritten" in capsys.readouterr().err


def test_proposals_leave_out_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from supernet.spaces import load_space

    space, out = load_space("gpt-s"), tmp_path / "archs.txt"
    first = tmp_path / "first.txt"
    assert run(monkeypatch, "propose=5", f"out={first}") == 0
    archs = read_architecture_file(first)
    table = table_of(tmp_path, measurements(space, archs, [1.0] * 5)).path
    assert run(monkeypatch, "propose=5", f"table={table}", f"out={out}") == 0
    assert not set(read_architecture_file(out)) & set(archs)


def test_what_is_missing_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--name", "x")
    assert "give --table and --name, or --propose N" in capsys.readouterr().err
