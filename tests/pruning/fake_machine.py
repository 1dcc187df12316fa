"""A machine whose latencies are known: stands in for pruning.shape_latency.measure_ratios."""

from contextlib import contextmanager

import numpy as np

from pruning import shape_latency
from pruning.latency_check import LatencyRatio


class FakeMachine:
    """Times networks by a function of (architecture, vocabulary, blocks it has), with relative noise.

    Attributes:
        cost: (arch, vocabulary, n_blocks) -> ms.
        noise: standard deviation of a ratio's logarithm.
        measured: how many networks were timed.
        stop_after: raises KeyboardInterrupt after so many, like a kill.
    """

    def __init__(self, cost, *, noise=0.0, seed=0, stop_after=None):
        self.cost, self.noise, self.stop_after = cost, noise, stop_after
        self.rng = np.random.default_rng(seed)
        self.measured = 0

    def measure(self, networks, dense, workload, *, on_result, **_):
        reference = self._ms(dense())
        for i, build in enumerate(networks):
            if self.measured == self.stop_after:
                raise KeyboardInterrupt
            ms = self._ms(build())
            ratio = ms / reference * np.exp(self.noise * self.rng.normal())
            on_result(i, LatencyRatio(ratio, ratio * (1 - self.noise), ratio * (1 + self.noise), ms, reference, 9))
            self.measured += 1

    def _ms(self, gpt):
        return self.cost(gpt)

    @contextmanager
    def installed(self, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(shape_latency, "measure_ratios", self.measure)
            yield self


def block_sizes(gpt):
    """Return (heads, groups, neurons, n_embd) of each block of a litgpt network, 0 where a part is absent."""
    sizes = []
    for block in gpt.transformer.h:
        attention = getattr(block.attn, "qkv", None) is not None
        mlp = getattr(block.mlp, "proj", None) is not None
        config = block.attn.config if attention else None
        sizes.append((
            config.n_head if attention else 0, config.n_query_groups if attention else 0,
            block.mlp.proj.in_features if mlp else 0, gpt.lm_head.in_features,
        ))  # fmt: skip
    return sizes
