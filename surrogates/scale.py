"""How large errors are for a network: a positive number for every row, from its width and a few features. No torch.

Sizes (absolute residuals, standard deviations of repeats) are modelled as exp(a[width] + b * features), by gamma
quasi-likelihood with a logarithmic link (McCullagh and Nelder 1989, chapter 8). That estimates their mean, and unlike a
regression on logarithms it takes zeros, which coarsely printed measurements have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

KINDS = ("constant", "width", "log_linear")  # from simple to rich
_LEAST = 1e-12  # of a scale: residuals of an exact model are 0
_PRIOR_ROWS = 10.0  # how many rows of the usual size a width is credited with
_TRIM = 0.995  # larger sizes of a width count as this quantile of it: single broken measurements


@dataclass(frozen=True)
class ScaleModel:
    """A fitted scale of t targets.

    Attributes:
        widths: (w,) known network widths, ascending.
        intercepts: (t, w + 1) logarithm of the scale in each width; the last one is for any other width.
        slopes: (t, k) how the logarithm changes from the lowest to the highest known value of each feature.
        low: (k,) lowest known value of the features.
        high: (k,) highest known value; features outside are taken as the nearer end.
    """

    widths: np.ndarray
    intercepts: np.ndarray
    slopes: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fit(
        cls, sizes: np.ndarray, widths: np.ndarray, features: np.ndarray | None = None, *,
        kinds: Sequence[str] | str = "log_linear",
    ) -> ScaleModel:  # fmt: skip
        """Fit the mean of sizes.

        Args:
            sizes: (n, t), not negative; NaN where there is none.
            widths: (n,) network widths.
            features: (n, k) what else sizes may depend on; None for nothing.
            kinds: "constant" (one scale for all rows), "width" (one for each), "log_linear" (widths and features); one
                for all targets or one for each.

        Raises:
            ValueError: shapes that do not match, negative sizes, a target without any, or an unknown kind.
        """
        sizes, widths = np.asarray(sizes, float), np.asarray(widths)
        F = np.empty((len(widths), 0)) if features is None else np.asarray(features, float)
        if sizes.ndim != 2 or widths.shape != (len(sizes),) or F.ndim != 2 or len(F) != len(sizes):
            raise ValueError(
                f"sizes have shape {sizes.shape}, widths {widths.shape}, features {F.shape}: give (n, t), (n,), (n, k)"
            )
        if (sizes < 0).any() or np.isinf(sizes).any() or np.isnan(sizes).all(axis=0).any():
            raise ValueError("sizes of errors are finite and not negative, NaN where there is none; at least one each")
        chosen = [kinds] * sizes.shape[1] if isinstance(kinds, str) else list(kinds)
        if len(chosen) != sizes.shape[1] or any(kind not in KINDS for kind in chosen):
            raise ValueError(f"kinds {chosen}: give one of {', '.join(KINDS)} for each of {sizes.shape[1]} targets")
        known = np.unique(widths)
        low, high = (F.min(axis=0), F.max(axis=0)) if len(F) else (np.empty(0), np.empty(0))
        at = np.searchsorted(known, widths)
        U = _unit(F, low, high)
        fits = [_fit_one(s, at, len(known), U, kind) for s, kind in zip(sizes.T, chosen, strict=True)]
        return cls(known, np.array([a for a, _ in fits]), np.array([b for _, b in fits]), low, high)

    def predict(self, widths: np.ndarray, features: np.ndarray | None = None) -> np.ndarray:
        """Return the scale of rows of widths (n,) and features (n, k), (n, t), above 0."""
        widths = np.asarray(widths)
        at = np.minimum(np.searchsorted(self.widths, widths), len(self.widths) - 1)
        at = np.where(self.widths[at] == widths, at, len(self.widths))
        logarithm = self.intercepts[:, at].T
        if len(self.low):
            if features is None:
                raise ValueError(f"this scale was fitted with features: give them, (n, {len(self.low)})")
            logarithm = logarithm + _unit(np.asarray(features, float), self.low, self.high) @ self.slopes.T
        return np.exp(logarithm)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fields, for `FittedState` or a file."""
        return {
            "widths": self.widths, "intercepts": self.intercepts, "slopes": self.slopes,
            "low": self.low, "high": self.high,
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ScaleModel:
        """Read what `arrays` gave."""
        return cls(*(np.asarray(arrays[name]) for name in ("widths", "intercepts", "slopes", "low", "high")))


def _unit(F: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return features from -1/2 (lowest known) to 1/2 (highest known); constant ones are 0."""
    span = high - low
    return np.where(span > 0, (np.clip(F, low, high) - low) / np.where(span > 0, span, 1.0) - 0.5, 0.0)


def _fit_one(
    sizes: np.ndarray, at: np.ndarray, n_widths: int, U: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return intercepts (w + 1,) and slopes (k,) of one target; `at` (n,) is which width each row has."""
    rows = np.isfinite(sizes)
    sizes, at, U = _trimmed(sizes[rows], at[rows]), at[rows], U[rows]
    usual = max(float(sizes.mean()), _LEAST)
    intercepts, slopes = np.full(n_widths + 1, np.log(usual)), np.zeros(U.shape[1])
    if kind == "constant":
        return intercepts, slopes
    count = np.bincount(at, minlength=n_widths)
    mean = (np.bincount(at, sizes, n_widths) + _PRIOR_ROWS * usual) / (count + _PRIOR_ROWS)
    intercepts[:-1] = np.log(mean)
    if kind == "log_linear" and U.shape[1]:
        D = np.hstack([at[:, None] == np.arange(n_widths), U]).astype(float)
        start = np.concatenate([intercepts[:-1], slopes])
        found = _gamma_fit(D, np.maximum(sizes, 0.0), start)
        intercepts[:-1], slopes = found[:n_widths], found[n_widths:]
    return intercepts, slopes


def _trimmed(sizes: np.ndarray, at: np.ndarray) -> np.ndarray:
    trimmed = sizes.copy()
    for width in np.unique(at):
        inside = at == width
        trimmed[inside] = np.minimum(sizes[inside], np.quantile(sizes[inside], _TRIM))
    return trimmed


def _gamma_fit(D: np.ndarray, sizes: np.ndarray, start: np.ndarray, *, rounds: int = 50) -> np.ndarray:
    """Minimise sum(D b + sizes / exp(D b)) with a ridge towards `start`, by damped Fisher scoring; it is convex."""

    def loss(b: np.ndarray) -> float:
        eta = D @ b
        return float((eta + sizes * np.exp(-eta)).sum() + 0.5 * _PRIOR_ROWS * ((b - start) ** 2).sum())

    information = D.T @ D + _PRIOR_ROWS * np.eye(D.shape[1])
    b, best = start, loss(start)
    for _ in range(rounds):
        gradient = D.T @ (1 - sizes * np.exp(-(D @ b))) + _PRIOR_ROWS * (b - start)
        step, size = np.linalg.solve(information, gradient), 1.0
        while size > 1e-4 and not loss(b - size * step) < best:
            size /= 2
        if size <= 1e-4:
            break
        b, before = b - size * step, best
        best = loss(b)
        if before - best < 1e-9 * max(1.0, abs(before)):
            break
    return b
