from __future__ import annotations

import numpy as np
import pytest
import torch
from family_configs import FAMILIES, random_arch
from litgpt.config import Config

from supernet.architecture import Architecture
from supernet.model import selection_plan
from supernet.selection import Run, Selection, axis_runs, layer_shapes


def config_of(heads: int, groups: int, **changes) -> Config:
    sizes = {"n_layer": 3, "n_embd": 16, "head_size": 4, "intermediate_size": 20, "padded_vocab_size": 32}
    return Config(**{**sizes, "n_head": heads, "n_query_groups": groups, "block_size": 8, **changes})


def uniform(n_head: int, n_query_groups: int, n_embd: int = 16) -> Architecture:
    return Architecture.uniform(
        n_embd=n_embd, n_layer=1, n_head=n_head, n_query_groups=n_query_groups, intermediate_size=20
    )


@pytest.mark.parametrize(
    ("full", "part", "rows"),
    [  # heads counted in rows of head_size: q heads by group, then k, then v
        ((4, 4), (2, 2), [0, 1, 4, 5, 8, 9]),  # multi-head
        ((4, 2), (2, 2), [0, 2, 4, 5, 6, 7]),  # the first head of each group
        ((4, 2), (2, 1), [0, 1, 4, 6]),  # the first group
        ((4, 2), (1, 1), [0, 4, 6]),
        ((4, 1), (3, 1), [0, 1, 2, 4, 5]),  # multi-query
        ((6, 2), (4, 2), [0, 1, 3, 4, 6, 7, 8, 9]),
        ((4, 2), (4, 2), list(range(8))),
    ],
)
def test_qkv_rows_are_the_first_groups_and_the_first_heads_of_each(full, part, rows):
    config = config_of(*full)
    runs, size = axis_runs(config, layer_shapes(uniform(*part))[0])["qkv"]
    indices = [i for run in runs for i in run.indices()]
    assert indices == [4 * row + i for row in rows for i in range(4)]
    assert size == (full[0] + 2 * full[1]) * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_selects_what_indexing_selects_and_assign_writes_it_back(family):
    config = Config(**FAMILIES[family])
    rng = np.random.default_rng(0)
    for _ in range(5):
        plan = selection_plan(config, random_arch(config, rng))
        for selection in {s.runs: s for s in plan.parameters.values()}.values():
            indices = [[i for run in runs for i in run.indices()] for runs in selection.runs]
            shape = [max(i) + 1 + int(rng.integers(3)) * (not selection.is_whole) for i in indices]
            if not selection.is_whole:  # strided runs need their whole last step
                shape = [
                    max(n, *(r.start + r.step * r.count for r in runs))
                    for n, runs in zip(shape, selection.runs, strict=True)
                ]
            parameter = torch.randn(shape)
            part = selection.select(parameter)
            assert torch.equal(part, parameter[np.ix_(*indices)])
            assert part.shape == selection.shape
            target = torch.full(shape, torch.nan)
            selection.assign(target, part)
            assert torch.equal(target[np.ix_(*indices)], part)
            assert target.isnan().sum() == parameter.numel() - part.numel()


def test_selecting_one_rectangle_gives_a_view():
    parameter = torch.zeros(6, 8)
    selection = Selection(((Run(1, 3),), (Run(0, 5),)))
    selection.select(parameter).fill_(1)
    assert parameter.sum() == 15


def test_selecting_is_differentiable_through_views_and_copies():
    for runs in (((Run(0, 2, 4, 2),), (Run(0, 3),)), ((Run(0, 2), Run(5, 2)), (Run(1, 3),))):
        parameter = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
        selection = Selection(runs)
        assert torch.autograd.gradcheck(lambda p, s=selection: s.select(p).sin(), (parameter,))


def test_equal_shapes_share_one_selection():
    config = config_of(4, 2)
    plan = selection_plan(config, Architecture(8, (2, 4, 2), (2, 2, 2), (5, 5, 5), (0, 1, 2)))
    assert plan.blocks[0] is plan.blocks[2]
    assert plan.blocks[0] is not plan.blocks[1]


def test_names_in_the_subnet_count_its_own_layers():
    plan = selection_plan(config_of(4, 2), Architecture(8, (2, 2), (2, 2), (5, 5), (0, 2)))
    assert plan.subnet_names["transformer.h.2.mlp.fc.weight"] == "transformer.h.1.mlp.fc.weight"
    assert set(plan.subnet_names) == set(plan.parameters)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (Architecture(17, (4,), (2,), (20,), (0,)), r"n_embd = 17 .* allowed: 1 to 16"),
        (Architecture(16, (4,), (2,), (20,), (3,)), r"layers = \(3,\) .* allowed: block indices 0 to 2"),
        (Architecture(16, (4,), (4,), (20,), (0,)), r"n_query_groups\[0\] = 4 .* allowed: 1 to 2"),
        (Architecture(16, (4, 3), (2, 1), (20, 20), (0, 1)), r"n_head\[1\] = 3 .* allowed: 1 to 2"),
        (Architecture(16, (4, 4), (2, 2), (20, 21), (0, 1)), r"intermediate_size\[1\] = 21 .* allowed: 1 to 20"),
    ],
)
def test_what_a_supernet_does_not_contain_is_refused_by_gene_and_limits(arch, message):
    with pytest.raises(ValueError, match=message):
        selection_plan(config_of(4, 2), arch)


def test_biases_are_refused_in_a_supernet_without_them():
    with pytest.raises(ValueError, match=r"bias = True .* allowed: False"):
        selection_plan(config_of(4, 2, bias=False), uniform(4, 2))
