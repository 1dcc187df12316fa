from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from supernet import parallel
from supernet.parallel import (
    average_gradients,
    gathered,
    launched_by_others,
    mean_over_processes,
    sum_over_processes,
    torchrun_command,
)


@pytest.fixture
def doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A process group in which another process always contributes three times this one's values."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    sizes: list[int] = []

    class Done:
        def wait(self) -> None: ...

    def all_reduce(tensor: torch.Tensor, async_op: bool = False) -> Done:
        sizes.append(tensor.numel())
        tensor.mul_(4)
        return Done()

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    yield sizes
    dist.destroy_process_group()


def parameters(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for i, parameter in enumerate(made):
        parameter.grad = torch.full_like(parameter, float(i + 1))
    return made


def test_gradients_are_averaged_and_unused_parameters_left_without(doubled: list[int]) -> None:
    given = parameters((2, 3), (4,))
    unused = nn.Parameter(torch.zeros(5))
    average_gradients([*given, unused])
    assert given[0].grad.equal(torch.full((2, 3), 2.0))
    assert given[1].grad.equal(torch.full((4,), 4.0))
    assert unused.grad is None
    assert doubled == [10]  # one exchange for both


def test_gradients_are_exchanged_in_buckets_of_bounded_size(doubled: list[int], monkeypatch) -> None:
    monkeypatch.setattr(parallel, "_BUCKET_BYTES", 32)
    given = parameters((6,), (6,), (6,), (2,))
    average_gradients(given)
    assert doubled == [12, 8]
    assert [p.grad[0].item() for p in given] == [2, 4, 6, 8]


def test_sums_and_means_are_over_processes(doubled: list[int]) -> None:
    values = torch.tensor([1.0, 2.0])
    assert sum_over_processes(values).tolist() == [4.0, 8.0]
    assert mean_over_processes(values).tolist() == [2.0, 4.0]
    assert values.tolist() == [1.0, 2.0]


def test_one_process_needs_no_exchange() -> None:
    values = torch.tensor([1.0])
    assert mean_over_processes(values) is values
    assert sum_over_processes(values) is values


def test_a_supernet_that_is_not_sharded_is_its_own_whole() -> None:
    layer = nn.Linear(2, 2)
    assert gathered(layer) is layer


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, False), ({"LOCAL_RANK": "0"}, True), ({"SLURM_NTASKS": "8"}, True), ({"SLURM_NTASKS": "1"}, False)],
)
def test_launchers_are_recognised(environment: dict[str, str], expected: bool, monkeypatch) -> None:
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_by_others() == expected


def test_the_torchrun_command_runs_paretolm_once_a_device(monkeypatch) -> None:
    command = torchrun_command(devices=2, accelerator="cpu", arguments=["train", "space=tiny"])
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert "--nproc-per-node=2" in command
    assert command[-4:] == ["-m", "supernet", "train", "space=tiny"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "--nproc-per-node=gpu" in torchrun_command(devices="auto", accelerator="gpu", arguments=[])
    assert "--nproc-per-node=cpu" in torchrun_command(devices="auto", accelerator="cpu", arguments=[])
