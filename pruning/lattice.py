"""Lattice: the levels of a network that are worth having, because no larger level is as fast on the device. No torch.

Latency is not monotone in width: matrix kernels like multiples of 8, 32 or 64, so that a wider MLP can be faster than
a narrower one. A search that only sees the fast widths has fewer points and never pays for less. `Lattice.coarse`
chooses by arithmetic alone, for budgets that nothing has to be measured for; `pruning.lattice_search` measures.

Shapes: C n_embd, H heads, G query groups, Q heads of a group (H = G*Q), F intermediate_size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supernet.artifacts import read_json, write_json
from supernet.litgpt_config import ModelConfig

MOST_ATTENTION_LEVELS = 12
_MULTIPLES = (8, 16, 32, 64, 128)  # widths that kernels may like
_POWERS = tuple(2**i for i in range(12, -1, -1))


@dataclass(frozen=True)
class Lattice:
    """Levels that are worth having on a device, ascending, the unpruned one last.

    Attributes:
        neurons: widths of an MLP, at least 1; "absent" (0) is always possible besides and not listed.
        attention: (query heads, KV groups), likewise; "absent" is (0, 0).
        embd: residual widths for uniform networks; only n_embd itself where it is not pruned.

    Raises:
        ValueError: an empty or unsorted list, a level below 1, or heads that the groups do not divide.

    Example:
        >>> lattice = Lattice(neurons=(8, 16), attention=((2, 1), (4, 2)), embd=(32,))
        >>> lattice.neurons[-1], lattice.attention[-1]
        (16, (4, 2))
    """

    neurons: tuple[int, ...]
    attention: tuple[tuple[int, int], ...]
    embd: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("neurons", "embd"):
            object.__setattr__(self, name, tuple(int(value) for value in getattr(self, name)))
        object.__setattr__(self, "attention", tuple((int(h), int(g)) for h, g in self.attention))
        for name in ("neurons", "attention", "embd"):
            levels = getattr(self, name)
            if not levels or list(levels) != sorted(set(levels)) or np.min(levels[0]) < 1:
                raise ValueError(f"lattice {name} = {levels}: give distinct levels of at least 1, ascending")
        heads, groups = self.attention[-1]
        for h, g in self.attention:
            if h % g or g > groups or h // g > heads // groups:
                raise ValueError(
                    f"attention level {(h, g)}: give (query heads, groups) that {(heads, groups)} contains, "
                    "with as many heads in each group"
                )

    @classmethod
    def coarse(cls, config: ModelConfig, *, n_widths: int = 12) -> Lattice:
        """Return about `n_widths` round widths, and attention levels and residual widths, without measuring."""
        return cls(
            neurons=tuple(grid(config.intermediate_size, n_widths)),
            attention=tuple(attention_candidates(config)),
            embd=tuple(embd_candidates(config)),
        )

    def check(self, config: ModelConfig) -> None:
        """Raise ValueError unless the last levels are those of the whole network of `config`."""
        mine = (self.neurons[-1], self.attention[-1], self.embd[-1])
        whole = (config.intermediate_size, (config.n_head, config.n_query_groups), config.n_embd)
        if mine != whole:
            raise ValueError(
                f"this lattice is of another network: its whole levels are {mine} (neurons, (heads, groups), n_embd), "
                f"the network has {whole}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {name: [list(v) if isinstance(v, tuple) else v for v in values] for name, values in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lattice:
        """Read what `to_dict` gives; raises ValueError when a field is missing or makes no sense."""
        try:
            return cls(**{name: tuple(map(_level, data[name])) for name in ("neurons", "attention", "embd")})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a lattice ({error!r}): give neurons, attention and embd") from error

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, atomically."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Lattice:
        """Read what `save` wrote; raises FileNotFoundError, or ValueError for a damaged file."""
        return cls.from_dict(read_json(path))


def _level(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


# --- candidates -----------------------------------------------------------------------------------------------------


def grid(whole: int, n: int) -> list[int]:
    """Return about `n` widths up to `whole`, evenly spread, multiples of the largest power of two up to their spacing.

    Example:
        >>> grid(1536, 12)
        [128, 256, 384, 512, 640, 768, 896, 1024, 1152, 1280, 1408, 1536]
        >>> grid(24, 4)
        [8, 12, 16, 24]
    """
    step = whole / n
    multiple = next(power for power in _POWERS if power <= max(step, 1))
    multiple = min(multiple, _MULTIPLES[-1])
    return sorted({max(1, multiple * round(step * k / multiple)) for k in range(1, n)} | {whole})


def neuron_candidates(whole: int, *, n_widths: int = 12) -> list[int]:
    """Return widths to measure: at each of `n_widths` grid positions the next multiples of 8, 16, 32, 64 and 128.

    Half way between two positions, and at the quarters where they are near, one more.
    """
    step = whole / n_widths
    if step < _MULTIPLES[0]:
        return grid(whole, n_widths)
    shares = (0.5,) if step >= 2 * _MULTIPLES[-1] else (0.25, 0.5, 0.75)
    round_to = max(multiple for multiple in (1, 2, 4, *_MULTIPLES) if multiple <= step * shares[0])
    found = {whole}
    for k in range(1, n_widths + 1):
        found.update(m * math.floor(step * k / m) for m in _MULTIPLES if m <= step)
        found.update(round_to * math.floor(step * (k - share) / round_to) for share in shares)
    return sorted(width for width in found if width >= 1)


def attention_candidates(config: ModelConfig) -> list[tuple[int, int]]:
    """Return all (heads, groups) where there are few, else a spread of at most MOST_ATTENTION_LEVELS."""
    G, Q = config.n_query_groups, config.n_head // config.n_query_groups
    if G * Q <= MOST_ATTENTION_LEVELS:
        return sorted((q * g, g) for g in range(1, G + 1) for q in range(1, Q + 1))
    n_heads = min(Q, max(3, MOST_ATTENTION_LEVELS // G))
    n_groups = min(G, MOST_ATTENTION_LEVELS // n_heads)
    return sorted((q * g, g) for g in _spread(G, n_groups) for q in _spread(Q, n_heads))


def embd_candidates(config: ModelConfig) -> list[int]:
    """Return a handful of residual widths from half of n_embd on: multiples of a power of two, and n_embd itself."""
    whole = config.n_embd
    multiple = next((power for power in _POWERS if whole / 2 >= 4 * power), 1)
    first = math.ceil(whole / 2 / multiple) * multiple
    return sorted({*range(max(first, 1), whole + 1, multiple), whole})


def _spread(whole: int, n: int) -> list[int]:
    """Return n of 1..whole, evenly spread, the last one `whole`."""
    return sorted({math.ceil(whole * k / n) for k in range(1, n + 1)})


# --- which of them stay ---------------------------------------------------------------------------------------------


def lower_envelope(levels: Sequence[tuple[int, ...]], costs: Sequence[float], *, noise: float = 0.0) -> list[int]:
    """Return the indices of levels that no larger level is as fast as.

    Args:
        levels: a level is larger than another when no entry is smaller and one is larger.
        costs: of each level, in any unit.
        noise: relative; a larger level is as fast when its cost is at most (1 + noise) times the smaller one's.

    Example:
        >>> lower_envelope([(64,), (96,), (128,)], [1.0, 1.5, 1.2])
        [0, 2]
    """
    table, cost = np.asarray(levels), np.asarray(costs, float)
    larger = (table[None] >= table[:, None]).all(-1) & (table[None] != table[:, None]).any(-1)  # [i, j]: j above i
    as_fast = cost[None] <= cost[:, None] * (1 + noise)
    return np.flatnonzero(~(larger & as_fast).any(1)).tolist()


def fastest_for_their_size(widths: Sequence[int], costs: Sequence[float], *, n_widths: int) -> list[int]:
    """Return the indices of at most one width in each of `n_widths` equal stretches: the cheapest against the trend.

    The trend is the straight line of cost by width through all of them. The largest width always stays.
    """
    width, cost = np.asarray(widths, float), np.asarray(costs, float)
    if len(width) < 3:
        return list(range(len(width)))
    trend = np.polynomial.Polynomial.fit(width, cost, 1)(width)
    relative = cost / np.maximum(trend, cost.min())
    stretch = np.ceil(width / width.max() * n_widths - 1e-9).astype(int)
    best = {int(s): min(np.flatnonzero(stretch == s), key=lambda i: (relative[i], -width[i])) for s in stretch}
    best[int(stretch[-1])] = np.intp(len(width) - 1)
    return sorted({int(i) for i in best.values()})
