"""AdamW that can touch only what a training step selected.

Decay, momentum and the update of a sub-network's step are confined to its part of the weights. Elsewhere parameters
and moments stay bit for bit as they were. It is for that, not for speed: on a CPU, gathering the strided part of a
half-size network costs 25 ms where torch's fused update of everything takes 15 (the networks of
benchmarks/run_supernet.py, whose training step is 200 ms).

Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from supernet.architecture import Architecture
from supernet.model import Supernet
from supernet.selection import Selection


class SubnetAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, with a `step` that takes the selections of the sub-networks that were trained.

    State and checkpoints are those of `torch.optim.AdamW`. The step count (bias correction) is one per parameter, so
    rarely selected entries start with a smaller first update than Adam's; their later updates are Adam's.
    """

    def step(  # type: ignore[override]
        self,
        closure: Callable[[], float] | None = None,
        *,
        selections: Mapping[nn.Parameter, Selection] | None = None,
    ) -> Any:
        """Update all parameters (`selections` None), or only the selected part of the parameters that it names.

        Args:
            closure: evaluates the model again and returns the loss, as in torch.
            selections: parameter -> its selected part; a parameter that is missing, or has no gradient, is untouched.
        """
        if selections is None:
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None and parameter in selections:
                        self._step_part(parameter, selections[parameter], group)
        return loss

    def _step_part(self, parameter: nn.Parameter, selection: Selection, group: dict[str, Any]) -> None:
        """Gather the selected part in contiguous tensors (they fit the cache), update them, write them back."""
        state = self._state_of(parameter, group)
        assert parameter.grad is not None
        whole = (parameter, state["exp_avg"], state["exp_avg_sq"], parameter.grad)
        part, exp_avg, exp_avg_sq, gradient = (self._gathered(i, t, selection) for i, t in enumerate(whole))
        adamw(
            [part],
            [gradient],
            [exp_avg],
            [exp_avg_sq],
            [],
            [state["step"]],
            foreach=False,
            fused=bool(group["fused"]),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        for target, value in zip(whole, (part, exp_avg, exp_avg_sq), strict=False):  # the gradient stays
            if not _shares_memory(target, value):
                selection.assign(target, value)

    def _gathered(self, place: int, whole: Tensor, selection: Selection) -> Tensor:
        """Return the selected part of `whole`, contiguous: itself where it is, else a copy in a buffer that is kept.

        New memory for every copy would cost more than the update (page faults).
        """
        if selection.is_whole or (selection.is_rectangle and (part := selection.select(whole)).is_contiguous()):
            return whole if selection.is_whole else part
        buffers: dict[tuple[int, torch.dtype, torch.device], Tensor] = self.__dict__.setdefault("_buffers", {})
        key, size = (place, whole.dtype, whole.device), math.prod(selection.shape)
        if key not in buffers or buffers[key].numel() < size:
            buffers[key] = torch.empty(size, dtype=whole.dtype, device=whole.device)
        copy = buffers[key][:size].view(selection.shape)
        for region, target in selection.regions(whole, copy):
            target.copy_(region)
        return copy

    def _state_of(self, parameter: nn.Parameter, group: dict[str, Any]) -> dict[str, Tensor]:
        """Return the state of a parameter, made at its first update as torch.optim.AdamW makes it."""
        if group["amsgrad"]:
            raise ValueError("amsgrad=True is not supported with selections: use amsgrad=False")
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            device = parameter.device if group["fused"] else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


def _shares_memory(whole: Tensor, part: Tensor) -> bool:
    return whole.untyped_storage().data_ptr() == part.untyped_storage().data_ptr()


def covering_architecture(archs: Sequence[Architecture]) -> Architecture:
    """Return the smallest architecture that contains all of `archs` (itself, for one)."""
    layers = sorted({layer for arch in archs for layer in arch.layers})
    n_head, n_query_groups, intermediate_size = [], [], []
    for layer in layers:
        shapes = [_layer(arch, layer) for arch in archs if layer in arch.layers]
        groups = max(g for _, g, _ in shapes)
        n_query_groups.append(groups)
        n_head.append(groups * max(h // max(g, 1) for h, g, _ in shapes))  # 0 of both without attention
        intermediate_size.append(max(f for _, _, f in shapes))
    return Architecture(
        n_embd=max(arch.n_embd for arch in archs),
        n_head=tuple(n_head),
        n_query_groups=tuple(n_query_groups),
        intermediate_size=tuple(intermediate_size),
        layers=tuple(layers),
        bias=any(arch.bias for arch in archs),
    )


def _layer(arch: Architecture, layer: int) -> tuple[int, int, int]:
    position = arch.layers.index(layer)
    return arch.n_head[position], arch.n_query_groups[position], arch.intermediate_size[position]


def trained_selections(supernet: Supernet, archs: Sequence[Architecture]) -> dict[nn.Parameter, Selection]:
    """Return what an optimizer step for `archs` should touch: the part of the smallest network that holds them all."""
    plan = supernet.plan(covering_architecture(archs))
    own = dict(supernet.named_parameters(remove_duplicate=False))
    return {own[name]: selection for name, selection in plan.parameters.items()}
