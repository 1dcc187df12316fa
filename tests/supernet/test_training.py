from __future__ import annotations

import copy
import math
from collections.abc import Callable

import litgpt
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from supernet.distill import Distillation, forward_kl
from supernet.extract import extract
from supernet.fit import new_supernet
from supernet.recipe import Recipe
from supernet.samplers import FullOnly, RandomK, Sandwich, SinglePath, draw
from supernet.space import SearchSpace
from supernet.training import NonFiniteLossError, SupernetModule

SPACE = SearchSpace(
    name="tiny-test", n_embd=(16, 32), n_layer=(1, 2, 3), n_head=(1, 2), mlp_ratio=(1, 2),
    config={"head_size": 16, "block_size": 16, "vocab_size": 50, "padded_vocab_size": 64},
)  # fmt: skip
RECIPE = Recipe(learning_rate=1e-2, min_learning_rate=1e-3, warmup_steps=0, clip_norm=0.0, n_validation_random=2)


class Rows(pl.loggers.logger.Logger):
    """Keeps the logged rows."""

    name, version = "rows", ""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(metrics | {"step": step})

    def log_hyperparams(self, *args: object, **kwargs: object) -> None:
        pass


class Watch(pl.Callback):
    """Copies the gradients as the optimizer gets them, and calls `before` at the start of each batch."""

    def __init__(self, before: Callable[[pl.Trainer, SupernetModule], None] | None = None) -> None:
        self.before = before
        self.gradients: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: SupernetModule, batch: Tensor, i: int) -> None:
        if self.before:
            self.before(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: SupernetModule) -> None:
        def keep(optimizer: torch.optim.Optimizer, *_: object) -> None:
            named = pl_module.supernet.named_parameters()
            self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
            self.rates.append(optimizer.param_groups[0]["lr"])

        trainer.optimizers[0].register_step_post_hook(keep)


def batches(n: int, size: int = 4, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(50, (size, 17), generator=generator) for _ in range(n)]


def module_of(sampler=None, *, recipe: Recipe = RECIPE, seed: int = 0, **kwargs: object) -> SupernetModule:
    return SupernetModule(
        new_supernet(SPACE, seed=seed), SPACE, sampler=sampler or Sandwich(SPACE, n_random=1), recipe=recipe, **kwargs
    )


def fit(module: SupernetModule, data: list[Tensor], *, val: list[Tensor] = (), watch: Watch | None = None, **kwargs):
    rows, watch = Rows(), watch or Watch()
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu", "max_steps": len(data) // module.recipe.accumulate, "max_epochs": 1, "logger": [rows],
            "callbacks": [watch], "num_sanity_val_steps": 0, "log_every_n_steps": 1, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": len(val),
        } | kwargs
    )  # fmt: skip
    loaders = [DataLoader(part, batch_size=None) for part in (data, list(val)) if part]
    trainer.fit(module, *loaders)
    return rows.rows, watch


