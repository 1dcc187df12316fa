"""GPU memory of a network by rule, to the byte: the caching allocator of torch and what one forward pass asks of it.

`torch.cuda.memory_allocated()` counts whole blocks, not what was asked for. A request of more than 1 MiB takes the
smallest free block that holds it, and keeps up to 1 MiB that is left over; which block that is depends on everything
that lives or was freed before: parameters, the half-precision copies that autocast keeps until its context ends,
activations of the pass, and memory kept from networks measured earlier in the same process. So memory is not a sum over
layers, and is reproduced here by doing the same requests in the same order: 1 to 10 ms a network, for checks and for
labels, too slow for a search. HW-GPT-Bench's float16 readings of gpt-s come out to the byte. No torch.

Rules: torch 2.1, c10/cuda/CUDACachingAllocator.cpp (sizes, segments, best fit, split), ATen/autocast_mode.cpp (copies
of parameters; arguments are converted last to first), ATen/cuda/CublasHandlePool.cpp (the workspace before Hopper).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from copy import deepcopy
from typing import Any, NamedTuple

from supernet.architecture import Architecture

MIB = 1 << 20
CUBLAS_WORKSPACE = (2 * 4096 + 8 * 16) * 1024
_GRAIN = 512
_LARGE_SEGMENT = 20 * MIB
_ROTARY_SHARE = 0.25


class Block(NamedTuple):
    """Memory that was handed out; small requests (at most 1 MiB) have no address."""

    size: int
    address: int | None


class CachingAllocator:
    """The large pool of torch's allocator, block by block; small requests are only added up, for none is wasted.

    Args:
        descending: each new segment lies below the earlier ones. This settles which of two equally large free blocks
            is taken, and is a property of the driver.

    Attributes:
        allocated: bytes handed out, as `torch.cuda.memory_allocated()` counts them.
        segments: sizes of the segments asked of the driver, in order.
    """

    def __init__(self, *, descending: bool = True) -> None:
        self.allocated = 0
        self.segments: list[int] = []
        self._step = -1 if descending else 1
        self._free: list[tuple[int, int]] = []  # (size, address), sorted: best fit, lowest address first
        self._starts: dict[int, int] = {}  # address -> size, of free blocks
        self._ends: dict[int, int] = {}  # address after -> address, of free blocks

    def allocate(self, n_bytes: int) -> Block:
        """Hand out the smallest free block of at least `n_bytes`, with up to 1 MiB more than asked for."""
        size = max(_GRAIN, -(-n_bytes // _GRAIN) * _GRAIN)
        if size <= MIB:
            self.allocated += size
            return Block(size, None)
        i = bisect_left(self._free, (size, -(1 << 62)))
        block, address = self._free[i] if i < len(self._free) else self._new_segment(size)
        self._forget(block, address)
        if block - size > MIB:
            self._add(block - size, address + size)
            block = size
        self.allocated += block
        return Block(block, address)

    def free(self, *blocks: Block) -> None:
        """Take blocks back, and join them with free neighbours in their segment."""
        for size, address in blocks:
            self.allocated -= size
            if address is None:
                continue
            if (before := self._ends.get(address)) is not None:
                self._forget(address - before, before)
                address, size = before, size + address - before
            if (after := self._starts.get(address + size)) is not None:
                self._forget(after, address + size)
                size += after
            self._add(size, address)

    def _new_segment(self, size: int) -> tuple[int, int]:
        segment = _LARGE_SEGMENT if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        self.segments.append(segment)
        address = self._step * len(self.segments) << 44  # far apart: blocks of two segments never join
        self._add(segment, address)
        return segment, address

    def _add(self, size: int, address: int) -> None:
        insort(self._free, (size, address))
        self._starts[address], self._ends[address + size] = size, address

    def _forget(self, size: int, address: int) -> None:
        del self._free[bisect_left(self._free, (size, address))], self._starts[address], self._ends[address + size]


class _Linear(NamedTuple):
    n_in: int
    n_out: int
    bias: bool

    @property
    def parameters(self) -> list[int]:
        return [self.n_in * self.n_out, *([self.n_out] if self.bias else [])]


class MeasuringProcess:
    """A process that builds networks one after another, measures the memory of each after a forward, and drops it.

    The first networks make the segments; after a few hundred different ones no new segment is needed, and the memory
    of a network no longer depends on those before it. `copy` gives such a process to measure many networks alike.

    Args:
        config: litgpt's Config of the supernet: head size, vocabulary, block. Float32 weights under autocast to a
            16-bit type, no gradients, memory-efficient or flash attention.
        batch: sequences of a forward pass.
        seq_len: tokens of a sequence.
        descending: see CachingAllocator.

    Raises:
        ValueError: another block than the gated MLP beside attention with LayerNorm and 25 % rotary positions.
    """

    def __init__(self, config: Any, *, batch: int, seq_len: int, descending: bool = True) -> None:
        _check(config)
        self.memory = CachingAllocator(descending=descending)
        self._head_size, self._vocab = config.head_size, config.padded_vocab_size
        self._tokens = batch * seq_len
        self._workspace: Block | None = None
        self._casts: list[Block] = []

    def copy(self) -> MeasuringProcess:
        """Return a process in the same state that goes on independently."""
        return deepcopy(self)

    def measure(self, arch: Architecture) -> int:
        """Return the bytes allocated after a forward pass of a network, inside autocast; the network is then freed.

        Passes are repeated until one needs no new segment, as the published readings are those after the third.
        """
        if arch.n_query_groups != arch.n_head:
            raise ValueError(f"n_query_groups = {arch.n_query_groups}: memory is traced only for one group a head")
        blocks = self._linears(arch)
        network = [self.memory.allocate(4 * n) for n in self._parameters(arch, blocks)]
        network.append(self.memory.allocate(8 * self._tokens))  # the token ids
        n_segments = -1
        while n_segments != len(self.memory.segments):
            n_segments = len(self.memory.segments)
            reading = self._forward(arch, blocks)
        self.memory.free(*network)
        return reading

    def _linears(self, arch: Architecture) -> list[list[_Linear]]:
        d, found = arch.n_embd, []
        for heads, hidden in zip(arch.n_head, arch.intermediate_size, strict=True):
            attention = self._head_size * heads
            sizes = ((d, 3 * attention), (attention, d), (d, hidden), (d, hidden), (hidden, d))
            found.append([_Linear(n_in, n_out, arch.bias) for n_in, n_out in sizes])
        return found

    def _parameters(self, arch: Architecture, blocks: list[list[_Linear]]) -> list[int]:
        """Return the elements of each parameter in the order in which `Module.to` moves them."""
        d = arch.n_embd
        counts = [self._vocab * d] * 2  # output matrix, embedding
        for qkv, proj, *mlp in blocks:
            counts += [d, d, *qkv.parameters, *proj.parameters, d, d]
            counts += [n for linear in mlp for n in linear.parameters]
        return [*counts, d, d]

    def _forward(self, arch: Architecture, blocks: list[list[_Linear]]) -> int:
        take, drop = self.memory.allocate, self.memory.free
        width = self._tokens * arch.n_embd
        x = take(4 * width)
        for heads, linears in zip(arch.n_head, blocks, strict=True):
            after = self._block(linears, width, heads)
            drop(x)
            x = after
        normed = take(4 * width)
        drop(x)
        logits = self._linear(_Linear(arch.n_embd, self._vocab, False), convert=True)
        drop(normed, logits)
        reading = self.memory.allocated
        drop(*self._casts)
        self._casts.clear()
        return reading

    def _block(self, linears: list[_Linear], width: int, heads: int) -> Block:
        """Do the requests of one block, attention and MLP side by side, and return the new residual stream."""
        take, drop = self.memory.allocate, self.memory.free
        qkv_linear, proj_linear, gate_linear, up_linear, down_linear = linears
        norm_1 = take(4 * width)
        qkv = self._linear(qkv_linear, convert=True)
        heads_bytes = 2 * self._tokens * heads * self._head_size
        rotated = [self._rotary(heads_bytes), self._rotary(heads_bytes)]
        attention = [take(heads_bytes) for _ in range(3)]  # queries, keys, result
        h = self._linear(proj_linear)
        drop(qkv, *rotated, *attention)
        norm_2 = take(4 * width)
        gate, up = self._linear(gate_linear, convert=True), self._linear(up_linear, convert=True)
        hidden = 2 * self._tokens * gate_linear.n_out
        activated, product = take(hidden), take(hidden)
        drop(activated)
        down = self._linear(down_linear)
        drop(gate, up, product)
        both = take(2 * width)
        drop(down)
        x = take(4 * width)
        drop(both, norm_1, norm_2, h)
        return x

    def _linear(self, linear: _Linear, *, convert: bool = False) -> Block:
        """Do the requests of a linear layer: copies of bias and weight, which stay, of its input, and the result."""
        self._casts += [self.memory.allocate(2 * n) for n in reversed(linear.parameters)]
        converted = [self.memory.allocate(2 * self._tokens * linear.n_in)] if convert else []
        result = self.memory.allocate(2 * self._tokens * linear.n_out)
        if self._workspace is None:
            self._workspace = self.memory.allocate(CUBLAS_WORKSPACE)
        self.memory.free(*converted)
        return result

    def _rotary(self, heads_bytes: int) -> Block:
        """Do the requests of rotating queries or keys: products in float32, because the angles are."""
        take, drop = self.memory.allocate, self.memory.free
        part = int(heads_bytes * _ROTARY_SHARE)
        negated, swapped = take(part // 2), take(part)
        drop(negated)
        cosine, sine, total = take(2 * part), take(2 * part), take(2 * part)
        drop(cosine, sine)
        result = take(part)
        drop(swapped, total)
        return result


def _check(config: Any) -> None:
    wanted = {
        "mlp_class_name": "LLaMAMLP", "norm_class_name": "LayerNorm", "parallel_residual": True,
        "shared_attention_norm": False, "rotary_percentage": _ROTARY_SHARE, "lm_head_bias": False,
    }  # fmt: skip
    for name, value in wanted.items():
        if (given := getattr(config, name)) != value:
            raise ValueError(f"config.{name} = {given!r}: memory is traced only for {value!r}; measure it instead")
