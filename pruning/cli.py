"""The command of pruning: prune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pruning.command import JobSettings
    from pruning.job import Job
    from pruning.recovery_settings import RecoverySettings


def prune() -> int:
    """Prune a pretrained LLM to a latency budget that is measured to hold; export it."""
    import sys

    from supernet.dispatch import run_hydra

    try:
        return run_hydra(_prune, "prune")
    except KeyboardInterrupt:
        print("paretolm prune: stopped; run again with the same run_dir to go on", file=sys.stderr)
        return 130


def _prune(cfg: DictConfig) -> None:
    print(f"prune: {run(cfg)}")


def run(cfg: DictConfig) -> Job:
    """Run what conf/prune.yaml says."""
    from hw_profiles.device import Workload
    from pruning.budget import parse_budget

    values = _plain(cfg)
    workload = Workload(**values["workload"])
    parse_budget(values["budget"], workload)  # refused before anything heavy is imported or loaded

    from pruning.command import run_job
    from pruning.settings import PruneSettings, SearchSettings, VerifySettings
    from pruning.texts import CalibrationSettings
    from supernet.dispatch import command_line, save_run_info

    calibration = CalibrationSettings(**{"seed": cfg.seed} | values["calibration"])
    settings = PruneSettings(
        mode=cfg.mode, embd=cfg.embd, criterion=cfg.criterion, intercept=cfg.intercept, damping=cfg.damping,
        local_distillation=cfg.local_distillation, device=cfg.device.name, threads=cfg.device.threads,
        precision=cfg.precision, search=SearchSettings(**values["search"]), verify=VerifySettings(**values["verify"]),
        seed=cfg.seed,
    )  # fmt: skip
    job = _job_settings(values)
    save_run_info(cfg, cfg.run_dir)
    return run_job(
        cfg.model, values["budget"], workload=workload, calibration=calibration, settings=settings, job=job,
        folder=cfg.run_dir, command=command_line(), progress=cfg.progress,
    )  # fmt: skip


def _job_settings(values: dict[str, Any]) -> JobSettings:
    from pruning.command import JobSettings, ZeroShotSettings

    zero_shot = dict(values["zero_shot"])
    return JobSettings(
        recovery=_recovery_settings(values["recovery"]),
        recovery_text=values["recovery"]["text"],
        recovery_guard=values["recovery"]["guard"],
        export=tuple(values["export"]),
        prompts=tuple(values["prompts"]),
        zero_shot=ZeroShotSettings(**zero_shot | {"tasks": tuple(zero_shot["tasks"])}),
        compare=values["compare"],
    )


def _recovery_settings(values: dict[str, Any]) -> RecoverySettings | None:
    from pruning.recovery_settings import RecoverySettings

    given = {name: value for name, value in values.items() if name not in ("text", "guard", "max_steps")}
    if not values["max_steps"]:
        return None
    return RecoverySettings(max_steps=values["max_steps"], **given)


def _plain(node: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)
