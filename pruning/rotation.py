"""One orthogonal rotation of the residual stream, shared by all layers: the principal directions first.

SliceGPT (Ashkboos et al. 2024) rotates every block by its own matrix and pays for it with a product on every residual.
One shared rotation leaves a plain network, at a somewhat higher loss when `n_embd` is cut.

RMSNorm commutes with a rotation once its scale is folded into the layer that reads it. LayerNorm and norms after
attention or MLP do not; `reorder` with an order of channels works for every network.

Shapes: C n_embd.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pruning.moments import Moments
from pruning.reorder import with_parameters
from pruning.structure import parameter_axes
from supernet.model import Supernet


def principal_rotation(moments: Moments) -> Tensor:
    """Return the orthogonal matrix (C, C) float64 whose columns are the principal directions, the strongest first.

    Raises:
        ValueError: the moments were collected without extras=("residual",).
    """
    if moments.residual is None:
        raise ValueError('no second moments of the residual stream: collect_moments(..., extras=("residual",))')
    return torch.linalg.eigh(moments.residual.double()).eigenvectors.flip(1)


def rotate(supernet: Supernet, rotation: Tensor, *, untie: bool = False) -> Supernet:
    """Return a copy of a supernet whose residual stream x is x Q; its logits are the same up to rounding.

    The scales of the norms become 1 (0 where litgpt adds one to them).

    Args:
        supernet: with RMSNorm before attention and MLP, and none after them.
        rotation: Q, (C, C), orthogonal.
        untie: allow embeddings that are tied to become two matrices. It is needed where the last norm has a scale: that
            can only be folded into lm_head, and then lm_head is no longer the embedding.

    Raises:
        ValueError: the family cannot be rotated (says why), Q is not orthogonal, or `untie` is needed.
    """
    refuse_rotation(supernet)
    C = supernet.config.n_embd
    Q = rotation.double()
    if Q.shape != (C, C) or not torch.allclose(Q.T @ Q, torch.eye(C, dtype=Q.dtype, device=Q.device), atol=1e-6):
        raise ValueError(f"the rotation is {tuple(Q.shape)}: give an orthogonal matrix of shape ({C}, {C})")
    scales = _scales(supernet)
    last = scales["transformer.ln_f"]
    tied = supernet.tie_embeddings
    if tied and not torch.allclose(last, last.mean(), rtol=1e-6):
        if not untie:
            raise ValueError(
                "tied embeddings: the last norm's scale can only be folded into lm_head, which then is no longer the "
                "embedding. Give untie=True (one more (vocabulary, n_embd) matrix), or order channels with reorder"
            )
        tied = False
    parameters = {
        name: _rotated(name, p.detach(), Q.to(p.device), scales)
        for name, p in supernet.named_parameters(remove_duplicate=False)
    }
    if tied:  # a constant scale stays where it is: folding it would change the embedding too
        parameters["transformer.wte.weight"] = _by(supernet.transformer.wte.weight.detach(), Q)
        parameters["transformer.ln_f.weight"] = supernet.transformer.ln_f.weight.detach().clone()
    return with_parameters(supernet, parameters, tied=tied)


def refuse_rotation(supernet: Supernet) -> None:
    """Raise ValueError, saying why, where a rotation of the residual stream changes what the network computes."""
    config = supernet.config
    reasons = {
        f"norms of class {config.norm_class_name}": config.norm_class_name != "RMSNorm",
        "norms after attention or MLP": config.post_attention_norm or config.post_mlp_norm,
        "no norm before attention or MLP": not (config.norm_1 and config.norm_2),
    }
    found = [what for what, wrong in reasons.items() if wrong]
    if found:
        raise ValueError(
            f"a network with {', '.join(found)} cannot be rotated without changing it: "
            "order its channels instead (order_by(..., channels=True))"
        )


def _scales(supernet: Supernet) -> dict[str, Tensor]:
    """Return what each norm multiplies the channels by, (C,) float64, by the norm's name."""
    norms = {
        name.removesuffix(".weight"): p.detach().double()
        for name, p in supernet.named_parameters()
        if parameter_axes(name) == ("embd",) and name.endswith(".weight")
    }
    offset = 1.0 if "Gemma" in supernet.config.name else 0.0  # litgpt's own test for norms of 1 + w
    return {name: weight + offset for name, weight in norms.items()}


def _rotated(name: str, parameter: Tensor, Q: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
    axes, prefix = parameter_axes(name), name.rpartition(".")[0]
    if prefix in scales:
        offset = scales[prefix] - parameter.double()
        return (1 - offset).to(parameter.dtype)
    if "embd" not in axes:
        return parameter.clone()
    if axes == ("embd",) or axes[0] == "embd":  # what writes the residual stream: biases and output projections
        return (Q.T @ parameter.double()).to(parameter.dtype)
    if name == "transformer.wte.weight":
        return _by(parameter, Q)
    return (parameter.double() * scales[_norm_before(name, scales)] @ Q).to(parameter.dtype)


def _norm_before(name: str, scales: Mapping[str, Tensor]) -> str:
    """Return the norm whose output a weight reads."""
    if name == "lm_head.weight":
        return "transformer.ln_f"
    block = ".".join(name.split(".")[:3])
    own = f"{block}.norm_1" if ".attn." in name else f"{block}.norm_2"
    return own if own in scales else f"{block}.norm_1"  # a norm that attention and MLP share


def _by(weight: Tensor, Q: Tensor) -> Tensor:
    return (weight.double() @ Q.to(weight.device)).to(weight.dtype)
