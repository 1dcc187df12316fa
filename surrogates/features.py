"""The feature matrix of a search space: engineered features, logarithms of costs, one-hot genes. No torch.

A surrogate gets all columns and picks those that it needs (`columns_of`): trees the engineered ones, linear models a
few exact costs, which explain most of a latency, or the one-hot genes, which explain perplexity when rows are many.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supernet.architecture import Architecture
from supernet.encoding import one_hot, one_hot_names
from supernet.engineered import engineered, engineered_names
from supernet.space import SearchSpace

# terms in which times and bytes are sums: per network, per layer, per activation, per weight, per attention score
_COSTS = (
    "n_embd", "n_layer", "bias*n_layer", "n_embd*n_layer", "sum_n_head", "sum_n_query_groups", "sum_intermediate_size",
    "params_attention", "params_mlp", "macs_scores",
)  # fmt: skip
_LOGARITHMS = ("n_embd", "n_layer", "sum_n_head", "sum_intermediate_size", "params_attention", "params_mlp")
_LOG = "log_"
GROUPS = ("engineered", "costs", "costs_and_logs", "one_hot", "costs_and_one_hot", "trees")


def feature_names(space: SearchSpace) -> list[str]:
    """Return the names of the columns of `features`."""
    return [*engineered_names(space), *(_LOG + name for name in _LOGARITHMS), *one_hot_names(space)]


def features(space: SearchSpace, archs: Sequence[Architecture]) -> np.ndarray:
    """Return the features of architectures, (n, d) float64.

    Raises:
        ValueError: an architecture is not in the space; names the gene, its value and the allowed values.
    """
    genes = one_hot(space, archs).astype(np.float64)  # first: it checks that the architectures are in the space
    table = engineered(space, archs)
    names = engineered_names(space)
    logs = np.log(table[:, [names.index(name) for name in _LOGARITHMS]])
    return np.hstack([table, logs, genes])


def columns_of(space: SearchSpace, group: str) -> tuple[int, ...]:
    """Return the indices of the columns of a group.

    Args:
        space: the search space.
        group: "engineered"; "costs", the terms in which times and bytes are sums; "costs_and_logs"; "one_hot";
            "costs_and_one_hot"; "trees", engineered features and which blocks are kept.

    Raises:
        ValueError: there is no such group.
    """
    if group not in GROUPS:
        raise ValueError(f"no feature group {group!r}; groups: {', '.join(GROUPS)}")
    names = feature_names(space)
    genes = one_hot_names(space)
    wanted = {
        "engineered": names[: -len(genes) - len(_LOGARITHMS)],
        "costs": list(_COSTS),
        "costs_and_logs": [*_COSTS, *(_LOG + name for name in _LOGARITHMS)],
        "one_hot": genes,
        "costs_and_one_hot": [*_COSTS, *genes],
        "trees": [*names[: -len(genes) - len(_LOGARITHMS)], *(name for name in genes if name.startswith("keep_"))],
    }[group]
    return tuple(names.index(name) for name in wanted)


def width_column(space: SearchSpace) -> int:
    """Return the index of the column that holds `n_embd`."""
    return feature_names(space).index("n_embd")
