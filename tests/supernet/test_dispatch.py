"""The console script: commands, help, errors, and commands inside commands."""

import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from supernet import dispatch
from supernet.dispatch import commands, help_text, main, run_command

SCRIPT = Path(sysconfig.get_path("scripts")) / "paretolm"


def paretolm(*arguments, cwd=None):
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, cwd=cwd, timeout=300)


def test_help_names_every_command_with_its_sentence():
    text = help_text()
    for name, entry in commands().items():
        assert f"  {name} " in text
        assert (entry.load().__doc__ or "").splitlines()[0] in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from supernet.dispatch import main; main(['--help']); "
        "heavy = {'torch', 'litgpt', 'hydra', 'pandas', 'xgboost', 'sklearn', 'numpy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_unknown_command_gets_the_nearest_one(capsys):
    assert main(["trian"]) == 2
    assert "Did you mean 'train'?" in capsys.readouterr().err


def test_version_and_empty_call(capsys):
    assert main(["--version"]) == 0
    assert main([]) == 0
    assert "Usage: paretolm" in capsys.readouterr().out


PLAIN = {"query", "devices", "metrics", "card", "adapt", "proxies"}  # no Hydra: plain options


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_plain_commands_tell_their_options(name, tmp_path):
    done = paretolm(name, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: paretolm {name}")


@pytest.mark.parametrize("name", sorted(set(commands()) - PLAIN))
def test_every_command_composes_outside_the_checkout(name, tmp_path):
    done = paretolm(name, "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run_dir:" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_users_mistake_is_one_line_and_status_1(tmp_path):
    done = paretolm("report", f"run={tmp_path / 'nowhere'}", cwd=tmp_path)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_inside_a_command_gets_its_overrides_and_its_errors_are_raised(monkeypatch, tmp_path):
    seen = {}

    def task(cfg):
        seen.update(seed=cfg.seed, run_dir=cfg.run_dir, line=dispatch.command_line())
        raise ValueError("inner")

    class Entry:
        def load(self):
            return lambda: dispatch.run_hydra(task, "fit")

    monkeypatch.setattr(dispatch, "commands", lambda: {"fit": Entry()})
    from hydra import initialize_config_module

    before = list(sys.argv)
    with initialize_config_module("supernet.conf", version_base="1.3"), pytest.raises(ValueError, match="inner"):
        run_command("fit", ["table=x", "seed=7", f"run_dir={tmp_path}"])
    assert seen == {"seed": 7, "run_dir": str(tmp_path), "line": f"paretolm fit table=x seed=7 run_dir={tmp_path}"}
    assert sys.argv == before


def test_a_missing_setting_is_named_in_one_line(tmp_path):
    done = paretolm("report", cwd=tmp_path)
    assert done.returncode == 1
    assert "run is not given: add run=..." in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_found_by_a_class_that_hydra_builds_is_one_line(tmp_path):
    done = paretolm("train", "data=text", "data.source=/no/such/text", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("paretolm train: no text at /no/such/text")
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "import sys; from supernet.dispatch import main; sys.exit(main(['card', '--space', 'gpt-s']))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    ("error", "is_one_line"),
    [
        (ImportError("engine=ray needs Ray, which is not installed: pip install ray"), True),
        (ModuleNotFoundError("No module named 'x'", name="x"), False),  # Python's own: a defect, with its traceback
        (TypeError("unexpected"), False),
    ],
)
def test_a_missing_optional_library_is_one_line_and_a_defect_is_not(monkeypatch, capsys, tmp_path, error, is_one_line):
    def task(cfg):
        raise error

    monkeypatch.setattr(sys, "argv", ["paretolm fit", "table=x", f"run_dir={tmp_path}"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    if is_one_line:
        assert dispatch.run_hydra(task, "fit") == 1
        assert capsys.readouterr().err.strip() == f"paretolm fit: {error}"
    else:
        with pytest.raises((type(error), SystemExit)):
            dispatch.run_hydra(task, "fit")
