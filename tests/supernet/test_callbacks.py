from __future__ import annotations

from pathlib import Path

import pytest
import torch

from supernet.callbacks import AtomicCheckpointIO, StepCheckpoint, checkpoint_step, checkpoints, latest_checkpoint


def write(folder: Path, *steps: int) -> list[Path]:
    paths = [folder / f"step={step:08d}.ckpt" for step in steps]
    for path, step in zip(paths, steps, strict=True):
        AtomicCheckpointIO().save_checkpoint({"step": step, "tensor": torch.ones(10)}, path)
    return paths


def test_checkpoints_are_listed_by_step_and_other_files_are_not(tmp_path: Path) -> None:
    old, new = write(tmp_path, 99, 100)
    (tmp_path / ".step=00000200.ckpt.x.tmp").touch()
    (tmp_path / "step=best.ckpt").touch()
    assert checkpoints(tmp_path) == [old, new]
    assert [checkpoint_step(path) for path in (old, new)] == [99, 100]


def test_the_latest_readable_checkpoint_is_found_and_damaged_ones_are_named(tmp_path: Path) -> None:
    old, new = write(tmp_path, 1, 2)
    assert latest_checkpoint(tmp_path) == new
    new.write_bytes(new.read_bytes()[:100])
    with pytest.warns(UserWarning, match=new.name):
        assert latest_checkpoint(tmp_path) == old


def test_a_folder_that_does_not_exist_has_no_checkpoint(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write(tmp_path, 1)

    def disk_full(checkpoint: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({"step": 5}, path)
    assert torch.load(path, weights_only=True)["step"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_intervals_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every = 0"):
        StepCheckpoint(tmp_path, every=0, keep=1, validate_every=1)
