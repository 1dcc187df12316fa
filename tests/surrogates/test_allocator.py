"""Memory by the allocator's rules: against a naive allocator, and against published readings where they are at hand."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from supernet.architecture import Architecture
from supernet.cost import parameter_counts
from supernet.spaces import load_space
from surrogates.allocator import CUBLAS_WORKSPACE, MIB, Block, CachingAllocator, MeasuringProcess

FOLDER = Path(__file__).parents[2].parent / "shared" / "hwgpt_bench"


@dataclass
class Piece:
    segment: int
    offset: int
    size: int
    used: bool = False


class NaiveAllocator:
    """Every piece of every segment in one list; scanned for each request and rebuilt for each return."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self.segments = 0

    def allocate(self, size: int) -> Piece:
        fitting = [p for p in self.pieces if not p.used and p.size >= size]
        if not fitting:
            large = size >= 10 * MIB
            fitting = [Piece(self.segments, 0, (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB if large else 20 * MIB)]
            self.pieces += fitting
            self.segments += 1
        found = min(fitting, key=lambda p: (p.size, -p.segment, p.offset))
        if found.size - size > MIB:
            self.pieces.append(Piece(found.segment, found.offset + size, found.size - size))
            found.size = size
        found.used = True
        return found

    def free(self, piece: Piece) -> None:
        piece.used = False
        self.pieces.sort(key=lambda p: (p.segment, p.offset))
        joined: list[Piece] = []
        for p in self.pieces:
            if joined and not p.used and not joined[-1].used and joined[-1].segment == p.segment:
                joined[-1].size += p.size
            else:
                joined.append(p)
        self.pieces = joined


@pytest.mark.parametrize("seed", range(5))
def test_random_requests_are_served_as_by_a_naive_allocator(seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory, naive = CachingAllocator(), NaiveAllocator()
    held: list[tuple[Block, Piece]] = []
    for _ in range(400):
        if held and rng.random() < 0.48:
            block, piece = held.pop(int(rng.integers(len(held))))
            memory.free(block)
            naive.free(piece)
            continue
        size = MIB + 512 * int(rng.integers(1, 2048)) * int(rng.choice([1, 8, 16]))
        held.append((memory.allocate(size), naive.allocate(size)))
        assert held[-1][0].size == held[-1][1].size
    assert memory.allocated == sum(block.size for block, _ in held)
    assert len(memory.segments) == naive.segments


def test_small_requests_are_rounded_to_512_bytes_and_need_no_segment_of_the_large_pool() -> None:
    memory = CachingAllocator()
    blocks = [memory.allocate(n) for n in (1, 512, 513, MIB)]
    assert [block.size for block in blocks] == [512, 512, 1024, MIB]
    assert memory.segments == []
    memory.free(*blocks)
    assert memory.allocated == 0


def test_a_rest_of_at_most_one_mebibyte_sticks_to_the_block() -> None:
    memory = CachingAllocator()
    assert memory.allocate(11 * MIB).size == 12 * MIB
    assert memory.allocate(11 * MIB - 512).size == 11 * MIB - 512
    assert memory.segments == [12 * MIB, 12 * MIB]


def test_freed_neighbours_join_again() -> None:
    memory = CachingAllocator()
    blocks = [memory.allocate(5 * MIB) for _ in range(4)]
    memory.free(blocks[0], blocks[2], blocks[1], blocks[3])
    assert memory.allocate(20 * MIB).size == 20 * MIB
    assert memory.segments == [20 * MIB]


def test_a_measured_network_is_freed_and_only_the_workspace_stays() -> None:
    space = load_space("gpt-s")
    process = MeasuringProcess(space.model_config, batch=8, seq_len=1024)
    for arch in space.sample_unique(3, np.random.default_rng(0)):
        parameters = int(parameter_counts(space.model_config, [arch]).total[0])
        assert process.measure(arch) > 4 * parameters + 2 * (parameters - 50254 * arch.n_embd) * 0.99
        assert CUBLAS_WORKSPACE <= process.memory.allocated <= CUBLAS_WORKSPACE + MIB


def test_memory_depends_on_earlier_networks_until_no_new_segment_is_needed() -> None:
    space = load_space("gpt-s")
    archs = space.sample_unique(40, np.random.default_rng(1))
    process = MeasuringProcess(space.model_config, batch=8, seq_len=1024)
    first = [process.measure(arch) for arch in archs]
    segments = list(process.memory.segments)
    again = [process.measure(arch) for arch in archs]
    assert first != again and process.memory.segments == segments
    assert [process.copy().measure(arch) for arch in reversed(archs)] == again[::-1]


def test_networks_that_are_not_traced_are_refused() -> None:
    space = load_space("gpt-s")
    process = MeasuringProcess(space.model_config, batch=8, seq_len=1024)
    with pytest.raises(ValueError, match="one group a head"):
        process.measure(Architecture.uniform(n_embd=192, n_layer=1, n_head=4, n_query_groups=2, intermediate_size=384))
    with pytest.raises(ValueError, match="mlp_class_name"):
        MeasuringProcess(load_space("pythia-70m").model_config, batch=8, seq_len=1024)


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the tables of HW-GPT-Bench are not beside this checkout")
def test_the_first_published_readings_of_gpt_s_are_reproduced_to_the_byte() -> None:
    rows = pd.read_parquet(FOLDER / "architectures_s.parquet").sort_values("arch_id").head(80)
    read = pd.read_parquet(FOLDER / "memory_s.parquet").set_index("arch_id")["float16_memory_mb"].loc[rows["arch_id"]]
    process = MeasuringProcess(load_space("gpt-s").model_config, batch=8, seq_len=1024)
    found = []
    for row in rows.to_dict("records"):
        layers = tuple(range(row["n_layer"]))
        heads = tuple(row[f"n_head_{i:02}"] for i in layers)
        hidden = tuple(row[f"mlp_ratio_{i:02}"] * row["embed_dim"] for i in layers)
        found.append(process.measure(Architecture(row["embed_dim"], heads, heads, hidden, layers, bool(row["bias"]))))
    np.testing.assert_array_equal((np.array(found) / 1e6).astype(np.float32), read.to_numpy(np.float32))
