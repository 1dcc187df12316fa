"""LTS's search space as genes, with LTS's own validity rules and variation (Javaheripi et al. 2022). No torch.

A genome is an integer array [n_layer, d_model, d_inner of each possible layer, n_head of each possible layer] of
sizes, not indices; only the first n_layer entries of the layers are active. Heads are d_model // n_head wide, so
attention is always d_model wide and the number of heads changes no parameter. `SearchSpace` cannot say that (its
heads have one fixed size): the shipped space "lts-gpt2" holds, for every one of these networks, one with equal
decoder parameters; see `twin`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.proxies.lts_parameters import decoder_parameters
from supernet.architecture import Architecture

Genes = NDArray[np.int64]

_D_MODEL = np.arange(128, 961, 64)
_D_INNER = np.arange(128, 4033, 64)
_N_HEAD = np.array([2, 4, 8])
TWIN_HEAD_SIZE = 64
_LIMITS = {"gpt2": ((2, 15), (6_000_000, 100_000_000)), "transformer_xl": ((2, 16), (4_000_000, 100_000_000))}


@dataclass(frozen=True)
class LTSSpace:
    """The space of one backbone, as in the paper's commands.

    Attributes:
        backbone: "gpt2" or "transformer_xl".
    """

    backbone: str

    def __post_init__(self) -> None:
        if self.backbone not in _LIMITS:
            raise ValueError(f"backbone = {self.backbone!r}; allowed: {', '.join(_LIMITS)}")

    @property
    def max_layer(self) -> int:
        """Largest number of layers."""
        return _LIMITS[self.backbone][0][1]

    @cached_property
    def choices(self) -> tuple[Genes, ...]:
        """Allowed values of each gene."""
        low, high = _LIMITS[self.backbone][0]
        return (np.arange(low, high + 1), _D_MODEL, *[_D_INNER] * high, *[_N_HEAD] * high)

    def sample(self, rng: np.random.Generator) -> Genes:
        """Draw a valid genome: sizes uniformly, d_inner among those above 1.7 d_model."""
        while True:
            genes = np.array([rng.choice(values) for values in self.choices[:2]], dtype=np.int64)
            inner = rng.choice(_D_INNER[1.7 * genes[1] < _D_INNER], size=self.max_layer)
            genes = np.concatenate([genes, inner, rng.choice(_N_HEAD, size=self.max_layer)])
            if self.is_valid(genes):
                return genes

    def is_valid(self, genes: Genes) -> bool:
        """Return whether every active d_inner is at least int(1.7 d_model) and the decoder within LTS's bounds."""
        inner, _ = self.layers(genes)
        low, high = _LIMITS[self.backbone][1]
        return bool(inner.min() >= int(1.7 * genes[1]) and low <= self.decoder(genes[None])[0] <= high)

    def mutate(self, genes: Genes, rng: np.random.Generator, probability: float) -> Genes:
        """Draw each gene anew with this probability (the result may not be valid)."""
        child = genes.copy()
        for i in np.flatnonzero(rng.random(len(genes)) < probability):
            child[i] = rng.choice(self.choices[i])
        return child

    def crossover(self, a: Genes, b: Genes, rng: np.random.Generator, probability: float) -> Genes:
        """Take each gene from `b` with this probability, else from `a` (the result may not be valid)."""
        return np.where(rng.random(len(a)) < probability, b, a)

    def layers(self, genes: Genes) -> tuple[Genes, Genes]:
        """Return d_inner and n_head of the active layers."""
        n, start = int(genes[0]), 2 + self.max_layer
        return genes[2 : 2 + n], genes[start : start + n]

    def key(self, genes: Genes) -> tuple[int, ...]:
        """Return what tells networks apart: active genes only."""
        inner, heads = self.layers(genes)
        return (int(genes[1]), *inner.tolist(), *heads.tolist())

    def arrays(self, genes: Genes) -> tuple[Genes, Genes, Genes, Genes]:
        """Return n_layer, d_model (n,), d_inner and n_head (n, L), 0 where inactive, of genomes (n, g)."""
        active = np.arange(self.max_layer) < genes[:, :1]
        split = 2 + self.max_layer
        return genes[:, 0], genes[:, 1], genes[:, 2:split] * active, genes[:, split:] * active

    def decoder(self, genes: Genes) -> Genes:
        """Return decoder parameters (n,) of genomes (n, g)."""
        _, d_model, inner, heads = self.arrays(genes)
        return decoder_parameters(d_model, inner, heads, backbone=self.backbone)

    def genes(self, models: pd.DataFrame, rng: np.random.Generator) -> Genes:
        """Return the genomes (n, g) of rows of the table; inactive genes, which it does not have, are drawn.

        Raises:
            ValueError: a network has more layers than the space.
        """
        if (models["n_layer"] > self.max_layer).any():
            raise ValueError(f"n_layer = {models['n_layer'].max()}; {self.backbone} has at most {self.max_layer} here")
        out = np.stack([rng.choice(values, size=len(models)) for values in self.choices], axis=1).astype(np.int64)
        out[:, 0], out[:, 1] = models["n_layer"], models["d_model"]
        for genes, d_inner, n_head in zip(out, models["d_inner"], models["n_head"], strict=True):
            inner, heads = self.layers(genes)
            inner[:], heads[:] = d_inner, n_head
        return out


def twin(d_model: int, d_inner: tuple[int, ...]) -> Architecture:
    """Return the member of the space "lts-gpt2" with the decoder parameters of this GPT-2 network of LTS.

    Its attention is d_model wide too, but in heads of 64: n_head of LTS has no counterpart, since a supernet's heads
    have one size. Latency and perplexity are those of another network.

    Raises:
        ValueError: d_model is no multiple of 64.
    """
    if d_model % TWIN_HEAD_SIZE:
        raise ValueError(f"d_model = {d_model}: give a multiple of {TWIN_HEAD_SIZE}")
    heads = (d_model // TWIN_HEAD_SIZE,) * len(d_inner)
    return Architecture(d_model, heads, heads, d_inner, tuple(range(len(d_inner))), bias=True)
