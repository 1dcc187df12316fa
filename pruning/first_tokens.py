"""Tokens at the beginning of a text, as calibration text of their own.

A trained transformer makes something special of a text's first token, whatever it is: the attention sink, on which
heads that have nothing to look for rest (Xiao et al. 2024, arXiv:2309.17453), with activations a hundred times as large
as all others (Sun et al. 2024, arXiv:2402.17762). A pruned network that misses it for one token is wrong in every text
that begins with it. Calibration blocks have one such token each, among hundreds: too few for least squares to care. As
attention is causal, a text of one token is enough to see what is made of it, so more of them cost next to nothing.

Shapes: n blocks of T tokens, m first tokens.
"""

from __future__ import annotations

from dataclasses import replace

import litgpt
import torch
from torch import Tensor

from pruning.collection import collect_moments
from pruning.moments import InputMoments, Moments

_ONE_OF = 16  # tokens of a calibration block


def first_tokens(ids: Tensor) -> Tensor:
    """Return every 16th token of each calibration block (n, T) as a text of its own, (m, 1)."""
    return ids[:, ::_ONE_OF].reshape(-1, 1)  # of each, so that two halves of a batch have those of the whole


def with_first_tokens(
    model: litgpt.GPT, moments: Moments, ids: Tensor, *, batch_size: int = 512, precision: str = "32"
) -> Moments:
    """Return moments of calibration blocks with first tokens added to what least squares and OBS look at.

    Args:
        model: the network.
        moments: of the blocks.
        ids: (n, T), the blocks.
        batch_size: first tokens of one forward.
        precision: "32", or "bf16" for autocast to bfloat16.

    Returns:
        `moments` with other means and second moments of the projections' inputs; all the rest is as it was, and
        `n_tokens`, on which damping depends, still those of the blocks.

    Raises:
        ValueError: activations that are not finite.
    """
    firsts = collect_moments(model, first_tokens(ids), batch_size=batch_size, precision=precision, shortest=1)
    together = {key: _together(own, firsts.inputs[key]) for key, own in moments.inputs.items()}
    return replace(moments, inputs=together)


def _together(blocks: InputMoments, firsts: InputMoments) -> InputMoments:
    share = firsts.n_tokens / (blocks.n_tokens + firsts.n_tokens)
    second, mean = (
        torch.lerp(own, other.to(own), share)
        for own, other in ((blocks.second, firsts.second), (blocks.mean, firsts.mean))
    )
    return replace(blocks, second=second, mean=mean)