def loss_of(supernet, arch, batch: Tensor) -> Tensor:
    logits = supernet(batch[:, :-1]) if arch is None else extract(supernet, arch)(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def mean_gradients(supernet, nets: list, batch: Tensor) -> dict[str, Tensor]:
    """Return the mean over nets of each net's own gradient, each on a fresh copy of the supernet."""
    total: dict[str, Tensor] = {}
    for net in nets:
        own = copy.deepcopy(supernet)
        logits = own(batch[:, :-1]) if net is None else own(batch[:, :-1], net)
        F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
        for name, p in own.named_parameters():
            if p.grad is not None:
                total[name] = total.get(name, 0) + p.grad / len(nets)
    return total


def assert_same_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, rtol: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=rtol, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_a_sandwich_steps_gradient_is_the_mean_of_its_networks_gradients() -> None:
    module, data = module_of(Sandwich(SPACE, n_random=2)), batches(1)
    before, nets = copy.deepcopy(module.supernet), module.nets_of_step(0)
    _, watch = fit(module, data)
    assert len(nets) == 4
    assert_same_gradients(watch.gradients[0], mean_gradients(before, nets, data[0]))


def test_losses_are_averaged_over_networks_and_logged_by_role() -> None:
    module, data = module_of(Sandwich(SPACE, n_random=2)), batches(1)
    before, nets = copy.deepcopy(module.supernet), module.nets_of_step(0)
    (row,), _ = fit(module, data)
    losses = [loss_of(before, net, data[0]).item() for net in nets]
    assert row["train/loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert row["train/loss_largest"] == pytest.approx(losses[0], rel=1e-5)
    assert row["train/loss_smallest"] == pytest.approx(losses[1], rel=1e-5)
    assert row["train/loss_random"] == pytest.approx(np.mean(losses[2:]), rel=1e-5)
    assert (row["step"], row["tokens"]) == (1, 64)


def test_accumulated_batches_equal_one_big_batch() -> None:
    data = batches(2)
    _, small = fit(module_of(recipe=Recipe(accumulate=2, clip_norm=0.0)), data)
    _, big = fit(module_of(recipe=Recipe(clip_norm=0.0)), [torch.cat(data)])
    assert len(small.gradients) == len(big.gradients) == 1
    assert_same_gradients(small.gradients[0], big.gradients[0])


def test_gradients_are_clipped_to_the_norm_and_logged_unclipped() -> None:
    rows, free = fit(module_of(), batches(1))
    clipped_rows, clipped = fit(module_of(recipe=Recipe(clip_norm=0.01)), batches(1))

    def norm(gradients: dict[str, Tensor]) -> float:
        return torch.stack([g.norm() for g in gradients.values()]).norm().item()

    assert norm(free.gradients[0]) > 0.1
    assert norm(clipped.gradients[0]) == pytest.approx(0.01, rel=1e-3)
    assert clipped_rows[0]["grad_norm"] == pytest.approx(norm(free.gradients[0]), rel=1e-4)
    assert rows[0]["grad_norm"] == pytest.approx(clipped_rows[0]["grad_norm"])


def test_the_optimizer_follows_the_schedule() -> None:
    recipe = Recipe(learning_rate=1e-2, min_learning_rate=1e-3, warmup_steps=2)
    rows, watch = fit(module_of(recipe=recipe), batches(6))
    expected = [recipe.learning_rate_at(step, 6) for step in range(6)]
    assert watch.rates == pytest.approx(expected)
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)


def test_training_lowers_the_loss_of_every_network() -> None:
    data = batches(1) * 15
    module = module_of()
    rows, _ = fit(module, data)
    for name in ("train/loss_largest", "train/loss_smallest"):
        assert rows[-1][name] < rows[0][name] - 0.5


def test_validation_gives_the_perplexity_of_each_network_over_all_tokens() -> None:
    module, val = (
        module_of(recipe=Recipe(learning_rate=0.0, min_learning_rate=0.0)),
        [*batches(2, seed=1), *batches(1, 2)],
    )
    rows, _ = fit(module, batches(1), val=val)
    scores = next(row for row in rows if "val/ppl_largest" in row)
    assert list(module.validation_nets) == ["largest", "smallest", "random_0", "random_1", "random_2"]
    tokens = torch.cat(val)
    for name, net in module.validation_nets.items():
        loss = loss_of(module.supernet, net, tokens).item()
        assert scores[f"val/loss_{name}"] == pytest.approx(loss, rel=1e-5)
        assert scores[f"val/ppl_{name}"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert module.validation_scores == {k: v for k, v in scores.items() if k != "step"}


def test_validation_networks_are_fixed_by_the_seed() -> None:
    first, again, other = (module_of(recipe=Recipe(seed=s)).validation_nets for s in (0, 0, 1))
    assert first == again != other


def test_sub_networks_learn_from_the_largest_of_the_same_step() -> None:
    distillation = Distillation(alpha=1.0, temperature=2.0)
    module, data = module_of(Sandwich(SPACE, n_random=0), distillation=distillation), batches(1)
    before = copy.deepcopy(module.supernet)
    (row,), _ = fit(module, data)
    with torch.no_grad():
        large, small = (before(data[0][:, :-1], net) for net in (SPACE.largest(), SPACE.smallest()))
        divergence = forward_kl(small.flatten(0, 1), large.flatten(0, 1), 2.0).mean().item()
    hard = loss_of(before, None, data[0]).item()  # the largest has no teacher but the text
    assert row["train/loss"] == pytest.approx((hard + 4 * divergence) / 2, rel=1e-4)
    assert row["train/divergence"] == pytest.approx(divergence / 2, rel=1e-4)


def test_a_step_without_the_largest_still_learns_from_it() -> None:
    module, data = module_of(SinglePath(SPACE), distillation=Distillation(alpha=1.0)), batches(1)
    before, (net,) = copy.deepcopy(module.supernet), module.nets_of_step(0)
    assert net is not None
    (row,), _ = fit(module, data)
    with torch.no_grad():
        large, small = (before(data[0][:, :-1], arch) for arch in (SPACE.largest(), net))
    assert row["train/loss"] == pytest.approx(
        forward_kl(small.flatten(0, 1), large.flatten(0, 1)).mean().item(), rel=1e-4
    )


def test_an_external_teacher_teaches_all_networks_and_stays_as_it_is() -> None:
    config = litgpt.Config(n_layer=1, n_embd=8, n_head=1, block_size=16, vocab_size=50, padded_vocab_size=50)
    teacher = litgpt.GPT(config)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    module = module_of(FullOnly(SPACE), distillation=Distillation(alpha=1.0), teacher=teacher)
    start, data = copy.deepcopy(module.supernet), batches(2)
    rows, _ = fit(module, data)
    with torch.no_grad():
        ours, theirs = start(data[0][:, :-1])[..., :50], teacher(data[0][:, :-1])
    expected = forward_kl(ours.flatten(0, 1), theirs.flatten(0, 1)).mean().item()
    assert rows[0]["train/loss"] == pytest.approx(expected, rel=1e-4)
    assert all(before[name].equal(tensor) for name, tensor in teacher.state_dict().items())
    assert not any("teacher" in name for name in module.state_dict())


def test_a_teacher_with_another_vocabulary_is_refused() -> None:
    teacher = litgpt.GPT(litgpt.Config(n_layer=1, n_embd=8, n_head=1, vocab_size=49, padded_vocab_size=64))
    with pytest.raises(ValueError, match="49 tokens, the supernet's 50"):
        module_of(distillation=Distillation(), teacher=teacher)


def test_a_space_of_another_supernet_is_refused() -> None:
    other = SearchSpace(name="other", n_embd=(16,), n_layer=(1,), n_head=(1,), mlp_ratio=(1,), config={"head_size": 16})
    with pytest.raises(ValueError, match="give the space of this supernet"):
        SupernetModule(new_supernet(SPACE), other, sampler=FullOnly(other), recipe=RECIPE)


def test_a_nan_loss_stops_before_the_update_and_names_step_and_network() -> None:
    def poison(trainer: pl.Trainer, module: SupernetModule) -> None:
        if trainer.global_step == 2:
            module.supernet.transformer.h[2].norm_1.weight.data.fill_(float("nan"))  # only the largest uses this block
            kept.update({n: p.clone() for n, p in module.supernet.state_dict().items()})

    kept: dict[str, Tensor] = {}
    module = module_of(Sandwich(SPACE, n_random=0))
    with pytest.raises(NonFiniteLossError) as caught:
        fit(module, batches(4), watch=Watch(poison))
    message = str(caught.value)
    assert f"stopped at step 2: largest ({SPACE.largest().id}): loss nan" in message
    assert SPACE.smallest().id not in message
    for name, tensor in module.supernet.state_dict().items():
        torch.testing.assert_close(tensor, kept[name], rtol=0, atol=0, equal_nan=True)


def test_an_infinite_gradient_stops_before_the_update() -> None:
    module = module_of(FullOnly(SPACE))
    module.supernet.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(NonFiniteLossError, match="stopped at step 0: gradient norm"):
        fit(module, batches(1))


def mixed(precision: str) -> dict[str, list[MixedPrecision]]:
    return {"plugins": [MixedPrecision(precision, "cpu")]}  # on the CPU, Trainer(precision="16-mixed") means bf16


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_low_precision_gradients_are_those_of_float32_to_rounding(precision: str) -> None:
    _, exact = fit(module_of(recipe=Recipe(clip_norm=0.5)), batches(1))
    rows, rounded = fit(module_of(recipe=Recipe(clip_norm=0.5)), batches(1), **mixed(precision))
    assert math.isfinite(rows[0]["train/loss"])
    for name, gradient in exact.gradients[0].items():
        error = (rounded.gradients[0][name] - gradient).norm() / gradient.norm().clamp_min(1e-4)
        assert error < 0.05, name


def test_a_gradient_scaler_skips_a_step_that_overflows_instead_of_stopping() -> None:
    module = module_of(FullOnly(SPACE))
    before = copy.deepcopy(module.supernet.state_dict())
    module.supernet.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    fit(module, batches(1), **mixed("16-mixed"))
    assert all(before[name].equal(tensor) for name, tensor in module.supernet.state_dict().items())


def test_slice_updates_leave_unselected_weights_bit_for_bit() -> None:
    seed = next(s for s in range(500) if draw(SinglePath(SPACE), seed=s, step=0) == [SPACE.smallest()])
    module = module_of(SinglePath(SPACE), recipe=Recipe(slice_updates=True, weight_decay=0.5, seed=seed))
    before = copy.deepcopy(module.supernet.state_dict())
    fit(module, batches(1))
    after = module.supernet.state_dict()
    fc = "transformer.h.0.mlp.fc.weight"
    changed = (before[fc] != after[fc]).nonzero()
    assert len(changed) > 0
    assert changed.max(0).values.tolist() == [15, 15]  # 16 neurons of 16 inputs
    for block in (1, 2):
        name = f"transformer.h.{block}.mlp.fc.weight"
        assert before[name].equal(after[name])


def test_random_networks_only_still_train_with_unused_parameters() -> None:
    rows, _ = fit(module_of(RandomK(SPACE, n_random=2)), batches(3))
    assert all(
        "train/loss_random" in row or "train/loss_smallest" in row or "train/loss_largest" in row for row in rows
    )


@pytest.mark.slow
def test_the_compiled_dense_path_gives_the_same_training() -> None:
    plain, _ = fit(module_of(), batches(3))
    module = module_of(
        recipe=Recipe(**{f: getattr(RECIPE, f) for f in RECIPE.__slots__ if f != "compile"}, compile=True)
    )
    compiled, _ = fit(module, batches(3))
    for a, b in zip(plain, compiled, strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-4)
    assert not any("_orig_mod" in name for name in module.state_dict())
