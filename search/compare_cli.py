"""Command of the comparison: compare."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig


def compare() -> int:
    """Every search method against counting parameters: seeds, statistics, one HTML file (--smoke: in seconds)."""
    from supernet.dispatch import run_hydra

    sys.argv = [sys.argv[0], *("compare=smoke" if word == "--smoke" else word for word in sys.argv[1:])]
    return run_hydra(_compare, "compare")


def _compare(cfg: DictConfig) -> None:
    from search.comparison.runner import run_comparison
    from search.comparison.settings import KEYS, read_settings
    from supernet.dispatch import command_line, save_run_info

    values = _plain(cfg)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        settings = read_settings({key: values[key] for key in KEYS})
    for warning in caught:
        print(f"{sys.argv[0]}: {warning.message}", file=sys.stderr)
    found = run_comparison(settings, cfg.run_dir, workers=cfg.workers, progress=cfg.progress)
    save_run_info(cfg, cfg.run_dir)
    report = found.report(command=command_line())
    print(f"compare: {report.headline} -> {report.html}")


def _plain(node: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)
