"""Exact costs straight from genes: `supernet.cost` as a small table, so that a query needs no architectures. No torch.

Within one width, bias and depth a cost is a sum over blocks, and every block of a kind adds the same. So the cost of
the network of first choices plus, for each block, what its choices add is exact; both are read off `supernet.cost`.
"""

from __future__ import annotations

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
        depths = range(len(space.n_layer))
        self._base = np.array(
            [[[self._cost(e, b, d) for d in depths] for b in range(shape[1])] for e in range(shape[0])]
        )
        kinds = [(a, 0) for a in range(n_attention)] + [(0, m) for m in range(n_mlp)]
        block = [[[self._cost(e, b, 0, *kind) for kind in kinds] for b in range(shape[1])] for e in range(shape[0])]
        self._added = np.array(block) - self._base[:, :, :1]  # (widths, biases, kinds, costs)

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

    def _cost(self, embd: int, bias: int, depth: int, attention: int = 0, mlp: int = 0) -> tuple[int, int, int]:
        """Return the costs of a network whose first block has these choices, and all others the first ones."""
        arch = _network(self._space, embd, bias, self._space.n_layer[depth], attention, mlp)
        parameters = parameter_counts(self._space.model_config, [arch])
        work = mac_counts(self._space.model_config, [arch], seq_len=self.seq_len)
        return int(parameters.total[0]), int(parameters.decoder[0]), int(work.total[0])


def _network(space: SearchSpace, embd: int, bias: int, depth: int, attention: int, mlp: int) -> Architecture:
    others = (0,) * (depth - 1)
    return space.architecture(Genome(embd, tuple(range(depth)), bias, (attention, *others), (mlp, *others)))
