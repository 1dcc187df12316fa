"""Which blocks, attentions and MLPs change the residual stream least: Block Influence and angular distance.

Shapes: L layers.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from pruning.moments import Moments
from pruning.structure import PARTS
from supernet.architecture import Architecture

_ROWS = ("block", *PARTS)


def block_influence(moments: Moments, of: Literal["block", "attention", "mlp"] = "block") -> Tensor:
    """Return 1 - mean cosine of the residual stream before and after each block, attention or MLP: (L,).

    The lowest goes first (Block Influence: Men et al., ShortGPT, 2024, arXiv 2403.03853).
    """
    if of not in _ROWS:
        raise ValueError(f"of = {of!r}; allowed: {', '.join(_ROWS)}")
    return moments.influence[_ROWS.index(of)]


def angular_distances(moments: Moments, n_blocks: int) -> Tensor:
    """Return, for each first block of a run of `n_blocks`, the mean angle / pi across the run: (L - n_blocks + 1,).

    The run with the lowest goes (Gromov et al. 2024, arXiv 2403.17887).

    Raises:
        ValueError: the moments were collected without extras=("angles",), or there is no such run.
    """
    if moments.angles is None:
        raise ValueError('no angles: collect_moments(..., extras=("angles",))')
    n_layer = len(moments.angles) - 1
    if not 1 <= n_blocks <= n_layer:
        raise ValueError(f"n_blocks = {n_blocks}; allowed: 1 to {n_layer}")
    return moments.angles.diagonal(n_blocks)


def without_least_influential(arch: Architecture, moments: Moments, n_blocks: int) -> Architecture:
    """Return `arch`, a network of all layers, without its `n_blocks` blocks of the lowest Block Influence.

    Raises:
        ValueError: no block would be left, or `arch` is not of the network that the moments are of.
    """
    influence = block_influence(moments)
    if arch.n_layer != len(influence) or not 0 <= n_blocks < arch.n_layer:
        raise ValueError(
            f"n_blocks = {n_blocks} of {arch.n_layer}, moments of {len(influence)} blocks: give the whole network's "
            f"architecture and 0 to {len(influence) - 1}"
        )
    return without_blocks(arch, influence.argsort(stable=True)[:n_blocks].tolist())


def without_blocks(arch: Architecture, positions: list[int]) -> Architecture:
    """Return `arch` without the blocks at these positions."""
    kept = [i for i in range(arch.n_layer) if i not in set(positions)]
    return Architecture(
        n_embd=arch.n_embd,
        n_head=tuple(arch.n_head[i] for i in kept),
        n_query_groups=tuple(arch.n_query_groups[i] for i in kept),
        intermediate_size=tuple(arch.intermediate_size[i] for i in kept),
        layers=tuple(arch.layers[i] for i in kept),
        bias=arch.bias,
    )
