"""What the costly objectives and budgets may be, after some evaluations: several functions at once. No torch.

Which of the told objectives are free is seen from the numbers: a column that equals a free objective on everything
told is that objective, exact everywhere. The others are learned (`quality_model`), and so is by how much budgets on
them are missed. The first opinion is the posterior mean, the others are draws.

Shapes: n networks, m objectives, f free values, D opinions, W widths, q columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from search.algorithms.free_laws import LinearLaw
from search.algorithms.free_problem import FreeProblem
from search.algorithms.gene_arrays import Genes
from search.algorithms.gene_basis import GeneBasis
from search.algorithms.quality_model import QualityModel, fit_excess_model, fit_quality_model
from search.pareto import Floats

_SAME = 1e-6  # largest relative difference of a number computed in two ways
_SAME_NOISY = 0.1  # median relative difference of measurements and what is expected of them
_FAR = 10.0  # the proxy's column stays within so many spreads
_LIMIT = "violation"  # name of the model of missed budgets
_MET = 1e-9  # share of a limit that rounding may miss it by


@dataclass(frozen=True)
class Told:
    """What is known, in the order it was told; all finite.

    Attributes:
        genes: (n, g), canonical.
        free: (n, f) free values.
        free_violation: (n,) by how much free budgets are missed.
        values: (n, m) objectives.
        violation: (n,) by how much all budgets are missed.
    """

    genes: Genes
    free: Floats
    free_violation: Floats
    values: Floats
    violation: Floats

    def __len__(self) -> int:
        return len(self.genes)

    def joined(self, other: Told) -> Told:
        """Return both, the other one last."""
        return Told(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; free values without a result are None."""
        tables = {f.name: _to_json(getattr(self, f.name)) for f in fields(self)[1:]}
        return {"genes": self.genes.tolist(), **tables}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Told:
        """Read what `to_dict` gives."""
        tables = [np.array(data[f.name], dtype=np.float64) for f in fields(cls)[1:]]  # None becomes NaN
        return cls(np.array(data["genes"], dtype=np.int64), *tables)


