"""Measure networks against the dense model: each sample is paired with the dense model's right before and after it.

A machine's speed drifts by several percent within a minute, so that two latencies taken one after the other do not
compare. The median of paired ratios does: a drift is in both of a pair. Long forwards on a CPU take turns within the
pair, block by block (`pruning.lockstep`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any, NamedTuple, TypeAlias

import litgpt
import numpy as np
import torch
from scipy.stats import binom
from torch import nn
from tqdm import tqdm

from hw_profiles.device import Workload, current_device
from hw_profiles.meters import LatencyMeter, Step, workload_step
from pruning.lockstep import lockstep_ms

Network: TypeAlias = litgpt.GPT | Callable[[], litgpt.GPT]  # a network, or a function without arguments that builds it
_LEAST_MS = 5.0  # a sample on a CPU lasts at least this long: shorter calls are repeated within it
_WARM_BELOW_MS = 100.0  # before shorter calls one goes untimed, to refill the caches that the other network evicted
_MOST_CALLS = 64
_LOCKSTEP_FROM_MS = 100.0  # where all calls take as long: what a call finds in the cache matters little then
_LONG_MS = 300.0  # one call as long as this is warm-up enough


@dataclass(frozen=True)
class LatencyRatio:
    """The measured latency of a network over the dense model's.

    Attributes:
        ratio: median of the paired ratios.
        low: lower end of a distribution-free 95 % interval of that median.
        high: upper end.
        ms: median of the network's samples in ms; for decode, ms for one token of every sequence.
        dense_ms: median of the dense model's samples next to them.
        n_repeats: pairs.
        pairs: ms of the network and of the dense model, of each pair; not kept in files.
    """

    ratio: float
    low: float
    high: float
    ms: float
    dense_ms: float
    n_repeats: int
    pairs: tuple[tuple[float, float], ...] = field(default=(), repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without the pairs."""
        values = asdict(self)
        del values["pairs"]
        return values

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> LatencyRatio:
        """Return what pairs say, of one sitting or of several.

        Raises:
            ValueError: no pairs.
        """
        kept = tuple(pairs)
        if not kept:
            raise ValueError("a latency ratio needs pairs of samples")
        own, beside = np.array(kept).T
        low, high = median_interval(own / beside)
        ratio, ms, dense_ms = (float(np.median(values)) for values in (own / beside, own, beside))
        return cls(ratio, low, high, ms, dense_ms, len(kept), kept)


def measure_ratios(
    networks: Sequence[Network],
    dense: Network,
    workload: Workload,
    *,
    repeats: int = 20,
    warmup: int = 3,
    threads: int | None = None,
    device: str = "cpu",
    progress: bool = False,
    precision: float = 0.0,
    least: int = 5,
    seconds: float = 0.0,
    at_once: int = 4,
    on_result: Callable[[int, LatencyRatio], None] | None = None,
) -> list[LatencyRatio]:
    """Measure networks in turn with the dense model.

    Args:
        networks: litgpt GPTs, or functions that build them; those are called when their turn comes and their networks
            let go afterwards. A network of another dtype or device than the workload's is copied for the while.
        dense: what they are compared with.
        workload: the input: prefill, or decode with a filled cache.
        repeats: pairs of samples; with a `precision` the most, unless there are `seconds` left.
        warmup: untimed calls of each network before, at least one; no further ones where a call is long (300 ms).
        threads: CPU threads; None for the physical cores. The number is put back afterwards.
        device: "cpu", "cuda", "cuda:1".
        progress: show a progress bar.
        precision: stop earlier (after `least` pairs) when the median is known to this relative half width; 0: never.
        least: pairs before a precision ends the sampling.
        seconds: what is not known precisely after `repeats` is sampled until so long has passed for each network: short
            calls, whose pairs scatter the most, get many more.
        at_once: networks in memory, besides the dense model; they are measured in turn with each other too.
        on_result: called with the index and the result of each network as soon as it is known.

    Returns:
        One result for each network.

    Raises:
        ValueError: a setting that is not possible, or a network too short for the workload.
    """
    if repeats < 1 or warmup < 0 or at_once < 1:
        raise ValueError(f"repeats = {repeats}, warmup = {warmup}, at_once = {at_once}: give repeats and at_once >= 1")
    place = current_device(device, threads=threads)
    meter = LatencyMeter(device=place.torch_name)
    results: list[LatencyRatio] = []
    with _threads(place.threads), tqdm(total=len(networks), unit="net", desc="latency", disable=not progress) as bar:
        reference = _Timed.of(dense, workload, meter, warmup) if networks else None
        for start in range(0, len(networks), at_once):
            timed = [_Timed.of(network, workload, meter, warmup) for network in networks[start : start + at_once]]
            assert reference is not None
            until = _Until(repeats, precision, least, seconds * len(timed))
            for found in _in_turn(timed, reference, until):
                results.append(found)
                if on_result is not None:
                    on_result(len(results) - 1, found)
            for one in timed:
                one.close()
            bar.update(len(timed))
        if reference is not None:
            reference.close()
    return results


