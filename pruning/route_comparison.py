"""The supernet route and the one-shot route at equal measured latency and equal training tokens.

Every one-shot network is measured on the device; beside it stands the best sub-network of the supernet's front that
measures as fast. Predictions only choose which sub-networks are measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import litgpt
import numpy as np

from pruning.pruned import Pruned
from pruning.recovery_data import Blocks, held_out_texts
from pruning.supernet_route import Text, take
from search.pareto import Floats
from supernet.architecture import Architecture
from supernet.evaluate import evaluate
from supernet.model import Supernet


class Measured(Protocol):
    """What a measurement gives, e.g. `latency_check.LatencyRatio`."""

    ratio: float
    low: float
    high: float


Measure = Callable[[Sequence[litgpt.GPT]], Sequence[Measured]]  # networks -> latency over the dense network's


@dataclass(frozen=True, eq=False)
class Contender:
    """A one-shot network, recovered or not, and the tokens it was trained on."""

    pruned: Pruned
    tokens: int


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One network of the comparison.

    Attributes:
        name: of the one-shot network; its partner of the supernet route has the same.
        route: "one-shot" or "supernet".
        arch: the network.
        predicted: latency over the dense network's, as predicted.
        measured: the same, measured; the ends of its interval are `low` and `high`.
        low: lower end.
        high: upper end.
        perplexity: of each text, by name.
        tokens: of training data.
        within: whether the measured latency is at most the one-shot network's plus the tolerance; True for itself.
    """

    name: str
    route: str
    arch: Architecture
    predicted: float
    measured: float
    low: float
    high: float
    perplexity: dict[str, float]
    tokens: int
    within: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return values | {"arch": self.arch.id}


def compare_routes(
    supernet: Supernet,
    front: Sequence[Architecture],
    one_shot: Mapping[str, Contender],
    texts: Text | Mapping[str, Text],
    *,
    measure: Measure,
    predict: Callable[[Sequence[Architecture]], Floats],
    supernet_tokens: int,
    tolerance: float = 0.01,
    n_near: int = 4,
    batch_size: int = 8,
    precision: str = "32",
) -> list[RouteRow]:
    """Return two rows for each one-shot network: itself, and the supernet's best that measures as fast.

    Args:
        supernet: trained.
        front: what the search found, `SearchResult.front_architectures`.
        one_shot: networks of the one-shot route by name.
        texts: (m, T + 1) blocks to report on, one text or several by name; the first decides which sub-network is best.
        measure: `lambda networks: measure_ratios(networks, dense, workload)`; called twice in all.
        predict: latency of architectures over the dense network's, (n,).
        supernet_tokens: of training data; those of the one-shot networks must be equal.
        tolerance: how much slower than the one-shot network the partner may measure, in parts of the dense latency.
        n_near: sub-networks of the front that are measured for each one-shot network.
        batch_size: blocks of one forward.
        precision: "32" or "bf16".

    Raises:
        ValueError: nothing to compare, unusable text, or other numbers of training tokens (names them).
    """
    if not front or not one_shot:
        raise ValueError("nothing to compare: give a front and at least one network of the one-shot route")
    other = {name: contender.tokens for name, contender in one_shot.items() if contender.tokens != supernet_tokens}
    if other:
        raise ValueError(f"the supernet was trained on {supernet_tokens} tokens, but {other}: compare at equal tokens")
    scoring = _Scoring(held_out_texts(texts, supernet), batch_size, precision)
    names, contenders = list(one_shot), list(one_shot.values())
    ratios = list(measure([contender.pruned.gpt for contender in contenders]))
    predicted = np.asarray(predict(list(front)), dtype=np.float64)
    near = {name: _nearest(predicted, found.ratio, n_near) for name, found in zip(names, ratios, strict=True)}
    wanted = sorted({i for some in near.values() for i in some})
    found = measure([take(supernet, front[i]).gpt for i in wanted])
    measured = dict(zip(wanted, found, strict=True))
    scores = {i: scoring(supernet, front[i]) for i in wanted}
    own = np.asarray(predict([contender.pruned.arch for contender in contenders]), dtype=np.float64)
    rows = []
    for k, (name, contender, ratio) in enumerate(zip(names, contenders, ratios, strict=True)):
        perplexity = scoring(contender.pruned.gpt, None)
        rows.append(_row(name, "one-shot", contender.pruned.arch, own[k], ratio, perplexity, contender.tokens, True))
        limit = ratio.ratio + tolerance
        fits = [i for i in near[name] if measured[i].ratio <= limit]
        i = min(fits, key=lambda i: _first(scores[i])) if fits else min(near[name], key=lambda i: measured[i].ratio)
        rows.append(_row(name, "supernet", front[i], predicted[i], measured[i], scores[i], supernet_tokens, bool(fits)))
    return rows


@dataclass(frozen=True)
class _Scoring:
    texts: Mapping[str, Blocks]
    batch_size: int
    precision: str

    def __call__(self, model: litgpt.GPT, arch: Architecture | None) -> dict[str, float]:
        """Return the perplexity of each text."""
        return {
            name: evaluate(
                model, [arch], blocks.rows(range(len(blocks))), batch_size=self.batch_size, precision=self.precision
            )[0].perplexity
            for name, blocks in self.texts.items()
        }


def _nearest(predicted: Floats, ratio: float, n: int) -> list[int]:
    """Return the indices of the `n` predictions nearest to a measured ratio."""
    return [int(i) for i in np.argsort(np.abs(predicted - ratio), kind="stable")[:n]]


def _first(perplexity: Mapping[str, float]) -> float:
    return next(iter(perplexity.values()))


def _row(
    name: str, route: str, arch: Architecture, predicted: float, found: Measured, perplexity: dict[str, float],
    tokens: int, within: bool,
) -> RouteRow:  # fmt: skip
    return RouteRow(
        name, route, arch, float(predicted), found.ratio, found.low, found.high, perplexity, tokens, within
    )  # fmt: skip
