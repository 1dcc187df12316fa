from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from supernet.callbacks import checkpoints
from supernet.checkpoint import load_supernet
from supernet.data import TextDataModule
from supernet.fit import TrainerSettings, new_supernet, train, wandb_logger
from supernet.metrics_log import read_metrics
from supernet.recipe import Recipe
from supernet.samplers import Sandwich
from supernet.space import SearchSpace
from supernet.training import NonFiniteLossError, SupernetModule

SPACE = SearchSpace(
    name="fit-test", n_embd=(16, 32), n_layer=(1, 2), n_head=(1, 2), mlp_ratio=(1, 2),
    config={"head_size": 16, "block_size": 16, "vocab_size": 256, "padded_vocab_size": 256},
)  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(np.random.default_rng(0).choice(["alpha", "beta", "gamma"], size=1500)))
    return path


def data(text: Path, **settings: object) -> TextDataModule:
    return TextDataModule(
        text, **{"seq_len": 16, "batch_size": 4, "val_fraction": 0.1, "cache_dir": text.parent / "cache"} | settings
    )


def module(*, space: SearchSpace = SPACE, **recipe: object) -> SupernetModule:
    settings = {"learning_rate": 3e-3, "min_learning_rate": 3e-4, "warmup_steps": 2} | recipe
    return SupernetModule(new_supernet(space), space, sampler=Sandwich(space, n_random=1), recipe=Recipe(**settings))


def settings(**changes: object) -> TrainerSettings:
    given = {"max_steps": 6, "accelerator": "cpu", "validate_every": 4, "checkpoint_every": 2, "progress": False}
    return TrainerSettings(**given | changes)


def test_a_run_leaves_metrics_checkpoints_and_a_supernet_with_its_card(tmp_path: Path, text: Path) -> None:
    trained = module()
    result = train(trained, data(text), run_dir=tmp_path, settings=settings(), command="paretolm train x=1")
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "val/ppl_smallest" in row] == [4, 6]  # the last step is always validated
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step=00000004.ckpt", "step=00000006.ckpt"]
    assert (result.step, result.supernet_dir) == (6, tmp_path / "supernet")
    assert result.scores["val/ppl_largest"] == rows[-1]["val/ppl_largest"]
    assert f"largest {result.scores['val/ppl_largest']:.2f}" in str(result)

    loaded = load_supernet(tmp_path / "supernet")
    assert loaded.space == SPACE
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("alpha")) == "alpha"
    for name, tensor in trained.supernet.state_dict().items():
        assert loaded.supernet.state_dict()[name].equal(tensor)
    card = json.loads((tmp_path / "supernet" / "card.json").read_text())
    assert card["command"] == "paretolm train x=1"
    assert card["scores"] == result.scores


def test_a_run_without_validation_text_still_saves_checkpoints(tmp_path: Path, text: Path) -> None:
    result = train(module(), data(text, val_fraction=0.0), run_dir=tmp_path, settings=settings())
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step=00000004.ckpt", "step=00000006.ckpt"]
    assert result.scores == {}


def test_a_longer_training_goes_on_from_a_finished_one(tmp_path: Path, text: Path) -> None:
    train(module(), data(text), run_dir=tmp_path, settings=settings(max_steps=3))
    before = read_metrics(tmp_path / "metrics.csv")
    result = train(module(), data(text), run_dir=tmp_path, settings=settings(max_steps=5))
    rows = read_metrics(tmp_path / "metrics.csv")
    assert rows[: len(before)] == before
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5]
    assert result.step == 5


def test_runs_with_the_same_seed_are_equal_and_with_another_are_not(tmp_path: Path, text: Path) -> None:
    losses = []
    for i, seed in enumerate((0, 0, 1)):
        train(module(seed=seed), data(text, seed=seed), run_dir=tmp_path / str(i), settings=settings(max_steps=3))
        losses.append([row.get("train/loss") for row in read_metrics(tmp_path / str(i) / "metrics.csv")])
    assert losses[0] == losses[1] != losses[2]


def test_rows_are_logged_at_the_asked_interval_and_at_the_end(tmp_path: Path, text: Path) -> None:
    train(module(), data(text), run_dir=tmp_path, settings=settings(max_steps=5, log_every=2))
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.csv") if "train/loss" in row] == [2, 4, 5]


