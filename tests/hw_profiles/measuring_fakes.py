"""Shared by the tests of hw_profiles: a tiny family of models, rows, and a fake clock."""

from datetime import UTC, datetime

from hw_profiles.device import Workload
from hw_profiles.table import METRICS, Measurement
from supernet.architecture import Architecture

CONFIG = {
    "n_layer": 2, "n_embd": 32, "n_head": 4, "n_query_groups": 4, "head_size": 8, "intermediate_size": 64,
    "block_size": 64, "vocab_size": 50, "padded_vocab_size": 64, "mlp_class_name": "LLaMAMLP",
    "norm_class_name": "RMSNorm", "bias": False, "rotary_percentage": 1.0, "parallel_residual": False,
}  # fmt: skip
WORKLOAD = Workload(1, 8)


def arch(n_embd=16, n_layer=1, n_head=2, intermediate_size=32):
    return Architecture.uniform(
        n_embd=n_embd, n_layer=n_layer, n_head=n_head, intermediate_size=intermediate_size, bias=False
    )


def archs(n):
    """Return n different architectures of CONFIG."""
    return [arch(n_embd=16, intermediate_size=8 + i) for i in range(n)]


def row(architecture="e16-l0-h2-f32-b0", metric="latency_ms", repeats=(1.0, 2.0, 6.0), **changes):
    values = {
        "space": "doc", "architecture": architecture, "metric": metric, "unit": METRICS[metric].unit,
        "device": "cpu-1t", "workload": WORKLOAD, "repeats": repeats, "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    return Measurement(**(values | changes))


class FakeClock:
    """Gives 0, then grows by `tick` seconds with every reading."""

    def __init__(self, tick):
        self.tick = tick
        self.now = -tick

    def __call__(self):
        self.now += self.tick
        return self.now