def median_interval(samples: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Return the order statistics that hold the median with at least this probability, whatever the distribution.

    With fewer than 6 samples they are the smallest and the largest, and the probability is less.
    """
    ordered = np.sort(samples)
    rank = max(int(binom.ppf((1 - level) / 2, len(ordered), 0.5)), 1)
    return float(ordered[rank - 1]), float(ordered[-rank])


# --- one network ----------------------------------------------------------------------------------------------------


@dataclass
class _Timed:
    """A network that is ready to be timed."""

    model: litgpt.GPT
    step: Step
    meter: LatencyMeter
    calls: int
    warm: bool
    ms: float

    @classmethod
    def of(cls, network: Network, workload: Workload, meter: LatencyMeter, warmup: int) -> _Timed:
        model = _placed(network if isinstance(network, nn.Module) else network(), workload, meter.device)
        step = workload_step(model, workload, seed=meter.seed)
        for _ in range(max(warmup, 1)):
            ms = meter.sample(step)
            if ms > _LONG_MS:
                break
        on_cpu = meter.device == "cpu"
        calls = min(max(math.ceil(_LEAST_MS / ms), 1), _MOST_CALLS) if on_cpu else 1
        return cls(model, step, meter, calls, warm=ms < _WARM_BELOW_MS, ms=ms)

    def sample(self) -> float:
        """Return ms of one call."""
        if self.warm:
            self.step()
        if self.calls == 1:
            return self.meter.sample(self.step)
        return self.meter.sample(self._several) / self.calls

    def _several(self) -> None:
        for _ in range(self.calls):
            self.step()

    def close(self) -> None:
        """Free the key/value cache."""
        self.model.clear_kv_cache()


def _placed(model: litgpt.GPT, workload: Workload, device: str) -> litgpt.GPT:
    """Return the model itself if it has the workload's dtype and device, else a copy that has."""
    weight, dtype = model.lm_head.weight, getattr(torch, workload.dtype)
    if weight.dtype == dtype and weight.device.type == torch.device(device).type:
        return model
    return copy.deepcopy(model).to(device=device, dtype=dtype)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- in turn --------------------------------------------------------------------------------------------------------


class _Until(NamedTuple):
    """When sampling ends; see `measure_ratios`."""

    repeats: int
    precision: float
    least: int
    seconds: float


def _in_turn(timed: Sequence[_Timed], dense: _Timed, until: _Until) -> list[LatencyRatio]:
    """Sample the networks in rounds, each paired with the dense model, until all are known well enough."""
    own: list[list[float]] = [[] for _ in timed]
    beside: list[list[float]] = [[] for _ in timed]
    long = all(one.ms >= _LOCKSTEP_FROM_MS and one.meter.device == "cpu" for one in (dense, *timed))
    pairs_of = _blocks_in_turn if long else _calls_in_turn
    start = time.monotonic()
    for turn in count():
        open_ones = [i for i in range(len(timed)) if not _is_known(own[i], beside[i], until)]
        if not open_ones or (turn >= until.repeats and time.monotonic() - start >= until.seconds):
            break
        pairs = pairs_of([timed[i] for i in open_ones], dense, backwards=turn % 2 == 1)
        for i, (ms, dense_ms) in zip(open_ones, pairs, strict=True):
            own[i].append(ms)
            beside[i].append(dense_ms)
    return [LatencyRatio.of(zip(a, b, strict=True)) for a, b in zip(own, beside, strict=True)]


def _calls_in_turn(timed: Sequence[_Timed], dense: _Timed, *, backwards: bool) -> list[tuple[float, float]]:
    """Return ms of each network and of the dense model, which runs before and after each."""
    pairs = {}
    before = dense.sample()
    for i in reversed(range(len(timed))) if backwards else range(len(timed)):
        own, after = timed[i].sample(), dense.sample()
        pairs[i] = own, (before + after) / 2
        before = after
    return [pairs[i] for i in range(len(timed))]


def _blocks_in_turn(timed: Sequence[_Timed], dense: _Timed, *, backwards: bool) -> list[tuple[float, float]]:
    """Return ms of each network and of the dense model, which run at once, a block of each in turn."""
    order = [dense, *timed][:: -1 if backwards else 1]
    ms = lockstep_ms([one.model for one in order], [one.step for one in order])[:: -1 if backwards else 1]
    return [(own, ms[0]) for own in ms[1:]]


def _is_known(own: Sequence[float], beside: Sequence[float], until: _Until) -> bool:
    """Return whether the median ratio is known precisely enough."""
    if len(own) < max(until.least, 2):
        return False
    ratios = np.divide(own, beside)
    low, middle, high = np.percentile(ratios, (25, 50, 75))  # half width: 1.57 IQR / sqrt(n) (McGill et al. 1978)
    return bool(until.precision > 0 and 1.57 * (high - low) / math.sqrt(len(own)) <= until.precision * middle)
