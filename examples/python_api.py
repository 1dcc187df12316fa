"""The whole chain from Python, without Hydra: train, evaluate, measure, fit, search, extract.

python examples/python_api.py --steps 200 --networks 40
"""

import argparse
from pathlib import Path

import numpy as np

from hw_profiles.device import Workload
from hw_profiles.profiler import profile
from hw_profiles.quality import quality_rows
from hw_profiles.table import MeasurementTable
from search.algorithms import NSGA2
from search.objectives import SurrogateObjective
from search.study import run_study
from supernet.architecture import Architecture
from supernet.checkpoint import save_subnet
from supernet.data import TextDataModule
from supernet.distill import Distillation
from supernet.evaluate import evaluate, evaluation_table
from supernet.extract import extract
from supernet.fit import TrainerSettings, new_supernet, train
from supernet.recipe import Recipe
from supernet.samplers import Sandwich
from supernet.spaces import load_space
from supernet.training import SupernetModule
from surrogates.fit import fit_surrogates, summary


def main(run_dir: Path, *, steps: int, networks: int) -> Architecture:
    space = load_space("tiny")
    data = TextDataModule("stdlib", seq_len=64, batch_size=8, max_bytes=2_000_000, val_blocks=32)
    module = SupernetModule(
        new_supernet(space), space, sampler=Sandwich(space), recipe=Recipe(learning_rate=3e-3, warmup_steps=10),
        distillation=Distillation(),
    )  # fmt: skip
    settings = TrainerSettings(max_steps=steps, accelerator="cpu", validate_every=steps, progress=False)
    print(train(module, data, run_dir=run_dir / "train", settings=settings))

    archs = space.sample_unique(networks, np.random.default_rng(0))
    table = MeasurementTable(run_dir / "measurements.parquet")
    print(profile(archs, config=space.config, space_name=space.name, workload=Workload(1, 64), table=table, repeats=5))
    scores = evaluate(module.supernet, archs, data.val_blocks)
    table.append(quality_rows(evaluation_table(scores), space=space.name))

    surrogates = fit_surrogates(table.read(), space, metrics=["perplexity", "latency_ms"])
    for surrogate in surrogates.surrogates.values():
        print(summary(surrogate))
    objectives = [SurrogateObjective(surrogate) for surrogate in surrogates.surrogates.values()]
    study = run_study(space, objectives, algorithm=NSGA2, n_evaluations=300, n_free_evaluations=1000)
    print(study.sentence())

    best = study.main.front_architectures[0]
    print("saved", save_subnet(run_dir / "best", extract(module.supernet, best), best))
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/python_api"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--networks", type=int, default=40)
    options = parser.parse_args()
    main(options.run_dir, steps=options.steps, networks=options.networks)
