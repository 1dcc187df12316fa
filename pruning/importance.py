"""How important every neuron, head, KV group and residual channel is, by a criterion chosen by name.

Shapes: L layers, F intermediate_size, G query groups, Q heads of a group, C n_embd. A higher score is more important.
A KV group is its key and value rows and all its query heads; with multi-head attention (Q = 1) a group is a head.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.criteria import activations, obs, taylor, weights
from pruning.criteria.evidence import Evidence
from pruning.gradients import Gradients
from pruning.moments import Moments, check_moments
from pruning.scores import Importance
from pruning.structure import check_uniform
from supernet.model import Supernet


@dataclass(frozen=True, slots=True)
class Criterion:
    """A way to score what may be pruned.

    Attributes:
        score: evidence -> scores.
        needs: the evidence it cannot do without: "moments", "gradients" or nothing.
        source: where it is from.
    """

    score: Callable[[Evidence], Importance]
    needs: tuple[str, ...]
    source: str


CRITERIA: Mapping[str, Criterion] = {
    "random": Criterion(weights.random, (), "baseline"),
    "magnitude": Criterion(weights.magnitude, (), "Han et al. 2015, over coupled structures"),
    "minitron": Criterion(activations.minitron, ("moments",), "Muralidharan et al. 2024, arXiv 2407.14679"),
    "wanda": Criterion(activations.wanda, ("moments",), "Wanda-sp: Sun et al. 2023 as structured by An et al. 2023"),
    "flap": Criterion(activations.flap, ("moments",), "An et al. 2023, arXiv 2312.11983"),
    "taylor-first": Criterion(taylor.first_order, ("gradients",), "Ma et al. 2023, LLM-Pruner, arXiv 2305.11627"),
    "taylor-vector": Criterion(taylor.vector_wise, ("gradients",), "Ma et al. 2023, LLM-Pruner, arXiv 2305.11627"),
    "taylor-second": Criterion(taylor.second_order, ("gradients",), "Ma et al. 2023, LLM-Pruner, arXiv 2305.11627"),
    "taylor-mixed": Criterion(taylor.mixed, ("gradients",), "Ma et al. 2023, LLM-Pruner, arXiv 2305.11627"),
    "obs": Criterion(obs.one_shot, ("moments",), "Hassibi and Stork 1992; Kurtic et al. 2023, ZipLM, arXiv 2302.04089"),
    "obs-greedy": Criterion(obs.greedy, ("moments",), "Kurtic et al. 2023, ZipLM, arXiv 2302.04089"),
}


def importance(
    criterion: str,
    supernet: Supernet,
    *,
    moments: Moments | None = None,
    gradients: Gradients | None = None,
    seed: int = 0,
) -> Importance:
    """Score all neurons, heads, groups and channels of a network.

    Args:
        criterion: a name in `CRITERIA`.
        supernet: the network.
        moments: of calibration text, for the criteria that need them (`collection.collect_moments`).
        gradients: of calibration text, for the Taylor criteria (`gradients.collect_gradients`).
        seed: of the random criterion.

    Raises:
        KeyError: an unknown criterion; the message lists them and near matches.
        ValueError: evidence it needs is missing or of another network, or a score is not finite.
    """
    if criterion not in CRITERIA:
        near = difflib.get_close_matches(criterion, CRITERIA, n=3, cutoff=0.4)
        raise KeyError(f"no criterion {criterion!r}; near matches: {near or 'none'}; all: {', '.join(CRITERIA)}")
    chosen, given = CRITERIA[criterion], {"moments": moments, "gradients": gradients}
    for name in chosen.needs:
        if given[name] is None:
            raise ValueError(f"the criterion {criterion!r} needs {name} of calibration text: give {name}=")
    sizes = check_uniform(supernet)
    if moments is not None and "moments" in chosen.needs:
        check_moments(moments, sizes)
    scores = chosen.score(Evidence(supernet, sizes, moments, gradients, seed))
    for name in ("neurons", "heads", "groups", "channels"):
        value: Tensor | None = getattr(scores, name)
        if value is not None and not torch.isfinite(value).all():
            raise ValueError(
                f"the {criterion} scores of {name} are not finite: weights, moments or gradients hold NaN or infinity"
            )
    return scores
