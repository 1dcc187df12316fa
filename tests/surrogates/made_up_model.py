"""A space model with made-up trends and small trees of every kind, and its card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb

from hw_profiles.importers.hwgpt_protocol import workload_of
from supernet.encoding import gene_sizes
from supernet.spaces import load_space
from surrogates.campaign import TargetKey
from surrogates.layer_features import LayerFeatures
from surrogates.space_model import TABLES, Residual, SpaceModel, Spread, Trend
from surrogates.space_store import save_space_model
from surrogates.validation import score_target

TARGETS = (
    TargetKey("latency_ms", "a100"), TargetKey("latency_ms", "h100"), TargetKey("energy_mj", "a100"),
    TargetKey("memory_mib", "a100"), TargetKey("perplexity"), TargetKey("accuracy"),
)  # fmt: skip


def random_genes(features: LayerFeatures, n: int, seed: int = 0) -> np.ndarray:
    """Return canonical genes (n, g); rarely, two rows are equal."""
    sizes = gene_sizes(features.space)
    return features.check(np.random.default_rng(seed).integers(0, sizes, (n, len(sizes))))


def boosted(features: LayerFeatures, genes: np.ndarray, table: str, t: int) -> xgb.Booster:
    X, rng = TABLES[table](features, genes), np.random.default_rng(t)
    Y = rng.standard_normal((len(X), t)) + X[:, 3:4] / X[:, 3].max()
    settings = {"max_depth": 4, "base_score": 0.0, "multi_strategy": "multi_output_tree", "tree_method": "hist"}
    return xgb.train({**settings, "nthread": 1}, xgb.DMatrix(X, Y), 25)


def made_up_model(name: str, tables: Sequence[str] = ("layers", "packing", "positions")) -> SpaceModel:
    space = load_space(name)
    features, rng = LayerFeatures(space), np.random.default_rng(1)
    genes, W, T = random_genes(features, 600), len(space.n_embd), len(TARGETS)
    k, K = 1 + len(features.linear_names), 1 + len(features.linear_names) + len(features.position_names)
    coef = rng.random((W, K, T))
    coef[:, k:, :4] = 0
    coef[:, :, 4:] /= 20
    groups = {"layers": [0, 2, 1], "packing": [3], "positions": [4, 5]}
    residuals = []
    for table in tables:
        columns = groups[table]
        scale = 0.01 + rng.random((W, len(columns))) / 50
        residuals.append(Residual(boosted(features, genes, table, len(columns)), np.array(columns), scale, table))
    levels = np.arange(1, 20) / 20
    quantiles = np.tile(np.log(levels / (1 - levels)) / 100, (W, T, 1))
    return SpaceModel(
        space, TARGETS, trend=Trend(coef, np.arange(T) > 3, np.full(T, 0.1)), residuals=residuals,
        spread=Spread(levels, quantiles, 2 * quantiles, np.full((W, T), 0.01)),
    )  # fmt: skip


def save_made_up_model(folder: Path, name: str = "gpt-s") -> Path:
    """Save the model of gpt-s, gpt-m or gpt-l with a card as the shipped ones have."""
    model, y = made_up_model(name), np.linspace(1, 2, 90)
    levels = (0.05, 0.25, 0.75, 0.95)
    quantiles = y[:, None] * np.array([0.9, 0.95, 1.05, 1.1])
    test = score_target(y, 1.01 * y, levels, quantiles, widths=np.repeat([1, 2, 3], 30)).to_dict()
    entries = [
        {
            "metric": key.metric, "device": key.device, "workload": workload_of(key.metric, name[-1], key.device).id,
            "protocol": "made up", "n_train": 600, "winner": "blend", "noise": key.device != "any", "test": test,
        }
        for key in model.targets
    ]  # fmt: skip
    card: dict[str, Any] = {"what": "Made up for tests.", "targets": entries, "anomalies": ["None is real."]}
    return save_space_model(folder, model, card)
