"""Gradients of the calibration loss, for the Taylor criteria: their mean and their mean square.

The loss is the mean cross-entropy of the next token inside a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from pruning.calibration import check_blocks
from pruning.collection import autocast, eval_mode
from supernet.evaluate import PRECISIONS
from supernet.model import Supernet
from supernet.tokens import TokenBlocks


@dataclass(frozen=True, eq=False)
class Gradients:
    """Gradients of every parameter of two dimensions, by its name in the network.

    Attributes:
        mean: mean over batches of the gradient g.
        square: mean over batches of g^2: the diagonal of the empirical Fisher information when a batch is one block.
    """

    mean: Mapping[str, Tensor]
    square: Mapping[str, Tensor]


def collect_gradients(
    supernet: Supernet,
    blocks: Tensor | np.ndarray | TokenBlocks,
    *,
    batch_size: int = 1,
    precision: str = "32",
    progress: bool = False,
) -> Gradients:
    """Run the network forward and backward over calibration blocks; it is left as it was.

    Args:
        supernet: the network, where it is.
        blocks: (n, T) token ids.
        batch_size: blocks of one gradient; `Gradients.square` is of batches, so 1 is the Fisher information.
        precision: "32", or "bf16" for autocast to bfloat16.
        progress: show a progress bar.

    Raises:
        ValueError: unusable blocks, an unknown precision, or gradients that are not finite (names the first).
    """
    ids = check_blocks(blocks, supernet)
    if precision not in PRECISIONS or batch_size < 1:
        raise ValueError(f"precision {precision!r}, batch_size {batch_size}: allowed: {PRECISIONS}; at least 1")
    parameters = {name: p for name, p in supernet.named_parameters() if p.dim() == 2}
    mean = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    square = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    batches = ids.split(batch_size)
    place = next(supernet.parameters()).device
    frozen = {name: p.requires_grad for name, p in supernet.named_parameters()}
    try:
        for name, parameter in supernet.named_parameters():
            parameter.requires_grad_(name in parameters)
        with eval_mode(supernet), torch.enable_grad():
            for batch in tqdm(batches, unit="batch", desc="gradients", disable=not progress):
                batch = batch.to(place)
                with autocast(place, precision):
                    logits = supernet(batch[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
                found = torch.autograd.grad(loss, list(parameters.values()))
                for name, gradient in zip(parameters, found, strict=True):
                    mean[name].add_(gradient, alpha=1 / len(batches))
                    square[name].addcmul_(gradient.float(), gradient.float(), value=1 / len(batches))
    finally:
        for name, parameter in supernet.named_parameters():
            parameter.requires_grad_(frozen[name])
    for name, value in square.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"the gradient of {name} is not finite: try precision=32, and check the checkpoint")
    return Gradients(mean, square)
