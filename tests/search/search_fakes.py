"""Small spaces and analytic objectives that the search tests share; quality and latency conflict as in real nets."""

import numpy as np

from search.objectives import FunctionObjective
from supernet.space import SearchSpace

CONFIG = {"head_size": 16, "vocab_size": 256, "padded_vocab_size": 256, "block_size": 64}


def small_space(**changes):
    """240 architectures."""
    arguments = {
        "name": "small", "n_embd": (32, 48, 64), "n_layer": (1, 2), "n_head": (2, 4), "mlp_ratio": (1, 2),
        "bias": (True, False), "config": CONFIG,
    }  # fmt: skip
    return SearchSpace(**(arguments | changes))


def large_space():
    """About 1e13 architectures."""
    return SearchSpace(
        name="large", n_embd=(64, 128, 192), n_layer=(8, 10, 12), n_head=(2, 4, 8), mlp_ratio=(1, 2, 4),
        bias=(True, False), config=CONFIG,
    )  # fmt: skip


def features(archs):
    return np.array(
        [[a.n_embd, a.n_layer, sum(a.n_head), sum(a.intermediate_size), a.bias] for a in archs], dtype=float
    )


def loss(archs):
    """Falls with every size; later layers matter less, so that networks of equal totals differ."""
    out = []
    for a in archs:
        depth = np.exp(-np.arange(a.n_layer) / 4)
        size = a.n_embd * (depth @ np.sqrt(a.intermediate_size) + depth @ np.array(a.n_head) ** 0.5 * 4)
        out.append(10 * size**-0.25 - 0.01 * a.bias)
    return np.array(out)


def latency(archs):
    """Rises with every size; attention costs more than its share of parameters."""
    x = features(archs)
    return 0.1 * x[:, 1] + 2e-6 * x[:, 0] * (x[:, 3] + 96 * x[:, 2]) + 0.01 * x[:, 4]


def objectives():
    return [
        FunctionObjective("perplexity", loss, is_free=False),
        FunctionObjective("latency_ms", latency, unit="ms"),
    ]
