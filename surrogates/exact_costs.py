"""Exact costs straight from genes: `supernet.cost` as a small table, so that a query needs no architectures. No torch.

Within one width, bias and depth a cost is a sum over blocks, and every block of a kind adds the same. So the cost of
the network of first choices plus, for each block, what its choices add is exact; both are read off `supernet.cost`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supernet.architecture import Architecture
from supernet.cost import mac_counts, parameter_counts
from supernet.space import Genome, SearchSpace

EXACT_METRICS = ("n_params", "n_params_decoder", "macs", "flops")


class ExactCosts:
    """Parameters, and multiply-adds and FLOPs of one full-length sequence, of the architectures of a space.

    Args:
        space: its layers are a prefix of the supernet's, each with genes of its own and all with the same attention.

    Raises:
        ValueError: a space of another form.
    """

    def __init__(self, space: SearchSpace) -> None:
        if space.layer_choice != "prefix" or not space.per_layer or space.model_config.sliding_window_size:
            raise ValueError(
                f"space {space.name!r}: exact costs from genes need layer_choice='prefix', per_layer=True and no "
                "sliding window; use supernet.cost"
            )
        self._space = space
        self.seq_len = space.model_config.block_size
        n_attention, n_mlp = len(space.attention_choices), space.n_mlp
        self._kinds = n_attention + n_mlp
        self._offsets = np.repeat([0, n_attention], space.max_layer)  # of the columns of block genes
        shape = (len(space.n_embd), len(space.bias_choices))
        firsts = [(d, 0, 0) for d in range(len(space.n_layer))]  # depth, and the choices of the first block
        kinds = [(0, a, 0) for a in range(n_attention)] + [(0, 0, m) for m in range(n_mlp)]
        costs = self._costs([(e, b, *rest) for e, b in np.ndindex(*shape) for rest in (*firsts, *kinds)])
        table = costs.reshape(*shape, len(firsts) + len(kinds), 3)
        self._base = table[:, :, : len(firsts)]  # (widths, biases, depths, costs)
        self._added = table[:, :, len(firsts) :] - self._base[:, :, :1]  # (widths, biases, kinds, costs)

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """Return the costs (n, 4) int64, in the order of EXACT_METRICS, of canonical genes (n, g)."""
        n = len(genes)
        kinds = genes[:, 3:] + self._offsets
        kinds += np.arange(0, n * self._kinds, self._kinds)[:, None]
        counts = np.bincount(kinds.ravel(), minlength=n * self._kinds).reshape(n, self._kinds)
        costs = np.empty((n, 4), np.int64)
        added = self._added[genes[:, 0], genes[:, 1]]
        costs[:, :3] = self._base[genes[:, 0], genes[:, 1], genes[:, 2]] + np.einsum("nk,nkc->nc", counts, added)
        costs[:, 3] = 2 * costs[:, 2]
        return costs

    def _costs(self, choices: Sequence[tuple[int, int, int, int, int]]) -> np.ndarray:
        """Return parameters, decoder parameters and multiply-adds, (n, 3), of networks like `_network`."""
        archs = [_network(self._space, *row) for row in choices]
        parameters = parameter_counts(self._space.model_config, archs)
        work = mac_counts(self._space.model_config, archs, seq_len=self.seq_len)
        return np.column_stack([parameters.total, parameters.decoder, work.total])


def _network(space: SearchSpace, embd: int, bias: int, depth: int, attention: int, mlp: int) -> Architecture:
    """Return the network whose first block has these choices, and all others the first ones; all are indices."""
    n_layer = space.n_layer[depth]
    others = (0,) * (n_layer - 1)
    return space.architecture(Genome(embd, tuple(range(n_layer)), bias, (attention, *others), (mlp, *others)))
