"""What a search found: every evaluation, the front, the hypervolume over evaluations; saved as Parquet and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.pareto import Floats, Normalisation, nondominated, normalised_hypervolume
from supernet.architecture import Architecture
from supernet.artifacts import atomic_path, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

_OWN = {  # of the summary; the rest are details
    "algorithm", "seed", "objectives", "n_evaluations", "n_infeasible", "n_without_result", "n_front", "hypervolume",
    "normalisation", "seconds",
}  # fmt: skip
EVALUATIONS, FRONT, STATE, SUMMARY = "evaluations.parquet", "front.parquet", "state.json", "summary.json"


@dataclass(frozen=True)
class ObjectiveInfo:
    """What a result keeps of an objective."""

    name: str
    unit: str
    identity: str
    is_free: bool


@dataclass(frozen=True)
class SearchResult:
    """All evaluations of a search, in order.

    Attributes:
        evaluations: one row an architecture: `order`, `architecture` (id), a column for each objective (minimised;
            names that start with a minus are maximised metrics) and each further constrained metric, `violation`
            (0 where every budget is met); with fidelities also `cost`, what had been spent when it was done, in full
            evaluations.
        objectives: name, unit and source of the objectives, in order.
        algorithm: what chose the architectures.
        seed: of the search.
        seconds: wall time spent, resumed parts added up.
        run_dir: where it is saved; None for a search in memory.
        details: further facts for the summary, plain JSON types.
    """

    evaluations: pd.DataFrame
    objectives: tuple[ObjectiveInfo, ...]
    algorithm: str
    seed: int
    seconds: float = 0.0
    run_dir: Path | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the objectives."""
        return [o.name for o in self.objectives]

    @property
    def values(self) -> Floats:
        """Objective values (n, m) of all evaluations; NaN rows for networks that miss a budget."""
        values = self.evaluations[self.names].to_numpy(dtype=np.float64).copy()
        values[~(self.evaluations["violation"].to_numpy(dtype=np.float64) <= 0)] = np.nan
        return values

    @property
    def front(self) -> pd.DataFrame:
        """The non-dominated evaluations that meet every budget, one for equal values, by the last objective."""
        front = self.evaluations[nondominated(self.values, duplicates=False)]
        return front.sort_values(self.names[-1], kind="stable").reset_index(drop=True)

    @property
    def front_architectures(self) -> list[Architecture]:
        """The architectures of `front`, in its order."""
        return [Architecture.from_id(i) for i in self.front["architecture"]]

    @property
    def n_spent(self) -> int:
        """Evaluations that were paid for: as many as there are, or with fidelities the tokens of all in full ones."""
        spent = self.details.get("spent")
        return int(spent["evaluations"]) if spent else len(self.evaluations)

    @property
    def n_without_result(self) -> int:
        """Evaluations excluded because an objective gave NaN or infinity."""
        return int((~np.isfinite(self.evaluations[self.names].to_numpy(dtype=np.float64)).all(axis=1)).sum())

    @property
    def n_infeasible(self) -> int:
        """Evaluations that miss a budget."""
        return int((self.evaluations["violation"] > 0).sum())

    def normalisation(self) -> Normalisation | None:
        """Return the normalisation by this result's own front; None without a feasible result."""
        values = self.values
        return Normalisation.of(values) if np.isfinite(values).all(axis=1).any() else None

    def hypervolume(self, normalisation: Normalisation | None = None, *, n: int | None = None) -> float:
        """Return the hypervolume after `n` evaluations (all by default), 0 without a feasible result."""
        normalisation = normalisation or self.normalisation()
        return normalised_hypervolume(self.values[: self._rows(n)], normalisation) if normalisation else 0.0

    def _rows(self, n: int | None) -> int | None:
        if n is None or "spent" not in self.details:
            return n
        return int((self.evaluations["cost"].to_numpy() <= n * (1 + 1e-12)).sum())  # of tokens added up

    def hypervolume_curve(self, normalisation: Normalisation | None = None, *, points: int = 100) -> pd.DataFrame:
        """Return hypervolume after 1 .. n evaluations at up to `points` places, columns n_evaluations, hypervolume."""
        import pandas as pd

        normalisation, n = normalisation or self.normalisation(), self.n_spent
        places = np.unique(np.linspace(1, n, min(points, n)).astype(int)) if n else np.empty(0, dtype=int)
        curve = [self.hypervolume(normalisation, n=int(k)) for k in places]
        return pd.DataFrame({"n_evaluations": places, "hypervolume": curve})

    def summary(self) -> dict[str, Any]:
        """Return the numbers of the search in plain JSON types."""
        normalisation = self.normalisation()
        return {
            "algorithm": self.algorithm,
            "seed": self.seed,
            "objectives": [vars(o) for o in self.objectives],
            "n_evaluations": len(self.evaluations),
            "n_infeasible": self.n_infeasible,
            "n_without_result": self.n_without_result,
            "n_front": len(self.front),
            "hypervolume": self.hypervolume(normalisation),
            "normalisation": vars(normalisation) if normalisation else None,
            "seconds": round(self.seconds, 3),
            **self.details,
        }

    def save(self, folder: str | Path) -> Path:
        """Write evaluations.parquet, front.parquet and summary.json, each atomically; return the folder."""
        folder = Path(folder)
        write_parquet(folder / EVALUATIONS, self.evaluations)
        write_parquet(folder / FRONT, self.front)
        write_json(folder / SUMMARY, self.summary())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> SearchResult:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: the folder holds no finished search.
        """
        folder = Path(folder)
        if not (folder / SUMMARY).is_file():
            raise FileNotFoundError(f"{folder} holds no finished search ({SUMMARY} is missing)")
        summary = read_json(folder / SUMMARY)
        return cls(
            evaluations=read_parquet(folder / EVALUATIONS),
            objectives=tuple(ObjectiveInfo(**o) for o in summary["objectives"]),
            algorithm=summary["algorithm"],
            seed=summary["seed"],
            seconds=summary["seconds"],
            run_dir=folder,
            details={key: value for key, value in summary.items() if key not in _OWN},
        )


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame atomically."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a frame.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged; names it.
    """
    import pandas as pd
    import pyarrow as pa

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        return pd.read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}. Delete the run's folder or restore the file.") from error


def spread(values: Sequence[float] | Floats, n: int) -> list[int]:
    """Return the indices of `n` points spread evenly by value, both ends included, each once, in ascending value."""
    order = np.argsort(np.asarray(values, dtype=np.float64), kind="stable")
    if n >= len(order):
        return order.tolist()
    if n == 1:
        return [int(order[len(order) // 2])]
    ordered = np.asarray(values, dtype=np.float64)[order]
    targets = np.linspace(ordered[0], ordered[-1], n)
    chosen: list[int] = []
    for i, target in enumerate(targets):  # the nearest that leaves enough points for the rest
        low = chosen[-1] + 1 if chosen else 0
        high = len(ordered) - (n - i) + 1
        chosen.append(low + int(np.argmin(np.abs(ordered[low:high] - target))))
    chosen[-1] = len(ordered) - 1
    return order[chosen].tolist()
