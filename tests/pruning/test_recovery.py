import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from pruning_supernets import STORIES, calm_supernet
from recovery_networks import patterned_blocks, pruned_network

from pruning.lora import LoraSettings
from pruning.overlay import OverlaySettings
from pruning.pruned import Pruned
from pruning.realise import realise
from pruning.recovery import dense_control, recover
from pruning.recovery_grid import recover_grid
from pruning.recovery_settings import RecoverySettings
from pruning.recovery_training import RecoveryModule
from pruning.self_text import write_blocks
from supernet.architecture import Architecture
from supernet.checkpoint import load_supernet
from supernet.distill import Distillation
from supernet.evaluate import evaluate
from supernet.extract import extract
from supernet.metrics_log import read_metrics
from supernet.tokens import TokenBlocks, TokenSlice

TRAIN, HELD_OUT = patterned_blocks(24), patterned_blocks(8, seed=1)
SETTINGS = RecoverySettings(
    max_steps=12, batch_size=4, learning_rate=1e-2, warmup_steps=2, check_every=4, checkpoint_every=5, precision="32",
    accelerator="cpu",
)  # fmt: skip


def weights(gpt):
    return {name: p.detach().clone() for name, p in gpt.named_parameters()}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def loss_of(gpt, blocks=HELD_OUT):
    return evaluate(gpt, [None], blocks)[0].loss


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama-gqa6", "pythia"])
def test_recovery_lowers_the_held_out_loss_and_returns_the_weights_of_its_best_look(family, method):
    supernet, pruned = pruned_network(family)
    before = weights(pruned.gpt)
    settings = replace(SETTINGS, method=method, lora=LoraSettings(rank=4), distillation=None)
    found = recover(pruned, supernet, TRAIN, HELD_OUT, settings)
    assert found.after.loss < found.before.loss - 0.01
    assert found.before.loss == loss_of(pruned.gpt)
    assert loss_of(found.gpt) == pytest.approx(found.after.loss, abs=1e-6)
    assert [look.step for look in found.history] == [0, 4, 8, 12] and found.tokens == 12 * 4 * 12
    assert_same(weights(pruned.gpt), before)
    assert found.arch == pruned.arch and weights(found.gpt).keys() == before.keys()
    assert f"{found.before.loss:.4f} -> {found.after.loss:.4f}" in str(found) and "\n" not in str(found)


@pytest.mark.parametrize(("family", "tied"), [("llama-gqa6", True), ("llama-gqa6", False), ("phi", False)])
def test_embedding_and_head_stay_unless_they_are_to_be_trained(family, tied):
    supernet, pruned = pruned_network(family, tied=tied)
    settings = replace(SETTINGS, max_steps=3, check_every=3)
    frozen = recover(pruned, supernet, TRAIN, TRAIN, settings).gpt
    trained = recover(pruned, supernet, TRAIN, TRAIN, replace(settings, train_embeddings=True)).gpt
    own = pruned.gpt
    for name in ("transformer.wte.weight", "lm_head.weight"):
        assert torch.equal(frozen.get_parameter(name), own.get_parameter(name))
        assert not torch.equal(trained.get_parameter(name), own.get_parameter(name))
    assert (trained.lm_head.weight is trained.transformer.wte.weight) == tied
    assert not torch.equal(frozen.transformer.h[0].mlp.proj.weight, own.transformer.h[0].mlp.proj.weight)


