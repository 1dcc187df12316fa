"""The pieces of pruned networks, ready to run one after another: embedding and head, and blocks with their overlays.

Blocks are litgpt Blocks on views of the supernet's weights; only the corrected output projections are tensors of their
own. So a network that differs from another one in one block costs one new block, and runs from that block on.

Shapes: B blocks of text, T tokens, C n_embd, V padded vocabulary.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from typing import Any, NamedTuple

import litgpt
import litgpt.model
import torch
from torch import Tensor, nn

from pruning.collection import Enough, hooks
from pruning.levels import is_whole
from pruning.overlay import OverlayDatabase
from pruning.structure import PARTS, Part
from supernet.architecture import Architecture
from supernet.litgpt_config import check_fits
from supernet.model import Supernet, block_selections, meta_block, without_blocks
from supernet.selection import SHARED_AXES, LayerShape, axis_runs, select_axes, subnet_config

_REMEMBERED = 128  # blocks that are kept ready
_PROJECTIONS = {"attention": "attn.proj", "mlp": "mlp.proj"}


class Step(NamedTuple):
    """One kept block of a network: which of the supernet's blocks, and its shape."""

    layer: int
    shape: LayerShape


def steps_of(arch: Architecture) -> tuple[Step, ...]:
    """Return the blocks of a network in order; two networks are equal up to block k where their first k steps are."""
    rows = zip(arch.layers, arch.n_head, arch.n_query_groups, arch.intermediate_size, strict=True)
    return tuple(Step(i, LayerShape(arch.n_embd, heads, groups, f, arch.bias)) for i, heads, groups, f in rows)


