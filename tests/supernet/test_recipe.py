from __future__ import annotations

import math

import litgpt
import pytest
import torch

from supernet.model import Supernet
from supernet.recipe import Recipe, decay_groups, initialize_weights


def supernet(*, tie_embeddings: bool = False, **config: object) -> Supernet:
    arguments = {
        "n_layer": 4, "n_embd": 64, "n_head": 4, "block_size": 8, "vocab_size": 512, "padded_vocab_size": 512,
    } | config  # fmt: skip
    return Supernet(litgpt.Config(**arguments), tie_embeddings=tie_embeddings)


def test_the_rate_warms_up_linearly_then_falls_along_a_cosine_to_the_minimum() -> None:
    recipe = Recipe(learning_rate=1.0, min_learning_rate=0.1, warmup_steps=4)
    rates = [recipe.learning_rate_at(step, 24) for step in range(25)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == 1.0
    assert rates[14] == pytest.approx(0.55)  # half-way
    assert rates[9] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi / 4)))
    assert rates[24] == pytest.approx(0.1)
    assert recipe.learning_rate_at(100, 24) == pytest.approx(0.1)


def test_a_run_shorter_than_its_warm_up_stays_below_the_peak() -> None:
    recipe = Recipe(learning_rate=1.0, min_learning_rate=0.0, warmup_steps=10)
    assert max(recipe.learning_rate_at(step, 5) for step in range(5)) < 1.0


def names_by_decay(model: Supernet, recipe: Recipe) -> dict[str, float]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["weight_decay"] for group in decay_groups(model, recipe) for p in group["params"]}


def test_matrices_decay_and_norms_and_biases_do_not() -> None:
    model = supernet()
    decay = names_by_decay(model, Recipe(weight_decay=0.1))
    assert len(decay) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert decay[name] == (0.1 if parameter.dim() == 2 else 0.0), name


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_can_be_kept_from_decaying(tied: bool) -> None:
    decay = names_by_decay(supernet(tie_embeddings=tied), Recipe(decay_embeddings=False))
    kept = {name for name, value in decay.items() if value == 0 and "norm" not in name and "bias" not in name}
    assert kept - {"transformer.ln_f.weight"} == ({"lm_head.weight"} if tied else {"transformer.wte.weight"})


@pytest.mark.parametrize("mlp", ["GptNeoxMLP", "LLaMAMLP", "GemmaMLP"])
def test_initial_weights_have_gpt_neox_spreads(mlp: str) -> None:
    model = supernet(mlp_class_name=mlp, intermediate_size=256)
    initialize_weights(model, seed=0)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            expected = 1.0 if "weight" in name else 0.0  # norms and biases
            assert (parameter == expected).all(), name
        else:
            std = 1 / (4 * 8) if name.endswith("proj.weight") else math.sqrt(2 / (5 * 64))
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name


def test_initial_weights_depend_on_the_seed_only() -> None:
    drawn = []
    for seed, global_seed in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(global_seed)
        model = supernet()
        initialize_weights(model, seed=seed)
        drawn.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


@pytest.mark.parametrize(
    "settings", [{"min_learning_rate": 1.0}, {"accumulate": 0}, {"clip_norm": -1.0}, {"warmup_steps": -1}]
)
def test_illegal_settings_are_named(settings: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Recipe(**settings)
