"""Search for the reference fronts that `paretolm compare` scores against, and write those that are shipped.

    python benchmarks/make_references.py --config full --jobs 2

One front for each case of conf/compare/<config>.yaml and each width. Every finished front is a file in --work, and a
killed search goes on from there. At the end those of a scale become search/comparison/data/<scale>.npz.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hw_profiles.device import usable_cores
from search.comparison.cases import Case, benchmark_of
from search.comparison.records import width_panel
from search.comparison.references import DATA, FULL, save_references, width_front
from search.comparison.settings import GRID, read_settings
from search.comparison.workers import in_workers
from supernet.artifacts import atomic_path, versions
from surrogates.reference_fronts import ReferenceFront

_SEARCH = (
    "For each width: trade-offs of linear models and members of the shipped front of the whole space, evolution, then "
    f"all neighbours of the front until nothing new is found ({FULL}). The front of the whole space is what those of "
    "the widths leave of each other."
)
PARTS = ("front", "ideal", "nadir", "genes")


class Job(NamedTuple):
    """One front to search for."""

    case: Case
    n_embd: int

    def path(self, work: Path) -> Path:
        digest = benchmark_of(self.case.benchmark).digest
        return work / digest / self.case.slug / f"{width_panel(self.n_embd)}.npz"


def main() -> None:
    options = _options()
    jobs = _jobs(options.config)
    missing = [job for job in jobs if not job.path(options.work).is_file()]
    print(f"{len(jobs)} fronts, {len(jobs) - len(missing)} are there", flush=True)
    started = time.perf_counter()
    with tqdm(total=len(missing), desc="fronts", disable=not sys.stderr.isatty()) as bar:
        for job, error in in_workers(partial(search, work=options.work), missing, workers=options.jobs):
            if error is not None:
                raise error
            bar.update()
            print(f"{job.case.name}, {width_panel(job.n_embd)}: {_seconds(job, options.work):.0f} s", flush=True)
    for name in dict.fromkeys(job.case.benchmark for job in jobs):
        _ship(name, [job for job in jobs if job.case.benchmark == name], options)
    print(f"{time.perf_counter() - started:.0f} s")


def search(job: Job, *, work: Path) -> None:
    started = time.perf_counter()
    benchmark = benchmark_of(job.case.benchmark)
    known = _whole_space(job)
    front = width_front(job.case, benchmark, job.n_embd, known=known)
    arrays = {} if front is None else {part: getattr(front, part) for part in PARTS}
    arrays["seconds"] = np.array(time.perf_counter() - started)
    with atomic_path(job.path(work)) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _whole_space(job: Job) -> np.ndarray | None:
    """Return networks of this width on the shipped front of the whole space: the search starts from them too."""
    benchmark = benchmark_of(job.case.benchmark)
    pairs = [target.metric if target.device == "any" else (target.metric, target.device) for target in job.case.targets]
    genes = benchmark.objective(pairs).reference_genes
    if genes is None:
        return None
    genes = genes[genes[:, 0] == benchmark.space.n_embd.index(job.n_embd)]
    return genes if len(genes) else None


def _ship(name: str, jobs: list[Job], options: argparse.Namespace) -> None:
    fronts: dict[str, dict[str, ReferenceFront]] = {}
    for job in jobs:
        with np.load(job.path(options.work), allow_pickle=False) as file:
            if "front" in file.files:
                front = ReferenceFront(*(file[part] for part in PARTS))
                fronts.setdefault(job.case.clean_name, {})[width_panel(job.n_embd)] = front
    command = "python " + shlex.join(["benchmarks/make_references.py", *sys.argv[1:]])
    how = {"command": command, "seed": 0, "versions": versions(), "search": _SEARCH}
    card = save_references(options.out, benchmark_of(name), fronts, how=how)
    sizes = [len(front.front) for panels in fronts.values() for front in panels.values()]
    print(f"{card}: {len(sizes)} fronts of {min(sizes)} to {max(sizes)} points, "
          f"{card.with_suffix('.npz').stat().st_size / 1e3:.0f} kB")  # fmt: skip


def _seconds(job: Job, work: Path) -> float:
    with np.load(job.path(work), allow_pickle=False) as file:
        return float(file["seconds"])


def _jobs(config: str) -> list[Job]:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("supernet.conf", version_base="1.3"):
        cfg = compose("compare", [f"compare={config}"])
    keys = (*GRID, "more_cases")
    values = {key: OmegaConf.to_container(cfg[key]) if OmegaConf.is_config(cfg[key]) else cfg[key] for key in keys}
    settings = read_settings({**values, "methods": ["random"]})
    cases = {case.clean_name: replace(case, is_noisy=False) for case in settings.cases}
    return [Job(case, width) for case in cases.values() for width in benchmark_of(case.benchmark).space.n_embd]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="full", help="of conf/compare/: whose cases")
    parser.add_argument("--work", type=Path, default=Path("runs/references"), help="folder of finished fronts")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the shipped files")
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="processes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
