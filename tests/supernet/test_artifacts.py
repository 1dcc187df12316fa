"""Files are written whole or not at all."""

import errno
import json
import signal
import subprocess
import sys
import time

import pytest

from supernet import artifacts
from supernet.artifacts import atomic_path, read_json, versions, write_card, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"half of the new {1 / 0}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_json(tmp_path / "a.json", {"old": 1})

    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    script = (
        "import sys, time; from supernet.artifacts import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n"
        "    t.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert child.stdout.readline().strip() == b"writing"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert path.read_text() == "old"
    assert json.loads(write_json(tmp_path / "b.json", [1]).read_text()) == [1]  # the folder is still usable


def test_written_files_have_the_permissions_of_ordinary_ones(tmp_path):
    (tmp_path / "plain").write_text("x")
    written = write_text(tmp_path / "ours", "x")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"cut": ')
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_a_card_says_what_from_which_data_by_which_command_and_versions(tmp_path):
    before = time.strftime("%Y", time.gmtime())
    card = read_json(write_card(tmp_path, what="w", command="c", data={"d": 1}, scores={"s": 2.0}))
    assert {"what": "w", "command": "c", "data": {"d": 1}, "scores": {"s": 2.0}}.items() <= card.items()
    assert card["created"][:4] >= before
    assert card["versions"]["torch"] == versions()["torch"]
