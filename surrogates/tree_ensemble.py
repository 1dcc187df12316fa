"""A saved XGBoost model that answers few rows without XGBoost: its import and its call cost more than the trees.

Importing xgboost takes over a second, and it answers one row in a few hundred microseconds. Here a few rows walk
through all trees at once in numpy; many rows go to XGBoost itself, imported then. Both take the same branches and add
the same float32 leaves in the same order, so the numbers are equal to the last bit. No torch.

Shapes: n rows, d features, t targets, T trees, N nodes of all trees.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from hw_profiles.device import usable_cores
from surrogates.ubjson import parse_ubjson

if TYPE_CHECKING:
    import xgboost as xgb

FEW_ROWS = 32
MANY_ROWS = 4096  # from here on XGBoost takes all cores; below, threads cost more than they give


@dataclass(frozen=True)
class Trees:
    """All trees in one array of nodes; a right child follows its left one, a leaf is its own left child.

    Attributes:
        roots: (T,) nodes.
        depth: of the deepest tree.
        feature: (N,) what a node splits on.
        threshold: (N,) float32; rows below it go left. Infinite at leaves.
        left: (N,) left child.
        leaf: (N,) row of `weights`, at leaves.
        weights: (leaves, t) float32.
        base: (t,) float32 that every prediction starts from.
    """

    roots: np.ndarray
    depth: int
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    leaf: np.ndarray
    weights: np.ndarray
    base: np.ndarray

    def leaves(self, X: np.ndarray) -> np.ndarray:
        """Return where rows X (n, d) float32 without NaN end, (T, n): rows of `weights`."""
        n, d = X.shape
        values, rows = X.ravel(), np.arange(0, n * d, d)
        node = np.repeat(self.roots[:, None], n, axis=1)  # (T, n)
        for _ in range(self.depth):
            split = values.take(self.feature.take(node) + rows)
            node = self.left.take(node) + (split >= self.threshold.take(node))
        return self.leaf.take(node)

    def total(self, leaves: np.ndarray) -> np.ndarray:
        """Return predictions (n, t) float32 from what `leaves` gave, (T, n)."""
        added = self.weights.take(leaves, axis=0)  # (T, n, t)
        added[0] += self.base
        if added[0].size == 1:  # numpy sums a single column in pairs, XGBoost one after the other
            return added.cumsum(axis=0)[-1]
        return np.asarray(added.sum(axis=0))

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return predictions (n, t) float32 of rows X (n, d) float32 without NaN."""
        return self.total(self.leaves(X))


class Forest:
    """Several ensembles whose trees are walked together: numpy's calls cost more than what they do for one row.

    Args:
        ensembles: at least one.
        columns: the first column of each in the rows that they share.
    """

    def __init__(self, ensembles: Sequence[Trees], columns: Sequence[int]) -> None:
        self.ensembles = tuple(ensembles)
        starts = np.cumsum([0, *(len(trees.left) for trees in ensembles)])
        self._trees = replace(
            ensembles[0],
            roots=np.concatenate([trees.roots + start for trees, start in zip(ensembles, starts, strict=False)]),
            depth=max(trees.depth for trees in ensembles),
            feature=np.concatenate([trees.feature + at for trees, at in zip(ensembles, columns, strict=True)]),
            threshold=np.concatenate([trees.threshold for trees in ensembles]),
            left=np.concatenate([trees.left + start for trees, start in zip(ensembles, starts, strict=False)]),
            leaf=np.concatenate([trees.leaf for trees in ensembles]),
        )
        self._ends = np.cumsum([len(trees.roots) for trees in ensembles])[:-1]

    def predict(self, X: np.ndarray) -> list[np.ndarray]:
        """Return the predictions (n, t) float32 of each ensemble for rows X (n, d) float32 without NaN."""
        leaves = np.split(self._trees.leaves(X), self._ends)
        return [trees.total(part) for trees, part in zip(self.ensembles, leaves, strict=True)]


