"""Command of the measurements: profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from supernet.architecture import Architecture
    from supernet.space import SearchSpace


def profile() -> int:
    """Measure sub-networks on this machine: latency, memory, energy, size."""
    from supernet.dispatch import run_hydra

    try:
        return run_hydra(_profile, "profile")
    except KeyboardInterrupt:
        print("paretolm profile: stopped; the table holds what was finished, run again with it to go on")
        return 130


def _profile(cfg: DictConfig) -> None:
    from omegaconf import OmegaConf

    from hw_profiles.device import Workload
    from hw_profiles.profiler import profile as run
    from supernet.architecture import Architecture
    from supernet.dispatch import save_run_info
    from supernet.spaces import load_space

    space = load_space(OmegaConf.to_container(cfg.space, resolve=True))  # type: ignore[arg-type]
    save_run_info(cfg, cfg.run_dir)
    result = run(
        architectures(cfg, space),
        config=space.config,
        space_name=space.name,
        workload=Workload(**cfg.workload),
        table=cfg.table,
        metrics=tuple(cfg.metrics),
        repeats=cfg.repeats,
        warmup=cfg.warmup,
        threads=cfg.device.threads,
        device=cfg.device.name,
        reference=space.validate(Architecture.from_id(cfg.reference)) if cfg.reference else None,
        seed=cfg.seed,
        weights=cfg.weights,
        tie_embeddings=cfg.tie_embeddings,
        shard=parse_shard(cfg.shard),
    )
    print(result)


def architectures(cfg: DictConfig, space: SearchSpace) -> list[Architecture]:
    """Return the architectures that `cfg.archs` asks for: those of a file, or a sample of the space.

    Raises:
        ValueError: one is not in the space, or the space holds fewer than asked for.
    """
    import numpy as np

    from supernet.arch_files import read_architecture_file

    if cfg.archs.file:
        return [space.validate(arch) for arch in read_architecture_file(cfg.archs.file)]
    extremes = list(dict.fromkeys((space.smallest(), space.largest()))) if cfg.archs.extremes else []
    wanted = max(0, cfg.archs.n - len(extremes))
    return extremes + space.sample_unique(wanted, np.random.default_rng(cfg.archs.seed), exclude=extremes)


def parse_shard(text: str) -> tuple[int, int]:
    """Read "i/n"; raises ValueError for anything else."""
    first, slash, second = str(text).partition("/")
    if not (slash and first.isdigit() and second.isdigit()):
        raise ValueError(f"shard = {text!r}: give i/n, for example 0/4")
    return int(first), int(second)