def test_a_nan_loss_names_step_network_and_last_checkpoint(tmp_path: Path, text: Path) -> None:
    class Poisoned(TextDataModule):
        def on_after_batch_transfer(self, batch: torch.Tensor, dataloader_idx: int) -> torch.Tensor:
            if self.trainer.training and self.trainer.global_step == 3:
                self.trainer.lightning_module.supernet.transformer.h[1].norm_1.weight.data.fill_(float("nan"))
            return batch

    source = Poisoned(text, seq_len=16, batch_size=4, val_fraction=0.1, cache_dir=text.parent / "cache")
    with pytest.raises(NonFiniteLossError) as caught:
        train(module(), source, run_dir=tmp_path, settings=settings())
    kept = tmp_path / "checkpoints" / "step=00000002.ckpt"
    assert "stopped at step 3: largest" in str(caught.value)
    assert f"Last checkpoint: {kept}." in str(caught.value)
    weights = torch.load(kept, weights_only=True)["state_dict"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not (tmp_path / "supernet").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": SPACE.renamed("else")}, "cannot resume another run: space was"),
        ({"seed": 5}, "seed was 0, is 5"),
        ({"accumulate": 2}, "accumulate was 1, is 2"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, text: Path, changes: dict, message: str) -> None:
    train(module(), data(text), run_dir=tmp_path, settings=settings(max_steps=2))
    before = (tmp_path / "metrics.csv").read_bytes()
    with pytest.raises(ValueError, match=message):
        train(module(**changes), data(text), run_dir=tmp_path, settings=settings())
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_run_on_other_data_is_not_resumed(tmp_path: Path, text: Path) -> None:
    train(module(), data(text), run_dir=tmp_path, settings=settings(max_steps=2))
    with pytest.raises(ValueError, match="seq_len was 16, is 8"):
        train(module(), data(text, seq_len=8), run_dir=tmp_path, settings=settings())


def test_sequences_longer_than_the_models_block_are_refused(tmp_path: Path, text: Path) -> None:
    with pytest.raises(ValueError, match="seq_len = 32 is longer than the model's block_size = 16"):
        train(module(), data(text, seq_len=32), run_dir=tmp_path, settings=settings())


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path: Path, text: Path) -> None:
    config = dict(SPACE.config) | {"vocab_size": 100, "padded_vocab_size": 100}
    small = SearchSpace(name="v", n_embd=(16, 32), n_layer=(1, 2), n_head=(1, 2), mlp_ratio=(1, 2), config=config)
    with pytest.raises(ValueError, match="256 ids, the model only 100"):
        train(module(space=small), data(text), run_dir=tmp_path, settings=settings())


def test_tied_embeddings_stay_one_parameter_through_training(tmp_path: Path, text: Path) -> None:
    supernet = new_supernet(SPACE, tie_embeddings=True)
    tied = SupernetModule(supernet, SPACE, sampler=Sandwich(SPACE, n_random=0), recipe=Recipe(warmup_steps=0))
    for max_steps in (2, 4):  # and through a resume
        train(tied, data(text), run_dir=tmp_path, settings=settings(max_steps=max_steps))
        assert supernet.lm_head.weight is supernet.transformer.wte.weight
    assert load_supernet(tmp_path / "supernet").supernet.tie_embeddings


@pytest.fixture
def offline_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.finish()


@pytest.mark.slow
def test_wandb_works_offline(tmp_path: Path, text: Path, offline_wandb: None) -> None:
    logger = wandb_logger(tmp_path, project="test")
    train(module(), data(text), run_dir=tmp_path, settings=settings(), loggers=[logger])
    summary = logger.experiment.summary
    rows = read_metrics(tmp_path / "metrics.csv")
    assert summary["val/ppl_largest"] == pytest.approx(rows[-1]["val/ppl_largest"])
    assert summary["trainer/global_step"] == 6
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert wandb_logger(tmp_path, project="test").version == logger.version  # a resumed run continues it


def test_tensorboard_gets_the_same_rows(tmp_path: Path, text: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from pytorch_lightning.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path, name="tensorboard", version="")
    train(module(), data(text), run_dir=tmp_path, settings=settings(), loggers=[logger])
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    rows = [row for row in read_metrics(tmp_path / "metrics.csv") if "train/loss" in row]
    assert [event.step for event in events] == [row["step"] for row in rows]
    np.testing.assert_allclose([event.value for event in events], [row["train/loss"] for row in rows], rtol=1e-6)


def test_training_prints_no_lightning_notes(tmp_path: Path, text: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(module(), data(text), run_dir=tmp_path, settings=settings(max_steps=2, validate_every=2))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "max_steps = 0"),
        ({"strategy": "tp"}, "allowed: 'auto', 'ddp', 'fsdp'"),
        ({"log_every": 0}, "log"),
    ],
)
def test_illegal_trainer_settings_are_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**changes)


def test_off_a_terminal_progress_is_a_line_for_each_validation(
    tmp_path: Path, text: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = train(module(), data(text), run_dir=tmp_path, settings=settings(progress=True))
    lines = capfd.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 4/6", "step 6/6"]
    assert f"largest {result.scores['val/ppl_largest']:.2f}" in lines[-1]
