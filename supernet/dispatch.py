"""`paretolm <command> [hydra overrides]`: finds commands through entry points, so no package imports a higher one."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supernet.huge_pages import in_use, start_again_with_huge_pages

if TYPE_CHECKING:
    from omegaconf import DictConfig

GROUP = "paretolm.commands"
_SCRIPT = "paretolm"
_LIGHT = ("query", "devices", "metrics", "card", "import", "report")  # run no network
CONFIG_PATH = "pkg://supernet.conf"
_MISTAKES = (ValueError, KeyError, FileNotFoundError)  # of what was asked for, not of the program
_inner_line: ContextVar[str | None] = ContextVar("inner_line", default=None)  # of a command inside another one
_ORDER = (
    "demo", "query", "devices", "metrics", "card", "train", "evaluate", "profile", "import", "adapt", "fit", "search",
    "compare", "proxies", "prune", "export", "report",
)  # fmt: skip


def commands() -> dict[str, metadata.EntryPoint]:
    """Return the installed commands by name, the common ones first."""
    found = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    names = [*(n for n in _ORDER if n in found), *sorted(set(found) - set(_ORDER))]
    return {name: found[name] for name in names}


def help_text() -> str:
    """Return the text of `paretolm --help`."""
    lines = [f"  {name:<10}{(entry.load().__doc__ or '').splitlines()[0]}" for name, entry in commands().items()]
    return "\n".join(
        [
            "paretolm: find the language model that is best on your hardware",
            "",
            "Usage: paretolm <command> [key=value ...]",
            "",
            *lines,
            "",
            "paretolm <command> --help     all settings of a command",
            "Most take Hydra overrides (paretolm train space=tiny trainer.max_steps=500; --cfg job prints the",
            "configuration); query, devices, metrics, card, adapt and proxies take plain options (--space gpt-s).",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run the console script; returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"paretolm {metadata.version('paretolm')}")
        return 0
    name, *rest = arguments
    known = commands()
    if name not in known:
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"paretolm: no command {name!r}.{hint} Commands: {', '.join(known)}", file=sys.stderr)
        return 2
    if Path(sys.argv[0]).name == _SCRIPT and name not in _LIGHT:
        start_again_with_huge_pages()
    sys.argv = [f"{_SCRIPT} {name}", *rest]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # jobs that share cores starve each other when threads spin
    try:
        status = int(known[name].load()() or 0)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader went away (paretolm card | head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return status


def run_hydra(task: Callable[[DictConfig], Any], config_name: str) -> int:
    """Compose conf/<config_name>.yaml with the command line and call `task` with it; returns the exit status.

    `cfg.run_dir` is the absolute folder of the run (of the job, under --multirun).

    A ValueError, KeyError or FileNotFoundError is a mistake in what was asked for: it is printed as one message
    (with a traceback under HYDRA_FULL_ERROR=1), exit status 1.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    if GlobalHydra.instance().is_initialized():  # a command that another command runs; errors are the other one's
        task(_composed(config_name, sys.argv[1:]))
        return 0
    status = 0

    def guarded(cfg: DictConfig) -> Any:
        nonlocal status
        cfg.run_dir = HydraConfig.get().runtime.output_dir  # each job of a multirun has its own
        try:
            return task(cfg)
        except (*_MISTAKES, ImportError, OmegaConfBaseException, InstantiationException) as error:
            wrapped = isinstance(error, InstantiationException) and error.__cause__ and _is_mistake(error.__cause__)
            cause = (error.__cause__ if wrapped else None) or error
            is_clear = _is_mistake(cause) or isinstance(cause, OmegaConfBaseException)
            if os.environ.get("HYDRA_FULL_ERROR") == "1" or not is_clear:
                raise
            print(f"{sys.argv[0]}: {_message(cause)}", file=sys.stderr)
            status = 1
            return None

    guarded.__module__, guarded.__qualname__ = task.__module__, task.__qualname__
    hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name=config_name)(guarded)()
    return status


def _is_mistake(error: BaseException) -> bool:
    """Return whether the message is for the user: wrong values, missing files, an optional library not installed."""
    is_ours = isinstance(error, ImportError) and error.name is None  # Python's own have a name
    return isinstance(error, _MISTAKES) or is_ours


def _message(error: BaseException) -> str:
    """Return what went wrong in the user's words."""
    if type(error).__name__ == "MissingMandatoryValue":
        key = getattr(error, "full_key", None) or str(error).partition("\n")[0]
        return f"{key} is not given: add {key}=... (--help lists all settings)"
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _composed(config_name: str, overrides: list[str]) -> DictConfig:
    from hydra import compose

    cfg = compose(config_name, overrides)
    cfg.run_dir = str(Path(cfg.run_dir).absolute())
    return cfg


def run_command(name: str, overrides: Sequence[str]) -> str:
    """Run `paretolm <name> <overrides>` inside another command and return it as it would be typed.

    Give `run_dir` among the overrides: its default is the outer command's. Errors are raised.
    """
    outer, line = sys.argv, shlex.join(["paretolm", name, *overrides])
    token = _inner_line.set(line)
    sys.argv = [f"paretolm {name}", *overrides]
    try:
        commands()[name].load()()
        return line
    finally:
        sys.argv = outer
        _inner_line.reset(token)


def command_line() -> str:
    """Return the running command as one would type it, for cards and reports (that of the job, under --multirun)."""
    from hydra.core.hydra_config import HydraConfig

    if inner := _inner_line.get():
        return inner
    if not HydraConfig.initialized():
        return shlex.join(["paretolm", *sys.argv[0].split()[1:], *sys.argv[1:]])
    hydra = HydraConfig.get()  # in launchers' and torchrun's processes sys.argv is theirs
    return shlex.join(["paretolm", str(hydra.job.config_name), *hydra.overrides.task])


def save_run_info(cfg: DictConfig, run_dir: str | Path) -> Path:
    """Write the resolved configuration, the command and the versions of a run into its folder, and return that."""
    from omegaconf import OmegaConf

    from supernet.artifacts import versions, write_json, write_text

    folder = Path(run_dir)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    known = {"command": command_line(), "versions": versions(), "huge_pages": in_use()}
    write_json(folder / "run.json", known)
    return folder