class Opinions:
    """Functions that agree with what was told, as far as is known.

    Args:
        told: at least two networks.
        free: their free values come from it; the first one is the proxy.
        basis: with one extra column, for the proxy.
        n: number of opinions.
        rng: draws them.
        scales: of the models fitted before, by name: the attribute of an earlier `Opinions`, or nothing.
        noise: whether told values of free objectives are measurements, which differ from what `free` says.

    Attributes:
        n: number of opinions; one where nothing is learned.
        scales: of the models, to start the next fit from.
        free_columns: for each objective the free value that it is, or None.
    """

    def __init__(
        self, told: Told, free: FreeProblem, basis: GeneBasis, *, n: int, rng: np.random.Generator,
        scales: Mapping[str, list[float]], noise: bool = False,
    ) -> None:  # fmt: skip
        self._free = free
        self._basis = basis
        self._centre, self._spread, self._log = _free_scale(told.free)
        self.free_columns = [_same_column(values, told.free, noise) for values in told.values.T]
        extra = self._extra(told.free)
        self._models = [
            None
            if column is not None
            else fit_quality_model(basis, told.genes, extra, told.values[:, j], scales=_start(scales, str(j)))
            for j, column in enumerate(self.free_columns)
        ]
        self._limit = self._excess_model(told, extra, _start(scales, _LIMIT))
        models = {str(j): model for j, model in enumerate(self._models)} | {_LIMIT: self._limit}
        self.scales = {name: model.scales.tolist() for name, model in models.items() if model}
        self.n = n if self.scales else 1
        self._functions = [_functions(model, self.n, rng) for model in self._models]
        self._limits = _functions(self._limit, self.n, rng)

    def __call__(self, genes: Genes) -> tuple[Floats, Floats]:
        """Return values (D, n, m) and violation (D, n) of canonical genes (n, g)."""
        if not len(genes):
            return np.empty((self.n, 0, len(self._models))), np.empty((self.n, 0))
        free, free_violation = self._free.evaluate(genes)
        rows, widths = self._basis(genes, self._extra(free)), genes[:, 0]
        values = np.empty((self.n, len(genes), len(self._models)))
        for j, (model, column) in enumerate(zip(self._models, self.free_columns, strict=True)):
            values[:, :, j] = model.predict(self._functions[j], rows, widths) if model else free[:, column]
        violation = np.repeat(free_violation[None], self.n, axis=0)
        if self._limit:
            violation += np.maximum(self._limit.predict(self._limits, rows, widths), 0)
        return values, violation

    def laws(self, free_laws: Sequence[LinearLaw]) -> Floats:
        """Return (D, m, W, s) coefficients of the steps of genes, for objectives on scales of spread about 1.

        Args:
            free_laws: of the free values, as functions of genes.
        """
        free = np.array([law.sign * law.steps for law in free_laws]) / self._spread[:, None, None]  # (f, W, s)
        out = np.empty((self.n, len(self._models), *free.shape[1:]))
        for j, (model, column) in enumerate(zip(self._models, self.free_columns, strict=True)):
            if model:
                _, proxy, steps = np.split(self._functions[j], [1, 2], axis=2)  # of the columns of the basis
                out[:, j] = steps + proxy * free_laws[0].sign * free[0]  # the column is of the magnitude
            else:
                out[:, j] = free[column]
        return out

    def _extra(self, free: Floats) -> Floats:
        """Return the column of the proxy (n, 1): its magnitude, on a log scale where it can be."""
        proxy = np.log(np.maximum(np.abs(free[:, :1]), np.finfo(float).tiny)) if self._log else free[:, :1]
        return np.clip(np.nan_to_num((proxy - self._centre) / self._spread[0]), -_FAR, _FAR)

    def _excess_model(self, told: Told, extra: Floats, scales: Floats | None) -> QualityModel | None:
        """Return a model of how far budgets on what is not free are missed; None where none was missed."""
        excess = told.violation - told.free_violation
        excess = np.where(excess > _MET, excess, 0.0)
        return fit_excess_model(self._basis, told.genes, extra, excess, scales=scales) if excess.any() else None


def _to_json(table: Floats) -> Any:
    return np.where(np.isfinite(table), table.astype(object), None).tolist()  # type: ignore[call-overload]


def _start(scales: Mapping[str, list[float]], name: str) -> Floats | None:
    return np.array(scales[name]) if name in scales else None


def _functions(model: QualityModel | None, n: int, rng: np.random.Generator) -> Floats:
    """Return coefficients (n, W, q): the mean, then draws."""
    if model is None:
        return np.empty((n, 0, 0))
    return np.concatenate([model.mean(), model.draw(n - 1, rng)])


def _same_column(values: Floats, free: Floats, noise: bool) -> int | None:
    """Return which free column holds these values (n,), None where none does; the proxy only if no other one does."""
    error = np.abs(values[:, None] - free) / np.maximum(np.abs(free), np.finfo(float).tiny)
    worst, allowed = (np.median(error, axis=0), _SAME_NOISY) if noise else (error.max(axis=0), _SAME)
    hits = [column for column in (*range(1, free.shape[1]), 0) if worst[column] <= allowed]
    return min(hits, key=lambda column: (column == 0, worst[column])) if hits else None


def _free_scale(free: Floats) -> tuple[float, Floats, bool]:
    """Return the centre of the proxy, the spread of all free columns (f,), and whether the proxy has a log scale.

    Columns of one sign are on the scale of the logarithm of their magnitude.
    """
    spreads, centres, logs = [], [], []
    for column in free.T:
        finite = column[np.isfinite(column)]
        log = bool(len(finite) and ((finite > 0).all() or (finite < 0).all()))
        scaled = np.log(np.abs(finite)) if log else finite
        centres.append(float(scaled.mean()) if len(scaled) else 0.0)
        spreads.append((float(scaled.std()) if len(scaled) else 0.0) or 1.0)
        logs.append(log)
    return centres[0], np.array(spreads), logs[0]
