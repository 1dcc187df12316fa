"""The models that `fit` tries on a metric, by name. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.base import clone

from supernet.space import SearchSpace
from surrogates.features import columns_of, width_column
from surrogates.models import LinearSurrogate, ResidualSurrogate, XGBoostSurrogate
from surrogates.prediction import Surrogate

CANDIDATES = ("linear", "linear_by_width", "log_linear_by_width", "one_hot_by_width", "xgboost", "blend")
BASELINE = "linear"


def candidate_models(
    space: SearchSpace,
    names: Sequence[str] = CANDIDATES,
    *,
    trees: XGBoostSurrogate | None = None,
    seed: int = 0,
) -> dict[str, Surrogate]:
    """Return unfitted models for the features of a space.

    Args:
        space: gives the columns that each model uses.
        names: "linear": exact costs, a time or a size as their sum. "linear_by_width": the same for each width.
            "log_linear_by_width": logarithm, from costs and their logarithms. "one_hot_by_width": logarithm, from costs
            and one-hot genes, for many rows. "xgboost": boosted trees on engineered features. "blend": log-linear, and
            trees on its residual.
        trees: settings of the boosted trees; its `columns` None stands for the engineered features.
        seed: of everything random.

    Raises:
        ValueError: an unknown name.
    """
    unknown = [name for name in names if name not in CANDIDATES]
    if unknown or not names:
        raise ValueError(f"candidates {list(names)}: give at least one of {', '.join(CANDIDATES)}")
    width = width_column(space)
    costs, logs = columns_of(space, "costs"), columns_of(space, "costs_and_logs")
    one_hot = columns_of(space, "costs_and_one_hot")
    booster = clone(trees) if trees is not None else XGBoostSurrogate()
    booster.set_params(seed=seed, columns=booster.columns or columns_of(space, "trees"))
    trend = LinearSurrogate(columns=logs, by=width, loss="log")
    models: dict[str, Surrogate] = {
        "linear": LinearSurrogate(columns=costs),
        "linear_by_width": LinearSurrogate(columns=costs, by=width),
        "log_linear_by_width": trend,
        "one_hot_by_width": LinearSurrogate(columns=one_hot, by=width, loss="log"),
        "xgboost": booster,
        "blend": ResidualSurrogate(linear=clone(trend), trees=clone(booster), seed=seed),
    }
    return {name: models[name] for name in names}
