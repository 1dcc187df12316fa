"""What an adapted device's values are linear in: source devices' predictions and exact costs, also by width. No torch.

Shapes: n rows, S sources, W widths, K terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from supernet.space import SearchSpace
from surrogates.layer_features import LayerFeatures

FEATURES = ("n_embd", "n_layer", "bias", "sum_n_head", "sum_intermediate_size")
_N_COSTS = 8


class DeviceFeatures:
    """The features that `Terms` takes (`FEATURES`), from genes.

    Args:
        space: its layers are a prefix of the supernet's, each with genes of its own.

    Raises:
        ValueError: a space of another form.
    """

    def __init__(self, space: SearchSpace) -> None:
        LayerFeatures(space)  # checks the form
        self._whole = np.asarray(space.n_embd, float), np.asarray(space.bias_choices, float)
        self._depths = np.asarray(space.n_layer, float)
        self._heads = np.array([h for h, _ in space.attention_choices], float)
        self._neurons = np.array([space.mlp_choices(width) for width in space.n_embd], float)  # (W, choices)
        self._blocks = np.arange(space.max_layer)

    def __call__(self, genes: np.ndarray) -> np.ndarray:
        """Return features (n, 5) float64 of canonical genes (n, g)."""
        L = len(self._blocks)
        (widths, biases), depth = self._whole, self._depths[genes[:, 2]]
        kept = self._blocks < depth[:, None]
        table = np.empty((len(genes), len(FEATURES)))
        table[:, 0], table[:, 1], table[:, 2] = widths[genes[:, 0]], depth, biases[genes[:, 1]]
        table[:, 3] = (self._heads[genes[:, 3 : 3 + L]] * kept).sum(axis=1)
        table[:, 4] = (self._neurons[genes[:, :1], genes[:, 3 + L :]] * kept).sum(axis=1)
        return table


def costs(features: np.ndarray) -> np.ndarray:
    """Return what a time or an energy is a sum of, (n, 8): per network, layer, activation and weight."""
    width, depth, bias, heads, neurons = features.T
    return np.column_stack([
        width, depth, bias * depth, width * depth, heads, neurons, width * heads, width * neurons,
    ])  # fmt: skip


@dataclass(frozen=True)
class Terms:
    """The columns [1 | costs | width | width x costs | sources | width x sources].

    Attributes:
        widths: (W,) the values of n_embd.
        n_sources: S.
    """

    widths: np.ndarray
    n_sources: int

    def __call__(self, sources: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Return the terms (n, K) of source predictions (n, S) in their unit and `DeviceFeatures` (n, 5).

        Raises:
            ValueError: another number of sources or rows, or a width that is not one of `widths`.
        """
        sources, features = np.asarray(sources, float), np.asarray(features, float)
        if sources.shape != (len(features), self.n_sources) or features.shape[1:] != (len(FEATURES),):
            raise ValueError(
                f"sources have shape {sources.shape}, features {features.shape}: give (n, {self.n_sources}) and "
                f"(n, {len(FEATURES)})"
            )
        at = features[:, :1] == self.widths
        if not at.any(axis=1).all():
            other = features[~at.any(axis=1), 0][0]
            raise ValueError(f"n_embd = {other:g} is not in this space; allowed: {self.widths.tolist()}")
        parts = costs(features)
        return np.concatenate(
            [np.ones((len(features), 1)), parts, at, _by(at, parts), sources, _by(at, sources)], axis=1
        )

    @cached_property
    def size(self) -> int:
        """K."""
        W = len(self.widths)
        return (1 + W) * (1 + _N_COSTS + self.n_sources)

    @property
    def costs(self) -> slice:
        """Where the costs are."""
        return slice(1, 1 + _N_COSTS)

    @property
    def width(self) -> slice:
        """Where the indicators of the widths are."""
        return slice(1 + _N_COSTS, 1 + _N_COSTS + len(self.widths))

    @property
    def width_costs(self) -> slice:
        """Where the costs of each width are, width by width."""
        return slice(self.width.stop, self.width.stop + len(self.widths) * _N_COSTS)

    @property
    def sources(self) -> slice:
        """Where the sources are."""
        return slice(self.width_costs.stop, self.width_costs.stop + self.n_sources)

    @property
    def width_sources(self) -> slice:
        """Where the sources of each width are, width by width."""
        return slice(self.sources.stop, self.size)

    def select(self, *columns: int | slice) -> np.ndarray:
        """Return the map (K, k) that picks columns of a table of terms, `table @ map`."""
        everything = np.arange(self.size)
        return np.eye(self.size)[:, np.concatenate([np.atleast_1d(everything[c]) for c in columns])]


def _by(at: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values (n, k) again for each width, 0 in rows of other widths, (n, W k)."""
    return np.asarray((at[:, :, None] * values[:, None, :]).reshape(len(values), at.shape[1] * values.shape[1]))
