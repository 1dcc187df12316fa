"""Commands of the network: train, evaluate, export."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


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
