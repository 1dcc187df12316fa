import numpy as np
import pytest
import torch
from pruning_supernets import FAMILIES, largest_arch, random_arch
from quality_fakes import direct_kl, ordered_database

from pruning.dense_target import DenseTarget
from pruning.depth import without_blocks
from pruning.pieces import Pieces
from pruning.true_loss import CalibrationLoss, halving
from supernet.architecture import Architecture

HALF = Architecture(32, (3, 6, 0, 4), (1, 2, 0, 2), (48, 12, 24, 0), (0, 1, 2, 3), bias=False)


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_loss_is_the_divergence_of_the_extracted_networks_logits(family, intercept):
    database, blocks = ordered_database(family, intercept=intercept)
    loss, rng = CalibrationLoss(database, blocks, batch_size=3), np.random.default_rng(1)
    for _ in range(3):
        arch = random_arch(database.supernet.config, rng)
        assert loss(arch) == pytest.approx(direct_kl(database, arch, blocks), rel=1e-3, abs=2e-6)
    assert loss(largest_arch(database.supernet.config)) == pytest.approx(0, abs=1e-6)


def test_a_network_runs_from_the_first_block_that_differs():
    database, blocks = ordered_database()
    loss = CalibrationLoss(database, blocks)
    loss(HALF)
    before = loss.n_blocks_run
    for layer in range(4):
        sizes = list(HALF.intermediate_size)
        sizes[layer] = 36
        arch = Architecture(32, HALF.n_head, HALF.n_query_groups, tuple(sizes), HALF.layers, bias=False)
        assert loss(arch) == pytest.approx(direct_kl(database, arch, blocks), rel=1e-3, abs=2e-6)
        assert loss.n_blocks_run == before + 4 - layer
        before = loss.n_blocks_run
    dropped = without_blocks(HALF, [2])
    assert loss(dropped) == pytest.approx(direct_kl(database, dropped, blocks), rel=1e-3, abs=2e-6)
    assert loss.n_blocks_run == before + 1


def test_little_memory_costs_time_and_changes_nothing():
    database, blocks = ordered_database()
    roomy = CalibrationLoss(database, blocks)
    tight = CalibrationLoss(database, blocks, memory_mib=1e-9, state_memory_mib=1e-9)
    rng = np.random.default_rng(0)
    archs = [random_arch(database.supernet.config, rng) for _ in range(6)]
    np.testing.assert_allclose(tight.many(archs), roomy.many(archs), rtol=1e-5)
    assert tight._states.n_bytes <= 2 * blocks.numel() * 32 * 4


@pytest.mark.parametrize("memory_mib", [0.02, 0.005])
def test_distributions_kept_in_half_precision_or_not_at_all_give_nearly_the_same(memory_mib):
    database, blocks = ordered_database()
    exact = CalibrationLoss(database, blocks)
    loss = CalibrationLoss(database, blocks, memory_mib=memory_mib)
    assert loss(HALF) == pytest.approx(exact(HALF), rel=0.01)
    assert loss._target._dtype == (torch.bfloat16 if memory_mib == 0.02 else None)


def test_what_was_evaluated_is_found_again_in_the_file(tmp_path):
    database, blocks = ordered_database()
    first = CalibrationLoss(database, blocks, path=tmp_path / "losses.jsonl")
    value = first(HALF)
    with (tmp_path / "losses.jsonl").open("a") as stream:
        stream.write('["e32-l0-h')  # a kill in the middle of a line
    again = CalibrationLoss(database, blocks, path=tmp_path / "losses.jsonl")
    assert again(HALF) == value and again.n_evaluations == 0
    other = without_blocks(HALF, [0])
    again(other)
    assert again.n_evaluations == 1
    third = CalibrationLoss(database, blocks, path=tmp_path / "losses.jsonl")
    assert third(other) == again(other) and third.n_evaluations == 0


