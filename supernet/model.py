"""The supernet: a litgpt GPT whose sub-networks are litgpt models that view its weights.

`supernet(idx)` is litgpt's own dense forward. `supernet(idx, arch)` runs litgpt's own forward too, on skeletons:
ordinary litgpt modules on the meta device, built for the sub-network's sizes and called with views of the supernet's
parameters. Nothing of litgpt's model code is repeated and no state is left behind by a call.

Shapes: B batch, T tokens, C n_embd, V padded vocabulary.
Weight entanglement: Chen et al., AutoFormer, ICCV 2021.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import litgpt.model
import torch
from litgpt.config import Config
from torch import Tensor, nn

from supernet.architecture import Architecture
from supernet.blocks import build_block
from supernet.litgpt_config import check_fits, unsupported_features
from supernet.selection import (
    BLOCK_AXES,
    SHARED_AXES,
    LayerShape,
    Selection,
    SelectionPlan,
    axis_runs,
    layer_config,
    layer_shapes,
    select_axes,
    subnet_config,
)

_REMEMBERED = 256  # sub-networks whose plans and frames a thread keeps
_REMEMBERED_SHAPES = 4096  # block shapes whose skeletons a thread keeps
T = TypeVar("T")


class _SelectParameters(torch.autograd.Function):
    """Views of parameters whose gradients are written into zeros in one pass.

    Two chained slices allocate and fill two tensors in backward; this allocates one.
    """

    @staticmethod
    def forward(ctx: Any, selections: Sequence[Selection], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.selections = selections
        ctx.like = [(p.shape, p.dtype, p.device) for p in parameters]
        return tuple(s.select(p) for s, p in zip(selections, parameters, strict=True))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        full: list[Tensor | None] = []
        for selection, (shape, dtype, device), gradient in zip(ctx.selections, ctx.like, gradients, strict=True):
            if gradient is None:
                full.append(None)
                continue
            target = torch.zeros(shape, dtype=dtype, device=device)
            selection.assign(target, gradient)
            full.append(target)
        return None, *full


def select_parameters(selections: Sequence[Selection], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the selected part of each parameter; gradients flow back to the whole parameters, zero elsewhere."""
    chosen: list[Tensor] = list(parameters)
    part = [i for i, s in enumerate(selections) if not s.is_whole]
    if torch.is_grad_enabled() and any(parameters[i].requires_grad for i in part):
        views = _SelectParameters.apply([selections[i] for i in part], *(parameters[i] for i in part))
    else:
        views = [selections[i].select(parameters[i]) for i in part]
    for i, view in zip(part, views, strict=True):
        chosen[i] = view
    return chosen


