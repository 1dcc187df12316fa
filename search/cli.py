"""Commands of the search: search, report, demo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from search.setup import Context
    from search.study import Study


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
    objectives = [instantiate(node, context) for node in cfg.objectives.values()]
    study = run_study(
        context.space,
        objectives,
        algorithm=instantiate(cfg.algorithm),
        n_evaluations=cfg.n_evaluations,
        baselines=tuple(cfg.baselines),
        n_free_evaluations=cfg.n_free_evaluations,
        batch=cfg.batch,
        seed=cfg.seed,
        run_dir=cfg.run_dir,
        budgets=budgets_from(_plain(cfg.budget)),
        extra_objectives=budget_objectives(cfg.surrogates, objectives),
        progress=cfg.progress,
    )
    save_run_info(cfg, cfg.run_dir)
    if cfg.remeasure.n:
        print(f"measured: {_remeasure(cfg, context, study)}")
    print(f"search: {study.sentence()} -> {cfg.run_dir}")


def _remeasure(cfg: DictConfig, context: Context, study: Study) -> str:
    """Measure picks of the search and its baselines; returns the outcome in one line."""
    from hw_profiles.device import Workload
    from search.final import measure_picks, measured_standings
    from search.setup import live_objective, load_surrogates

    if not cfg.surrogates:
        raise ValueError("remeasure.n > 0 needs surrogates=<folder>: its latency says under which workload to measure")
    quality = live_objective(
        context, folder=cfg.supernet, n_blocks=cfg.remeasure.n_blocks, cache_dir=f"{cfg.run_dir}/quality",
        device=cfg.remeasure.device,
    )  # fmt: skip
    picks = measure_picks(
        {study.main.algorithm: study.main, **study.baselines}, space=context.space, quality=quality,
        workload=Workload.from_id(load_surrogates(str(cfg.surrogates))["latency_ms"].workload), run_dir=cfg.run_dir,
        weights=cfg.supernet, n=cfg.remeasure.n, repeats=cfg.remeasure.repeats, threads=cfg.remeasure.threads,
        device=cfg.remeasure.device, progress=cfg.progress,
    )  # fmt: skip
    shares = [
        f"{s.name} {s.hypervolume:.4f} ({s.n_on_front}/{s.n_picks} undominated)" for s in measured_standings(picks)
    ]
    return f"hypervolume of the picks: {', '.join(shares)}"


def report() -> int:
    """Write one HTML file with figures and tables of a run: run=<folder>."""
    from supernet.dispatch import run_hydra

    return run_hydra(_report, "report")


def _report(cfg: DictConfig) -> None:
    from search.report import readme_figure, write_report
    from search.report_data import load_report_data

    written = write_report(cfg.run)
    if cfg.readme_figure:
        readme_figure(load_report_data(cfg.run), cfg.readme_figure)
    print(f"report: {written.headline} -> {written.path} ({len(written.figures)} figures)")


def demo() -> int:
    """Run everything on two CPU cores: train, measure, fit, search, report (--smoke: in a minute)."""
    import sys

    from supernet.dispatch import run_hydra

    sys.argv = [sys.argv[0], *("demo=smoke" if word == "--smoke" else word for word in sys.argv[1:])]
    return run_hydra(_demo, "demo")


def _demo(cfg: DictConfig) -> None:
    from search.demo import DemoSettings, run_demo
    from supernet.dispatch import save_run_info

    save_run_info(cfg, cfg.run_dir)
    summary = run_demo(DemoSettings(**_plain(cfg.demo)), cfg.run_dir)
    print(f"\ndemo: {summary['headline']} -> {cfg.run_dir}/report.html")


def _context(cfg: DictConfig) -> Context:
    """Return the space of the search and, where text is given, a way to its validation blocks."""
    from search.setup import Context, find_space

    given = _plain(cfg.space) if cfg.get("space") else None
    space = find_space(given, surrogates=cfg.surrogates, supernet=cfg.supernet)
    if not cfg.get("data"):
        return Context(space)
    return Context(space, validation=lambda n_blocks: _text(cfg).val_blocks.first(n_blocks))


def _text(cfg: DictConfig) -> Any:
    """Return the data module of the given text, read with the supernet's own tokenizer where it has one."""
    from hydra.utils import instantiate

    from supernet.text import stored_tokenizer

    tokenizer = stored_tokenizer(cfg.supernet) if cfg.supernet else None
    return instantiate(cfg.data, tokenizer=tokenizer or cfg.data.tokenizer)


def _plain(node: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True)
