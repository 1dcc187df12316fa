"""Fit what surrogates/data ships, from the tidy tables of HW-GPT-Bench.

    python benchmarks/fit_benchmark.py --data ../shared/hwgpt_bench --work runs/benchmark

Imports the tables, fits the surrogates of each scale (about 10 minutes a scale on 2 cores), and searches for the
reference fronts of perplexity against every other target (some minutes a scale). A scale whose model is there already
is fitted again only with --force; --fronts makes the fronts again.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads on shared cores make this many times slower

import numpy as np
from tqdm import tqdm

from hw_profiles.importers.hwgpt_protocol import SCALES, Selection
from hw_profiles.importers.hwgpt_tables import import_hwgpt_tables
from hw_profiles.table import METRICS, MeasurementTable
from search.frozen_fronts import corners, frozen_front, random_genes
from supernet.artifacts import versions
from surrogates.benchmark_files import DATA
from surrogates.campaign import TargetKey
from surrogates.exact_costs import EXACT_METRICS, ExactCosts
from surrogates.hwgpt_benchmark import ship
from surrogates.reference_fronts import ReferenceFronts, objective_label
from surrogates.space_model import SpaceModel
from surrogates.space_store import load_space_model

PERPLEXITY = TargetKey("perplexity")


def main() -> None:
    options = _options()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for scale in options.scales:
        folder = options.out / f"gpt-{scale}"
        if options.force or not (folder / "card.json").is_file():
            start = time.perf_counter()
            table = options.work / f"measurements-{scale}"
            import_hwgpt_tables(options.data, table, selection=Selection(scales=(scale,)))
            frame = MeasurementTable(table).read()
            ship(frame, scale, folder, command=_command(), n_jobs=options.jobs, tree_baselines=options.baselines)
            print(f"gpt-{scale}: fitted in {time.perf_counter() - start:.0f} s: {folder}", flush=True)
    for scale in options.scales:
        folder = options.out / f"gpt-{scale}"
        if options.fronts or not (folder / "fronts.json").is_file():
            ship_fronts(load_space_model(folder), folder, seed=0)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{size / 1e6:.2f} MB in {options.out}")


def ship_fronts(model: SpaceModel, folder: Path, *, seed: int) -> None:
    """Search for the fronts of perplexity against every target and exact cost, and write them beside the model."""
    exact = ExactCosts(model.space)
    costs = [key for key in model.targets if key.metric not in ("perplexity", "accuracy")]
    costs += [TargetKey(name) for name in EXACT_METRICS]
    sample = model.features.check(
        np.concatenate([random_genes(model.features, 100_000, np.random.default_rng(seed)), corners(model.features)])
    )
    values = np.column_stack([model.predict(sample), exact(sample)])
    keys = [*model.targets, *(TargetKey(name) for name in EXACT_METRICS)]
    signs = np.array([-1.0 if METRICS[key.metric].higher_is_better else 1.0 for key in keys])
    extremes = {
        objective_label(key): (float(low), float(high))
        for key, low, high in zip(keys, (values * signs).min(axis=0), (values * signs).max(axis=0), strict=True)
    }
    fronts = {}
    for cost in tqdm(costs, desc=f"fronts {model.space.name}"):
        fronts[objective_label(PERPLEXITY), objective_label(cost)] = frozen_front(
            _pair(model, cost, exact), model.features, np.random.default_rng(seed)
        )
    how = {"command": _command(), "seed": seed, "versions": versions(), "search": frozen_front.__doc__}
    ReferenceFronts(fronts, extremes).save(folder, how=how)


def _pair(model: SpaceModel, cost: TargetKey, exact: ExactCosts):
    if cost in model.targets:
        return model.of_targets([PERPLEXITY, cost]).predict
    quality, column = model.of_targets([PERPLEXITY]), EXACT_METRICS.index(cost.metric)
    return lambda genes: np.column_stack([quality.predict(genes), exact(genes)[:, column]])


def _command() -> str:
    return "python " + shlex.join(["benchmarks/fit_benchmark.py", *sys.argv[1:]])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/hwgpt_bench"), help="folder of tidy tables")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark"), help="folder of imported tables")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the shipped files")
    parser.add_argument("--scales", nargs="+", default=list(SCALES), choices=SCALES)
    parser.add_argument("--jobs", type=int, default=2, help="threads of XGBoost")
    parser.add_argument("--no-baselines", dest="baselines", action="store_false", help="no XGBoost-only candidates")
    parser.add_argument("--force", action="store_true", help="fit again")
    parser.add_argument("--fronts", action="store_true", help="search for the fronts again")
    return parser.parse_args()


if __name__ == "__main__":
    main()