def test_a_file_of_another_text_network_or_precision_is_refused(tmp_path):
    database, blocks = ordered_database()
    CalibrationLoss(database, blocks, path=tmp_path / "losses.jsonl")
    other, _ = ordered_database()
    with torch.no_grad():
        other.supernet.transformer.h[1].mlp.fc_1.weight[0, 0] += 1e-3
    for own, text, precision in [(database, blocks[:4], "32"), (other, blocks, "32"), (database, blocks, "bf16")]:
        with pytest.raises(ValueError, match="belongs to another network, text or settings"):
            CalibrationLoss(own, text, precision=precision, path=tmp_path / "losses.jsonl")


def test_bf16_is_near_float32():
    database, blocks = ordered_database()
    exact, fast = CalibrationLoss(database, blocks), CalibrationLoss(database, blocks, precision="bf16")
    assert fast(HALF) == pytest.approx(exact(HALF), rel=0.05)


def test_halving_ends_with_the_best_on_all_of_the_text():
    database, blocks = ordered_database()
    loss, rng = CalibrationLoss(database, blocks, batch_size=2), np.random.default_rng(3)
    archs = [random_arch(database.supernet.config, rng) for _ in range(8)]
    found = halving([loss.shorter(2), loss], archs, keep=3)
    assert [value for _, value in found] == sorted(loss(arch) for arch, _ in found) and len(found) == 3
    assert loss.n_evaluations == 4
    best = min(archs, key=loss)
    assert halving([loss], archs, keep=1) == [(best, loss(best))]


def test_what_the_supernet_does_not_contain_is_refused():
    database, blocks = ordered_database()
    with pytest.raises(ValueError, match="intermediate_size"):
        CalibrationLoss(database, blocks)(Architecture(32, (6,), (2,), (49,), (0,), bias=False))
    with pytest.raises(ValueError, match="context"):
        Pieces(database.supernet, database, seq_len=25)


def test_blocks_are_views_of_the_supernets_weights():
    database, blocks = ordered_database()
    before = [p.clone() for p in database.supernet.parameters()]
    loss = CalibrationLoss(database, blocks)
    loss(HALF)
    assert all(torch.equal(a, b) for a, b in zip(before, database.supernet.parameters(), strict=True))
    block = loss.pieces.block(loss.pieces.dense_step(0))
    assert block.mlp.fc_1.weight.data_ptr() == database.supernet.transformer.h[0].mlp.fc_1.weight.data_ptr()


def test_the_divergence_of_a_batch_is_that_of_its_blocks():
    database, blocks = ordered_database()
    pieces = Pieces(database.supernet, database, seq_len=blocks.shape[1])
    with torch.no_grad():
        states = pieces.start(pieces.dense, blocks)
        target = DenseTarget(pieces, pieces.dense, [states], memory_mib=1)
        noisy = states + torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
        whole = target.divergence(0, pieces.dense, noisy)
        p, q = (pieces.head(pieces.dense, x).double().log_softmax(-1) for x in (states, noisy))
    torch.testing.assert_close(whole, (p.exp() * (p - q)).sum((1, 2)), rtol=1e-4, atol=1e-6)


def test_autocast_rounds_no_sums_of_the_divergence():
    database, blocks = ordered_database()
    pieces = Pieces(database.supernet, database, seq_len=blocks.shape[1])
    with torch.no_grad():
        states = pieces.start(pieces.dense, blocks)
        target, logits = DenseTarget(pieces, pieces.dense, [states], memory_mib=1), 12 + 3 * torch.randn(128, 64)
        plain = target._divergences(0, 0, logits)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(target._divergences(0, 0, logits), plain)


def test_the_head_under_autocast_is_rounded_once_and_gives_what_autocast_gives():
    database, blocks = ordered_database()
    pieces = Pieces(database.supernet, database, seq_len=blocks.shape[1])
    frame = pieces.frame(pieces.dense)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        states = pieces.start(pieces.dense, blocks)
        expected = frame.lm_head(frame.transformer.ln_f(states)).float()
        assert torch.equal(pieces.head(pieces.dense, states), expected)
        assert pieces._output(pieces.dense) is pieces._output(pieces.dense)
    with torch.no_grad():  # and without it nothing is rounded
        assert torch.equal(pieces.head(pieces.dense, states), frame.lm_head(frame.transformer.ln_f(states)))
