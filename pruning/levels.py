"""Levels: how much of a part of a block a sub-network keeps, and which inputs of its output projection that is.

A level of the MLP is its number of neurons; one of the attention is (query heads, KV groups). Where a part is absent
its level is 0 or (0, 0). Nothing is reconstructed there, and nothing where all of the part stays.
"""

from __future__ import annotations

from collections.abc import Iterator

from litgpt.config import Config

from pruning.structure import Part, Sizes
from supernet.architecture import Architecture
from supernet.selection import LayerShape, axis_runs

Level = tuple[int, ...]


def levels_of(arch: Architecture) -> Iterator[tuple[int, int, Part, Level]]:
    """Yield position in the sub-network, layer of the supernet, part and level of every part that `arch` has."""
    for position, layer in enumerate(arch.layers):
        if arch.n_head[position]:
            yield position, layer, "attention", (arch.n_head[position], arch.n_query_groups[position])
        if arch.intermediate_size[position]:
            yield position, layer, "mlp", (arch.intermediate_size[position],)


def is_whole(config: Config, part: Part, level: Level) -> bool:
    """Return whether all of the part stays."""
    return level == whole_level(config, part)


def whole_level(config: Config, part: Part) -> Level:
    """Return the level of the unpruned part."""
    sizes = Sizes.of(config)
    return (sizes.intermediate_size,) if part == "mlp" else (sizes.n_head, sizes.n_query_groups)


def check_level(config: Config, part: Part, level: Level) -> Level:
    """Return the level if the supernet has it and it keeps something.

    Raises:
        ValueError: it has not; says what is allowed.
    """
    sizes = Sizes.of(config)
    if part == "mlp":
        if len(level) != 1 or not 1 <= level[0] <= sizes.intermediate_size:
            raise ValueError(f"MLP level {level}: give (neurons,) with 1 to {sizes.intermediate_size} neurons")
        return level
    groups, heads = sizes.n_query_groups, sizes.heads_per_group
    if len(level) != 2 or not (1 <= level[1] <= groups and 1 <= level[0] // level[1] <= heads) or level[0] % level[1]:
        raise ValueError(
            f"attention level {level}: give (query heads, groups), 1 to {groups} groups with 1 to {heads} heads in each"
        )
    return level


def kept_inputs(config: Config, part: Part, level: Level) -> list[int]:
    """Return which inputs of the part's output projection stay, in the sub-network's order."""
    if part == "mlp":
        return list(range(level[0]))
    heads, groups = level
    shape = LayerShape(config.n_embd, heads, groups, 1, False)
    return [index for run in axis_runs(config, shape)["query"][0] for index in run.indices()]


def nested_order(config: Config, part: Part, level: Level) -> list[int]:
    """Return all inputs, those that stay at `level` first; the same for all levels with as many heads a group.

    So one solver serves all of them: their kept inputs are prefixes of this order.
    """
    sizes = Sizes.of(config)
    if part == "mlp":
        return list(range(sizes.intermediate_size))
    per_group = level[0] // level[1]
    first = kept_inputs(config, part, (per_group * sizes.n_query_groups, sizes.n_query_groups))
    kept = set(first)
    return first + [i for i in range(sizes.n_head * sizes.head_size) if i not in kept]
