"""A training killed with SIGKILL continues as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from supernet.callbacks import checkpoints
from supernet.checkpoint import load_supernet
from supernet.metrics_log import read_metrics

SCRIPT = Path(__file__).with_name("tiny_training.py")
CLOCK = ("tokens_per_s",)  # the only metric that may differ
SETTINGS = {"max_steps": 40, "validate_every": 10, "checkpoint_every": 5}

pytestmark = pytest.mark.slow


def start(folder: Path, text: Path, settings: dict) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), str(folder), str(text), "--settings", json.dumps(settings)]
    command += ["--accumulate", "2"]  # with 7 batches an epoch, a step can begin in one epoch and end in the next
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def rows_without_clock(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in read_metrics(folder / "metrics.csv")]


def kill_when_step_reached(process: subprocess.Popen, folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        rows = read_metrics(folder / "metrics.csv")
        if rows and rows[-1]["step"] >= step:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = np.random.default_rng(0).choice(["alpha", "beta", "gamma", "delta"], size=3000)
    path.write_text(" ".join(words))
    return path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(folder, text, SETTINGS))
    return folder


def test_a_run_killed_twice_at_random_steps_gives_the_losses_of_the_uninterrupted_run(
    tmp_path: Path, text: Path, uninterrupted: Path
) -> None:
    folder = tmp_path / "run"
    first, second = sorted(np.random.default_rng().choice(np.arange(6, 38), size=2, replace=False).tolist())
    for step in (first, second):
        kill_when_step_reached(start(folder, text, SETTINGS), folder, step)
        assert 0 < len(checkpoints(folder / "checkpoints")) <= 2
    finish(start(folder, text, SETTINGS))

    expected = rows_without_clock(uninterrupted)
    assert [row["step"] for row in expected if "train/loss" in row] == list(range(1, 41))
    assert [row["step"] for row in expected if "val/ppl_largest" in row] == [10, 20, 30, 40]
    assert rows_without_clock(folder) == expected, f"killed at steps {first} and {second}"


def test_a_resumed_run_ends_with_the_weights_of_the_uninterrupted_run(
    tmp_path: Path, text: Path, uninterrupted: Path
) -> None:
    folder = tmp_path / "run"
    kill_when_step_reached(start(folder, text, SETTINGS), folder, 17)
    finish(start(folder, text, SETTINGS))
    ours = load_supernet(folder / "supernet").supernet.state_dict()
    theirs = load_supernet(uninterrupted / "supernet").supernet.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_a_finished_run_is_not_trained_again(tmp_path: Path, text: Path) -> None:
    folder, settings = tmp_path / "run", {"max_steps": 4, "validate_every": 3, "checkpoint_every": 2}
    finish(start(folder, text, settings))
    before = (folder / "metrics.csv").read_bytes()
    finish(start(folder, text, settings))
    assert (folder / "metrics.csv").read_bytes() == before


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path: Path, text: Path, uninterrupted: Path) -> None:
    folder = tmp_path / "run"
    kill_when_step_reached(start(folder, text, SETTINGS), folder, 22)
    *_, newest = checkpoints(folder / "checkpoints")
    newest.write_bytes(newest.read_bytes()[:1000])
    finish(start(folder, text, SETTINGS))
    assert rows_without_clock(folder) == rows_without_clock(uninterrupted)
