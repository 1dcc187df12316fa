"""Every search method on every case of conf/compare/<config>.yaml, as a dated Markdown file and pictures.

    python benchmarks/run_compare.py --config main --output benchmarks/results/<date>_compare.md

The same as `paretolm compare`, which makes the runs (resumed where --folder holds some) and the HTML report; this also
writes what is committed: conclusions, tables, and some of the pictures beside it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from search.comparison.analysis import analyse
from search.comparison.figures import draw_figures
from search.comparison.report import write_figures, write_markdown, write_report_of
from search.comparison.runner import run_comparison
from search.comparison.settings import KEYS, Settings, read_settings

SHOWN = ("overall", "regret_main", "regret_bayesian", "ranks")  # names of pictures to commit


def settings_of(config: str, overrides: list[str]) -> Settings:
    with initialize_config_module("supernet.conf", version_base="1.3"):
        cfg = compose("compare", [f"compare={config}", *overrides])
    values = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(values, dict)
    return read_settings({key: values[key] for key in KEYS})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="main", help="of conf/compare/")
    parser.add_argument("--folder", type=Path, default=None, help="of the runs; default: runs/compare/<config>")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--output", type=Path, default=None, help="the Markdown file; pictures go beside it")
    parser.add_argument("overrides", nargs="*", help="of the configuration, e.g. seeds=10")
    options = parser.parse_args()
    folder = options.folder or Path("runs/compare") / options.config
    settings = settings_of(options.config, options.overrides)
    found = run_comparison(settings, folder, workers=options.workers, progress=True)
    analysis = analyse(found.records, found.references)
    how = {"command": "python " + shlex.join(["benchmarks/run_compare.py", *sys.argv[1:]]), **found.how}
    report = write_report_of(analysis, folder, how=how)
    print(f"{report.headline} -> {report.html}")
    if options.output:
        figures = [figure for figure in draw_figures(analysis) if figure.name in SHOWN]
        paths = write_figures(figures, options.output.parent, prefix=f"{options.output.stem}_")
        captions = {path.name: figure.caption for path, figure in zip(paths, figures, strict=True)}
        print(write_markdown(analysis, options.output, how=how, figures=captions))


if __name__ == "__main__":
    main()
