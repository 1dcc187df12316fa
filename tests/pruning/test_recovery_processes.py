import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recovery_processes import run

from supernet.checkpoint import load_subnet
from supernet.metrics_log import read_metrics

SCRIPT = Path(__file__).with_name("recovery_processes.py")


@pytest.mark.slow
def test_two_processes_with_half_the_batch_each_recover_as_one(tmp_path):
    alone = run(tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    done = subprocess.run(
        [*command, str(tmp_path / "two"), "2"], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    gpt, _ = load_subnet(tmp_path / "two" / "network")
    for name, parameter in alone.gpt.named_parameters():
        torch.testing.assert_close(gpt.get_parameter(name), parameter, rtol=1e-3, atol=2e-5)
    one, two = (read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "two"))
    names = ("step", "tokens", "train/loss", "held_out/loss")
    assert [row["step"] for row in one] == [row["step"] for row in two]
    for ours, theirs in zip(two, one, strict=True):
        for name in {*names} & {*theirs}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