class _Skeleton:
    """A litgpt module on the meta device that is called with tensors in the place of its parameters."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        owners = _owners(module)
        self.names, self._slots = list(owners), list(owners.values())

    def __call__(self, tensors: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        # torch.func.functional_call does the same through named accessors: about 280 us more a block, this 20 us.
        own = [parameters[leaf] for parameters, leaf in self._slots]
        try:
            for (parameters, leaf), tensor in zip(self._slots, tensors, strict=True):
                parameters[leaf] = tensor  # type: ignore[assignment]
            return self.module(*args, **kwargs)
        finally:
            for (parameters, leaf), parameter in zip(self._slots, own, strict=True):
                parameters[leaf] = parameter


@dataclass(frozen=True, slots=True)
class BlockCall:
    """How an ElasticBlock runs as a block of one shape: the skeleton and the selection of each of its parameters."""

    skeleton: _Skeleton
    paths: tuple[tuple[str, ...], ...]  # of the parameters inside the block
    selections: tuple[Selection, ...]


class ElasticBlock(litgpt.model.Block):
    """A litgpt Block that can also run as any narrower Block on views of its weights."""

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        input_pos: Tensor | None = None,
        input_pos_maxp1: int | None = None,
        call: BlockCall | None = None,
    ) -> Tensor:
        """Return the block's output, (B, T, c) for x of shape (B, T, c); `call` None is litgpt's dense block."""
        if call is None:
            return super().forward(x, cos, sin, mask, input_pos, input_pos_maxp1)
        tensors = select_parameters(call.selections, [_parameter(self, path) for path in call.paths])
        return call.skeleton(tensors, x, cos, sin, mask, input_pos, input_pos_maxp1)


def _parameter(module: nn.Module, path: tuple[str, ...]) -> Tensor:
    """Return a parameter as it is now (FSDP and functional_call put others in its place) at little host time."""
    for name in path[:-1]:
        module = module._modules[name]  # type: ignore[assignment]
    return module._parameters[path[-1]]  # type: ignore[return-value]


def _owners(module: nn.Module) -> dict[str, tuple[dict[str, Any], str]]:
    """Return, for each parameter, the dictionary that holds it and its key there."""
    named = ((name, *name.rpartition(".")[::2]) for name, _ in module.named_parameters(remove_duplicate=False))
    return {name: (module.get_submodule(prefix)._parameters, leaf) for name, prefix, leaf in named}


class _BlockOfSubnet(nn.Module):
    """Stands for a block in a sub-network's frame and calls the supernet's block, so that its hooks run."""

    def __init__(self, block: Callable[..., Tensor], call: BlockCall) -> None:
        super().__init__()
        self._target = (block, call)  # in a tuple, so that the block is not registered as a child

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        block, call = self._target
        return block(x, *args, call=call)


@dataclass(frozen=True, slots=True)
class _Frame:
    """litgpt's GPT around the blocks, at a sub-network's width."""

    skeleton: _Skeleton
    selections: tuple[Selection, ...]


class Supernet(litgpt.GPT):
    """A weight-entangled GPT: litgpt's model, and every narrower or shallower model inside it.

    Args:
        config: litgpt's Config of the largest network.
        tie_embeddings: let `lm_head` and `wte` be one parameter (litgpt's Config has no such field).

    Raises:
        ValueError: the config uses a feature that sub-networks do not support (named).

    Example:
        >>> config = Config(n_layer=2, n_embd=32, n_head=4, block_size=8, vocab_size=64, padded_vocab_size=64)
        >>> supernet = Supernet(config)
        >>> arch = Architecture.uniform(n_embd=16, n_layer=1, n_head=2, intermediate_size=64)
        >>> supernet(torch.zeros(1, 8, dtype=torch.long), arch).shape
        torch.Size([1, 8, 64])
    """

    def __init__(self, config: Config, *, tie_embeddings: bool = False) -> None:
        refused = unsupported_features(config)
        if refused:
            raise ValueError(f"a supernet of {config.name or 'this config'!r} is not supported: {'; '.join(refused)}")
        super().__init__(without_blocks(config))
        self.config = config
        self.transformer["h"] = nn.ModuleList(ElasticBlock(config, i) for i in range(config.n_layer))
        self.tie_embeddings = tie_embeddings
        if tie_embeddings:
            self.lm_head.weight = self.transformer.wte.weight
        self._local = threading.local()

    def forward(  # type: ignore[override]
        self,
        idx: Tensor,
        arch: Architecture | None = None,
        input_pos: Tensor | None = None,
        input_pos_maxp1: int | None = None,
        lm_head_chunk_size: int = 0,
    ) -> Tensor | list[Tensor]:
        """Return the logits of the whole network, or of the sub-network `arch`.

        Args:
            idx: (B, T) token indices.
            arch: the sub-network; None is the whole network on litgpt's dense path.
            input_pos: as in litgpt (KV cache), for the whole network only: decode with an extracted sub-network.
            input_pos_maxp1: as in litgpt.
            lm_head_chunk_size: as in litgpt.

        Returns:
            (B, T, V) logits, or litgpt's list of chunks.

        Raises:
            ValueError: the supernet does not contain `arch`, or T exceeds `max_seq_length`.
            TypeError: `arch` is no Architecture, or `input_pos` is given with it.
        """
        if arch is None:
            return super().forward(idx, input_pos, input_pos_maxp1, lm_head_chunk_size)
        if not isinstance(arch, Architecture):
            raise TypeError(f"arch is a {type(arch).__name__}: give an Architecture, or input_pos= by keyword")
        if input_pos is not None:
            raise TypeError("no KV cache inside a supernet: extract(supernet, arch) and decode with that model")
        frame = self._frame(arch)
        tensors = select_parameters(frame.selections, [self.get_parameter(name) for name in frame.skeleton.names])
        gpt = frame.skeleton.module
        gpt.cos, gpt.sin, gpt._max_seq_length = self.cos, self.sin, self._max_seq_length
        return frame.skeleton(tensors, idx, lm_head_chunk_size=lm_head_chunk_size)

    def plan(self, arch: Architecture) -> SelectionPlan:
        """Return what `arch` uses of this supernet; raises ValueError when it does not contain `arch`."""
        plans: OrderedDict[Hashable, SelectionPlan] = self._thread_cache("plans", OrderedDict)
        return _remembered(plans, arch, lambda: selection_plan(self.config, arch), limit=_REMEMBERED)

    def _frame(self, arch: Architecture) -> _Frame:
        """Return the frame of `arch`, built at its first use in this thread."""
        frames: OrderedDict[Hashable, _Frame] = self._thread_cache("frames", OrderedDict)
        return _remembered(frames, arch, lambda: self._build_frame(arch), limit=_REMEMBERED)

    def _build_frame(self, arch: Architecture) -> _Frame:
        check_fits(self.config, arch)
        with torch.device("meta"):
            gpt = litgpt.GPT(without_blocks(subnet_config(self.config, arch)))
        gpt.config = subnet_config(self.config, arch)
        skeleton = _Skeleton(gpt)
        runs = axis_runs(self.config, layer_shapes(arch)[0])
        selections = tuple(select_axes(SHARED_AXES[name], runs) for name in skeleton.names)
        blocks = zip(arch.layers, layer_shapes(arch), strict=True)
        gpt.transformer["h"] = nn.ModuleList(
            _BlockOfSubnet(self.transformer.h[layer], self._block_call(shape, layer)) for layer, shape in blocks
        )
        return _Frame(skeleton, selections)

    def _block_call(self, shape: LayerShape, layer: int) -> BlockCall:
        calls: OrderedDict[Hashable, BlockCall] = self._thread_cache("calls", OrderedDict)
        windows = self.config.sliding_window_indices
        key = (shape, windows[layer] if windows else None)

        def build() -> BlockCall:
            block = meta_block(self.config, shape, layer)
            selections = block_selections(self.config, shape, block)
            return BlockCall(
                _Skeleton(block), tuple(tuple(n.split(".")) for n in selections), tuple(selections.values())
            )

        return _remembered(calls, key, build, limit=_REMEMBERED_SHAPES)

    def _thread_cache(self, name: str, kind: type) -> Any:
        """Return a cache of this thread: skeletons hold tensors during a call, so threads must not share them."""
        if not hasattr(self._local, name):
            setattr(self._local, name, kind())
        return getattr(self._local, name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._local = threading.local()


def _remembered(cache: OrderedDict[Hashable, T], key: Hashable, build: Callable[[], T], *, limit: int) -> T:
    """Return the cache's value for `key`, built when missing; the least recently used are forgotten."""
    if key not in cache:
        cache[key] = build()
        if len(cache) > limit:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


def meta_block(config: Config, shape: LayerShape, layer: int) -> litgpt.model.Block:
    """Return a litgpt Block of this shape on the meta device."""
    with torch.device("meta"):
        return build_block(layer_config(config, layer), shape, 0)


def block_selections(config: Config, shape: LayerShape, block: nn.Module) -> dict[str, Selection]:
    """Return the selection of each parameter of `block`, a Block of this shape, by name."""
    runs = axis_runs(config, shape)
    return {name: select_axes(BLOCK_AXES[name], runs) for name, _ in block.named_parameters()}


def selection_plan(config: Config, arch: Architecture) -> SelectionPlan:
    """Return what the sub-network `arch` uses of the supernet of `config`.

    Raises:
        ValueError: the supernet does not contain `arch`; names the dimension and what is allowed.
    """
    check_fits(config, arch)
    shapes = layer_shapes(arch)
    known: dict[LayerShape, Mapping[str, Selection]] = {}
    for shape, layer in zip(shapes, arch.layers, strict=True):
        if shape not in known:
            known[shape] = block_selections(config, shape, meta_block(config, shape, layer))
    with torch.device("meta"):
        frame = litgpt.GPT(without_blocks(subnet_config(config, arch)))
    runs = axis_runs(config, shapes[0])
    shared = {name: select_axes(SHARED_AXES[name], runs) for name, _ in frame.named_parameters()}
    return SelectionPlan(arch, tuple(known[shape] for shape in shapes), shared)


def without_blocks(config: Config) -> Config:
    """Return the config of the same network with no block, to build what lies around the blocks."""
    empty = {name: [] for name in ("sliding_window_indices", "rope_indices") if getattr(config, name) is not None}
    return replace(config, n_layer=0, **empty)
