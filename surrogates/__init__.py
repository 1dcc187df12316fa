"""Predicting hardware metrics and perplexity from an architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from surrogates.benchmark import Benchmark

__all__ = ["Benchmark"]


def __getattr__(name: str) -> object:
    """Import `Benchmark` when it is asked for, so that the other modules of the package do not pay for it."""
    if name == "Benchmark":
        from surrogates.benchmark import Benchmark

        return Benchmark
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
