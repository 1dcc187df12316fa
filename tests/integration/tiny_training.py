"""A small training that integration tests run as a process of its own, to kill it or to run it twice in parallel."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from supernet.data import TextDataModule
from supernet.distill import Distillation
from supernet.fit import TrainerSettings, new_supernet, train
from supernet.recipe import Recipe
from supernet.samplers import Sandwich
from supernet.space import SearchSpace
from supernet.training import SupernetModule

SPACE = SearchSpace(
    name="integration",
    n_embd=(16, 32),
    n_layer=(1, 2, 3),
    n_head=(1, 2),
    mlp_ratio=(1, 2),
    # no biases: a key bias has no gradient but rounding, which Adam magnifies
    config={"head_size": 16, "block_size": 16, "vocab_size": 256, "padded_vocab_size": 256, "bias": False},
)


def run(
    folder: Path, text: Path, *, settings: TrainerSettings, batch_size: int = 4, accumulate: int = 1
) -> SupernetModule:
    """Train SPACE on `text` with the run folder `folder` and return the trained module."""
    recipe = Recipe(learning_rate=3e-3, min_learning_rate=3e-4, warmup_steps=3, accumulate=accumulate, seed=1)
    module = SupernetModule(
        new_supernet(SPACE, seed=1), SPACE, sampler=Sandwich(SPACE), recipe=recipe, distillation=Distillation()
    )
    data = TextDataModule(
        text,
        seq_len=16,
        batch_size=batch_size,
        val_fraction=0.2,
        batches_per_epoch=7,
        cache_dir=folder.parent / "cache",
    )
    train(module, data, run_dir=folder, settings=settings)
    return module


def main() -> None:
    """Read settings as JSON from the command line and train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--accumulate", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = TrainerSettings(**{"accelerator": "cpu", "progress": False} | given.settings)
    run(given.folder, given.text, settings=settings, batch_size=given.batch_size, accumulate=given.accumulate)


if __name__ == "__main__":
    main()
