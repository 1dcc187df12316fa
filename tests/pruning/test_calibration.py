import numpy as np
import pytest
import torch
from pruning_supernets import build_supernet

from pruning.calibration import calibration_blocks, check_blocks, draw_blocks
from supernet.text import ByteTokenizer
from supernet.tokens import TokenBlocks, TokenSlice


def test_blocks_are_distinct_pieces_of_the_text_that_do_not_overlap():
    blocks = draw_blocks(np.arange(1000), n_blocks=40, seq_len=24, seed=3)
    assert blocks.shape == (40, 24) and blocks.dtype == torch.int64
    assert torch.equal(blocks, blocks[:, :1] + torch.arange(24))
    assert len(blocks.flatten().unique()) == 40 * 24


def test_the_seed_draws_the_blocks():
    first, again, other = (draw_blocks(np.arange(1000), n_blocks=5, seq_len=10, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(("tokens", "n_blocks"), [(0, 1), (9, 1), (39, 4)])
def test_too_little_text_says_how_much_is_needed(tokens, n_blocks):
    with pytest.raises(ValueError, match=f"has {tokens} tokens, {n_blocks} blocks of 10 need {10 * n_blocks}"):
        draw_blocks(np.arange(tokens), n_blocks=n_blocks, seq_len=10)


@pytest.mark.parametrize(("sizes", "named"), [((0, 8), "n_blocks = 0"), ((2, 1), "seq_len = 1")])
def test_sizes_that_make_no_block_are_refused(sizes, named):
    with pytest.raises(ValueError, match=named):
        draw_blocks(np.arange(100), n_blocks=sizes[0], seq_len=sizes[1])


def test_blocks_come_from_a_text_file(tmp_path):
    (tmp_path / "text.txt").write_text("abcdefghij" * 20)
    blocks = calibration_blocks(
        tmp_path / "text.txt", ByteTokenizer(), n_blocks=3, seq_len=10, cache_dir=tmp_path / "cache"
    )
    for row in blocks.tolist():
        assert bytes(row).decode() in "abcdefghij" * 3


def test_an_empty_text_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ValueError, match="no text"):
        calibration_blocks(tmp_path / "empty.txt", ByteTokenizer(), cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (torch.zeros(0, 8, dtype=torch.long), "empty or too short"),
        (torch.zeros(3, 1, dtype=torch.long), "empty or too short"),
        (torch.zeros(8, dtype=torch.long), "give \\(n, T\\) integer"),
        (torch.zeros(2, 8), "give \\(n, T\\) integer"),
        (torch.full((2, 8), -1), "the id -1"),
        (torch.full((2, 8), 64), "has 65 ids, the model only 64"),
        (torch.zeros(2, 25, dtype=torch.long), "block_size = 24"),
    ],
)
def test_blocks_that_a_network_cannot_take_are_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        check_blocks(blocks, build_supernet("llama-gqa"))


def test_token_blocks_give_their_inputs():
    tokens = TokenSlice(np.arange(41) % 50, None)
    ids = check_blocks(TokenBlocks(tokens, 10), build_supernet("llama-gqa"))
    assert torch.equal(ids, (torch.arange(40) % 50).view(4, 10))
