"""The set of sub-networks of one supernet: choices per dimension over a litgpt Config. No torch.

A layer's attention is one gene, a legal (n_head, n_query_groups) pair, so that sampling, mutation and crossover never
leave the space whatever the family (MHA, GQA, MQA). Weights are shared by prefix: (h, g) uses the first g groups and
the first h/g heads of each, legal when h % g == 0, g <= G and h/g <= H/G for a supernet of H heads and G groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, product
from math import comb
from typing import Any, Literal, NamedTuple

import numpy as np

from supernet import variation
from supernet.architecture import Architecture
from supernet.litgpt_config import ModelConfig, model_config, unsupported_features


class Genome(NamedTuple):
    """An architecture as indices into the choices of a space; per-layer genes only for kept layers."""

    n_embd: int
    layers: tuple[int, ...]  # indices of the kept blocks
    bias: int
    attention: tuple[int, ...]
    mlp: tuple[int, ...]


@dataclass(frozen=True)
class SearchSpace:
    """Choices for every dimension of a supernet; the largest choice of each is the supernet itself.

    Attributes:
        name: what tables, cards and messages call it.
        n_embd: residual widths.
        n_layer: numbers of kept blocks.
        n_head: query heads of a layer.
        mlp_ratio: MLP neurons as multiples of `n_embd`; give this or `intermediate_size`.
        intermediate_size: MLP neurons in absolute numbers; give this or `mlp_ratio`.
        n_query_groups: key/value groups of a layer; None for multi-head attention (groups follow the heads), or for
            the groups that `config` fixes.
        bias: the choices of litgpt's `Config.bias`; None for the one that `config` has.
        layer_choice: "prefix" keeps the first n_layer blocks, "subset" keeps any of them.
        per_layer: whether layers may differ; False gives every kept layer the same shape.
        config: further keyword arguments of litgpt.Config. Sizes (n_layer, n_embd, n_head, n_query_groups,
            intermediate_size, bias) are filled in from the largest choices and may not contradict them.

    Raises:
        ValueError: empty or contradictory choices.

    Example:
        >>> space = SearchSpace(name="doc", n_embd=(32, 64), n_layer=(1, 2), n_head=(2, 4), mlp_ratio=(2, 4),
        ...                     config={"head_size": 16, "vocab_size": 256, "padded_vocab_size": 256})
        >>> space.num_architectures
        40
        >>> space.largest().id
        'e64-l0_1-h4x2-f256x2-b1'
    """

    name: str
    n_embd: tuple[int, ...]
    n_layer: tuple[int, ...]
    n_head: tuple[int, ...]
    mlp_ratio: tuple[float, ...] | None = None
    intermediate_size: tuple[int, ...] | None = None
    n_query_groups: tuple[int, ...] | None = None
    bias: tuple[bool, ...] | None = None
    layer_choice: Literal["prefix", "subset"] = "prefix"
    per_layer: bool = True
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_embd", "n_layer", "n_head", "mlp_ratio", "intermediate_size", "n_query_groups", "bias"):
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, _choices(self.name, name, values))
        if (self.mlp_ratio is None) == (self.intermediate_size is None):
            raise self._error("give exactly one of mlp_ratio and intermediate_size")
        if self.layer_choice not in ("prefix", "subset"):
            raise self._error(f"layer_choice = {self.layer_choice!r}; allowed: 'prefix', 'subset'")
        if self.bias is None:
            object.__setattr__(self, "bias", (bool(self.config.get("bias", True)),))
        object.__setattr__(self, "config", self._filled_config())
        self._check_choices()
        if found := unsupported_features(self.model_config):
            raise self._error(f"sub-networks do not support {'; '.join(found)}")

    def _error(self, text: str) -> ValueError:
        return ValueError(f"space {self.name!r}: {text}")

    def _check_choices(self) -> None:
        for index, name, values in ((0, "n_head", self.n_head), (1, "n_query_groups", self.n_query_groups or ())):
            for value in values:
                if all(pair[index] != value for pair in self.attention_choices):
                    pairs = self.attention_choices
                    raise self._error(
                        f"{name} = {value} is in no legal (n_head, n_query_groups) pair; those are {pairs}"
                    )
        for width in self.n_embd:
            sizes = self.mlp_choices(width)
            if len(set(sizes)) < len(sizes) or min(sizes) < 1:
                raise self._error(
                    f"mlp_ratio = {self.mlp_ratio} gives intermediate sizes {sizes} at n_embd = {width}; "
                    "give ratios whose rounded products are distinct and at least 1"
                )

    def _filled_config(self) -> dict[str, Any]:
        """Complete `config` with the sizes of the largest network."""
        config = {k: v for k, v in self.config.items() if k != "n_query_groups" or v is not None}  # None: litgpt's MHA
        width, heads = max(self.n_embd), max(self.n_head)
        groups = max(self.n_query_groups) if self.n_query_groups else config.get("n_query_groups", heads)
        sizes = {
            "n_embd": width, "n_layer": max(self.n_layer), "n_head": heads, "n_query_groups": groups,
            "intermediate_size": max(self.mlp_choices(width)), "bias": any(self.bias or ()),
        }  # fmt: skip
        for name, value in sizes.items():
            if config.get(name, value) != value:
                raise self._error(
                    f"config has {name} = {config[name]}, but the largest choice is {value}; "
                    "the supernet is the largest network of its space"
                )
        if heads % groups:
            raise self._error(f"the largest n_head = {heads} is no multiple of the largest n_query_groups = {groups}")
        if config.get("head_size") is None:
            if width % heads:
                raise self._error(f"n_embd = {width} is no multiple of n_head = {heads}; give head_size in config")
            config["head_size"] = width // heads
        return config | sizes

    # --- choices ------------------------------------------------------------------------------------------------

    @cached_property
    def attention_choices(self) -> tuple[tuple[int, int], ...]:
        """Legal (n_head, n_query_groups) pairs of a layer, ascending."""
        H, G = self.config["n_head"], self.config["n_query_groups"]
        if self.n_query_groups is None and H == G:
            return tuple((h, h) for h in self.n_head)
        groups = self.n_query_groups or (G,)
        return tuple((h, g) for h in self.n_head for g in groups if h % g == 0 and h // g <= H // G)

    def mlp_choices(self, n_embd: int) -> tuple[int, ...]:
        """Intermediate sizes of a layer of a network `n_embd` wide, ascending."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        assert self.mlp_ratio is not None
        return tuple(round(ratio * n_embd) for ratio in self.mlp_ratio)

    @cached_property
    def max_layer(self) -> int:
        """Number of blocks of the supernet."""
        return max(self.n_layer)

    @property
    def n_mlp(self) -> int:
        """Number of MLP choices of a layer."""
        return len(self.mlp_ratio or self.intermediate_size or ())

    @property
    def bias_choices(self) -> tuple[bool, ...]:
        """Choices of `Config.bias`; the largest network's (True where it is one) is last."""
        return self.bias or (True,)

    @cached_property
    def model_config(self) -> ModelConfig:
        """litgpt's Config of the supernet (built without torch; for torch use `litgpt.Config(**space.config)`)."""
        return model_config(self.config)

    @cached_property
    def num_architectures(self) -> int:
        """Exact number of architectures."""
        layer_shapes = len(self.attention_choices) * self.n_mlp
        total = 0
        for depth in self.n_layer:
            kept = comb(self.max_layer, depth) if self.layer_choice == "subset" else 1
            total += kept * (layer_shapes**depth if self.per_layer else layer_shapes)
        return total * len(self.n_embd) * len(self.bias_choices)

    # --- between architectures and genomes ------------------------------------------------------------------------

    def genome(self, arch: Architecture) -> Genome:
        """Return the indices of `arch` in the choices.

        Raises:
            ValueError: the architecture is not in the space; names the gene, its value and the allowed values.
        """
        embd = self._index("n_embd", arch.n_embd, self.n_embd)
        self._index("n_layer", arch.n_layer, self.n_layer)
        if self.layer_choice == "prefix" and arch.layers != tuple(range(arch.n_layer)):
            self._refuse("layers", arch.layers, f"the first n_layer blocks, {tuple(range(arch.n_layer))}")
        if arch.layers[-1] >= self.max_layer:
            self._refuse("layers", arch.layers, f"block indices 0 to {self.max_layer - 1}")
        bias = self._index("bias", arch.bias, self.bias_choices)
        pairs = list(zip(arch.n_head, arch.n_query_groups, strict=True))
        attention = tuple(
            self._index(f"(n_head[{i}], n_query_groups[{i}])", pair, self.attention_choices)
            if pair[0] in self.n_head
            else self._index(f"n_head[{i}]", pair[0], self.n_head)
            for i, pair in enumerate(pairs)
        )
        sizes = self.mlp_choices(arch.n_embd)
        mlp = tuple(self._index(f"intermediate_size[{i}]", f, sizes) for i, f in enumerate(arch.intermediate_size))
        if not self.per_layer and not arch.is_uniform:
            self._refuse(
                "layers' shapes", (pairs, arch.intermediate_size), "one shape for all layers (per_layer=False)"
            )
        return Genome(embd, arch.layers, bias, attention, mlp)

    def architecture(self, genome: Genome) -> Architecture:
        """Return the architecture with these indices."""
        n_embd = self.n_embd[genome.n_embd]
        sizes = self.mlp_choices(n_embd)
        pairs = [self.attention_choices[i] for i in genome.attention]
        return Architecture(
            n_embd=n_embd,
            n_head=tuple(h for h, _ in pairs),
            n_query_groups=tuple(g for _, g in pairs),
            intermediate_size=tuple(sizes[i] for i in genome.mlp),
            layers=genome.layers,
            bias=self.bias_choices[genome.bias],
        )

    def validate(self, arch: Architecture) -> Architecture:
        """Return `arch` if it is in the space, else raise ValueError naming the gene and the allowed values."""
        self.genome(arch)
        return arch

    def __contains__(self, arch: object) -> bool:
        if not isinstance(arch, Architecture):
            return False
        try:
            self.genome(arch)
        except ValueError:
            return False
        return True

    # --- particular and random members ------------------------------------------------------------------------------

    def largest(self) -> Architecture:
        """Return the whole supernet."""
        layers = tuple(range(self.max_layer))
        # the largest pair is the supernet's own (H, G), which is last: pairs are sorted by heads, then groups
        attention = (self.attention_choices.index(max(self.attention_choices)),) * len(layers)
        mlp = (self.n_mlp - 1,) * len(layers)
        return self.architecture(Genome(len(self.n_embd) - 1, layers, len(self.bias_choices) - 1, attention, mlp))

    def smallest(self) -> Architecture:
        """Return the network with the smallest choice of every dimension (the first blocks are kept)."""
        layers = tuple(range(min(self.n_layer)))
        return self.architecture(Genome(0, layers, 0, (0,) * len(layers), (0,) * len(layers)))

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw every gene uniformly and independently, as HW-GPT-Bench does (always legal)."""
        layers = self._sample_layers(self.n_layer[rng.integers(len(self.n_layer))], rng)
        attention = self._sample_genes(len(self.attention_choices), len(layers), rng)
        mlp = self._sample_genes(self.n_mlp, len(layers), rng)
        embd, bias = int(rng.integers(len(self.n_embd))), int(rng.integers(len(self.bias_choices)))
        return self.architecture(Genome(embd, layers, bias, attention, mlp))

    def sample_unique(
        self, n: int, rng: np.random.Generator, *, exclude: Sequence[Architecture] = ()
    ) -> list[Architecture]:
        """Draw `n` distinct architectures, none of them in `exclude`.

        Raises:
            ValueError: the space does not hold so many.
        """
        seen = {arch for arch in exclude if arch in self}
        if n > self.num_architectures - len(seen):
            raise ValueError(
                f"space {self.name!r} has {self.num_architectures} architectures: cannot draw {n} new ones"
            )
        drawn: list[Architecture] = []
        tries = 0
        while len(drawn) < n and tries < 100 * n + 1000:
            arch = self.sample(rng)
            tries += 1
            if arch not in seen:
                seen.add(arch)
                drawn.append(arch)
        if len(drawn) < n:  # a small, nearly exhausted space: enumerate what is left
            left = [arch for arch in self.enumerate() if arch not in seen]
            drawn += [left[i] for i in rng.permutation(len(left))[: n - len(drawn)]]
        return drawn

    def enumerate(self) -> Iterator[Architecture]:
        """Yield every architecture once, in a fixed order (look at `num_architectures` first)."""
        for depth in self.n_layer:
            kept = (
                combinations(range(self.max_layer), depth) if self.layer_choice == "subset" else [tuple(range(depth))]
            )
            for layers in kept:
                yield from self._enumerate_shapes(layers)

    def _enumerate_shapes(self, layers: tuple[int, ...]) -> Iterator[Architecture]:
        free = len(layers) if self.per_layer else 1
        n_shape = len(self.attention_choices) * self.n_mlp
        for shapes in product(range(n_shape), repeat=free):
            genes = shapes if self.per_layer else shapes * len(layers)
            attention, mlp = tuple(s // self.n_mlp for s in genes), tuple(s % self.n_mlp for s in genes)
            for embd in range(len(self.n_embd)):
                for bias in range(len(self.bias_choices)):
                    yield self.architecture(Genome(embd, layers, bias, attention, mlp))

    # --- variation ----------------------------------------------------------------------------------------------------

    def mutate(self, arch: Architecture, rng: np.random.Generator, *, n_genes: int = 1) -> Architecture:
        """Change `n_genes` distinct genes (all, if there are fewer), each to a different legal value.

        The genes are n_embd, bias, which layers are kept, and each kept layer's attention and MLP. A space of one
        architecture gives it back unchanged. Layers that a mutation adds are drawn at random.
        """
        return variation.mutate(self, arch, rng, n_genes=n_genes)

    def crossover(self, a: Architecture, b: Architecture, rng: np.random.Generator) -> Architecture:
        """Return a child that takes every gene from one of two parents (uniform crossover)."""
        return variation.crossover(self, a, b, rng)

    def neighbours(self, arch: Architecture) -> Iterator[Architecture]:
        """Yield every architecture that differs in one gene; layers that growth adds copy the last kept layer.

        The kept layers are one gene. Its neighbours are all other depths ("prefix"), or the swaps of one layer and
        all ways to the next smaller and next larger depth ("subset": many, where depths are far apart).
        """
        return variation.neighbours(self, arch)

    # --- in and out -------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, from which `from_dict` builds an equal space."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}
        return plain | {"config": dict(self.config)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """Read what `to_dict` gives, or a conf/space/*.yaml."""
        unknown = set(data) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(
                f"not a search space: unknown fields {sorted(unknown)}; known: {list(cls.__dataclass_fields__)}"
            )
        return cls(**data)

    def encode(self, archs: Sequence[Architecture]) -> np.ndarray:
        """Return the integer genes (n, g) of architectures; `supernet.encoding` has these and further encodings."""
        from supernet import encoding

        return encoding.to_genes(self, archs)

    def decode(self, genes: Iterable[int]) -> Architecture:
        """Return the architecture of one row of `encode`."""
        from supernet import encoding

        return encoding.from_genes(self, genes)

    def renamed(self, name: str) -> SearchSpace:
        """Return the same space under another name."""
        return replace(self, name=name)

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _index(self, gene: str, value: Any, allowed: Sequence[Any]) -> int:
        if value not in allowed:
            self._refuse(gene, value, ", ".join(str(choice) for choice in allowed))
        return allowed.index(value)

    def _refuse(self, gene: str, value: Any, allowed: str) -> None:
        raise ValueError(f"{gene} = {value} is not in space {self.name!r}; allowed: {allowed}")

    def _sample_layers(self, depth: int, rng: np.random.Generator) -> tuple[int, ...]:
        if self.layer_choice == "prefix":
            return tuple(range(depth))
        return tuple(sorted(rng.choice(self.max_layer, size=depth, replace=False).tolist()))

    def _sample_genes(self, size: int, n: int, rng: np.random.Generator) -> tuple[int, ...]:
        if self.per_layer:
            return tuple(rng.integers(size, size=n).tolist())
        return (int(rng.integers(size)),) * n


def _choices(space: str, name: str, values: Any) -> tuple[Any, ...]:
    """Return the choices of a dimension sorted and checked."""
    items = tuple(values) if isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, str) else (values,)
    if not items or len(set(items)) != len(items):
        raise ValueError(f"space {space!r}: {name} = {values!r}; give at least one choice, each once")
    if name == "bias":
        if any(v not in (True, False) for v in items):
            raise ValueError(f"space {space!r}: bias = {values!r}; choices are true and false")
        return tuple(sorted(bool(v) for v in items))
    kind = (int, float, np.number) if name == "mlp_ratio" else (int, np.integer)
    if any(isinstance(v, bool) or not isinstance(v, kind) or not 0 < v < float("inf") for v in items):
        what = "numbers" if name == "mlp_ratio" else "integers"
        raise ValueError(f"space {space!r}: {name} = {values!r}; choices are positive {what}")
    return tuple(sorted(float(v) if v != int(v) else int(v) for v in items))
