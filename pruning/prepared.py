"""What every way to prune starts from: the dense network, calibration text and its moments, collected once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pruning.calibration import check_blocks
from pruning.collection import collect_moments
from pruning.gradients import Gradients, collect_gradients
from pruning.moments import Moments
from pruning.structure import Sizes, check_uniform
from supernet.architecture import Architecture
from supernet.litgpt_config import whole_architecture
from supernet.model import Supernet
from supernet.tokens import TokenBlocks


@dataclass(frozen=True, eq=False)
class Prepared:
    """The evidence that all baselines share, so that they differ in their method alone.

    Attributes:
        supernet: the dense network, in its own order; left as it is.
        blocks: (n, T) calibration token ids.
        moments: of these blocks.
        gradients: of these blocks, for Taylor criteria; or None.
        seed: of what is random.
    """

    supernet: Supernet
    blocks: Tensor
    moments: Moments
    gradients: Gradients | None = None
    seed: int = 0

    @property
    def sizes(self) -> Sizes:
        """Sizes of the dense network."""
        return Sizes.of(self.supernet.config)

    @property
    def whole(self) -> Architecture:
        """Architecture of the dense network."""
        return whole_architecture(self.supernet.config)


def prepare(
    supernet: Supernet,
    blocks: Tensor | np.ndarray | TokenBlocks,
    *,
    gradients: bool = False,
    seed: int = 0,
    batch_size: int = 4,
    precision: str = "32",
    progress: bool = False,
) -> Prepared:
    """Collect once what all baselines look at.

    Args:
        supernet: the dense network.
        blocks: (n, T) calibration token ids.
        gradients: collect them too (a backward pass; only Taylor criteria need it).
        seed: of what is random.
        batch_size: blocks of one forward.
        precision: "32", or "bf16" for autocast to bfloat16.
        progress: show progress bars.

    Raises:
        ValueError: a network whose blocks differ, or unusable blocks.
    """
    check_uniform(supernet)
    ids = check_blocks(blocks, supernet)
    moments = collect_moments(supernet, ids, batch_size=batch_size, precision=precision, progress=progress)
    found = collect_gradients(supernet, ids, precision=precision, progress=progress) if gradients else None
    return Prepared(supernet, ids, moments, found, seed)
