import numpy as np
import pytest
from pruning_supernets import MAIN_FAMILIES, build_supernet, random_arch

from pruning.levels import check_level, is_whole, kept_inputs, levels_of, nested_order, whole_level
from pruning.structure import Sizes
from supernet.architecture import Architecture


@pytest.mark.parametrize("family", MAIN_FAMILIES)
def test_the_kept_inputs_are_those_of_the_selection_plan(family):
    supernet = build_supernet(family)
    rng = np.random.default_rng(0)
    for _ in range(10):
        arch = random_arch(supernet.config, rng)
        parameters = supernet.plan(arch).parameters
        for _, layer, part, level in levels_of(arch):
            name = {"attention": "attn", "mlp": "mlp"}[part]
            columns = parameters[f"transformer.h.{layer}.{name}.proj.weight"].runs[1]
            assert kept_inputs(supernet.config, part, level) == [i for run in columns for i in run.indices()]


def test_kept_inputs_are_prefixes_of_the_nested_order():
    config = build_supernet("llama-gqa6").config
    sizes = Sizes.of(config)
    for per_group in range(1, sizes.heads_per_group + 1):
        orders = set()
        for groups in range(1, sizes.n_query_groups + 1):
            level = (per_group * groups, groups)
            order = nested_order(config, "attention", level)
            kept = kept_inputs(config, "attention", level)
            assert order[: len(kept)] == kept and sorted(order) == list(range(48))
            orders.add(tuple(order))
        assert len(orders) == 1


def test_levels_are_those_of_the_parts_that_an_architecture_has():
    arch = Architecture(8, (2, 4), (1, 2), (5, 6), (1, 3))
    assert list(levels_of(arch)) == [
        (0, 1, "attention", (2, 1)), (0, 1, "mlp", (5,)), (1, 3, "attention", (4, 2)), (1, 3, "mlp", (6,)),
    ]  # fmt: skip


def test_the_whole_part_is_known():
    config = build_supernet("llama-gqa6").config
    assert whole_level(config, "attention") == (6, 2) and whole_level(config, "mlp") == (48,)
    assert is_whole(config, "attention", (6, 2)) and not is_whole(config, "attention", (4, 2))


@pytest.mark.parametrize(
    ("part", "level", "allowed"),
    [
        ("mlp", (0,), "1 to 48"), ("mlp", (49,), "1 to 48"), ("mlp", (4, 2), "1 to 48"),
        ("attention", (3, 2), "1 to 2 groups"), ("attention", (8, 2), "1 to 3 heads"), ("attention", (0, 0), "1 to"),
        ("attention", (3, 3), "1 to 2 groups"), ("attention", (4,), "1 to"),
    ],
)  # fmt: skip
def test_levels_that_the_supernet_does_not_have_are_refused(part, level, allowed):
    with pytest.raises(ValueError, match=allowed):
        check_level(build_supernet("llama-gqa6").config, part, level)
