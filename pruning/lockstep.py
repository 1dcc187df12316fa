"""Run several networks in one thread at once, a block of each in turn, and time what each of them takes.

A machine that others share changes its speed within a second. Two forwards of a second each, one after the other, see
different machines; blocks that take turns see the same one. On two cores of a shared EPYC, SmolLM2-135M and a network
of 0.74 of its latency, 512 tokens: the ratio of a pair of whole forwards scatters by 7.1 %, in lockstep by 2.6 %, about
the same median. What lockstep changes for a network is its activations' place in the cache between two blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from time import perf_counter

import greenlet
import torch
from torch import nn


def lockstep_ms(models: Sequence[nn.Module], steps: Sequence[Callable[[], object]]) -> list[float]:
    """Return ms of each step, run in turns that end where a block (or the head) of its model begins.

    The one that has got least far goes next, so that networks of different depth end together. Models with no blocks
    run as a whole.

    Args:
        models: litgpt GPTs, each once.
        steps: a call for each, e.g. of `hw_profiles.meters.workload_step`; it runs its model on the CPU.

    Raises:
        ValueError: not one step for each model, or a model twice.
    """
    if len(models) != len(steps) or len({id(model) for model in models}) < len(models):
        raise ValueError(
            f"{len(models)} models and {len(steps)} steps: give a step for each model, and each model once"
        )
    back = greenlet.getcurrent()
    reached, spent = [0] * len(models), [0.0] * len(models)
    ends = [len(_stops(model)) for model in models]
    runs = [greenlet.greenlet(step) for step in steps]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())  # outside: the mode is the thread's, and all of them share it
        for i, model in enumerate(models):
            for part in _stops(model):
                handle = part.register_forward_pre_hook(lambda *_, i=i: _pause(back, reached, i))
                stack.callback(handle.remove)
        open_ones = list(range(len(models)))
        while open_ones:
            i = min(open_ones, key=lambda j: (reached[j] / ends[j], j))
            start = perf_counter()
            runs[i].switch()
            spent[i] += perf_counter() - start
            if runs[i].dead:
                open_ones.remove(i)
    return [seconds * 1e3 for seconds in spent]


def _stops(model: nn.Module) -> list[nn.Module]:
    return [*model.transformer.h, model.lm_head]  # type: ignore[union-attr, list-item]


def _pause(back: greenlet.greenlet, reached: list[int], i: int) -> None:
    reached[i] += 1
    back.switch()
