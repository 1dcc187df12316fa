"""Corrections of a latency table by measured networks: from none to gradient-boosted trees. No torch.

All model log(measured / table) or the measured ratio itself, from few networks (tens), so all are held back: ridge
towards "the table is right", shallow trees with large leaves. `pruning.latency_model` chooses by cross-validation.

Shapes: n networks, d features.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xgboost as xgb

from pruning.latency_table import LatencyTable
from supernet.architecture import Architecture
from supernet.arrays import architecture_arrays

FEATURES = (
    "table", "fixed", "block", "attention", "mlp", "n_embd", "n_layer", "no_attention", "no_mlp", "heads", "groups",
    "neurons", "heads_std", "neurons_std",
)  # fmt: skip
_PARTS = slice(1, 5)
_RIDGE = 0.005  # of factors: a variance of 2e-4 of measured ratios over one of 0.2 ** 2 of the factors themselves
_PRIOR_SPREAD, _NOISE_ROUNDS, _LEAST_NOISE = 0.2, 5, 0.002  # of the weights of two tables; relative
_TREES = {
    "objective": "reg:squarederror", "tree_method": "exact", "max_depth": 2, "eta": 0.1, "min_child_weight": 4,
    "lambda": 4.0, "alpha": 0.0, "subsample": 0.8, "colsample_bytree": 0.8, "base_score": 0.0, "nthread": 1, "seed": 0,
}  # fmt: skip
_N_TREES = 40


def features(table: LatencyTable, archs: Sequence[Architecture]) -> np.ndarray:
    """Return FEATURES of each network, (n, d): costs by the table, then sums as shares of the dense model."""
    parts, arrays = table.parts(archs), architecture_arrays(archs, table.n_layer)
    (heads, groups), neurons = table.whole
    depth = np.maximum(arrays.n_layer, 1)
    no_attention = (arrays.kept & ~arrays.has_attention).sum(axis=1)
    no_mlp = (arrays.kept & ~arrays.has_mlp).sum(axis=1)
    L = table.n_layer

    def spread(values: np.ndarray, whole: int) -> np.ndarray:
        mean = (values * arrays.kept).sum(1) / depth
        return np.sqrt((((values - mean[:, None]) * arrays.kept) ** 2).sum(1) / depth) / whole

    columns = [
        parts.total, parts.fixed, parts.block, parts.attention, parts.mlp, arrays.n_embd / table.n_embd,
        arrays.n_layer / L, no_attention / L, no_mlp / L, arrays.n_head.sum(1) / (L * heads),
        arrays.n_query_groups.sum(1) / (L * groups), arrays.intermediate_size.sum(1) / (L * neurons),
        spread(arrays.n_head, heads), spread(arrays.intermediate_size, neurons),
    ]  # fmt: skip
    return np.stack(columns, axis=1).astype(float)


class Correction(Protocol):
    """A fitted correction."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return ratios to the dense model, (n,), of features X (n, d)."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        ...


@dataclass(frozen=True)
class Linear:
    """Ratio = intercept + sum of factors of the four part costs; factors of 1 and no intercept are the table itself."""

    intercept: float
    factors: tuple[float, ...]  # of fixed, block, attention, mlp

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return ratios (n,); never below a tenth of the table's."""
        return np.maximum(self.intercept + X[:, _PARTS] @ np.array(self.factors), 0.1 * X[:, 0])

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"kind": "linear", "intercept": self.intercept, "factors": list(self.factors)}


@dataclass(frozen=True)
class Boosted:
    """A linear correction times the exponential of trees' sum."""

    base: Linear
    booster: xgb.Booster

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return ratios (n,)."""
        return self.base.predict(X) * np.exp(self.booster.inplace_predict(np.ascontiguousarray(X)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: the trees in XGBoost's own JSON."""
        trees = json.loads(bytes(self.booster.save_raw("json")).decode())
        return {"kind": "boosted", "base": self.base.to_dict(), "trees": trees}