class TreeEnsemble:
    """Boosted trees as XGBoost saves them; takes the place of a fitted `xgboost.Booster` where it predicts.

    Args:
        raw: what `Booster.save_raw("ubj")` gives: regression trees without categories.

    Raises:
        ValueError: another kind of model, or damaged bytes.
    """

    def __init__(self, raw: bytes | bytearray) -> None:
        self.raw = bytes(raw)
        self.trees = _read_trees(self.raw)
        self._boosters: dict[int, xgb.Booster] = {}
        self._lock = Lock()

    def inplace_predict(self, X: np.ndarray) -> np.ndarray:
        """Return predictions (n, t) float32 of rows X (n, d) float32 without NaN."""
        if len(X) <= FEW_ROWS:
            return self.trees.predict(np.ascontiguousarray(X, np.float32))
        booster = self.booster(threads() if len(X) >= MANY_ROWS else 1)
        return np.asarray(booster.inplace_predict(X)).reshape(len(X), -1)

    def save_raw(self, raw_format: str = "ubj") -> bytes:
        """Return the bytes it was read from.

        Raises:
            ValueError: another format than "ubj".
        """
        if raw_format != "ubj":
            raise ValueError(f"raw_format = {raw_format!r}; allowed: 'ubj'")
        return self.raw

    def booster(self, n_threads: int) -> xgb.Booster:
        """Return the model in XGBoost, which is imported when it is first asked for."""
        with self._lock:
            if n_threads not in self._boosters:
                import xgboost as xgb

                self._boosters[n_threads] = xgb.Booster(model_file=bytearray(self.raw))
                self._boosters[n_threads].set_param({"nthread": n_threads})
            return self._boosters[n_threads]


@cache
def threads() -> int:
    """Return how many threads large batches take: the cores of this process, or fewer if OMP_NUM_THREADS says so."""
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(usable_cores(), int(limit)) if limit.isdigit() and int(limit) else usable_cores()


# --- reading --------------------------------------------------------------------------------------------------------


def _read_trees(raw: bytes) -> Trees:
    learner = parse_ubjson(raw)["learner"]
    model, base = learner["gradient_booster"]["model"], learner["learner_model_param"]["base_score"]
    t = int(learner["learner_model_param"]["num_target"])
    if learner["gradient_booster"]["name"] != "gbtree" or not learner["objective"]["name"].startswith("reg:"):
        raise ValueError(
            f"a {learner['gradient_booster']['name']} of {learner['objective']['name']}: only regression trees are read"
        )
    if t > 1 and np.any(np.asarray(model["tree_info"])):
        raise ValueError("one tree a target: only trees of all targets (multi_output_tree) are read")
    parts = [_tree(tree, t) for tree in model["trees"]]
    sizes, leaves = (np.cumsum([0, *(len(part[key]) for part in parts)]) for key in ("left", "weights"))
    joined = {key: np.concatenate([part[key] for part in parts]) for key in ("feature", "threshold", "weights")}
    return Trees(
        roots=sizes[:-1], depth=max(part["depth"] for part in parts),
        left=np.concatenate([part["left"] + start for part, start in zip(parts, sizes, strict=False)]),
        leaf=np.concatenate([part["leaf"] + start for part, start in zip(parts, leaves, strict=False)]),
        base=np.broadcast_to(np.array([float(x) for x in base.strip("[]").split(",")], np.float32), t), **joined,
    )  # fmt: skip


def _tree(tree: Mapping[str, Any], t: int) -> dict[str, Any]:
    """Return one tree with its nodes in breadth-first order, so that a right child follows its left one."""
    left, right = tree["left_children"].tolist(), tree["right_children"].tolist()
    order, places, depth = [0], [0], [0]
    for i, node in enumerate(order):  # grows meanwhile
        if left[node] >= 0:
            places[i] = len(order)
            order += [left[node], right[node]]
            places += [len(order) - 2, len(order) - 1]
            depth += [depth[i] + 1] * 2
    is_leaf = np.array([left[node] < 0 for node in order])
    conditions = tree["split_conditions"].astype(np.float32)[order]
    if len(tree["categories"]):
        raise ValueError("splits by category are not read")
    return {
        "left": np.array(places), "depth": max(depth), "feature": np.where(is_leaf, 0, tree["split_indices"][order]),
        "threshold": np.where(is_leaf, np.float32(np.inf), conditions),
        **_leaves(tree, order, is_leaf, conditions, t),
    }  # fmt: skip


def _leaves(
    tree: Mapping[str, Any], order: list[int], is_leaf: np.ndarray, conditions: np.ndarray, t: int
) -> dict[str, np.ndarray]:
    """Return which leaf each node is, and what leaves add: vectors in an array of their own, or single thresholds."""
    if t == 1:
        return {"leaf": np.cumsum(is_leaf) - 1, "weights": conditions[is_leaf, None]}
    if "leaf_weights" not in tree:
        raise ValueError("the trees were saved by a version of XGBoost before 3.2: save them again")
    which = np.where(is_leaf, tree["right_children"][order], 0)  # XGBoost keeps a leaf's index there
    return {"leaf": which, "weights": tree["leaf_weights"].astype(np.float32).reshape(-1, t)}
