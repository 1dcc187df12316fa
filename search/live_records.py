"""What networks score on validation text: sums over ranges of blocks, and the scores that they add up to. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class QualityRecord:
    """What one network scored on validation text; NaN where there is no number.

    Attributes:
        loss: cross-entropy in nats a token.
        perplexity: exp(loss).
        bits_per_byte: the loss in bits a byte of text.
        stderr: standard error of `loss` over blocks.
        n_tokens: tokens predicted.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    stderr: float
    n_tokens: int

    @classmethod
    def of(cls, evaluation: Any) -> QualityRecord:
        """Read a supernet.evaluate.Evaluation."""
        return cls(
            loss=_number(evaluation.loss),
            perplexity=_number(evaluation.perplexity),
            bits_per_byte=_number(evaluation.bits_per_byte),
            stderr=_number(evaluation.stderr),
            n_tokens=int(evaluation.n_tokens),
        )

    @classmethod
    def from_plain(cls, scores: Mapping[str, Any]) -> QualityRecord:
        """Read what `to_plain` gives."""
        numbers = {name: _number(scores[name]) for name in ("loss", "perplexity", "bits_per_byte", "stderr")}
        return cls(**numbers, n_tokens=int(scores["n_tokens"]))

    def to_plain(self) -> dict[str, float | None]:
        """Return plain JSON types, None for what is no number."""
        return {name: value if np.isfinite(value) else None for name, value in asdict(self).items()}

    @property
    def perplexity_stderr(self) -> float:
        """Standard error of the perplexity, to first order: perplexity times that of the loss."""
        return self.perplexity * self.stderr


@dataclass(frozen=True)
class RangeLoss:
    """The loss of one network on a range of blocks, as sums that can be added to those of other ranges.

    Attributes:
        start: first block.
        stop: the block after the last.
        n_tokens: tokens predicted.
        loss_sum: sum of their cross-entropies in nats; NaN or infinite where there is no number.
        squares: sum over blocks of the squared deviation of the block's mean loss from that of the range.
    """

    start: int
    stop: int
    n_tokens: int
    loss_sum: float
    squares: float

    @classmethod
    def of(cls, evaluation: Any, start: int) -> RangeLoss:
        """Read a supernet.evaluate.Evaluation of the blocks from `start` on."""
        n = int(evaluation.n_blocks)
        squares = evaluation.stderr**2 * n * (n - 1) if n > 1 else 0.0
        return cls(start, start + n, int(evaluation.n_tokens), evaluation.loss * evaluation.n_tokens, squares)

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> RangeLoss:
        """Read what `to_plain` gives."""
        start, stop, n_tokens, loss_sum, squares = plain
        return cls(int(start), int(stop), int(n_tokens), _number(loss_sum), _number(squares))

    def to_plain(self) -> list[float | None]:
        """Return [start, stop, n_tokens, loss_sum, squares] in plain JSON types, None for what is no number."""
        sums = [value if math.isfinite(value) else None for value in (self.loss_sum, self.squares)]
        return [self.start, self.stop, self.n_tokens, *sums]


def combined(parts: Sequence[RangeLoss], *, n_bytes: float | None = None) -> QualityRecord:
    """Return the scores on all ranges together, the same whatever their order.

    Args:
        parts: ranges that do not overlap, at least one.
        n_bytes: bytes of text behind their tokens; None for no bits per byte.
    """
    n_blocks, n_tokens = sum(p.stop - p.start for p in parts), sum(p.n_tokens for p in parts)
    loss = math.fsum(p.loss_sum for p in parts) / n_tokens
    between = [(p.stop - p.start) * (p.loss_sum / p.n_tokens - loss) ** 2 for p in parts]
    squares = math.fsum([*(p.squares for p in parts), *between])
    return QualityRecord(
        loss=loss,
        perplexity=math.exp(loss) if loss < 700 else loss * math.inf,
        bits_per_byte=loss * n_tokens / (math.log(2) * n_bytes) if n_bytes else math.nan,
        stderr=math.sqrt(squares / (n_blocks - 1) / n_blocks) if n_blocks > 1 else math.nan,
        n_tokens=n_tokens,
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
