"""What a criterion may look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from pruning.structure import Sizes, output_projection

if TYPE_CHECKING:
    from pruning.gradients import Gradients
    from pruning.moments import InputMoments, Moments
    from pruning.structure import Part
    from supernet.model import Supernet


@dataclass(frozen=True, eq=False)
class Evidence:
    """A network and what calibration text says about it; what a criterion does not need may be None."""

    supernet: Supernet
    sizes: Sizes
    moments: Moments | None
    gradients: Gradients | None
    seed: int

    def projection(self, layer: int, part: Part) -> Tensor:
        """Return the weight (C, n) of a part's output projection."""
        found = output_projection(self.supernet.transformer.h[layer], part)
        assert found is not None  # `check_uniform` saw it
        return found.weight.detach()

    def inputs(self, layer: int, part: Part) -> InputMoments:
        """Return the moments of a part's output projection's inputs."""
        assert self.moments is not None  # `importance` checks what a criterion needs
        return self.moments.of(layer, part)
