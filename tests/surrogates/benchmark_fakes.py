"""A small benchmark without fitted models: closed-form medians, so that tests know every answer."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from supernet.space import SearchSpace
from surrogates.benchmark_card import BenchmarkCard, TargetCard
from surrogates.benchmark_files import BenchmarkFiles
from surrogates.benchmark_model import BenchmarkModel
from surrogates.campaign import TargetKey
from surrogates.reference_fronts import ReferenceFront, ReferenceFronts

TARGETS = (
    TargetKey("latency_ms", "a100"), TargetKey("latency_ms", "h100"), TargetKey("latency_ms", "cpu_xeon_gold"),
    TargetKey("energy_mj", "a100"), TargetKey("energy_mj", "h100"), TargetKey("memory_mib", "a100"),
    TargetKey("perplexity"), TargetKey("accuracy"),
)  # fmt: skip
NOISE = (0.02, 0.01, 0.3, 0.1, 0.1, np.nan, np.nan, np.nan)


def fake_space(name: str = "small") -> SearchSpace:
    return SearchSpace(
        name=name, n_embd=(32, 48, 64), n_layer=(2, 3, 4), n_head=(1, 2, 4), mlp_ratio=(1, 2, 4), bias=(True, False),
        config={"head_size": 16, "vocab_size": 128, "padded_vocab_size": 128, "block_size": 64},
    )  # fmt: skip


class FakeModel:
    """Medians that are sums over genes; counts the rows that it was asked for."""

    def __init__(self, space: SearchSpace, targets: Sequence[TargetKey] = TARGETS) -> None:
        self.space = space
        self.targets = tuple(targets)
        self.rows_asked = 0
        self.lock = threading.Lock()

    def predict(self, genes: np.ndarray) -> np.ndarray:
        assert genes.dtype == np.int64
        with self.lock:
            self.rows_asked += len(genes)
        size = 1 + genes[:, 0] + 0.1 * (genes[:, 3:] * np.arange(1, genes.shape[1] - 2)).sum(axis=1)
        return size[:, None] * np.arange(1.0, len(self.targets) + 1)

    def of_targets(self, targets: Sequence[TargetKey]) -> FakePart:
        return FakePart(self, [self.targets.index(target) for target in targets])

    def log_quantiles(self, genes: np.ndarray, levels: Sequence[float], *, drift: bool = False) -> np.ndarray:
        spread = (0.1 if drift else 0.01) * (1 + genes[:, :1, None])
        return np.asarray(spread * (np.asarray(levels) - 0.5)).repeat(len(self.targets), axis=1)

    def noise_std(self, genes: np.ndarray) -> np.ndarray:
        return np.tile(np.resize(NOISE, len(self.targets)), (len(genes), 1))


class FakePart(FakeModel):
    """Some targets of another one, which counts the rows."""

    def __init__(self, whole: FakeModel, columns: Sequence[int]) -> None:
        super().__init__(whole.space, [whole.targets[i] for i in columns])
        self.whole, self.columns = whole, list(columns)

    def predict(self, genes: np.ndarray) -> np.ndarray:
        return self.whole.predict(genes)[:, self.columns]


def fake_card(space: SearchSpace, targets: Sequence[TargetKey] = TARGETS) -> BenchmarkCard:
    scores = {"n": 100.0, "r2": 0.99, "kendall": 0.95, "mape": 1.0, "coverage90": 0.9, "kendall_within_width": 0.8}
    cards = [
        TargetCard(target, "prefill-b8-t64-bfloat16", "ten passes", 800, scores, winner="blend", noise=bool(std == std))
        for target, std in zip(targets, np.resize(NOISE, len(targets)), strict=True)
    ]
    return BenchmarkCard(space.name, "Fakes for tests.", cards, ("Nothing is odd.",))


def fake_files(space: SearchSpace | None = None, targets: Sequence[TargetKey] = TARGETS) -> BenchmarkFiles:
    space = space or fake_space()
    front = ReferenceFront(
        np.array([[1.0, 9.0], [2.0, 4.0]]), np.array([1.0, 4.0]), np.array([2.0, 9.0]), np.zeros((2, 11), np.int64)
    )
    fronts = ReferenceFronts(
        {("perplexity", "latency_ms@a100"): front},
        {"perplexity": (1.0, 3.0), "latency_ms@a100": (3.0, 9.0), "accuracy": (-0.4, -0.1)},
    )
    return BenchmarkFiles(space, BenchmarkModel(FakeModel(space, targets)), fake_card(space, targets), fronts, "fake")
