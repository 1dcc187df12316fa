"""Commands of the measurements: profile, import."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from hw_profiles.importers.bulk import ImportResult
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


IMPORT_SOURCES = ("hwgpt-tables", "hwgpt-repository", "csv")


def import_() -> int:
    """Import measurements of others (HW-GPT-Bench, CSV files) into a table."""
    from supernet.dispatch import run_hydra

    return run_hydra(_import, "import")


def _import(cfg: DictConfig) -> None:
    from supernet.dispatch import save_run_info

    result = imported(cfg)
    save_run_info(cfg, cfg.run_dir)
    print(result)


def imported(cfg: DictConfig) -> ImportResult:
    """Import what `cfg` (conf/import.yaml) asks for.

    Raises:
        ValueError: an unknown source, or a setting that it does not have.
    """
    if cfg.source not in IMPORT_SOURCES:
        from difflib import get_close_matches

        near = get_close_matches(str(cfg.source), IMPORT_SOURCES, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"source = {cfg.source!r}; allowed: {', '.join(IMPORT_SOURCES)}.{hint}")
    _check_import_settings(cfg)
    if cfg.source == "csv":
        from hw_profiles.importers.csv_rows import import_csv

        return import_csv(cfg.path, cfg.table, space=cfg.space_name)
    from hw_profiles.importers.hwgpt_devices import Selection

    chosen = {name: tuple(cfg[name]) for name in ("scales", "metrics", "devices") if cfg[name] is not None}
    if cfg.source == "hwgpt-tables":
        from hw_profiles.importers.hwgpt_tables import import_hwgpt_tables

        return import_hwgpt_tables(cfg.path, cfg.table, selection=Selection(**chosen), progress=cfg.progress)
    from hw_profiles.importers.hwgpt_repository import import_hwgpt_repository

    return import_hwgpt_repository(
        cfg.path, cfg.table, selection=Selection(**chosen), commit=cfg.commit, keep_held_out=cfg.keep_held_out,
        progress=cfg.progress,
    )  # fmt: skip


def _check_import_settings(cfg: DictConfig) -> None:
    """Raise ValueError for a setting that the source does not have: it would change nothing."""
    selection = ("scales", "metrics", "devices")
    used = {
        "csv": ("space_name",),
        "hwgpt-tables": selection,
        "hwgpt-repository": (*selection, "commit", "keep_held_out"),
    }
    for name in ("space_name", *selection, "commit", "keep_held_out"):
        if cfg[name] not in (None, False) and name not in used[cfg.source]:
            raise ValueError(f"{name} = {cfg[name]} means nothing for source={cfg.source}: leave it out")
