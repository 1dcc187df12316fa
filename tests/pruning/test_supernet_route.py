import copy
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from pruning_supernets import calm_supernet
from recovery_networks import patterned_blocks

from pruning.lora import LoraSettings
from pruning.pruned import Pruned
from pruning.recovery_settings import RecoverySettings
from pruning.route_comparison import Contender, compare_routes
from pruning.route_sampler import PretrainedSandwich, uniform_networks, with_best_blocks
from pruning.supernet_route import (
    RouteSettings,
    first_generation,
    route_module,
    search_route,
    space_around,
    take,
    train_route,
)
from search.algorithms.model_guided import ModelGuided
from search.result import SearchResult
from supernet.architecture import Architecture
from supernet.checkpoint import load_supernet
from supernet.cost import parameter_count
from supernet.evaluate import evaluate
from supernet.extract import extract
from supernet.samplers import draw
from supernet.training import SupernetModule

TRAIN, HELD_OUT = patterned_blocks(24), patterned_blocks(8, seed=1)
TRAINING = RecoverySettings(
    max_steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=1, check_every=3, checkpoint_every=2, precision="32",
    accelerator="cpu",
)  # fmt: skip
EXPENDABLE = (2, 0, 3, 1)


def space_of(supernet, **changes):
    G, H = supernet.config.n_query_groups, supernet.config.n_head
    pairs = [(H // G, 1), (H, G)]
    return space_around(supernet, **{"neurons": (16, 32, 48), "attention": pairs, "n_layer": (2, 3, 4)} | changes)


def size_ratio(supernet):
    """Return a made-up latency: the parameters of the blocks over the whole network's."""
    config = supernet.config
    whole = parameter_count(config, space_of(supernet).largest()).decoder

    def latency(archs):
        return np.array([parameter_count(config, arch).decoder / whole for arch in archs])

    return latency


def mean_loss(supernet, archs):
    return np.mean([e.loss for e in evaluate(supernet, archs, HELD_OUT)])


@pytest.mark.parametrize("family", ["llama-gqa6", "pythia", "qwen2", "gemma2"])
def test_the_space_around_a_network_has_it_as_its_largest(family):
    supernet = calm_supernet(family, **({"intermediate_size": 48} if family == "pythia" else {}))
    space = space_of(supernet)
    assert space.largest() == Architecture.uniform(
        n_embd=32, n_layer=4, n_head=supernet.config.n_head, n_query_groups=supernet.config.n_query_groups,
        intermediate_size=48, bias=supernet.config.bias,
    )  # fmt: skip
    assert type(space).from_dict(space.to_dict()) == space
    rng = np.random.default_rng(0)
    for _ in range(5):
        with torch.no_grad():
            assert supernet(HELD_OUT, space.sample(rng)).isfinite().all()


def test_a_space_without_the_whole_network_is_refused():
    supernet = calm_supernet("llama-gqa6")
    with pytest.raises(ValueError, match="put its own sizes among the choices"):
        space_of(supernet, neurons=(16, 32))
    with pytest.raises(ValueError, match="put its own sizes among the choices"):
        space_of(supernet, n_layer=(2, 3))


def test_a_step_trains_the_largest_the_smallest_and_uniform_and_uneven_networks():
    supernet = calm_supernet("llama-gqa6")
    space = space_of(supernet)
    sampler = PretrainedSandwich(space, n_random=3, expendable=EXPENDABLE)
    drawn = [draw(sampler, seed=0, step=step) for step in range(60)]
    assert all(nets[0] is None and len(nets) == len(set(nets)) for nets in drawn)
    smallest = with_best_blocks(space.smallest(), space, EXPENDABLE)
    assert smallest.layers == (1, 3) and all(nets[1] == smallest for nets in drawn)
    others = [arch for nets in drawn for arch in nets[2:]]
    assert all(arch in space for arch in others)
    uniform = [arch for arch in others if arch.is_uniform]
    assert 0.3 < len(uniform) / len(others) < 0.75
    kept = np.mean([[layer in arch.layers for layer in range(4)] for arch in others], axis=0)
    assert kept[1] > kept[3] > kept[0] > kept[2]  # as expendable as they are said to be
    assert draw(sampler, seed=0, step=7) == drawn[7] != draw(sampler, seed=1, step=7)


def test_without_an_order_blocks_are_drawn_as_the_space_does():
    space = space_of(calm_supernet("llama-gqa6"))
    drawn = [arch for step in range(40) for arch in draw(PretrainedSandwich(space), seed=0, step=step)[2:]]
    assert {layer for arch in drawn for layer in arch.layers} == {0, 1, 2, 3}
    assert all(arch in space for arch in drawn)
    with pytest.raises(ValueError, match="blocks 0 to 3 once"):
        PretrainedSandwich(space, expendable=(0, 1))
    with pytest.raises(ValueError, match="uniform_share = 2"):
        PretrainedSandwich(space, uniform_share=2)


def test_networks_of_one_shape_are_all_there_and_keep_the_best_blocks():
    space = space_of(calm_supernet("llama-gqa6"))
    archs = uniform_networks(space, EXPENDABLE)
    assert len(set(archs)) == len(archs) == 3 * 3 * len(space.attention_choices)
    assert all(arch in space and arch.is_uniform for arch in archs)
    assert {arch.layers for arch in archs} == {(1, 3), (0, 1, 3), (0, 1, 2, 3)}


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama-gqa6", "pythia"])
def test_the_route_trains_searches_and_gives_networks(tmp_path, family, method):
    supernet = calm_supernet(family, **({"intermediate_size": 48} if family == "pythia" else {})).eval()
    dense, space, latency = copy.deepcopy(supernet), space_of(supernet), size_ratio(supernet)
    shown = [arch for step in range(5) for arch in draw(PretrainedSandwich(space), seed=3, step=step)[1:]]
    before = mean_loss(supernet, shown)
    settings = RouteSettings(replace(TRAINING, method=method, lora=LoraSettings(rank=4)), n_random=1)
    result = train_route(
        supernet, dense, space, TRAIN, HELD_OUT, folder=tmp_path / "run", settings=settings, expendable=EXPENDABLE
    )
    assert mean_loss(supernet, shown) < before - 0.01
    names = ("largest", "smallest", "middle")
    assert {f"val/ppl_{name}" for name in names} == {name for name in result.scores if "ppl" in name}
    assert torch.equal(supernet.transformer.wte.weight, dense.transformer.wte.weight)
    assert all(p.requires_grad for p in supernet.parameters()) and not supernet.training
    loaded = load_supernet(result.supernet_dir)
    assert loaded.space == space
    assert all(a.equal(b) for a, b in zip(loaded.supernet.parameters(), supernet.parameters(), strict=True))

    found = search_route(
        supernet,
        space,
        HELD_OUT,
        latency,
        run_dir=tmp_path / "search",
        n_evaluations=30,
        expendable=EXPENDABLE,
        batch=10,
    )
    assert len(found.evaluations) == 30 and found.names == ["perplexity", "latency_ratio"]
    front = found.front_architectures
    assert space.largest() in first_generation(space, latency)
    for name in found.names:
        assert found.front[name].min() == found.evaluations[name].min()
    assert SearchResult.load(tmp_path / "search").front_architectures == front
    for arch, perplexity in zip(front[:2], found.front["perplexity"], strict=False):
        gpt = take(supernet, arch).gpt
        assert evaluate(gpt, [None], HELD_OUT)[0].perplexity == pytest.approx(perplexity, rel=1e-5)


def test_any_search_algorithm_serves_and_a_search_goes_on_where_it_was(tmp_path):
    supernet = calm_supernet("llama-gqa6")
    space, latency = space_of(supernet), size_ratio(supernet)
    algorithm = partial(ModelGuided, n_free=200, n_initial=4, generations=1, children=50)

    def search(n):
        return search_route(
            supernet, space, HELD_OUT, latency, algorithm=algorithm, n_evaluations=n, batch=4, run_dir=tmp_path
        )  # fmt: skip

    first, second = search(8), search(12)
    assert second.evaluations[:8].equals(first.evaluations) and len(second.evaluations) == 12


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_killed_route_ends_as_the_uninterrupted_one(tmp_path, monkeypatch, method):
    training = replace(TRAINING, method=method, lora=LoraSettings(rank=3), max_steps=4, check_every=4)
    settings = RouteSettings(training, n_random=1)

    def run(folder):
        supernet = calm_supernet("llama-gqa6")
        space = space_of(supernet)
        train_route(supernet, copy.deepcopy(supernet), space, TRAIN, HELD_OUT, folder=folder, settings=settings)
        return list(supernet.parameters())

    whole = run(tmp_path / "whole")

    def killed(self, batch, batch_idx, step=SupernetModule.training_step):
        if self.global_step == 3:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SupernetModule, "training_step", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(tmp_path / "killed")
    assert all(a.equal(b) for a, b in zip(run(tmp_path / "killed"), whole, strict=True))


def test_the_low_rank_update_has_its_rank_and_the_chain_rules_gradient():
    supernet = calm_supernet("llama-gqa6")
    dense, space = copy.deepcopy(supernet), space_of(supernet)
    settings = RouteSettings(replace(TRAINING, method="lora", lora=LoraSettings(rank=2, alpha=3)), n_random=1)
    module = route_module(supernet, dense, space, settings)
    with torch.no_grad():
        for b in module.factors.b:
            b.normal_(0, 0.1)
    module.factors.merge()
    weight, base = supernet.transformer.h[0].mlp.proj.weight, dense.transformer.h[0].mlp.proj.weight
    assert torch.linalg.matrix_rank(weight - base, atol=1e-5) == 2
    names = [name for name, p in dense.named_parameters() if any(p.shape == w.shape for w in module.factors._weights)]
    assert names and not supernet.transformer.wte.weight.requires_grad

    arch = space.sample(np.random.default_rng(2))
    supernet(HELD_OUT[:, :-1], arch).square().mean().backward()
    module.factors.take_gradients()
    # the same through autograd: factors as parameters of the weights, of the extracted network
    index = [id(w) for w in module.factors._weights].index(id(supernet.transformer.h[arch.layers[0]].mlp.proj.weight))
    a, b = (x.detach().clone().requires_grad_(True) for x in (module.factors.a[index], module.factors.b[index]))
    gpt = extract(supernet, arch)
    f = arch.intermediate_size[0]
    layer0 = dense.transformer.h[arch.layers[0]].mlp.proj.weight.detach()
    update = {"transformer.h.0.mlp.proj.weight": (layer0 + module.factors.scaling * b @ a)[:, :f]}
    torch.func.functional_call(gpt, update, (HELD_OUT[:, :-1],)).square().mean().backward()
    torch.testing.assert_close(module.factors.a[index].grad, a.grad, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(module.factors.b[index].grad, b.grad, rtol=1e-3, atol=1e-6)


def test_a_teacher_that_is_the_supernet_and_other_bad_requests_are_refused(tmp_path):
    supernet = calm_supernet("llama-gqa6")
    space = space_of(supernet)
    with pytest.raises(ValueError, match="give a copy"):
        train_route(supernet, supernet, space, TRAIN, HELD_OUT, folder=tmp_path, settings=RouteSettings(TRAINING))
    with pytest.raises(ValueError, match="training text has 1 blocks"):
        train_route(supernet, copy.deepcopy(supernet), space, TRAIN[:1], HELD_OUT, folder=tmp_path)
    with pytest.raises(ValueError, match="teacher_top_k"):
        RouteSettings(replace(TRAINING, teacher_top_k=4))


# --- comparison -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ratio:
    ratio: float
    low: float
    high: float


def test_each_one_shot_network_stands_beside_the_best_sub_network_that_measures_as_fast():
    supernet = calm_supernet("llama-gqa6")
    space, predict = space_of(supernet), size_ratio(supernet)
    front = uniform_networks(space, EXPENDABLE)
    config = supernet.config

    def measure(networks):  # 2 points slower than predicted
        whole = parameter_count(config, space.largest()).decoder
        sizes = [sum(p.numel() for p in gpt.transformer.h.parameters()) for gpt in networks]
        return [Ratio(size / whole + 0.02, 0.0, 1.0) for size in sizes]

    arch = Architecture(32, (6, 6, 6), (2, 2, 2), (40, 40, 48), (0, 1, 3), bias=False)
    one_shot = {"ours": Contender(Pruned(extract(supernet, arch), arch), 100)}
    rows = compare_routes(
        supernet, front, one_shot, {"a": HELD_OUT, "b": TRAIN}, measure=measure, predict=predict, supernet_tokens=100,
        n_near=6,
    )  # fmt: skip
    ours, theirs = rows
    assert (ours.route, theirs.route, theirs.name) == ("one-shot", "supernet", "ours")
    assert ours.arch == arch and ours.perplexity.keys() == {"a", "b"} and theirs.within
    assert theirs.measured <= ours.measured + 0.01
    near = sorted(front, key=lambda arch: abs(predict([arch])[0] - ours.measured))[:6]
    fitting = [arch for arch, gpt in ((a, extract(supernet, a)) for a in near)
               if measure([gpt])[0].ratio <= ours.measured + 0.01]  # fmt: skip
    best = min(evaluate(supernet, fitting, HELD_OUT), key=lambda e: e.perplexity)
    assert theirs.perplexity["a"] == pytest.approx(best.perplexity)
    assert ours.to_dict()["arch"] == arch.id
    with pytest.raises(ValueError, match=r"trained on 50 tokens, but {'ours': 100}"):
        compare_routes(supernet, front, one_shot, HELD_OUT, measure=measure, predict=predict, supernet_tokens=50)
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_routes(supernet, [], one_shot, HELD_OUT, measure=measure, predict=predict, supernet_tokens=100)
