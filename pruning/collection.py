"""One pass over calibration blocks that collects `Moments` with hooks; nothing is stored but sums.

Shapes: B blocks of a batch, T tokens, N = B*T, n inputs of a projection, C n_embd, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import litgpt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from pruning.calibration import check_blocks
from pruning.input_statistics import InputStatistics, add_gram
from pruning.moments import Moments, check_finite
from pruning.structure import PARTS, Part, output_projection
from supernet.evaluate import PRECISIONS
from supernet.tokens import TokenBlocks

Extra = Literal["angles", "residual"]
_TOKENS_AT_ONCE = 512  # of the (L + 1, L + 1) angles


class Enough(Exception):  # noqa: N818 (no error: it ends a forward before the logits, which nobody needs)
    """Raised before lm_head."""


def collect_moments(
    model: litgpt.GPT,
    blocks: Tensor | np.ndarray | TokenBlocks,
    *,
    layers: Collection[int] | None = None,
    extras: Collection[Extra] = (),
    batch_size: int = 4,
    precision: str = "32",
    dtype: torch.dtype = torch.float32,
    shortest: int = 2,
    progress: bool = False,
) -> Moments:
    """Run the network once over calibration blocks and return the moments of what flows through it.

    Args:
        model: a Supernet (its largest network) or any litgpt GPT, where it is and in its own dtype.
        blocks: (n, T) token ids; see `calibration.calibration_blocks`.
        layers: blocks whose projections' moments are wanted, to save memory; None is all.
        extras: "angles" (keeps a batch's residual streams), "residual" (one more product for each norm).
        batch_size: blocks of one forward.
        precision: "32", or "bf16" for autocast to bfloat16.
        dtype: of products and their sums, float32 or float64.
        shortest: the least T; shorter blocks are taken for a mistake.
        progress: show a progress bar.

    Returns:
        The moments, on the model's device.

    Raises:
        ValueError: unusable blocks (see `check_blocks`), an unknown precision or extra, or activations not finite.
    """
    ids = check_blocks(blocks, model, shortest=shortest)
    unknown = set(extras) - {"angles", "residual"}
    if unknown or precision not in PRECISIONS or batch_size < 1:
        raise ValueError(
            f"extras {sorted(unknown)}, precision {precision!r}, batch_size {batch_size}: "
            f"allowed: angles and residual; {' and '.join(PRECISIONS)}; at least 1"
        )
    place = next(model.parameters()).device
    sums = _Sums(model, layers=layers, extras=extras, dtype=dtype)
    bar = tqdm(total=ids.numel(), unit="token", desc="moments", disable=not progress)
    with bar, hooks(sums.hooks()), eval_mode(model), torch.no_grad(), autocast(place, precision):
        for batch in ids.split(batch_size):
            run_body(model, batch.to(place))
            sums.end_batch(batch.numel())
            bar.update(batch.numel())
    return sums.result()


def run_body(model: litgpt.GPT, batch: Tensor) -> None:
    """Run a network up to, and without, lm_head."""
    handle = model.lm_head.register_forward_pre_hook(_stop)
    try:
        model(batch)
    except Enough:
        pass
    finally:
        handle.remove()


def _stop(module: nn.Module, args: Any) -> None:
    raise Enough


Hook = tuple[nn.Module, Literal["before", "after"], Callable[..., None]]


@contextmanager
def hooks(wanted: Iterable[Hook]) -> Iterator[None]:
    """Register hooks, and remove them afterwards; they get the module's first argument, or its output."""
    with ExitStack() as stack:
        for module, when, function in wanted:
            if when == "before":
                handle = module.register_forward_pre_hook(lambda _, args, f=function: f(args[0]))
            else:
                handle = module.register_forward_hook(lambda _, __, output, f=function: f(output))
            stack.callback(handle.remove)
        yield


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch a model to eval mode, and back afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context of a precision."""
    return nullcontext() if precision == "32" else torch.autocast(device.type, dtype=torch.bfloat16)


class _Sums:
    """The running sums of one pass and the hooks that fill them."""

    def __init__(
        self, model: litgpt.GPT, *, layers: Collection[int] | None, extras: Collection[Extra], dtype: torch.dtype
    ) -> None:
        self.model, self.extras, self.dtype = model, extras, dtype
        place, C, L = next(model.parameters()).device, model.config.n_embd, len(model.transformer.h)
        self.inputs: dict[tuple[int, Part], InputStatistics] = {}
        for layer, block in enumerate(model.transformer.h):
            for part in PARTS:
                projection = output_projection(block, part)
                if projection is not None and (layers is None or layer in layers):
                    self.inputs[layer, part] = InputStatistics(projection.in_features, device=place, dtype=dtype)
        self.readers: list[Tensor] = []  # (C,) sums of squared mean |x| of each layer that reads the residual stream
        self.cosines = torch.zeros(3, L, dtype=torch.float64, device=place)
        self.angles = torch.zeros(L + 1, L + 1, dtype=torch.float64, device=place)
        self.residual = torch.zeros(C, C, dtype=dtype, device=place) if "residual" in extras else None
        self.states: list[Tensor] = []
        self.passing: dict[str, Tensor] = {}
        self.n_tokens = self.n_residuals = 0

    def hooks(self) -> Iterator[Hook]:
        """Yield all hooks of the pass."""
        for layer, block in enumerate(self.model.transformer.h):
            for part in PARTS:
                projection = output_projection(block, part)
                if projection is not None and (layer, part) in self.inputs:
                    yield projection, "before", self.inputs[layer, part].add
            yield from self._flow(layer, block)
            for reader in self._readers_of(block):
                yield self._reader_hook(reader)
            if self.residual is not None:
                norms = [norm for norm in (block.norm_1, block.norm_2) if _is_norm(norm)]
                yield from ((norm, "before", self._add_residual) for norm in norms)
        yield self._reader_hook(self.model.lm_head)
        if self.residual is not None:
            yield self.model.transformer.ln_f, "before", self._add_residual

    def _flow(self, layer: int, block: nn.Module) -> Iterator[Hook]:
        """Yield the hooks that compare the residual stream around a block, its attention and its MLP."""

        def keep(name: str) -> Callable[[Tensor], None]:
            return lambda x: self.passing.__setitem__(name, x)

        def compare(out: Tensor) -> None:
            x, out = self.passing.pop("x").float(), out.float()
            middle = x + self.passing.pop("attention").float() if "attention" in self.passing else x
            before_mlp = out - self.passing.pop("mlp").float() if "mlp" in self.passing else out
            for row, (a, b) in enumerate(((x, out), (x, middle), (before_mlp, out))):
                self.cosines[row, layer] += F.cosine_similarity(a, b, dim=-1).double().sum()
            if "angles" in self.extras:
                self.states += [F.normalize(s.flatten(0, -2), dim=-1) for s in ([x, out] if layer == 0 else [out])]

        yield block, "before", keep("x")
        for part, norm in (("attention", "post_attention_norm"), ("mlp", "post_mlp_norm")):
            if isinstance(getattr(block, norm, None), nn.Module):  # an Identity where the family has no such norm
                yield getattr(block, norm), "after", keep(part)
        yield block, "after", compare

    def _readers_of(self, block: nn.Module) -> list[nn.Module]:
        attention, mlp = getattr(block, "attn", None), getattr(block, "mlp", None)
        found = [getattr(attention, "qkv", None)]
        if not self.model.config.shared_attention_norm or found[0] is None:
            found.append(getattr(mlp, "fc_1", None) or getattr(mlp, "fc", None))
        return [reader for reader in found if isinstance(reader, nn.Module)]

    def _reader_hook(self, reader: nn.Module) -> Hook:
        total = torch.zeros(self.model.config.n_embd, dtype=torch.float64, device=self.cosines.device)
        self.readers.append(total)

        def add(x: Tensor) -> None:
            total.add_(x.abs().float().mean(1).square().sum(0).double())

        return reader, "before", add

    def _add_residual(self, x: Tensor) -> None:
        assert self.residual is not None
        rows = x.flatten(0, -2).to(self.dtype)
        rows = rows * rows.square().mean(-1, keepdim=True).clamp(min=1e-30).rsqrt()
        add_gram(self.residual, rows)
        self.n_residuals += len(rows)

    def end_batch(self, n_tokens: int) -> None:
        """Finish one batch: what compares states of all depths."""
        self.n_tokens += n_tokens
        if self.states:
            for part in zip(*(state.split(_TOKENS_AT_ONCE) for state in self.states), strict=True):
                stacked = torch.stack(part, 1)  # (N, L + 1, C)
                cosines = (stacked @ stacked.mT).clamp(-1, 1)
                self.angles += (torch.arccos(cosines) / torch.pi).double().sum(0)
            self.states = []

    def result(self) -> Moments:
        """Return the means."""
        inputs = {
            (layer, part): check_finite(sums.result(), f"inputs of layer {layer}, {part}")
            for (layer, part), sums in self.inputs.items()
        }
        residual = self.residual
        if residual is not None:
            residual = (residual.triu() + residual.triu(1).T).double() / self.n_residuals
        angles = (self.angles / self.n_tokens).fill_diagonal_(0) if "angles" in self.extras else None
        return Moments(
            inputs=inputs, channels=torch.stack(self.readers).sqrt().sum(0), angles=angles,
            influence=1 - self.cosines / self.n_tokens, residual=residual, n_tokens=self.n_tokens,
        )  # fmt: skip


def _is_norm(module: Any) -> bool:
    return isinstance(module, nn.Module) and not isinstance(module, nn.Identity)
