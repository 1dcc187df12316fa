"""Trade-offs of linear models: exact where the objectives are linear, members of the space everywhere."""

import itertools

import moocore
import numpy as np

from search.linear_trade_offs import _weights, linear_trade_offs
from supernet.space import SearchSpace
from surrogates.layer_features import LayerFeatures

SPACE = SearchSpace(
    name="tiny-linear", n_embd=(32, 64), n_layer=(2, 3), n_head=(2, 4), mlp_ratio=(2, 3, 4), bias=(True, False),
    config={"head_size": 16, "vocab_size": 64, "padded_vocab_size": 64},
)  # fmt: skip
FEATURES = LayerFeatures(SPACE)


def additive(genes: np.ndarray) -> np.ndarray:
    """Logarithms are sums over blocks; the last column falls where the first rises."""
    places = FEATURES.positions(genes)
    shares = np.random.default_rng(0).uniform(0.1, 0.5, (places.shape[1], 2))
    sums = np.column_stack([places @ shares[:, 0], -(places @ shares[:, 1]), 0.05 * genes[:, 1]])
    return np.exp(sums[:, :2] + sums[:, 2:])


def test_of_additive_objectives_every_supported_trade_off_is_found():
    rows = np.array(list(itertools.product(*(range(size) for size in FEATURES.sizes))))
    everything = np.unique(FEATURES.check(rows), axis=0)
    everything = everything[everything[:, 0] == 1]
    logs = np.log(additive(everything))
    found = np.log(additive(linear_trade_offs(additive, FEATURES, np.random.default_rng(1), width=1, n_sample=500)))
    for weight in np.linspace(0.01, 0.99, 50):
        best = (logs @ [weight, 1 - weight]).min()
        assert (found @ [weight, 1 - weight]).min() <= best + 5e-3 * np.ptp(logs, axis=0).max()
    assert moocore.is_nondominated(np.unique(found, axis=0)).mean() > 0.2


def test_they_are_canonical_networks_of_that_width():
    genes = linear_trade_offs(additive, FEATURES, np.random.default_rng(1), width=0, n_sample=100)
    assert np.array_equal(FEATURES.check(genes), genes) and (genes[:, 0] == 0).all()
    assert len(np.unique(genes, axis=0)) == len(genes) > 10


def test_weightings_are_a_lattice_on_the_simplex():
    for m, n in ((2, 500), (3, 500), (4, 100)):
        weights = _weights(m, n)
        assert np.allclose(weights.sum(axis=1), 1) and (weights >= 0).all()
        assert 0.5 * n < len(weights) <= n
        assert len(np.unique(weights, axis=0)) == len(weights)
