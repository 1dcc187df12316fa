"""Which search spaces the shipped surrogates and their features understand. No torch."""

from __future__ import annotations

from supernet.space import SearchSpace


def check_prefix_layers(space: SearchSpace, purpose: str) -> SearchSpace:
    """Return the space, whose networks keep the first layers of the supernet, each with choices of its own.

    Raises:
        ValueError: a space of another form.
    """
    if space.layer_choice != "prefix" or not space.per_layer:
        raise ValueError(
            f"space {space.name!r} has layer_choice={space.layer_choice!r}, per_layer={space.per_layer}: {purpose} "
            "are of spaces with layer_choice='prefix' and per_layer=True"
        )
    return space