def correction_from_dict(data: Mapping[str, Any]) -> Correction:
    """Read what `to_dict` of a correction gives; raises ValueError when it is none."""
    try:
        if data["kind"] == "linear":
            return Linear(float(data["intercept"]), tuple(map(float, data["factors"])))
        base = correction_from_dict(data["base"])
        booster = xgb.Booster(model_file=bytearray(json.dumps(data["trees"]).encode()))
        booster.set_param({"nthread": 1})
        assert isinstance(base, Linear)
        return Boosted(base, booster)
    except (KeyError, TypeError, xgb.core.XGBoostError) as error:
        raise ValueError(f"not a latency correction ({error!r})") from error


# --- two tables -----------------------------------------------------------------------------------------------------


def share_of_prior(table: np.ndarray, prior: np.ndarray, ratios: np.ndarray) -> float:
    """Return how much of a prior a table should take over, 0 to 1, by what whole networks measured.

    Parts are measured in small networks, whose weights stay in the cache, so shares of attention and MLP can be off;
    a search finds networks of the parts that are too cheap. Multiply-adds and bytes err in other directions. Before
    any network is measured both count half, +- 0.2; how much networks weigh against that goes by what is left of them.

    Args:
        table: what the measured table predicts of each network, (n,).
        prior: what the other one does, (n,).
        ratios: what was measured, (n,).
    """
    A, start = np.c_[table, prior], np.array([0.5, 0.5])
    weights = start
    for _ in range(_NOISE_ROUNDS if len(ratios) else 0):
        left = float(np.mean((A @ weights / ratios - 1) ** 2))
        weights = _ridge_from(A, ratios, start, ridge=max(left, _LEAST_NOISE**2) / _PRIOR_SPREAD**2)
    weights = np.maximum(weights, 0.0)
    return float(weights[1] / weights.sum()) if weights.sum() > 0 else 0.5


# --- fitting --------------------------------------------------------------------------------------------------------


def fit_table(X: np.ndarray, y: np.ndarray) -> Linear:
    """Return no correction."""
    return Linear(0.0, (1.0, 1.0, 1.0, 1.0))


def fit_affine(X: np.ndarray, y: np.ndarray) -> Linear:
    """Fit measured = a + b table, held towards a = 0, b = 1, by relative error."""
    intercept, factor = _ridge_from(np.c_[np.ones(len(X)), X[:, 0]], y, np.array([0.0, 1.0]))
    return Linear(float(intercept), (float(factor),) * 4)


def fit_parts(X: np.ndarray, y: np.ndarray) -> Linear:
    """Fit one factor for each part of the table, held towards 1, by relative error."""
    factors = _ridge_from(X[:, _PARTS], y, np.ones(4))
    return Linear(0.0, tuple(np.maximum(factors, 0.0).tolist()))


def fit_boosted_table(X: np.ndarray, y: np.ndarray) -> Boosted:
    """Fit trees on what the table leaves."""
    return _boosted(fit_table(X, y), X, y)


def fit_boosted_parts(X: np.ndarray, y: np.ndarray) -> Boosted:
    """Fit trees on what the part factors leave."""
    return _boosted(fit_parts(X, y), X, y)


CANDIDATES: Mapping[str, Callable[[np.ndarray, np.ndarray], Correction]] = {
    "table": fit_table,
    "affine": fit_affine,
    "parts": fit_parts,
    "table + xgboost": fit_boosted_table,
    "parts + xgboost": fit_boosted_parts,
}


def _ridge_from(A: np.ndarray, y: np.ndarray, start: np.ndarray, *, ridge: float = _RIDGE) -> np.ndarray:
    """Return the minimum of sum ((A w - y) / y)^2 + ridge |w - start|^2."""
    A, target = A / y[:, None], np.ones(len(y)) - (A @ start) / y
    return start + np.linalg.solve(A.T @ A + ridge * np.eye(A.shape[1]), A.T @ target)


def _boosted(base: Linear, X: np.ndarray, y: np.ndarray) -> Boosted:
    left = np.log(y / base.predict(X))
    return Boosted(base, xgb.train(_TREES, xgb.DMatrix(X, left, nthread=1), _N_TREES))
