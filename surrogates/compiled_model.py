"""A space's surrogate arranged for speed: the numbers of `SpaceModel`, with the same bits in every batch. No torch.

Three things make it fast and exact. Coefficients of trends are rounded so that their sums are exact in any order
(`exact_sums`; 1e-16 of the largest sum). Few rows look up all features and sums of trends in one table (`block_table`).
Trees answer few rows without XGBoost, all ensembles in one walk (`tree_ensemble`).

Shapes: n rows, g genes, T targets, W widths, F features of trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from surrogates.block_table import block_table
from surrogates.campaign import TargetKey
from surrogates.exact_sums import for_exact_sums
from surrogates.packing_features import packing_names
from surrogates.space_model import TABLES, SpaceModel
from surrogates.tree_ensemble import FEW_ROWS, Forest, TreeEnsemble

if TYPE_CHECKING:
    import xgboost as xgb

_CHUNK = 16384  # rows at a time: bounds the memory of large batches
_LAYERS, _POSITIONS, _PACKING = "layers", "positions", "packing"  # tables of `space_model.TABLES`
_SEGMENT = 20 * 2**20  # bytes; some columns of "packing" are modulo this


class CompiledModel:
    """Medians of a `SpaceModel`, which it keeps for all else. Immutable: reads are safe in threads.

    Args:
        model: of the space.
        few_rows: whether to prepare for few rows at a time, which takes some 50 ms.
    """

    def __init__(self, model: SpaceModel, *, few_rows: bool = True) -> None:
        trend = replace(model.trend, coef=for_exact_sums(model.trend.coef, model.space.max_layer))
        parts = [replace(part, booster=cast("xgb.Booster", _ensemble(part.booster))) for part in model.residuals]
        self.model = SpaceModel(model.space, model.targets, trend=trend, residuals=parts, spread=model.spread)
        self.space, self.targets, self.features = model.space, model.targets, model.features
        self._n_linear = 1 + len(model.features.linear_names)
        self._placed = np.flatnonzero(trend.coef[:, self._n_linear :].any(axis=(0, 1)))  # targets with position terms
        used = {part.table for part in parts}
        if _POSITIONS in used:  # starts with the columns of the other
            used.discard(_LAYERS)
        self._tables = [name for name in TABLES if name in used]
        self._few = block_table(self.features, self._everything, self._modulus()) if parts and few_rows else None
        self._forest = None if self._few is None else self._joined()

    def __repr__(self) -> str:
        return f"CompiledModel({self.space.name!r}, {len(self.targets)} targets)"

    def of_targets(self, targets: Sequence[TargetKey]) -> CompiledModel:
        """Return a model of some of the targets for many rows, which skips the trees that only others need."""
        return CompiledModel(self.model.of_targets(targets), few_rows=False)

    def predict(self, genes: np.ndarray) -> np.ndarray:
        """Return noise-free medians (n, T) of canonical genes (n, g)."""
        if len(genes) <= FEW_ROWS and self._few and self._forest:
            values = self._few(genes)
            trees = self._forest.predict(values[:, len(self.targets) :].astype(np.float32))
            return self._medians(genes, values[:, : len(self.targets)], trees)
        chunks = (genes[i : i + _CHUNK] for i in range(0, max(len(genes), 1), _CHUNK))
        return np.concatenate([self._medians(rows, self._sums(rows), self._boosted(rows)) for rows in chunks])

    def log_quantiles(self, genes: np.ndarray, levels: Sequence[float], *, drift: bool = False) -> np.ndarray:
        """Return log(quantile / median), (n, T, q); see `SpaceModel.log_quantiles`."""
        return self.model.log_quantiles(genes, levels, drift=drift)

    def noise_std(self, genes: np.ndarray) -> np.ndarray:
        """Return the standard deviation of the logarithm of repeats, (n, T); NaN where nothing was repeated."""
        return self.model.noise_std(genes)

    def _medians(self, genes: np.ndarray, sums: np.ndarray, trees: Sequence[np.ndarray]) -> np.ndarray:
        """Return medians from the sums of the trends (n, T) and what each booster says."""
        trend, widths = self.model.trend, self.features.widths(genes)
        logs = np.where(trend.log, sums, np.log(np.maximum(sums, trend.floor)))
        for part, left in zip(self.model.residuals, trees, strict=True):
            logs[:, part.targets] += (left if part.outputs is None else left[:, part.outputs]) * part.scale[widths]
        return np.asarray(np.exp(logs))

    def _sums(self, genes: np.ndarray) -> np.ndarray:
        """Return the sums of the trends, (n, T)."""
        k, coef, widths = self._n_linear, self.model.trend.coef, self.features.widths(genes)
        linear = np.concatenate([np.ones((len(genes), 1)), self.features.linear(genes)], axis=1)
        places = self.features.positions(genes) if len(self._placed) else None
        sums = np.empty((len(genes), len(self.targets)))
        for width in range(len(coef)):
            rows = np.flatnonzero(widths == width)
            found = linear[rows] @ coef[width, :k]
            if places is not None:
                found[:, self._placed] += places[rows] @ coef[width, k:][:, self._placed]
            sums[rows] = found
        return sums

    def _boosted(self, genes: np.ndarray) -> list[np.ndarray]:
        """Return what each booster says, (n, t) float32 each."""
        tables = {name: TABLES[name](self.features, genes) for name in self._tables}
        if _LAYERS not in tables and _POSITIONS in tables:
            tables[_LAYERS] = np.ascontiguousarray(tables[_POSITIONS][:, : len(self.features.tree_names)])
        return [part.booster.inplace_predict(tables[part.table]) for part in self.model.residuals]

    # --- few rows -----------------------------------------------------------------------------------------------------

    def _everything(self, genes: np.ndarray) -> np.ndarray:
        """Return the sums of the trends and the features of all trees, (n, T + F)."""
        return np.concatenate(
            [self._sums(genes), *(TABLES[name](self.features, genes) for name in self._tables)], axis=1
        )

    def _modulus(self) -> np.ndarray:
        """Return what the values of `_everything` are sums modulo, (T + F,)."""
        parts = [np.full(len(self.targets), np.inf)]
        for name in self._tables:
            names = packing_names(self.features) if name == _PACKING else ()
            plain = TABLES[name](self.features, np.zeros((1, len(self.features.sizes)), np.int64)).shape[1]
            parts.append(np.array([_SEGMENT if "in_segment" in column else np.inf for column in names or [""] * plain]))
        return np.concatenate(parts)

    def _joined(self) -> Forest:
        """Return all trees as one forest over the features of `_everything`."""
        origin = np.zeros((1, len(self.features.sizes)), np.int64)
        widths = [TABLES[name](self.features, origin).shape[1] for name in self._tables]
        starts = dict(zip(self._tables, np.cumsum([0, *widths]).tolist(), strict=False))
        starts.setdefault(_LAYERS, starts.get(_POSITIONS, 0))
        parts = self.model.residuals
        return Forest([_ensemble(part.booster).trees for part in parts], [starts[part.table] for part in parts])


def _ensemble(booster: xgb.Booster | TreeEnsemble) -> TreeEnsemble:
    return booster if isinstance(booster, TreeEnsemble) else TreeEnsemble(booster.save_raw("ubj"))
