"""Training on several processes: one gradient exchange a step (DDP), sharded blocks (FSDP2), starting the processes.

A supernet step runs one backward per sub-network, and sub-networks leave parameters unused. DDP's own exchange hangs on
backward hooks of a single pass over all parameters, so it is switched off (`without_gradient_sync`) and the summed
gradients are exchanged once, after the last backward: the same mean, a k-th of the traffic.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from supernet.model import Supernet

_BUCKET_BYTES = 32 * 2**20


def is_distributed() -> bool:
    """Return whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def without_gradient_sync(model: Any) -> AbstractContextManager[Any]:
    """Keep DDP from exchanging gradients in the backward passes inside the block; other models are left alone."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes.

    All processes must have trained the same sub-networks, so that the same parameters have gradients. Sharded
    parameters (FSDP2) are averaged by their own backward hooks and are left alone.
    """
    gradients = [p.grad for p in parameters if p.grad is not None and not _is_sharded(p)]
    pending = [(bucket, *_start_mean(bucket)) for bucket in _buckets(gradients)]
    for bucket, flat, work in pending:
        work.wait()
        flat /= dist.get_world_size()
        for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


def mean_over_processes(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the processes (the tensor itself on one)."""
    return sum_over_processes(values) / dist.get_world_size() if is_distributed() else values


def sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes (the tensor itself on one)."""
    if not is_distributed():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def shard(supernet: Supernet, mesh: DeviceMesh) -> None:
    """Shard every block, then what lies around them, over a one-dimensional mesh (FSDP2), in place, once.

    A block's forward gathers its parameters and frees them again, whichever sub-network runs through it.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(supernet, FSDPModule):
        return
    for block in supernet.transformer.h:
        fully_shard(block, mesh=mesh)
    fully_shard(supernet, mesh=mesh)


def gathered(supernet: Supernet) -> Supernet | None:
    """Return the supernet with whole weights: itself, or a copy on the CPU of rank 0 (None elsewhere) when sharded.

    All processes must call it.
    """
    if not any(_is_sharded(p) for p in supernet.parameters()):
        return supernet
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(supernet, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank():
        return None
    copy = type(supernet)(supernet.config, tie_embeddings=supernet.tie_embeddings)
    copy.load_state_dict(weights)
    return copy


def launched_by_others() -> bool:
    """Return whether torchrun, Lightning or SLURM's srun already started this process as one of several."""
    started = any(name in os.environ for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"))
    return started or int(os.environ.get("SLURM_NTASKS", "1")) > 1  # a job of one task starts its processes itself


def torchrun_command(*, devices: int | str, accelerator: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs `python -m supernet <arguments>` once per device of this machine."""
    count = str(devices)
    if count in ("auto", "-1"):
        count = "gpu" if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available() else "cpu"
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}",
        "-m", "supernet", *arguments,
    ]  # fmt: skip


def _is_sharded(parameter: Tensor) -> bool:
    return hasattr(parameter, "full_tensor")  # a DTensor


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield groups of gradients of one type and device, each of about `_BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (
            size >= _BUCKET_BYTES or gradient.dtype != bucket[0].dtype or gradient.device != bucket[0].device
        ):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
    if bucket:
        yield bucket


def _start_mean(bucket: Sequence[Tensor]) -> tuple[Tensor, Any]:
    flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
    return flat, dist.all_reduce(flat, async_op=True)