@pytest.mark.parametrize("top_k", [None, 8])
def test_distillation_brings_the_network_nearer_to_the_dense_one_and_leaves_that_as_it_was(top_k):
    supernet, pruned = pruned_network()
    text = write_blocks(supernet, n_blocks=40, seq_len=13, vocab_size=61, top_k=None)  # of the dense network's own
    train, held_out = text[:32], text[32:]
    settings = replace(SETTINGS, distillation=Distillation(alpha=1.0, temperature=2.0), teacher_top_k=top_k)
    before = weights(supernet)

    def divergence(gpt):
        with torch.no_grad():
            p = supernet(held_out).softmax(-1)
            return (p * (p.log() - gpt(held_out).log_softmax(-1))).sum(-1).mean().item()

    found = recover(pruned, supernet, train, {"own": held_out}, settings)
    assert divergence(found.gpt) < 0.9 * divergence(pruned.gpt)
    assert_same(weights(supernet), before)
    assert found.before.losses == {"own": found.before.loss}


@pytest.mark.slow
@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not there")
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_real_pruned_network_recovers(method):
    loaded = load_supernet(STORIES)
    supernet = loaded.supernet.eval()
    arch = Architecture(64, (8, 8, 6, 8), (4, 4, 3, 4), (110, 110, 140, 172), (0, 1, 2, 4), bias=False)
    pruned = Pruned(extract(supernet, arch), arch)
    text = write_blocks(supernet, n_blocks=72, seq_len=129, vocab_size=loaded.tokenizer.vocab_size, bos_id=1)
    train, held_out = text[:64], text[64:]
    settings = replace(
        SETTINGS, max_steps=60, check_every=20, method=method, learning_rate=1e-3 if method == "full" else 5e-3,
        lora=LoraSettings(rank=8),
    )  # fmt: skip
    found = recover(pruned, supernet, train, held_out, settings)
    dense = loss_of(supernet, held_out)
    assert found.before.loss > dense + 0.2
    assert found.after.loss - dense < 0.6 * (found.before.loss - dense)
    assert loss_of(found.gpt, held_out) == pytest.approx(found.after.loss, abs=1e-5)


def test_the_first_step_is_adamw_on_the_mean_gradient_of_its_batches():
    _, pruned = pruned_network()
    settings = replace(
        SETTINGS, max_steps=1, check_every=1, batch_size=2, accumulate=3, warmup_steps=0, distillation=None,
        train_embeddings=True, weight_decay=0.0, clip_norm=0.5, learning_rate=1e-3,
    )  # fmt: skip
    found = recover(pruned, None, TRAIN, TRAIN, settings)
    from pruning.recovery_data import RowBlocks
    from supernet.data import BatchSequence

    batches = BatchSequence(RowBlocks(TRAIN), batch_size=2, seed=0)
    own = copy.deepcopy(pruned.gpt).requires_grad_(True)
    optimizer = torch.optim.AdamW(own.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for k in range(3):
        batch = batches[k]
        loss = torch.nn.functional.cross_entropy(own(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        (loss / 3).backward()
    torch.nn.utils.clip_grad_norm_(own.parameters(), 0.5)
    optimizer.step()
    assert found.best_step == 1
    for name, p in own.named_parameters():
        torch.testing.assert_close(found.gpt.get_parameter(name), p, rtol=1e-4, atol=2e-6)


def test_the_divergence_on_first_tokens_is_part_of_the_loss(tmp_path):
    supernet, pruned = pruned_network()
    text = TRAIN[:2]  # one batch, every step
    rows = {}
    for weight in (0.0, 0.5):
        settings = replace(SETTINGS, max_steps=1, batch_size=2, first_token_weight=weight)
        recover(pruned, supernet, text, HELD_OUT, settings, folder=tmp_path / str(weight))
        rows[weight] = read_metrics(tmp_path / str(weight) / "metrics.csv")
    firsts = text[:, :1]  # of blocks shorter than 16 tokens
    with torch.no_grad():
        p, q = supernet(firsts).log_softmax(-1), pruned.gpt(firsts).log_softmax(-1)
        expected = (p.exp() * (p - q)).sum(-1).mean().item()
    losses = {weight: [row["train/loss"] for row in table if "train/loss" in row] for weight, table in rows.items()}
    assert losses[0.5][0] - losses[0.0][0] == pytest.approx(0.5 * expected, rel=1e-3) and expected > 1e-3


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_killed_recovery_ends_as_the_uninterrupted_one(tmp_path, monkeypatch, method):
    supernet, pruned = pruned_network()
    settings = replace(SETTINGS, method=method, accumulate=2, lora=LoraSettings(rank=3))
    whole = recover(pruned, supernet, TRAIN, HELD_OUT, settings, folder=tmp_path / "whole")
    for killed_at in (2, 7, 11):  # before the first checkpoint, after it, after the second

        def killed(self, batch, batch_idx, step=RecoveryModule.training_step, at=killed_at):
            if self.global_step == at:
                raise KeyboardInterrupt
            step(self, batch, batch_idx)

        with monkeypatch.context() as patch:
            patch.setattr(RecoveryModule, "training_step", killed)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                recover(pruned, supernet, TRAIN, HELD_OUT, settings, folder=tmp_path / "killed")
    found = recover(pruned, supernet, TRAIN, HELD_OUT, settings, folder=tmp_path / "killed")
    assert found.history == whole.history and (found.tokens, found.best_step) == (whole.tokens, whole.best_step)
    assert_same(weights(found.gpt), weights(whole.gpt))
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("whole", "killed")]
    for row in rows[0] + rows[1]:
        row.pop("tokens_per_s", None)
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0] if "train/loss" in row] == list(range(1, 13))


