"""What the README says is true: its commands compose, its Python runs, its files exist."""

import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from hw_profiles.device import Workload
from hw_profiles.table import Measurement, MeasurementTable
from supernet.arch_files import read_architecture_file
from supernet.spaces import load_space
from surrogates import Benchmark

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = Path(sysconfig.get_path("scripts")) / "paretolm"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def shell_commands():
    lines = "\n".join(text for kind, text in BLOCKS if kind in ("bash", "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.startswith("#")]


COMMANDS = shell_commands()
PLAIN = ("query", "devices", "metrics", "card", "adapt")  # no Hydra: plain options


def hydra_commands():
    return [words for words in COMMANDS if words[0] == "paretolm" and words[1] not in PLAIN]


@pytest.mark.parametrize("words", hydra_commands(), ids=" ".join)
def test_every_paretolm_command_composes(words, tmp_path):
    if "--multirun" in words:  # one job of it
        words = [word.split(",")[0] for word in words if word != "--multirun"]
    words = words[1:]
    done = subprocess.run([SCRIPT, *words, "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def measure_mybox(archs_file, table):
    """Stand in for `paretolm profile`: a machine 1.3 times as slow as one of the shipped ones, with noise."""
    archs = read_architecture_file(archs_file)
    drawn = Benchmark("gpt-s").query(archs, metrics="latency", devices="cpu_amd_7502", noise=True, seed=0, out="numpy")
    rows = [
        Measurement("gpt-s", arch.id, "latency_ms", "ms", "mybox-2t", Workload(1, 256), (1.3 * float(value),), order=i)
        for i, (arch, value) in enumerate(zip(archs, drawn[:, 0], strict=True))
    ]
    MeasurementTable(table).append(rows)


def test_plain_commands_run_in_the_order_given(tmp_path):
    medium = load_space("gpt-m").sample_unique(3, np.random.default_rng(0))
    (tmp_path / "medium.txt").write_text("".join(f"{arch.id}\n" for arch in medium))
    ran = 0
    for words in COMMANDS:
        if words[:2] == ["paretolm", "profile"] and "archs.file=archs.txt" in words:
            measure_mybox(tmp_path / "archs.txt", tmp_path / "runs/mybox.parquet")
        if words[0] != "paretolm" or words[1] not in PLAIN:
            continue
        done = subprocess.run([SCRIPT, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        assert done.stdout
        ran += 1
    assert ran >= 6
    assert (tmp_path / "runs/mybox").is_dir()


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] == "make"], ids=" ".join)
def test_every_make_target_exists(words):
    subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_every_python_block_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r'src="([^":]+)"', README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
