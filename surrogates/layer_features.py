"""Features of networks whose blocks run one after the other, straight from integer genes. No torch.

A time, an energy or a size is a sum over blocks, and a block's share depends on its own heads and neurons only: how
many blocks there are of each kind says all, for each width (and bias) by itself. Perplexity also depends on where.
Computed from genes (`supernet.encoding`), not from architectures: a hundred thousand take a fraction of a second.
"""

from __future__ import annotations

import numpy as np

from supernet.encoding import genes_of
from supernet.space import SearchSpace
from surrogates.space_form import check_prefix_layers

_PARTS = 4  # of the depth, for sums that show where heads and neurons are


class LayerFeatures:
    """Features of the architectures of one space.

    Args:
        space: its layers are a prefix of the supernet's, each with genes of its own.

    Raises:
        ValueError: a space of another form.

    Example:
        >>> space = SearchSpace(name="doc", n_embd=(32, 64), n_layer=(1, 2), n_head=(2, 4), mlp_ratio=(2, 4))
        >>> features = LayerFeatures(space)
        >>> features.linear_names[:6]
        ('bias', 'blocks_attention=0', 'blocks_attention=1', 'blocks_mlp=1', 'bias*blocks_attention=0', 'bias*blocks_attention=1')
        >>> features.linear(np.array([[1, 0, 1, 1, 0, 1, 1]]))[0, :4]  # two blocks, one with the second choice of heads
        array([1., 1., 1., 2.])
    """  # noqa: E501

    def __init__(self, space: SearchSpace) -> None:
        self.space = check_prefix_layers(space, "these features")
        self.sizes = np.array([len(gene.choices) for gene in genes_of(space)], np.int64)
        self.head_size = space.model_config.head_size
        self.depths = np.array(space.n_layer, np.int64)
        self.embd = np.array(space.n_embd, float)
        self.heads = np.array([h for h, _ in space.attention_choices], float)
        self.neurons = np.array([space.mlp_choices(width) for width in space.n_embd], float)  # (widths, choices)
        self._blocks = np.arange(space.max_layer)
        self.linear_names = self._linear_names()
        self.position_names = self._position_names()
        self.tree_names = self._tree_names(positions=False)
        self.position_tree_names = self._tree_names(positions=True)

    def check(self, genes: np.ndarray) -> np.ndarray:
        """Return genes as (n, g) int64, inactive ones 0.

        Raises:
            ValueError: another number of genes, or a value that is not allowed; names the gene and its choices.
        """
        table = np.asarray(genes)
        if table.ndim != 2 or table.shape[1] != len(self.sizes) or not np.issubdtype(table.dtype, np.integer):
            names = [gene.name for gene in genes_of(self.space)]
            raise ValueError(
                f"genes of shape {table.shape} and type {table.dtype}: space {self.space.name!r} takes integers (n, "
                f"{len(self.sizes)}) in the order {names[0]}, {names[1]}, ..., {names[-1]}"
            )
        active = self.active(np.clip(table, 0, self.sizes - 1))
        bad = ((table < 0) | (table >= self.sizes)) & active
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            gene = genes_of(self.space)[column]
            allowed = ", ".join(f"{i} ({choice})" for i, choice in enumerate(gene.choices))
            raise ValueError(
                f"row {row}: gene {gene.name} = {table[row, column]} is not in space {self.space.name!r}; "
                f"allowed: {allowed}"
            )
        return np.where(active, table, 0).astype(np.int64)

    def widths(self, genes: np.ndarray) -> np.ndarray:
        """Return which width each row has, (n,) indices into `space.n_embd`."""
        return genes[:, 0]

    def linear(self, genes: np.ndarray) -> np.ndarray:
        """Return how many blocks are of each kind, alone and with bias, (n, k) float64.

        The number of blocks is the sum over kinds of attention, so the first kind of MLP would repeat it.
        """
        attention, mlp = self.counts(genes)
        bias = self.bias(genes)
        return np.concatenate([bias, attention, mlp[:, 1:], bias * attention, bias * mlp[:, 1:]], axis=1)

    def positions(self, genes: np.ndarray) -> np.ndarray:
        """Return which choice each block has, (n, k) float64 of 0 and 1; first choices and missing blocks are 0."""
        L = self.space.max_layer
        attention, mlp = genes[:, 3 : 3 + L], genes[:, 3 + L :]
        depth = genes[:, 2:3] == np.arange(1, len(self.depths))
        parts = [depth]
        parts += [attention == choice for choice in range(1, len(self.heads))]
        parts += [mlp == choice for choice in range(1, self.neurons.shape[1])]
        return np.concatenate(parts, axis=1).astype(float)

    def trees(self, genes: np.ndarray, *, positions: bool = False) -> np.ndarray:
        """Return what boosted trees split on, (n, d) float32: sizes, counts, sums by part of the depth, costs.

        With `positions` also heads and MLP choice of every block, and their running sums: for perplexity.
        """
        depth = self.depths[genes[:, 2]].astype(float)[:, None]
        width, bias = self.embd[genes[:, 0]][:, None], self.bias(genes)
        attention, mlp = self.counts(genes)
        active = self._blocks < depth
        L = self.space.max_layer
        heads = self.heads[genes[:, 3 : 3 + L]] * active
        neurons = self.neurons[genes[:, :1], genes[:, 3 + L :]] * active
        head_parts, neuron_parts = self._by_part(heads), self._by_part(neurons)
        all_heads, all_neurons = head_parts.sum(axis=1, keepdims=True), neuron_parts.sum(axis=1, keepdims=True)
        work = width * (2 * self.head_size * all_heads + all_neurons)  # grows as the weights of the blocks do
        columns = [width, depth, bias, attention, mlp, all_heads, all_neurons, work, head_parts, neuron_parts]
        if positions:
            ratios = (genes[:, 3 + L :] + 1.0) * active
            columns += [heads, ratios, heads.cumsum(axis=1), ratios.cumsum(axis=1)]
        return np.concatenate(columns, axis=1).astype(np.float32)

    def raw(self, genes: np.ndarray) -> np.ndarray:
        """Return the genes themselves as numbers, (n, g) float32, -1 where inactive: what a naive surrogate sees."""
        return np.where(self.active(genes), genes, -1).astype(np.float32)

    def active(self, genes: np.ndarray) -> np.ndarray:
        """Return which genes are of the whole network or of a block that is kept, (n, g) bool."""
        kept = self._blocks < self.depths[genes[:, 2]][:, None]
        return np.concatenate([np.ones((len(genes), 3), bool), kept, kept], axis=1)

    def bias(self, genes: np.ndarray) -> np.ndarray:
        """Return 1 for networks with biases, (n, 1) float64."""
        return np.asarray(self.space.bias_choices, float)[genes[:, 1]][:, None]

    def counts(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers of blocks of each kind of attention (n, a) and of MLP (n, m)."""
        L = self.space.max_layer
        depth = self.depths[genes[:, 2]]
        attention, mlp = genes[:, 3 : 3 + L], genes[:, 3 + L :]
        return _count(attention, len(self.heads), depth), _count(mlp, self.neurons.shape[1], depth)

    def _by_part(self, values: np.ndarray) -> np.ndarray:
        """Return sums over each part of the depth of the supernet, (n, _PARTS)."""
        starts = np.linspace(0, self.space.max_layer, _PARTS, endpoint=False).astype(int)
        return np.asarray(np.add.reduceat(values, np.unique(starts), axis=1))

    def _linear_names(self) -> tuple[str, ...]:
        attention = [f"blocks_attention={i}" for i in range(len(self.heads))]
        mlp = [f"blocks_mlp={i}" for i in range(1, self.neurons.shape[1])]
        both = [*attention, *mlp]
        return ("bias", *both, *(f"bias*{name}" for name in both))

    def _position_names(self) -> tuple[str, ...]:
        L, names = self.space.max_layer, [f"n_layer={d}" for d in self.space.n_layer[1:]]
        for kind, choices in (("attention", len(self.heads)), ("mlp", self.neurons.shape[1])):
            names += [f"{kind}_{i:02}={choice}" for choice in range(1, choices) for i in range(L)]
        return tuple(names)

    def _tree_names(self, *, positions: bool) -> tuple[str, ...]:
        parts = range(len(self._by_part(np.zeros((1, self.space.max_layer)))[0]))
        kinds = ("n_head", "mlp", "sum_n_head_to", "sum_mlp_to") if positions else ()
        return (
            "n_embd", "n_layer", "bias",
            *(f"blocks_attention={i}" for i in range(len(self.heads))),
            *(f"blocks_mlp={i}" for i in range(self.neurons.shape[1])),
            "sum_n_head", "sum_intermediate_size", "block_weights",
            *(f"sum_n_head_part_{i}" for i in parts), *(f"sum_intermediate_size_part_{i}" for i in parts),
            *(f"{kind}_{i:02}" for kind in kinds for i in range(self.space.max_layer)),
        )  # fmt: skip


def _count(choices: np.ndarray, n: int, depth: np.ndarray) -> np.ndarray:
    """Return how often each of n choices occurs in each row (inactive entries are 0, and not counted), (rows, n)."""
    counts = np.empty((len(choices), n))
    for choice in range(1, n):
        counts[:, choice] = (choices == choice).sum(axis=1)
    counts[:, 0] = depth - counts[:, 1:].sum(axis=1)
    return counts