def test_a_finished_recovery_is_read_and_not_repeated(tmp_path, monkeypatch):
    supernet, pruned = pruned_network(tied=True)
    first = recover(pruned, supernet, TRAIN, HELD_OUT, SETTINGS, folder=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    monkeypatch.setattr(RecoveryModule, "training_step", None)
    second = recover(pruned, supernet, TRAIN, HELD_OUT, SETTINGS, folder=tmp_path / "run")
    assert_same(weights(first.gpt), weights(second.gpt))
    assert (str(first), first.history) == (str(second), second.history)
    with torch.no_grad():
        assert torch.equal(first.gpt(HELD_OUT), second.gpt(HELD_OUT))
    assert json.loads((tmp_path / "run" / "recovered.json").read_text())["summary"] == str(first)


def test_a_network_with_intercepts_recovers_and_is_read_again(tmp_path):
    supernet, plain = pruned_network()
    pruned = realise(supernet, plain.arch, TRAIN[:, :-1], settings=OverlaySettings(intercept=True))
    assert pruned.arch.bias and not supernet.config.bias
    first, second = (recover(pruned, supernet, TRAIN, HELD_OUT, SETTINGS, folder=tmp_path) for _ in range(2))
    assert first.after.loss < first.before.loss
    with torch.no_grad():
        assert torch.equal(first.gpt(HELD_OUT), second.gpt(HELD_OUT))


@pytest.mark.slow
def test_every_rate_of_a_grid_is_a_wandb_run_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    _, pruned = pruned_network()
    settings = replace(SETTINGS, max_steps=2, check_every=2, wandb_project="test")
    recover_grid(pruned, None, TRAIN, HELD_OUT, settings, learning_rates=(1e-3, 1e-2), folder=tmp_path)
    assert len(list(tmp_path.glob("learning-rate-*/wandb/offline-run-*/run-*.wandb"))) == 2


def test_a_folder_of_another_recovery_is_refused(tmp_path):
    supernet, pruned = pruned_network()
    settings = replace(SETTINGS, max_steps=2, check_every=2)
    recover(pruned, supernet, TRAIN, HELD_OUT, settings, folder=tmp_path)
    with pytest.raises(ValueError, match=r"settings.learning_rate was 0.01, is 0.5"):
        recover(pruned, supernet, TRAIN, HELD_OUT, replace(settings, learning_rate=0.5), folder=tmp_path)
    with pytest.raises(ValueError, match="train was"):
        recover(pruned, supernet, TRAIN[1:], HELD_OUT, settings, folder=tmp_path)
    with pytest.raises(ValueError, match="teacher was"):
        recover(pruned, None, TRAIN, HELD_OUT, settings, folder=tmp_path)


def test_training_that_gets_worse_stops_early_and_gives_back_the_best_weights():
    _, pruned = pruned_network()
    settings = replace(SETTINGS, max_steps=60, check_every=2, patience=3, warmup_steps=0, learning_rate=0.5)
    found = recover(pruned, None, TRAIN, HELD_OUT, settings)
    steps = [look.step for look in found.history]
    assert steps[-1] == found.best_step + 3 * 2 and steps[-1] < 60
    assert f"since step {found.best_step}" in found.stopped and "stopped" in str(found)
    assert found.after.loss == min(look.loss for look in found.history) <= found.before.loss
    assert loss_of(found.gpt) == pytest.approx(found.after.loss, abs=1e-6)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_network_that_only_gets_worse_comes_back_as_it_was(method):
    _, untrained = pruned_network()
    pruned = recover(untrained, None, HELD_OUT, HELD_OUT, replace(SETTINGS, max_steps=30)).pruned
    settings = replace(SETTINGS, method=method, patience=2, check_every=2, learning_rate=3.0, warmup_steps=0)
    found = recover(pruned, None, TRAIN, HELD_OUT, settings)
    assert min(look.loss for look in found.history[1:]) > found.before.loss + 0.5
    assert found.best_step == 0 and found.after == found.before
    assert_same(weights(found.gpt), weights(pruned.gpt))


def test_a_loss_that_is_not_finite_ends_training_with_the_best_weights_so_far():
    _, pruned = pruned_network()
    settings = replace(SETTINGS, learning_rate=1e30, warmup_steps=0, clip_norm=0.0, check_every=1, patience=0)
    found = recover(pruned, None, TRAIN, HELD_OUT, settings)
    assert "not finite at step" in found.stopped
    assert found.best_step == 0 and math.isfinite(found.after.loss)
    assert_same(weights(found.gpt), weights(pruned.gpt))


def test_a_grid_keeps_the_best_learning_rate_and_sees_the_same_batches(tmp_path, monkeypatch):
    supernet, pruned = pruned_network()
    seen = []
    step = RecoveryModule.training_step

    def watched(self, batch, batch_idx):
        seen.append(batch.clone())
        step(self, batch, batch_idx)

    monkeypatch.setattr(RecoveryModule, "training_step", watched)
    settings = replace(SETTINGS, patience=0)
    grid = recover_grid(
        pruned, supernet, TRAIN, HELD_OUT, settings, learning_rates=(1e-5, 1e-2), folder=tmp_path
    )  # fmt: skip
    assert len(seen) == 24 and all(torch.equal(a, b) for a, b in zip(seen[:12], seen[12:], strict=True))
    assert [trial.learning_rate for trial in grid.trials] == [1e-5, 1e-2]
    assert grid.best.settings.learning_rate == 1e-2 and grid.best.after.loss == grid.trials[1].loss
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learning-rate-0.01", "learning-rate-1e-05"]
    assert "1e-05: " in str(grid)
    again = recover_grid(pruned, supernet, TRAIN, HELD_OUT, settings, learning_rates=(1e-5, 1e-2), folder=tmp_path)
    assert str(again) == str(grid) and len(seen) == 24


def test_the_dense_control_is_trained_the_same_way(tmp_path):
    supernet = calm_supernet("llama-gqa6", tied=True)
    control = dense_control(supernet)
    with torch.no_grad():
        assert torch.equal(control.gpt(HELD_OUT), supernet(HELD_OUT))
    found = recover(control, supernet, TRAIN, HELD_OUT, SETTINGS, folder=tmp_path)
    assert found.after.loss < found.before.loss == loss_of(supernet)


def test_texts_count_equally_and_token_blocks_are_read_as_they_are():
    _, pruned = pruned_network()
    ids = TRAIN.flatten().numpy()
    blocks = TokenBlocks(TokenSlice(ids, None), 12)
    other = patterned_blocks(3, seed=5)
    settings = replace(SETTINGS, max_steps=2, check_every=2)
    found = recover(pruned, None, blocks, {"one": blocks, "two": other}, settings)
    for look in found.history:
        assert look.loss == pytest.approx((look.losses["one"] + look.losses["two"]) / 2)
    assert found.before.losses["one"] == pytest.approx(evaluate(pruned.gpt, [None], blocks)[0].loss)


def test_the_callers_random_numbers_and_modes_are_left_alone():
    supernet, pruned = pruned_network()
    supernet.train()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = recover(pruned, supernet, TRAIN, HELD_OUT, replace(SETTINGS, max_steps=2, check_every=2))
    assert torch.equal(torch.rand(3), expected) and supernet.training
    assert found.gpt.training == pruned.gpt.training and all(p.requires_grad for p in found.gpt.parameters())


def test_bf16_trains_too():
    supernet, pruned = pruned_network()
    found = recover(pruned, supernet, TRAIN, HELD_OUT, replace(SETTINGS, precision="bf16", distillation=None))
    assert found.after.loss < found.before.loss
    assert all(p.dtype == torch.float32 for p in found.gpt.parameters())


def test_bad_requests_say_what_is_allowed(tmp_path):
    supernet, pruned = pruned_network()
    with pytest.raises(ValueError, match="training text has 2 blocks of 12 tokens, 4 are needed"):
        recover(pruned, supernet, TRAIN[:2], HELD_OUT, SETTINGS)
    with pytest.raises(ValueError, match="held-out text has 0 blocks"):
        recover(pruned, supernet, TRAIN, HELD_OUT[:0], SETTINGS)
    with pytest.raises(ValueError, match="no held-out text"):
        recover(pruned, supernet, TRAIN, {}, SETTINGS)
    with pytest.raises(ValueError, match=r"training text is \(24,\)"):
        recover(pruned, supernet, TRAIN[:, 0], HELD_OUT, SETTINGS)
    with pytest.raises(ValueError, match="seq_len = 38 is longer"):
        recover(pruned, supernet, TRAIN.repeat(1, 3), HELD_OUT, SETTINGS)
    with pytest.raises(ValueError, match="padded_vocab_size"):
        recover(pruned, supernet, TRAIN + 99, HELD_OUT, SETTINGS)
    with pytest.raises(ValueError, match="folder="):
        recover(pruned, supernet, TRAIN, HELD_OUT, replace(SETTINGS, wandb_project="x"))
    other = calm_supernet("llama-gqa6", vocab_size=50)
    with pytest.raises(ValueError, match="vocabulary has 50 tokens, the pruned one's 61"):
        recover(pruned, other, TRAIN, HELD_OUT, SETTINGS)
    with pytest.raises(ValueError, match="each once"):
        recover_grid(pruned, supernet, TRAIN, HELD_OUT, SETTINGS, learning_rates=(1e-3, 1e-3))


def test_settings_are_read_from_plain_mappings():
    given = RecoverySettings(lora={"rank": 3, "parts": ["mlp"]}, distillation={"alpha": 0.25})
    assert given == RecoverySettings(lora=LoraSettings(rank=3, parts=("mlp",)), distillation=Distillation(alpha=0.25))
    assert given.n_tokens(512) == 100 * 2 * 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "max_steps = 0"), ({"method": "qlora"}, "allowed: full, lora"),
        ({"precision": "8"}, "allowed: auto, 32, bf16"), ({"learning_rate": 0.0}, "positive"),
        ({"teacher_top_k": 0}, "at least 1"), ({"teacher_top_k": 5, "distillation": None}, "forward_kl"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        RecoverySettings(**changes)
