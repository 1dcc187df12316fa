"""Make the final pruned network: moments are collected again, layer by layer, behind what is already pruned.

The overlays of a search come from the dense network's activations. A pruned network's later layers see other inputs;
here every projection is solved for the inputs it will really get (SlimGPT, ZipLM). Towards the dense network's stream
all of an MLP may be fitted further (`local_distillation`).

Shapes: n blocks of calibration text, B of a batch, T tokens, C n_embd.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

import litgpt
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pruning.calibration import check_blocks
from pruning.collection import Enough, autocast, eval_mode, hooks
from pruning.first_tokens import first_tokens
from pruning.input_statistics import InputStatistics
from pruning.levels import Level, is_whole, kept_inputs, levels_of, nested_order
from pruning.local_distillation import Examples, LocalDistillation, distil_mlp
from pruning.moments import check_finite
from pruning.overlay import OverlaySettings
from pruning.pruned import Pruned, add_biases, put_projection
from pruning.reconstruction import PrefixSolver, Solution, default_damping
from pruning.structure import Part, Sizes, output_projection
from pruning.target_fit import TargetFit
from supernet.architecture import Architecture
from supernet.extract import extract
from supernet.model import Supernet
from supernet.tokens import TokenBlocks

Target = Literal["own", "dense"]


def realise(
    supernet: Supernet,
    arch: Architecture,
    blocks: Tensor | np.ndarray | TokenBlocks,
    *,
    settings: OverlaySettings | None = None,
    target: Target = "own",
    distillation: LocalDistillation | None = None,
    held_out: Tensor | np.ndarray | TokenBlocks | None = None,
    batch_size: int = 4,
    precision: str = "32",
    progress: bool = False,
) -> Pruned:
    """Return the pruned network `arch`, every projection solved behind the pruned layers before it.

    Args:
        supernet: the importance-ordered network; left as it is.
        arch: the sub-network.
        blocks: (n, T) calibration token ids; their first tokens are added (see `first_tokens`).
        settings: as in `OverlayDatabase`.
        target: "own": each part should give what its unpruned self gives on the same inputs. "dense": the residual
            stream should be the dense network's, so that later projections, whole ones too, make up for the errors of
            earlier ones.
        distillation: fit all of every MLP towards the dense stream after its projection is solved; None does not.
        held_out: (m, T') token ids that nothing is fitted to: they say how far each distillation goes. Only looked at
            for distillation.
        batch_size: blocks of one forward.
        precision: "32", or "bf16" for autocast to bfloat16.
        progress: show a progress bar.

    Raises:
        ValueError: the supernet does not contain `arch`, unusable blocks, an unknown target, distillation with another
            target than "dense" or without held-out text, or target="dense" for a family with norms after attention or
            MLP.
    """
    ids, settings, config = check_blocks(blocks, supernet), settings or OverlaySettings(), supernet.config
    if settings.damping is None:
        settings = replace(settings, damping=default_damping(ids.numel()))  # that of the overlays
    if target not in ("own", "dense"):
        raise ValueError(f"target = {target!r}; allowed: own, dense")
    if target == "dense" and (config.post_attention_norm or config.post_mlp_norm):
        raise ValueError("target='dense' is not for families with norms after attention or MLP: use target='own'")
    if distillation is not None and target != "dense":
        raise ValueError(f"distillation is towards the dense network's stream: use target='dense', not {target!r}")
    if distillation is not None and held_out is None:
        raise ValueError("distillation goes as far as it helps on text that nothing is fitted to: give held_out")
    gpt = extract(supernet, arch)
    levels = {(position, part): level for position, _, part, level in levels_of(arch)}
    if settings.intercept and (target == "dense" or any(not is_whole(config, p, v) for (_, p), v in levels.items())):
        arch = add_biases(gpt, arch)
    place = next(supernet.parameters()).device
    with eval_mode(supernet), eval_mode(gpt), torch.no_grad():
        batches = [*ids.to(place).split(batch_size), first_tokens(ids).to(place)]
        n_fitted = len(batches)
        if distillation is not None:
            others = check_blocks(held_out, supernet)
            batches += [*others.to(place).split(batch_size), first_tokens(others).to(place)]
        stream = Stream.start(gpt, batches, precision)
        maker: _Own | _Dense
        if target == "own":
            maker = _Own(supernet, arch, settings)
        else:
            dense = Stream.start(supernet, batches, precision)
            maker = _Dense(supernet, arch, settings, dense, distillation=distillation, n_fitted=n_fitted)
        for position, block in enumerate(tqdm(gpt.transformer.h, unit="layer", desc="realise", disable=not progress)):
            for part in ("attention", "mlp"):
                if (position, part) in levels:
                    solution = maker.solve(stream, position, block, part, levels[position, part])
                    if solution is not None:
                        put_projection(block, part, solution)
            stream = maker.after(stream, position, block)
    return Pruned(gpt, arch)


@dataclass(frozen=True, eq=False)
class Stream:
    """The residual stream before one block, on all calibration blocks and on first tokens.

    Attributes:
        states: of each batch, (B, T, C); T may differ.
        rope: what else each block gets (cos, sin and no mask), of each T.
        precision: of forwards, "32" or "bf16"; nothing else runs under autocast.
    """

    states: tuple[Tensor, ...]
    rope: Mapping[int, tuple[tuple[Any, ...], ...]]
    precision: str = "32"

    @classmethod
    def start(cls, gpt: litgpt.GPT, batches: Sequence[Tensor], precision: str = "32") -> Stream:
        """Return the stream before the first block, of batches (B, T) of token ids."""
        rope = {batch.shape[1]: _rope(gpt, batch[:1]) for batch in {b.shape[1]: b for b in batches}.values()}
        return cls(tuple(_caught(gpt.transformer.h[0], partial(gpt, batch)) for batch in batches), rope, precision)

    def call(self, block: nn.Module, position: int, x: Tensor) -> Tensor:
        """Return what a block gives for the states of one batch."""
        with autocast(x.device, self.precision):
            return block(x, *self.rope[x.shape[1]][position])

    def after(self, block: nn.Module, position: int) -> Stream:
        """Return the stream after a block."""
        return replace(self, states=tuple(self.call(block, position, x) for x in self.states))

    def inputs(self, block: nn.Module, position: int, module: nn.Module) -> Iterator[Tensor]:
        """Yield what `module`, somewhere in `block`, gets as input; the forward ends there."""
        for x in self.states:
            yield _caught(module, partial(self.call, block, position, x))


def _rope(gpt: litgpt.GPT, ids: Tensor) -> tuple[tuple[Any, ...], ...]:
    """Return what every block gets beside the states."""
    found: list[tuple[Any, ...]] = []
    handles = [b.register_forward_pre_hook(lambda _, args: found.append(args[1:])) for b in gpt.transformer.h]
    try:
        gpt(ids)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(found)


def _caught(module: nn.Module, call: Callable[[], Any]) -> Tensor:
    """Return the input that `module` gets during `call`, which ends there."""
    found: list[Tensor] = []

    def catch(x: Tensor) -> None:
        found.append(x)
        raise Enough

    with hooks([(module, "before", catch)]), suppress(Enough):
        call()
    return found[0]


class _Own:
    """Each part should give what its unpruned self gives on the inputs that it gets behind the pruned layers."""

    def __init__(self, supernet: Supernet, arch: Architecture, settings: OverlaySettings) -> None:
        self.config, self.settings = supernet.config, settings
        sizes, n = Sizes.of(self.config), arch.n_layer
        bias = arch.bias and self.config.bias
        if arch.n_embd == self.config.n_embd and bias == self.config.bias:
            self.wide = [supernet.transformer.h[layer] for layer in arch.layers]
        else:  # the whole inside of the blocks at the sub-network's width
            whole = Architecture(
                arch.n_embd, (sizes.n_head,) * n, (sizes.n_query_groups,) * n, (sizes.intermediate_size,) * n,
                arch.layers, bias,
            )  # fmt: skip
            self.wide = list(extract(supernet, whole).transformer.h)

    def solve(self, stream: Stream, position: int, block: nn.Module, part: Part, level: Level) -> Solution | None:
        """Return the projection of a level of one part, or None where all of the part stays."""
        if is_whole(self.config, part, level):
            return None
        wide = self.wide[position]
        projection = output_projection(wide, part)
        assert projection is not None
        sums = InputStatistics(projection.in_features, device=projection.weight.device)
        for x in self._inputs(stream, position, block, wide, part, projection):
            sums.add(x)
        where = f"layer {position} of the pruned network, {part}"
        order = torch.tensor(nested_order(self.config, part, level), device=projection.weight.device)
        solver = PrefixSolver(
            projection.weight[:, order], check_finite(sums.result(), f"inputs of {where}").reordered(order),
            damping=self.settings.damping, reconstruct=self.settings.reconstruct, intercept=self.settings.intercept,
            where=where,
        )  # fmt: skip
        return solver.solve(len(kept_inputs(self.config, part, level)))

    def after(self, stream: Stream, position: int, block: nn.Module) -> Stream:
        """Return the stream after a solved block."""
        return stream.after(block, position)

    def _inputs(
        self, stream: Stream, position: int, block: Any, wide: Any, part: Part, projection: nn.Module
    ) -> Iterator[Tensor]:
        if part == "attention":
            yield from stream.inputs(wide, position, projection)
            return
        pruned, block.mlp = block.mlp, wide.mlp  # the whole MLP behind the pruned attention
        try:
            yield from stream.inputs(block, position, projection)
        finally:
            block.mlp = pruned


class _Dense:
    """The residual stream should be the dense network's; the batches after the first `n_fitted` are held out."""

    def __init__(
        self, supernet: Supernet, arch: Architecture, settings: OverlaySettings, stream: Stream, *,
        distillation: LocalDistillation | None, n_fitted: int,
    ) -> None:  # fmt: skip
        self.supernet, self.arch, self.settings = supernet, arch, settings
        self.distillation, self.n_fitted = distillation, n_fitted
        self.layer, self.stream = -1, stream
        self.targets: dict[Part, list[Tensor]] = {}
        self.before_mlp: list[_BeforeMLP] = []

    def solve(self, stream: Stream, position: int, block: nn.Module, part: Part, level: Level) -> Solution | None:
        """Return the projection of one part nearest to the dense network's residual stream."""
        if not self.settings.reconstruct and not self.settings.intercept:
            return None
        self._advance(self.arch.layers[position])
        projection = output_projection(block, part)
        assert projection is not None
        weight = projection.weight
        fit = TargetFit(projection.in_features, projection.out_features, device=weight.device)
        pairs: Iterable[tuple[Tensor, Tensor]]
        if part == "attention":
            pairs = zip(stream.states, stream.inputs(block, position, projection), strict=True)
        else:
            self.before_mlp = list(_before_mlp(stream, position, block, projection))
            pairs = [(known.state, known.hidden) for known in self.before_mlp]
        for (state, x), wanted in islice(zip(pairs, self.targets[part], strict=True), self.n_fitted):
            residual = wanted[..., : state.shape[-1]] - state
            fit.add(x, residual if projection.bias is None else residual - projection.bias)
        return fit.solve(
            weight, damping=self.settings.damping, intercept=self.settings.intercept,
            where=f"layer {position} of the pruned network, {part}",
        )  # fmt: skip

    def _advance(self, layer: int) -> None:
        """Run the dense network through a block, whose targets are kept until the next one's."""
        while self.layer < layer:
            self.layer += 1
            block = self.supernet.transformer.h[self.layer]
            pairs = list(_through(self.stream, self.layer, block))
            self.targets = {"attention": [middle for middle, _ in pairs], "mlp": [out for _, out in pairs]}
            self.stream = replace(self.stream, states=tuple(self.targets["mlp"]))

    def after(self, stream: Stream, position: int, block: Any) -> Stream:
        """Return the stream after a solved block, whose MLP is distilled first; attention is not run again."""
        known, self.before_mlp = self.before_mlp, []
        projection = output_projection(block, "mlp")
        if not known or projection is None:
            return stream.after(block, position)
        if self.distillation is not None:
            self._distil(block.mlp, known)
        with autocast(known[0].state.device, stream.precision):
            added = (block.mlp(one.inputs) if self.distillation else projection(one.hidden) for one in known)
            return replace(stream, states=tuple(one.state + out for one, out in zip(known, added, strict=True)))

    def _distil(self, mlp: nn.Module, known: Sequence[_BeforeMLP]) -> None:
        assert self.distillation is not None
        examples = [
            Examples.of(one.inputs, one.state, wanted[..., : one.state.shape[-1]])
            for one, wanted in zip(known, self.targets["mlp"], strict=True)
        ]
        shown, held_out = (Examples.joined(part) for part in (examples[: self.n_fitted], examples[self.n_fitted :]))
        distil_mlp(mlp, shown, held_out, self.distillation, precision=self.stream.precision)


@dataclass(frozen=True, slots=True)
class _BeforeMLP:
    """What an MLP meets in one batch.

    Attributes:
        state: (B, T, C) the residual stream that its output is added to.
        inputs: (B, T, C) its inputs, behind the norm.
        hidden: (B, T, s) the inputs of its output projection.
    """

    state: Tensor
    inputs: Tensor
    hidden: Tensor


def _through(stream: Stream, position: int, block: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the residual stream after a block's attention and after the block."""
    for x in stream.states:
        found: list[Tensor] = []
        with hooks([(block.post_attention_norm, "after", found.append)]):
            out = stream.call(block, position, x)
        yield (x + found[0] if found else x), out


def _before_mlp(stream: Stream, position: int, block: Any, projection: nn.Module) -> Iterator[_BeforeMLP]:
    """Yield what a block's MLP meets in every batch."""
    for x in stream.states:
        attended: list[Tensor] = []
        entered: list[Tensor] = []
        with hooks([(block.post_attention_norm, "after", attended.append), (block.mlp, "before", entered.append)]):
            hidden = _caught(projection, partial(stream.call, block, position, x))
        yield _BeforeMLP(x + attended[0] if attended else x, entered[0], hidden)
