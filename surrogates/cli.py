"""Command of the surrogates: fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def fit() -> int:
    """Fit surrogates to a table of measurements (XGBoost, linear, blends), with cross-validated scores."""
    from supernet.dispatch import run_hydra

    return run_hydra(fit_task, config_name="fit")


def fit_task(cfg: DictConfig) -> None:
    """Fit as `cfg` (conf/fit.yaml) says; the surrogates lie in `<run_dir>/surrogates`."""
    from pathlib import Path

    from hydra.utils import instantiate

    from supernet.dispatch import command_line, save_run_info
    from supernet.spaces import load_space
    from surrogates.candidates import candidate_models
    from surrogates.fit import fit_surrogates, summary
    from surrogates.store import RUN_SUBFOLDER, save_set
    from surrogates.targets import measured_frame

    space = load_space(cfg.space)
    trees = instantiate(cfg.surrogate.trees)
    fitted = fit_surrogates(
        measured_frame(cfg.table, space.name, evaluations=cfg.evaluations), space,
        metrics=cfg.metrics, device=cfg.device_name, workload=cfg.workload_id,
        candidates=candidate_models(space, list(cfg.surrogate.candidates), trees=trees, seed=cfg.seed),
        folds=cfg.folds, seed=cfg.seed, criterion=cfg.surrogate.criterion,
        intervals=cfg.surrogate.intervals,
    )  # fmt: skip
    save_run_info(cfg, cfg.run_dir)
    folder = save_set(
        Path(cfg.run_dir) / RUN_SUBFOLDER, fitted, command=command_line(), table=str(Path(cfg.table).absolute())
    )
    for surrogate in fitted.surrogates.values():
        print(summary(surrogate))
    print(f"Surrogates of {', '.join(fitted.metrics)}: {folder}")
