"""What a comparison is scored from: one record a run, one reference a case. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from surrogates.reference_fronts import ReferenceFront

ALL = "all"  # the panel of the whole space


@dataclass(frozen=True)
class RunRecord:
    """What one method found on one case with one seed.

    Attributes:
        case: name of the case, e.g. "gpt-s perplexity latency_ms@a100".
        method: name of the method.
        seed: of everything random in the run; runs of equal seed are paired.
        values: (n, m) noise-free, minimised, in the order evaluated; a row is NaN where there was no result or a
            budget was missed. Rows count against the budget of evaluations all the same.
        widths: (n,) n_embd of each.
        is_point: a training-free front: counts only as a whole, drawn as one point at n evaluations.
        seconds: the method's and the surrogate's own time.

    Raises:
        ValueError: values and widths of unequal length.
    """

    case: str
    method: str
    seed: int
    values: np.ndarray
    widths: np.ndarray
    is_point: bool
    seconds: float

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.widths.shape != (len(self.values),):
            raise ValueError(
                f"{self.case}, {self.method}, seed {self.seed}: values of shape {self.values.shape} and widths of "
                f"shape {self.widths.shape}; give (n, m) and (n,)"
            )


@dataclass(frozen=True)
class CaseReference:
    """The best known trade-offs of a case, which its runs are scored against.

    Attributes:
        case: name of the case.
        names: of the m objectives, e.g. ("perplexity", "latency_ms@a100").
        units: of the objectives.
        panels: "all", and one for each width: "n_embd=192", ...; its front has only networks of that width. A width
            that no network within the budgets has is left out.
    """

    case: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    panels: Mapping[str, ReferenceFront]


def width_panel(n_embd: int) -> str:
    """Return the name of the panel of one width.

    Example:
        >>> width_panel(192)
        'n_embd=192'
    """
    return f"n_embd={n_embd}"
