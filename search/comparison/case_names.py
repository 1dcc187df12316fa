"""Names of cases: which belong to the main comparison, and how they are called in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

NOISY = " noisy"
_USUAL = ("perplexity", "latency_ms")


class CaseName(NamedTuple):
    """The parts of a case's name, e.g. "gpt-m perplexity latency_ms@a100 | memory_mib@a100<=3000 noisy"."""

    space: str
    objectives: tuple[str, ...]
    budget: str
    is_noisy: bool

    @classmethod
    def of(cls, case: str) -> CaseName:
        """Return the parts of a name.

        Example:
            >>> CaseName.of("gpt-s perplexity latency_ms@a100 noisy")
            CaseName(space='gpt-s', objectives=('perplexity', 'latency_ms@a100'), budget='', is_noisy=True)
        """
        head, _, budget = case.removesuffix(NOISY).partition(" | ")
        space, *objectives = head.split()
        return cls(space, tuple(objectives), budget, case.endswith(NOISY))

    @property
    def is_main(self) -> bool:
        """Whether it is one of the main comparison: two objectives, no budget, no noise."""
        return len(self.objectives) == 2 and not self.budget and not self.is_noisy

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices of the objectives, each once."""
        return tuple(dict.fromkeys(o.partition("@")[2] for o in self.objectives if "@" in o))

    @property
    def label(self) -> str:
        """A short name: the space, the device, and what is not usual.

        Example:
            >>> CaseName.of("gpt-s perplexity latency_ms@a100").label
            'gpt-s a100'
            >>> CaseName.of("gpt-m perplexity latency_ms@a100 | memory_mib@a100<=3000").label
            'gpt-m a100, memory_mib ≤ 3000'
        """
        words = [" ".join((self.space, *self.devices))]
        metrics = tuple(o.partition("@")[0] for o in self.objectives)
        if len(metrics) > 2:
            words.append(f"{len(metrics)} objectives")
        elif metrics != _USUAL[: len(metrics)]:
            words.append(" x ".join(metrics))
        for limit in filter(None, self.budget.split(", ")):
            metric, _, value = limit.partition("<=")
            words.append(f"{metric.partition('@')[0]} ≤ {value}" if value else limit)
        return ", ".join(words + ["noisy"] * self.is_noisy)


def case_labels(cases: Iterable[str]) -> dict[str, str]:
    """Return the short name of each case; the whole one where two would be called the same."""
    labels = {case: CaseName.of(case).label for case in cases}
    names = list(labels.values())
    return {case: label if names.count(label) == 1 else case for case, label in labels.items()}
