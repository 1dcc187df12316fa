"""The examples run."""

import subprocess
import sys
from pathlib import Path

import pytest

from supernet.checkpoint import load_subnet

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.slow
def test_the_python_chain_ends_with_a_stand_alone_model(tmp_path):
    command = [sys.executable, EXAMPLES / "python_api.py", "--steps", "3", "--networks", "12", "--run-dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    gpt, arch = load_subnet(tmp_path / "best")
    assert gpt.config.n_layer == arch.n_layer
    assert "networks on the front of 300 evaluated" in done.stdout
