"""Commands of the network: train, evaluate, export."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def train() -> int:
    """Train a weight-entangled supernet, or resume a training (run_dir=...)."""
    from supernet.dispatch import run_hydra

    return run_hydra(_train, "train")


def _train(cfg: DictConfig) -> float | None:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from supernet.checkpoint import load_supernet
    from supernet.dispatch import command_line, save_run_info
    from supernet.distill import Distillation
    from supernet.fit import TrainerSettings, new_supernet, train
    from supernet.parallel import launched_by_others
    from supernet.recipe import Recipe
    from supernet.spaces import load_space
    from supernet.training import SupernetModule

    settings = TrainerSettings(**cfg.trainer)
    if settings.strategy != "auto" and settings.devices != 1 and not launched_by_others():
        return _train_in_processes(cfg, settings.devices)
    loaded = load_supernet(cfg.init_from, tie_embeddings=cfg.tie_embeddings) if cfg.init_from else None
    space = (loaded and loaded.space) or load_space(OmegaConf.to_container(cfg.space, resolve=True))
    tied = bool(cfg.tie_embeddings)
    supernet = loaded.supernet if loaded else new_supernet(space, seed=cfg.seed, tie_embeddings=tied)
    mixing = OmegaConf.to_container(cfg.distillation, resolve=True)
    teacher = mixing.pop("teacher", None)
    module = SupernetModule(
        supernet, space, sampler=instantiate(cfg.sampler)(space=space), recipe=Recipe(seed=cfg.seed, **cfg.recipe),
        distillation=Distillation(**mixing) if mixing else None,
        teacher=load_supernet(teacher).supernet if teacher else None,
    )  # fmt: skip
    save_run_info(cfg, cfg.run_dir)
    loggers = [instantiate(logger) for logger in cfg.logger.values()]
    result = train(
        module, instantiate(cfg.data), run_dir=cfg.run_dir, settings=settings, loggers=loggers, command=command_line()
    )
    if module.global_rank == 0:
        print(result)
    return result.scores.get("val/loss_largest")


def _train_in_processes(cfg: DictConfig, devices: int | str) -> None:
    """Run this same job once per device with torchrun, and exit with its status if it fails."""
    import subprocess

    from hydra.core.hydra_config import HydraConfig

    from supernet.parallel import torchrun_command

    overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("run_dir=")]
    arguments = ["train", *overrides, f"run_dir={cfg.run_dir}", "hydra.output_subdir=null"]
    done = subprocess.run(torchrun_command(devices=devices, accelerator=cfg.trainer.accelerator, arguments=arguments))
    if done.returncode:
        raise SystemExit(done.returncode)


def evaluate() -> int:
    """Measure loss, perplexity and bits per byte of sub-networks on a text."""
    from supernet.dispatch import run_hydra

    return run_hydra(_evaluate, "evaluate")


def _evaluate(cfg: DictConfig) -> None:
    import torch
    from hydra.utils import instantiate

    from supernet.arch_list import read_architectures
    from supernet.checkpoint import load_supernet
    from supernet.dispatch import save_run_info
    from supernet.evaluate import check_table_path, evaluate, summary_line, write_evaluations

    output = check_table_path(cfg.output)
    loaded = load_supernet(cfg.supernet)
    archs = [None] if cfg.archs is None else read_architectures(cfg.archs, loaded.space, seed=cfg.seed)
    tokenizer = cfg.data.tokenizer or loaded.tokenizer
    if tokenizer is None:
        raise ValueError(f"{cfg.supernet} has no tokenizer: give data.tokenizer=FOLDER, or data.tokenizer=byte")
    data = instantiate(cfg.data, tokenizer=tokenizer)
    data.prepare_data()
    device = cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    evaluations = evaluate(
        loaded.supernet, archs, data.blocks(cfg.split, cfg.n_blocks), batch_size=cfg.batch_size, device=device,
        precision=str(cfg.precision), progress=cfg.progress,
    )  # fmt: skip
    save_run_info(cfg, cfg.run_dir)
    print(summary_line(evaluations), "->", write_evaluations(output, evaluations))


def export() -> int:
    """Export a sub-network for stock transformers or stock litgpt."""
    from supernet.dispatch import run_hydra

    return run_hydra(_export, "export")


def _export(cfg: DictConfig) -> None:
    from supernet.checkpoint import load_supernet
    from supernet.dispatch import command_line, save_run_info
    from supernet.export import export_subnet, named_architecture
    from supernet.extract import extract

    loaded = load_supernet(cfg.supernet)
    arch = named_architecture(cfg.arch, loaded)
    card = {"command": command_line(), "data": {"supernet": str(cfg.supernet)}}
    gpt = extract(loaded.supernet, arch)
    done = export_subnet(cfg.out, gpt, arch, format=cfg.format, tokenizer=loaded.tokenizer, card=card)
    save_run_info(cfg, cfg.run_dir)
    n_params = sum(p.numel() for p in gpt.parameters())
    print(
        f"{arch.id} ({n_params:,} parameters) exported as {done.class_name} to {done.folder}; "
        f"logits differ by {done.max_difference:.1e} at most; load it with {done.loads_with}"
    )