class Pieces:
    """Frames and blocks of the sub-networks of one supernet, with the overlays of a database.

    Args:
        supernet: the importance-ordered network.
        database: its overlays; None leaves the plain mask.
        seq_len: T, tokens of the blocks of text that will be run.
    """

    def __init__(self, supernet: Supernet, database: OverlayDatabase | None, *, seq_len: int) -> None:
        self.supernet, self.database = supernet, database
        self.config = supernet.config
        self.place = next(supernet.parameters()).device
        self._rope = self._rope_of(seq_len)
        self._frames: dict[tuple[int, bool], litgpt.GPT] = {}
        self._outputs: dict[tuple[int, bool, torch.dtype], nn.Module] = {}
        self._blocks: OrderedDict[Step, nn.Module] = OrderedDict()

    def start(self, arch: Architecture, ids: Tensor) -> Tensor:
        """Return the residual stream before the first block, (B, T, C), for token ids (B, T)."""
        frame, found = self.frame(arch), []

        def catch(states: Tensor) -> None:
            found.append(states)
            raise Enough

        with hooks([(frame.transformer.ln_f, "before", catch)]), suppress(Enough):
            frame(ids.to(self.place))
        return found[0]

    def run(self, step: Step, states: Tensor) -> Tensor:
        """Return the residual stream after a block, (B, T, C)."""
        return self.block(step)(states, *self._rope[step.layer])

    @cached_property
    def dense(self) -> Architecture:
        """The whole network."""
        config = self.config
        assert config.n_query_groups and config.intermediate_size
        return Architecture.uniform(
            n_embd=config.n_embd, n_layer=config.n_layer, n_head=config.n_head, bias=config.bias,
            n_query_groups=config.n_query_groups, intermediate_size=config.intermediate_size,
        )  # fmt: skip

    def dense_step(self, layer: int) -> Step:
        """Return a block of the whole network."""
        return self._dense_steps[layer]

    @cached_property
    def _dense_steps(self) -> tuple[Step, ...]:
        return steps_of(self.dense)

    def head(self, arch: Architecture, states: Tensor) -> Tensor:
        """Return the logits, float32 (..., V), of the residual stream after the last block."""
        logits = self._output(arch)(self.frame(arch).transformer.ln_f(states)).float()
        cap = self.config.final_logit_softcapping
        return logits if cap is None else litgpt.model.do_softcapping(logits, cap)

    def _output(self, arch: Architecture) -> nn.Module:
        """Return the output layer; under autocast a rounded copy, as autocast itself would round it in every call."""
        own = self.frame(arch).lm_head
        if not torch.is_autocast_enabled(self.place.type):
            return own
        dtype = torch.get_autocast_dtype(self.place.type)
        key = (arch.n_embd, arch.bias, dtype)
        if key not in self._outputs:
            self._outputs[key] = deepcopy(own).to(dtype)
        return self._outputs[key]

    def frame(self, arch: Architecture) -> litgpt.GPT:
        """Return a network of `arch`'s width without blocks, on views of the supernet's weights.

        Raises:
            ValueError: the supernet does not contain `arch`.
        """
        check_fits(self.config, arch)
        key = (arch.n_embd, arch.bias)
        if key not in self._frames:
            shape = LayerShape(
                arch.n_embd, arch.n_head[0], arch.n_query_groups[0], arch.intermediate_size[0], arch.bias
            )
            config, runs = subnet_config(self.config, arch), axis_runs(self.config, shape)
            with torch.device("meta"):
                gpt = litgpt.GPT(without_blocks(config))
            own = dict(self.supernet.named_parameters(remove_duplicate=False))
            names = [name for name, _ in gpt.named_parameters()]
            views = {name: select_axes(SHARED_AXES[name], runs).select(own[name].detach()) for name in names}
            gpt.load_state_dict(views, strict=True, assign=True)
            gpt._max_seq_length, gpt.cos, gpt.sin = self.supernet._max_seq_length, self.supernet.cos, self.supernet.sin
            gpt.config = config
            self._frames[key] = gpt.requires_grad_(False).eval()
        return self._frames[key]

    def block(self, step: Step) -> nn.Module:
        """Return a block with its overlays; the most recently used are kept."""
        if step not in self._blocks:
            self._blocks[step] = self._build(step)
            if len(self._blocks) > _REMEMBERED:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(step)
        return self._blocks[step]

    def _build(self, step: Step) -> nn.Module:
        layer, shape = step
        block, own = meta_block(self.config, shape, layer), self.supernet.transformer.h[layer]
        selections = block_selections(self.config, shape, block)
        tensors = {name: s.select(own.get_parameter(name).detach()) for name, s in selections.items()}
        shifts: dict[Part, Tensor] = {}
        for part in PARTS:
            level = (shape.n_head, shape.n_query_groups) if part == "attention" else (shape.intermediate_size,)
            if self.database is None or not level[0] or is_whole(self.config, part, level):
                continue
            solution = self.database.overlay(layer, part, level)
            tensors[f"{_PROJECTIONS[part]}.weight"] = solution.weight[: shape.n_embd]
            if solution.intercept is not None:
                shifts[part] = solution.intercept[: shape.n_embd]
        block.load_state_dict(tensors, strict=True, assign=True)
        for part, shift in shifts.items():
            projection = block.get_submodule(_PROJECTIONS[part])
            assert isinstance(projection, nn.Linear)
            bias = shift if projection.bias is None else projection.bias.detach() + shift
            projection.bias = nn.Parameter(bias, requires_grad=False)
        return block.requires_grad_(False).eval()

    def _rope_of(self, seq_len: int) -> list[tuple[Any, ...]]:
        """Return what each block of the supernet gets besides the residual stream (cos and sin)."""
        supernet = self.supernet
        if seq_len > supernet.max_seq_length:
            raise ValueError(f"blocks of {seq_len} tokens: the network's context is {supernet.max_seq_length}")
        cos, sin = supernet.cos[:seq_len].unsqueeze(0), supernet.sin[:seq_len].unsqueeze(0)
        which = self.config.rope_indices
        if which is None:
            return [(cos, sin)] * self.config.n_layer
        return [(cos[..., which[i]], sin[..., which[i]]) for i in range(self.config.n_layer)]
