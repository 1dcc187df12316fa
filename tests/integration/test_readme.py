"""What the README says is true: its commands compose, its Python runs, its files exist."""

import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPT = Path(sysconfig.get_path("scripts")) / "paretolm"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def shell_commands():
    lines = "\n".join(text for kind, text in BLOCKS if kind in ("bash", "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip() and not line.startswith("#")]


COMMANDS = shell_commands()


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] == "paretolm"], ids=" ".join)
def test_every_paretolm_command_composes(words, tmp_path):
    if "--multirun" in words:  # one job of it
        words = [word.split(",")[0] for word in words if word != "--multirun"]
    words = words[1:]
    done = subprocess.run([SCRIPT, *words, "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


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
