"""Linear laws of free values in the steps of genes, by width: what a change of a block costs, about. No torch.

Times, energies and sizes are nearly sums over blocks, so a few thousand free evaluations give their law. The laws only
propose networks (`weighted_best.py`) and smooth noisy values (`smoothing.py`); what a search compares is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from search.algorithms.free_problem import FreeProblem
from search.algorithms.gene_arrays import GeneArrays, Genes
from search.algorithms.gene_basis import GeneBasis
from search.pareto import Floats
from supernet.space import SearchSpace

_NETWORKS = 2_000
_PENALTY = 1.0  # of the ridge, in squared coefficients of values of spread 1
_TILT = 1.5  # how differently large the drawn networks are: 0 draws genes uniformly


@dataclass(frozen=True)
class LinearLaw:
    """A value of a network on the scale of its logarithm, or its own where signs differ.

    Attributes:
        basis: columns without extra ones.
        coefficients: (W, q) of the scaled value.
        sign: -1 for values that are all negative: the law is of their magnitude.
        log: whether the law is of the logarithm.
        spread: standard deviation of the scaled values it was fitted to.
    """

    basis: GeneBasis = field(repr=False)
    coefficients: Floats = field(repr=False)
    sign: float
    log: bool
    spread: float

    @property
    def steps(self) -> Floats:
        """Coefficients (W, s) of the steps of genes, all columns but the constant."""
        return self.coefficients[:, 1:]

    def scaled(self, values: Floats) -> Floats:
        """Return values (n,) on the scale of the law; values of the other sign become NaN."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.log(self.sign * values) if self.log else self.sign * values)

    def values(self, scaled: Floats) -> Floats:
        """Return the values of scaled ones."""
        return np.asarray(self.sign * (np.exp(scaled) if self.log else scaled))

    def __call__(self, genes: Genes) -> Floats:
        """Return scaled values (n,) of canonical genes (n, g)."""
        rows = self.basis(genes, np.empty((len(genes), 0)))
        return np.asarray((rows * self.coefficients[genes[:, 0]]).sum(axis=1))


def free_laws(space: SearchSpace, free: FreeProblem) -> list[LinearLaw]:
    """Return the law of each free value; the networks it is fitted to are always the same ones."""
    genes = spread_genes(GeneArrays(space), _NETWORKS, np.random.default_rng(0))
    return [fit_law(GeneBasis(space), genes, column) for column in free.evaluate(genes)[0].T]


def fit_law(basis: GeneBasis, genes: Genes, values: Floats) -> LinearLaw:
    """Fit values (n,), of which those that are not finite are left out, of canonical genes (n, g)."""
    good = np.isfinite(values)
    genes, values = genes[good], values[good]
    sign = -1.0 if len(values) and (values < 0).all() else 1.0
    log = bool((sign * values > 0).all())
    target = np.log(sign * values) if log else sign * values
    unit = (float(target.std()) if len(target) else 0.0) or 1.0
    rows = basis(genes, np.empty((len(genes), 0)))
    shared = _ridge(rows, target / unit, np.zeros(basis.n_columns))
    table = [_ridge(rows[own], target[own] / unit, shared) for own in genes[:, 0] == np.arange(basis.n_widths)[:, None]]
    return LinearLaw(basis, unit * np.array(table), sign, log, unit)


def spread_genes(arrays: GeneArrays, n: int, rng: np.random.Generator) -> Genes:
    """Return canonical genes of up to n networks, small and large ones as often as middling ones, each once."""
    genes = arrays.random(n, rng)
    blocks = np.zeros(genes.shape, dtype=bool)
    blocks[:, -2 * (arrays.space.max_layer if arrays.space.per_layer else 1) :] = True
    tilt = np.exp(_TILT * rng.standard_normal((n, 1)))  # of a network: a large one has small choices
    tilted = np.minimum((arrays.sizes * rng.random(genes.shape) ** tilt).astype(np.int64), arrays.sizes - 1)
    return np.unique(arrays.canonical(np.where(blocks, tilted, genes)), axis=0)


def _ridge(rows: Floats, values: Floats, centre: Floats) -> Floats:
    """Return coefficients (q,) drawn towards `centre`."""
    square = rows.T @ rows + _PENALTY * np.eye(rows.shape[1])
    return np.asarray(centre + np.linalg.solve(square, rows.T @ (values - rows @ centre)))
