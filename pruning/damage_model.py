"""The quality table, corrected by what the true loss has shown: a Bayesian linear model of the change of the loss.

The change against a reference network is taken to be w . (x - x_reference), where x are the table's damages of all
parts and blocks of a network and w has the prior mean 1. Networks that were evaluated tell w. Moves are scored with w
drawn from the posterior (Thompson sampling), so that parts of which little is known are tried too. No torch.

Shapes: L blocks, 3 L features, n networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pruning.quality_table import QualityTable
from supernet.architecture import Architecture

_PRIOR_STD = 0.5
_RELATIVE_NOISE = 0.25  # of a change of the loss: what is not linear in the damages
_LEAST = 0.05
_MOST = 400  # networks that count, the latest


class DamageModel:
    """The model.

    Args:
        quality: the table.
        rng: draws w.
        power: the table's damages are raised to it, and brought back to their size on the whole: above one, small
            damages are taken to count for less than they measured, as they do beside larger ones.
    """

    def __init__(self, quality: QualityTable, *, rng: np.random.Generator, power: float = 1.0) -> None:
        self.quality, self.power, self._rng = quality, power, rng
        damages = np.array([max(value, 0.0) for value in quality.parts.values()])
        middle = float(np.median(damages[damages > 0])) if (damages > 0).any() else 1.0
        self._unit = middle ** (1 - power)  # a damage in the middle of the table stays what it is
        self._seen: dict[Architecture, float] = {}

    def see(self, arch: Architecture, loss: float) -> None:
        """Take in an evaluated network."""
        self._seen[arch] = loss

    def features(self, arch: Architecture) -> np.ndarray:
        """Return the damages of attentions, MLPs and blocks gone, (3 L,)."""
        found = np.zeros((3, self.quality.n_layer))
        found[2] = [self._felt(gone) for gone in self.quality.gone]
        for i, h, g, f in zip(arch.layers, arch.n_head, arch.n_query_groups, arch.intermediate_size, strict=True):
            found[:, i] = self.of_block(i, h, g, f)
        return found.ravel()

    def of_block(self, layer: int, heads: int, groups: int, neurons: int) -> tuple[float, float, float]:
        """Return a block's three features."""
        if not heads and not neurons:
            return 0.0, 0.0, self._felt(self.quality.gone[layer])
        attention = self.quality.part(layer, "attention", (heads, groups))
        return self._felt(attention), self._felt(self.quality.part(layer, "mlp", (neurons,))), 0.0

    def _felt(self, damage: float) -> float:
        return self._unit * max(damage, 0.0) ** self.power if self.power != 1 else damage

    def of_widths(self, widths: Sequence[int], reference: Architecture, weights: np.ndarray) -> np.ndarray:
        """Return what residual widths change of the loss besides the parts' damages, (n,) in nats a token.

        The table says nothing about it: it is the median of what networks of a width that were evaluated have and the
        weights (3, L) do not tell, 0 for the reference's own, linear between such widths. Where none was evaluated,
        all are taken to cost nothing.
        """
        if set(widths) == {reference.n_embd}:
            return np.zeros(len(widths))
        x, loss = self.features(reference), self._seen.get(reference, 0.0)
        left: dict[int, list[float]] = {}
        for arch, value in self._seen.items():
            told = float((self.features(arch) - x) @ weights.ravel())
            left.setdefault(arch.n_embd, []).append(value - loss - told)
        known = {width: float(np.median(values)) for width, values in left.items()} | {reference.n_embd: 0.0}
        measured = sorted(known)
        return np.interp(widths, measured, [known[width] for width in measured])

    def draw(self, reference: Architecture, *, spread: float = 1.0) -> np.ndarray:
        """Return weights of the features, (3, L), from what is known of changes against a reference network.

        Args:
            reference: the network.
            spread: of the draw, times the posterior's; 0 is its mean.
        """
        mean, factor = self._posterior(reference)
        drawn = mean + spread * factor @ self._rng.standard_normal(len(mean))
        return np.maximum(drawn, _LEAST).reshape(3, -1)  # nothing is thought to get better by pruning

    def _posterior(self, reference: Architecture) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean of w and a square root of its covariance."""
        d = 3 * self.quality.n_layer
        X, y = self._changes(reference)
        precision = np.eye(d) / _PRIOR_STD**2
        pull = np.full(d, 1 / _PRIOR_STD**2)
        if len(y):
            noise = _RELATIVE_NOISE * (np.abs(y) + np.abs(X).sum(1) / 2) + 1e-9
            rows = X / noise[:, None]
            precision, pull = precision + rows.T @ rows, pull + rows.T @ (y / noise)
        root = np.linalg.inv(np.linalg.cholesky(precision)).T
        return root @ (root.T @ pull), root

    def _changes(self, reference: Architecture) -> tuple[np.ndarray, np.ndarray]:
        x, loss = self.features(reference), self._seen.get(reference, 0.0)
        known = [
            (a, v) for a, v in list(self._seen.items())[-_MOST:] if a != reference and a.n_embd == reference.n_embd
        ]
        if reference not in self._seen or not known:
            return np.zeros((0, len(x))), np.zeros(0)
        return np.array([self.features(a) - x for a, _ in known]), np.array([v - loss for _, v in known])
