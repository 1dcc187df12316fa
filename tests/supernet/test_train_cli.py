from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

from supernet.checkpoint import load_supernet
from supernet.distill import Distillation
from supernet.fit import TrainerSettings
from supernet.metrics_log import read_metrics
from supernet.recipe import Recipe
from supernet.samplers import draw
from supernet.spaces import load_space

SMALL = [
    "data.max_bytes=100000", "data.seq_len=32", "data.batch_size=4", "data.val_blocks=8", "trainer.max_steps=4",
    "trainer.validate_every=2", "trainer.checkpoint_every=2", "recipe.warmup_steps=0",
]  # fmt: skip


def options(group: str) -> list[str]:
    folder = resources.files("supernet.conf").joinpath(group)
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


@pytest.fixture
def hydra() -> Iterator[None]:
    GlobalHydra.instance().clear()
    with initialize_config_module("supernet.conf", version_base="1.3"):
        yield


def test_the_default_recipe_and_trainer_are_legal(hydra: None) -> None:
    cfg = compose("train")
    assert Recipe(seed=cfg.seed, **cfg.recipe).betas == (0.9, 0.95)
    assert TrainerSettings(**cfg.trainer).max_steps == 1000


@pytest.mark.parametrize("name", options("sampler"))
def test_every_sampler_config_samples(hydra: None, name: str) -> None:
    cfg = compose("train", [f"sampler={name}", "trainer.max_steps=10"])
    assert draw(instantiate(cfg.sampler)(space=load_space("tiny")), seed=0, step=9)


@pytest.mark.parametrize("name", options("trainer"))
def test_every_trainer_config_is_legal(hydra: None, name: str) -> None:
    settings = TrainerSettings(**compose("train", [f"trainer={name}"]).trainer)
    assert settings.strategy == {"ddp-cpu": "ddp"}.get(name, name if name in ("ddp", "fsdp") else "auto")


@pytest.mark.parametrize("name", options("distillation"))
def test_every_distillation_config_is_legal(hydra: None, name: str) -> None:
    mixing = OmegaConf.to_container(compose("train", [f"distillation={name}"]).distillation)
    mixing.pop("teacher", None)
    assert (Distillation(**mixing) if mixing else None) == (None if name == "none" else Distillation())


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes_and_gives_its_command(hydra: None, name: str) -> None:
    cfg = compose("train", [f"experiment={name}"])
    TrainerSettings(**cfg.trainer)
    Recipe(**cfg.recipe)
    text = resources.files("supernet.conf").joinpath("experiment", f"{name}.yaml").read_text()
    assert f"experiment={name}" in text.splitlines()[1]


def test_loggers_are_chosen_together(hydra: None) -> None:
    assert set(compose("train", ["logger=[wandb,tensorboard]"]).logger) == {"wandb", "tensorboard"}
    assert not compose("train").logger


def paretolm(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "supernet", *arguments], cwd=cwd, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_trains_resumes_and_continues_from_its_own_supernet(tmp_path: Path) -> None:
    done = paretolm("train", *SMALL, f"data.cache_dir={tmp_path}/cache", "run_dir=first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *_, last = done.stdout.splitlines()
    assert last.startswith("4 steps, validation perplexity largest")
    assert last.endswith(str(tmp_path / "first" / "supernet"))
    assert (tmp_path / "first" / "config.yaml").exists()
    assert (tmp_path / "first" / "run.json").exists()

    longer = [*SMALL, "trainer.max_steps=6", f"data.cache_dir={tmp_path}/cache"]
    assert paretolm("train", *longer, "run_dir=first", cwd=tmp_path).returncode == 0
    rows = read_metrics(tmp_path / "first" / "metrics.csv")
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]

    tuned = paretolm("train", *longer, "run_dir=second", "init_from=first/supernet", "sampler=single_path",
                     "recipe.slice_updates=true", cwd=tmp_path)  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr
    assert load_supernet(tmp_path / "second" / "supernet").space == load_space("tiny")


@pytest.mark.slow
def test_mistakes_are_one_line_on_stderr(tmp_path: Path) -> None:
    done = paretolm("train", *SMALL, "data.seq_len=4096", "run_dir=x", cwd=tmp_path)
    assert done.returncode == 1
    assert "seq_len = 4096 is longer than the model's block_size = 256" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_ddp_trainer_starts_its_processes_in_every_job_of_a_multirun(tmp_path: Path) -> None:
    done = paretolm("train", "--multirun", *SMALL, "trainer=ddp-cpu", "seed=0,1", "run_dir=sweep",
                    f"data.cache_dir={tmp_path}/cache", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for job in ("0", "1"):
        rows = read_metrics(tmp_path / "sweep" / job / "metrics.csv")
        assert rows[0]["tokens"] == 2 * 4 * 32  # both processes' batches
