"""Architectures as vectors of integer genes, and one-hot. No torch; vectorised over architectures.

Genes are indices into the choices of a space, in this order: n_embd, bias; which layers are kept (`n_layer`, or in a
"subset" space `keep_00`, `keep_01`, ... for the blocks); attention of each block (a legal pair of n_head and
n_query_groups); MLP of each block. Spaces with `per_layer=False` have one attention and one MLP gene. Genes of blocks
that are not kept are inactive and 0, so that equal networks have equal genes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from supernet.architecture import Architecture
from supernet.arrays import ArchitectureArrays, architecture_arrays
from supernet.space import Genome, SearchSpace

# --- integer genes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gene:
    """One gene: its name and what its values 0, 1, ... stand for."""

    name: str
    choices: tuple[object, ...]


def genes_of(space: SearchSpace) -> list[Gene]:
    """Return the genes of a space in order, with the choices that their values stand for."""
    L = space.max_layer
    attention = tuple(f"{h} heads, {g} groups" for h, g in space.attention_choices)
    mlp = tuple(space.mlp_ratio or space.intermediate_size or ())
    subset = space.layer_choice == "subset"
    layers = [Gene(f"keep_{i:02}", (False, True)) for i in range(L)] if subset else [Gene("n_layer", space.n_layer)]
    slots = [f"_{i:02}" for i in range(L)] if space.per_layer else [""]
    return [
        Gene("n_embd", space.n_embd), Gene("bias", space.bias_choices), *layers,
        *(Gene(f"attention{slot}", attention) for slot in slots), *(Gene(f"mlp{slot}", mlp) for slot in slots),
    ]  # fmt: skip


def gene_names(space: SearchSpace) -> list[str]:
    """Return the names of the genes in order."""
    return [gene.name for gene in genes_of(space)]


def gene_sizes(space: SearchSpace) -> np.ndarray:
    """Return the number of choices of each gene, (g,) int64; gene i takes the values 0 to sizes[i] - 1."""
    return np.array([len(gene.choices) for gene in genes_of(space)], np.int64)


def to_genes(space: SearchSpace, archs: Sequence[Architecture]) -> np.ndarray:
    """Return the integer genes (n, g) int64 of architectures.

    Raises:
        ValueError: an architecture is not in the space; names the gene, its value and the allowed values.

    Example:
        >>> space = SearchSpace(name="doc", n_embd=(32, 64), n_layer=(1, 2), n_head=(2, 4), mlp_ratio=(2, 4))
        >>> gene_names(space)
        ['n_embd', 'bias', 'n_layer', 'attention_00', 'attention_01', 'mlp_00', 'mlp_01']
        >>> to_genes(space, [space.largest(), space.smallest()]).tolist()
        [[1, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]]
    """
    try:
        genes, known = _genes(space, _arrays(space, archs))
    except ValueError:  # too deep for arrays
        known = np.zeros(len(archs), bool)
    for i in np.flatnonzero(~known).tolist():
        space.validate(archs[i])  # raises, naming the gene
    assert known.all()
    return genes


def from_genes(space: SearchSpace, genes: Iterable[int]) -> Architecture:
    """Return the architecture with these genes (g,); values of inactive genes are ignored.

    Raises:
        ValueError: not as many genes as the space has, or a value that is not allowed; names the gene.

    Example:
        >>> space = SearchSpace(name="doc", n_embd=(32, 64), n_layer=(1, 2), n_head=(2, 4), mlp_ratio=(2, 4))
        >>> from_genes(space, [1, 0, 0, 1, 0, 1, 0]).id
        'e64-l0-h4-f256-b1'
    """
    known = genes_of(space)
    row = _checked_row(space, genes, known)
    if (row != np.rint(row)).any():
        raise ValueError(f"genes {row.tolist()} of space {space.name!r} are not all integers; repair_genes rounds them")
    row = row.astype(np.int64)
    for gene, value in zip(known, row.tolist(), strict=True):
        if not 0 <= value < len(gene.choices):
            meaning = ", ".join(f"{i} ({choice})" for i, choice in enumerate(gene.choices))
            raise ValueError(f"gene {gene.name} = {value} is not in space {space.name!r}; allowed: {meaning}")
    parts = _split(space, row)
    layers = _kept_layers(space, parts.layers)
    if len(layers) not in space.n_layer:
        raise ValueError(
            f"genes keep_00 to keep_{space.max_layer - 1:02} keep {len(layers)} blocks of space {space.name!r}; "
            f"allowed: {', '.join(map(str, space.n_layer))}"
        )
    slots = layers if space.per_layer else (0,) * len(layers)
    return space.architecture(
        Genome(
            n_embd=int(row[0]),
            layers=layers,
            bias=int(row[1]),
            attention=tuple(parts.attention[list(slots)].tolist()),
            mlp=tuple(parts.mlp[list(slots)].tolist()),
        )
    )


def repair_genes(space: SearchSpace, genes: Iterable[float], rng: np.random.Generator) -> np.ndarray:
    """Return the nearest legal, canonical genes (g,) int64 to any numbers: for optimizers that know only vectors.

    Values are rounded and clipped to their choices. In a "subset" space blocks are dropped or added at random until
    as many are kept as the nearest choice of n_layer. Inactive genes become 0.

    Raises:
        ValueError: not as many genes as the space has, or a gene that is not a finite number.
    """
    row = np.asarray([*genes], dtype=float)
    if not np.isfinite(row).all():
        raise ValueError(f"genes {row.tolist()} of space {space.name!r} are not all finite numbers")
    row = np.clip(np.rint(_checked_row(space, row, genes_of(space))), 0, gene_sizes(space) - 1).astype(np.int64)
    if space.layer_choice == "subset":
        kept = _split(space, row).layers
        depth = min(space.n_layer, key=lambda choice: abs(choice - int(kept.sum())))
        while int(kept.sum()) != depth:
            surplus = int(kept.sum()) > depth
            kept[rng.choice(np.flatnonzero(kept == surplus))] = not surplus
    return to_genes(space, [from_genes(space, row)])[0]


# --- one-hot ------------------------------------------------------------------------------------------------------


def one_hot_names(space: SearchSpace) -> list[str]:
    """Return the names of the columns of `one_hot`: gene and choice; of `keep_` genes the name alone."""
    return [
        gene.name if gene.name.startswith("keep_") else f"{gene.name}={choice}"
        for gene in genes_of(space)
        for choice in (gene.choices[:1] if gene.name.startswith("keep_") else gene.choices)
    ]


def one_hot(space: SearchSpace, archs: Sequence[Architecture]) -> np.ndarray:
    """Return one 0/1 column for each choice of each gene, (n, d) float32; inactive genes are 0 in all columns.

    Raises:
        ValueError: an architecture is not in the space; names the gene, its value and the allowed values.
    """
    genes = to_genes(space, archs)
    kept = _arrays(space, archs).kept
    active = np.ones(genes.shape, bool)
    if space.per_layer:
        active[:, -2 * space.max_layer :] = np.tile(kept, 2)
    columns, width = [], 0
    for gene in genes_of(space):
        columns.append(width - gene.name.startswith("keep_"))  # of a keep gene only "True" has a column
        width += 1 if gene.name.startswith("keep_") else len(gene.choices)
    keeps = np.array([gene.name.startswith("keep_") for gene in genes_of(space)])
    active &= (genes > 0) | ~keeps
    rows, which = np.nonzero(active)
    table = np.zeros((len(genes), width), np.float32)
    table[rows, np.array(columns)[which] + genes[rows, which]] = 1
    return table


# --- from arrays --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parts:
    """Views of one row of genes."""

    layers: np.ndarray
    attention: np.ndarray
    mlp: np.ndarray


def _split(space: SearchSpace, row: np.ndarray) -> _Parts:
    slots = space.max_layer if space.per_layer else 1
    return _Parts(layers=row[2 : -2 * slots], attention=row[-2 * slots : -slots], mlp=row[-slots:])


def _kept_layers(space: SearchSpace, genes: np.ndarray) -> tuple[int, ...]:
    if space.layer_choice == "prefix":
        return tuple(range(space.n_layer[int(genes[0])]))
    return tuple(np.flatnonzero(genes).tolist())


def _checked_row(space: SearchSpace, genes: Iterable[float], known: Sequence[Gene]) -> np.ndarray:
    row = np.asarray([*genes])
    if row.shape != (len(known),) or not np.issubdtype(row.dtype, np.number):
        raise ValueError(
            f"space {space.name!r} has {len(known)} genes, numbers in the order {known[0].name} ... {known[-1].name}; "
            f"got {row.tolist()}"
        )
    return row


def _arrays(space: SearchSpace, archs: Sequence[Architecture]) -> ArchitectureArrays:
    return architecture_arrays(archs, space.max_layer)


def _genes(space: SearchSpace, arrays: ArchitectureArrays) -> tuple[np.ndarray, np.ndarray]:
    """Return genes (n, g) and whether each architecture is in the space (n,); genes of others mean nothing."""
    embd, known_embd = _positions(arrays.n_embd, space.n_embd)
    bias, known_bias = _positions(arrays.bias.astype(np.int64), space.bias_choices)
    depth, known_depth = _positions(arrays.n_layer, space.n_layer)
    attention, known_attention = _attention_genes(space, arrays)
    mlp, known_mlp = _mlp_genes(space, arrays, embd)
    known = known_embd & known_bias & known_depth & (known_attention & known_mlp | ~arrays.kept).all(axis=1)
    layers = arrays.kept
    if space.layer_choice == "prefix":
        layers = depth[:, None]
        known &= (arrays.kept[:, 1:] <= arrays.kept[:, :-1]).all(axis=1)  # no block after one that is left out
    attention, mlp = attention * arrays.kept, mlp * arrays.kept
    if not space.per_layer:
        rows, first = np.arange(len(embd)), arrays.kept.argmax(axis=1)
        shared = attention[rows, first][:, None], mlp[rows, first][:, None]
        known &= ((attention == shared[0]) & (mlp == shared[1]) | ~arrays.kept).all(axis=1)
        attention, mlp = shared
    return np.column_stack([embd, bias, layers, attention, mlp]).astype(np.int64), known


def _positions(values: np.ndarray, ascending: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return where each value stands among the choices, and whether it is one of them; same shape as `values`."""
    choices = np.asarray(ascending, np.int64)
    index = np.minimum(np.searchsorted(choices, values), len(choices) - 1)
    return index, choices[index] == values


def _attention_genes(space: SearchSpace, arrays: ArchitectureArrays) -> tuple[np.ndarray, np.ndarray]:
    radix = 1 + max(int(arrays.n_query_groups.max(initial=0)), max(g for _, g in space.attention_choices))
    codes = [h * radix + g for h, g in space.attention_choices]
    return _positions(arrays.n_head * radix + arrays.n_query_groups, codes)


def _mlp_genes(space: SearchSpace, arrays: ArchitectureArrays, embd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sizes = [space.mlp_choices(width) for width in space.n_embd]
    radix = 1 + max(int(arrays.intermediate_size.max(initial=0)), max(max(row) for row in sizes))
    codes = [i * radix + size for i, row in enumerate(sizes) for size in row]
    index, known = _positions(embd[:, None] * radix + arrays.intermediate_size, codes)
    return index % space.n_mlp, known
