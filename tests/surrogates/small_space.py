"""A small space with three widths, and made-up measurements whose law is known."""

import numpy as np

from supernet.encoding import from_genes
from supernet.space import SearchSpace
from surrogates.campaign import Campaign, TargetKey
from surrogates.layer_features import LayerFeatures

SPACE = SearchSpace(
    name="small",
    n_embd=(32, 64, 128),
    n_layer=(3, 4, 5),
    n_head=(2, 4),
    mlp_ratio=(2, 3, 4),
    bias=(True, False),
    config={"head_size": 16, "vocab_size": 128, "padded_vocab_size": 128},
)
LATENCY, ENERGY, PERPLEXITY = TargetKey("latency_ms", "gpu"), TargetKey("energy_mj", "gpu"), TargetKey("perplexity")


def random_genes(n: int, seed: int = 0, space: SearchSpace = SPACE) -> np.ndarray:
    """Return n distinct canonical genes."""
    features, rng = LayerFeatures(space), np.random.default_rng(seed)
    rows = np.column_stack([rng.integers(0, size, 4 * n) for size in features.sizes])
    rows = np.unique(features.check(rows), axis=0)
    return rng.permutation(rows)[:n]


def true_latency(genes: np.ndarray, space: SearchSpace = SPACE) -> np.ndarray:
    """Return a time that is a sum over blocks, (n,), ms."""
    width = np.array([1.0, 1.6, 3.0])[genes[:, 0]]
    counts = LayerFeatures(space).linear(genes)[:, 1:5]
    return width * (0.3 + counts @ [0.2, 0.35, 0.1, 0.15])


def true_perplexity(genes: np.ndarray, space: SearchSpace = SPACE) -> np.ndarray:
    """Return a perplexity that depends on which block has which heads and neurons, (n,)."""
    features = LayerFeatures(space)
    weights = -0.02 * np.random.default_rng(3).random(len(features.position_names))
    return np.array([60.0, 40.0, 25.0])[genes[:, 0]] * np.exp(features.positions(genes) @ weights)


def made_up_campaign(n: int = 900, *, noise: float = 0.01, seed: int = 0) -> tuple[Campaign, np.ndarray]:
    """Return a campaign whose latency drifts with the hour, and the true log drift (n,)."""
    rng = np.random.default_rng(seed)
    genes = random_genes(n, seed)
    order = rng.permutation(n)
    job, position = order // (n // 2), order % (n // 2)
    drift = np.where(job == 1, 0.15, 0.0) * (1 + 0.5 * (genes[:, 0] == 2)) + np.where(position < n // 8, -0.1, 0.0)
    latency = true_latency(genes) * np.exp(drift)
    repeats = latency[:, None] * np.exp(noise * rng.standard_normal((n, 5)))
    ids = np.array([from_genes(SPACE, row).id for row in genes])
    at = np.argsort(ids)
    values = {LATENCY: np.median(repeats, axis=1)[at], PERPLEXITY: true_perplexity(genes)[at]}
    data = Campaign(
        SPACE, ids[at], genes[at], values, dict.fromkeys(values, order[at]), {LATENCY: repeats[at]},
        {LATENCY: "prefill-b1-t64-float32", PERPLEXITY: "prefill-b1-t64-float32"},
    )  # fmt: skip
    return data, drift[at]
