"""Commands of the search: search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from search.setup import Context


def search() -> int:
    """Find the Pareto front of quality against hardware cost, beside its baselines."""
    from supernet.dispatch import run_hydra

    return run_hydra(_search, "search")


def _search(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    from search.budget import budgets_from
    from search.setup import budget_objectives
    from search.study import run_study
    from supernet.dispatch import save_run_info

    context = _context(cfg)
    study = run_study(
        context.space,
        [instantiate(node, context) for node in cfg.objectives.values()],
        algorithm=instantiate(cfg.algorithm),
        n_evaluations=cfg.n_evaluations,
        baselines=tuple(cfg.baselines),
        n_free_evaluations=cfg.n_free_evaluations,
        batch=cfg.batch,
        seed=cfg.seed,
        run_dir=cfg.run_dir,
        budgets=budgets_from(_plain(cfg.budget)),
        extra_objectives=budget_objectives(cfg.surrogates),
        progress=cfg.progress,
    )
    save_run_info(cfg, cfg.run_dir)
    print(f"search: {study.sentence()} -> {cfg.run_dir}")


def _context(cfg: DictConfig) -> Context:
    """Return the space of the search and, where text is given, a way to its validation blocks."""
    from hydra.utils import instantiate

    from search.setup import Context, find_space

    given = _plain(cfg.space) if cfg.get("space") else None
    space = find_space(given, surrogates=cfg.surrogates, supernet=cfg.supernet)
    if not cfg.get("data"):
        return Context(space)
    return Context(space, validation=lambda n_blocks: instantiate(cfg.data).val_blocks.first(n_blocks))


def _plain(node: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)
