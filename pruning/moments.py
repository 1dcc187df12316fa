"""What calibration text tells about a network: moments of the inputs of its output projections, and more.

Shapes: n inputs of a projection (F of the MLP's, H*D of the attention's), C n_embd, L layers.
Everything is a mean over tokens, so that texts of different lengths compare.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pruning.structure import PARTS, Part, Sizes
from supernet.artifacts import atomic_path

_INPUT_FIELDS = ("second", "mean", "variance", "activation")
_SHARED_FIELDS = ("channels", "influence", "angles", "residual")


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Moments of the inputs x of one linear layer over calibration text.

    Attributes:
        second: (n, n) mean of x x^T over tokens.
        mean: (n,) float64.
        variance: (n,) float64, over tokens (FLAP's fluctuation).
        activation: (n,) float64; for each input the L2 norm over sequences of the mean of |x| over a sequence
            (Minitron, Muralidharan et al. 2024).
        n_tokens: tokens behind it.
    """

    second: Tensor
    mean: Tensor
    variance: Tensor
    activation: Tensor
    n_tokens: int

    @property
    def size(self) -> int:
        """Number of inputs."""
        return len(self.mean)

    @property
    def norm(self) -> Tensor:
        """Root mean square of each input, (n,) float64: Wanda's activation norm up to a constant."""
        return self.second.diagonal().double().clamp(min=0).sqrt()

    def reordered(self, index: Tensor) -> InputMoments:
        """Return the moments of the inputs x[index]."""
        index = index.to(self.second.device)
        return InputMoments(
            second=self.second[index][:, index],
            mean=self.mean[index],
            variance=self.variance[index],
            activation=self.activation[index],
            n_tokens=self.n_tokens,
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """All that one pass over calibration text gives.

    Attributes:
        inputs: (layer, part) -> moments of the inputs of attn.proj or mlp.proj.
        channels: (C,) float64; `activation` of what the layers that read the residual stream get (norm outputs),
            summed over those layers (Minitron).
        influence: (3, L) float64; 1 - mean cosine between the residual stream before and after the block, its
            attention, its MLP (Block Influence, Men et al., ShortGPT 2024).
        angles: (L + 1, L + 1) float64, mean angle / pi between the residual streams before block i and before block j
            (Gromov et al. 2024); None unless asked for.
        residual: (C, C) float64, mean of u u^T where u is the residual stream that a norm sees, divided by its root
            mean square; mean over the norms (for the shared rotation); None unless asked for.
        n_tokens: tokens seen.
    """

    inputs: Mapping[tuple[int, Part], InputMoments]
    channels: Tensor
    influence: Tensor
    angles: Tensor | None
    residual: Tensor | None
    n_tokens: int

    def of(self, layer: int, part: Part) -> InputMoments:
        """Return the moments of one projection's inputs.

        Raises:
            KeyError: they were not collected.
        """
        if (layer, part) not in self.inputs:
            raise KeyError(f"no moments of layer {layer}, {part}: collected were {sorted(self.inputs)[:8]} ...")
        return self.inputs[layer, part]


def save_moments(path: str | Path, moments: Moments) -> Path:
    """Write moments as one safetensors file, whole or not at all."""
    tensors = {
        f"{layer}.{part}.{field}": getattr(inputs, field).detach().cpu().contiguous()
        for (layer, part), inputs in moments.inputs.items()
        for field in _INPUT_FIELDS
    }
    shared = {field: getattr(moments, field) for field in _SHARED_FIELDS}
    tensors |= {field: value.detach().cpu().contiguous() for field, value in shared.items() if value is not None}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"n_tokens": json.dumps(moments.n_tokens), "format": "pt"})
    return Path(path)


def load_moments(path: str | Path) -> Moments:
    """Read what `save_moments` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no moments at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            n_tokens = int((file.metadata() or {})["n_tokens"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        keys = {(int(name.split(".")[0]), part) for name in tensors for part in PARTS if f".{part}." in name}
        inputs = {
            (layer, part): InputMoments(
                **{field: tensors[f"{layer}.{part}.{field}"] for field in _INPUT_FIELDS}, n_tokens=n_tokens
            )
            for layer, part in sorted(keys)
        }
        return Moments(
            inputs=inputs, channels=tensors["channels"], influence=tensors["influence"],
            angles=tensors.get("angles"), residual=tensors.get("residual"), n_tokens=n_tokens,
        )  # fmt: skip
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no moments, or is damaged ({error}): delete it and run again") from error


def check_finite(moments: InputMoments, where: str) -> InputMoments:
    """Return the moments if all are finite.

    Raises:
        ValueError: they are not; says where.
    """
    for field in _INPUT_FIELDS:
        if not torch.isfinite(getattr(moments, field)).all():
            raise ValueError(
                f"the {field} of {where} is not finite: the network's activations overflow or its weights hold NaN; "
                "try precision=32, and check that the checkpoint is whole"
            )
    return moments


def check_moments(moments: Moments, sizes: Sizes) -> None:
    """Raise ValueError unless these are the moments of all layers of a network of these sizes."""
    for layer in range(sizes.n_layer):
        for part in PARTS:
            if (layer, part) not in moments.inputs:
                raise ValueError(f"there are no moments of layer {layer}, {part}: collect them of all layers")
            size, own = moments.of(layer, part).size, sizes.n_columns[part]
            if size != own:
                raise ValueError(
                    f"the moments of layer {layer}, {part}, have {size} inputs, the network has {own}: they are of "
                    "another network"
                )
