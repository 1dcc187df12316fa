"""HW-GPT-Bench's architectures and ours, both ways; its hold-out; and what it measured (`hwgpt_devices`). No torch.

For thousands of architectures at once see `hwgpt_arrays`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from hw_profiles.importers.hwgpt_devices import (
    BATCH_SIZES,
    DEVICES,
    HELD_OUT_BUCKET,
    JOB_SIZE,
    MEASURED,
    N_BUCKETS,
    SCALES,
    SEQ_LEN,
    SOURCE,
    HwgptDevice,
    Selection,
    checked_scale,
    device_named,
    n_runs,
    workload_of,
)
from supernet.architecture import Architecture
from supernet.space import SearchSpace
from supernet.spaces import load_space

__all__ = [
    "BATCH_SIZES",
    "DEVICES",
    "HELD_OUT_BUCKET",
    "JOB_SIZE",
    "MEASURED",
    "N_BUCKETS",
    "SCALES",
    "SEQ_LEN",
    "SOURCE",
    "HwgptDevice",
    "HwgptKey",
    "Selection",
    "architecture_from_canonical",
    "architecture_from_hwgpt",
    "boolean",
    "bucket",
    "bucket_of",
    "canonical",
    "canonical_text",
    "checked_scale",
    "device_named",
    "hwgpt_from_architecture",
    "hwgpt_key",
    "n_runs",
    "scale_of",
    "space_of",
    "workload_of",
]  # fmt: skip


@cache
def space_of(scale: str) -> SearchSpace:
    """Return the search space of a scale: gpt-s, gpt-m or gpt-l."""
    return load_space(f"gpt-{checked_scale(scale)}")


def scale_of(n_embd: int) -> str:
    """Return the scale that has this width (no two scales share one); raises ValueError for other widths."""
    for scale in SCALES:
        if n_embd in space_of(scale).n_embd:
            return scale
    widths = "; ".join(f"{scale}: {', '.join(map(str, space_of(scale).n_embd))}" for scale in SCALES)
    raise ValueError(f"n_embd = {n_embd} is in no scale of {SOURCE}; widths: {widths}")


def architecture_from_hwgpt(config: Mapping[str, Any], *, scale: str | None = None) -> tuple[str, Architecture]:
    """Return scale and architecture of one of the benchmark's own dictionaries.

    Args:
        config: `sample_embed_dim`, `sample_n_layer`, `sample_mlp_ratio`, `sample_n_head` (lists; entries after
            the first `sample_n_layer` are ignored) and `sample_bias` (a bool, or "True" or "False").
        scale: s, m or l; None for the one that has this width.

    Raises:
        ValueError: a key is missing, a list is too short, or a value is not in the space (named).

    Example:
        >>> config = {"sample_embed_dim": 192, "sample_n_layer": 10, "sample_mlp_ratio": [2] * 12,
        ...           "sample_n_head": [4] * 12, "sample_bias": "False"}
        >>> scale, arch = architecture_from_hwgpt(config)
        >>> scale, arch.id
        ('s', 'e192-l0_9-h4x10-f384x10-b0')
    """
    width, depth, ratios, heads, bias = hwgpt_key(config)
    found = scale_of(width) if scale is None else checked_scale(scale)
    space = space_of(found)
    assert space.mlp_ratio is not None
    if wrong := sorted(set(ratios) - set(space.mlp_ratio)):
        raise ValueError(
            f"sample_mlp_ratio has {wrong[0]}, which space {space.name!r} does not; it has {space.mlp_ratio}"
        )
    sizes = tuple(ratio * width for ratio in ratios)
    return found, space.validate(Architecture(width, heads, heads, sizes, tuple(range(depth)), bias))


def hwgpt_from_architecture(arch: Architecture) -> dict[str, Any]:
    """Return the benchmark's own dictionary of an architecture; `sample_bias` is a bool, lists have an entry a layer.

    Raises:
        ValueError: the architecture is in none of gpt-s, gpt-m and gpt-l.
    """
    space_of(scale_of(arch.n_embd)).validate(arch)
    return {
        "sample_embed_dim": arch.n_embd,
        "sample_n_layer": arch.n_layer,
        "sample_mlp_ratio": [size // arch.n_embd for size in arch.intermediate_size],
        "sample_n_head": list(arch.n_head),
        "sample_bias": arch.bias,
    }


HwgptKey = tuple[int, int, tuple[int, ...], tuple[int, ...], bool]  # width, depth, ratios, heads, bias


def hwgpt_key(config: Mapping[str, Any]) -> HwgptKey:
    """Return what makes one of the benchmark's dictionaries one architecture: width, depth, ratios, heads, bias.

    Raises:
        ValueError: a key is missing, a list is shorter than `sample_n_layer`, or the bias is no boolean.
    """
    try:
        width, depth = int(config["sample_embed_dim"]), int(config["sample_n_layer"])
        ratios, heads = tuple(config["sample_mlp_ratio"][:depth]), tuple(config["sample_n_head"][:depth])
        bias = config["sample_bias"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{config!r} is no architecture of {SOURCE}: give sample_embed_dim, sample_n_layer, sample_mlp_ratio, "
            f"sample_n_head (lists) and sample_bias ({type(error).__name__}: {error})"
        ) from error
    for name, values in (("sample_mlp_ratio", ratios), ("sample_n_head", heads)):
        if len(values) < depth or depth < 1:
            raise ValueError(f"{name} has {len(values)} entries for sample_n_layer = {depth}: give one a layer")
    return width, depth, ratios, heads, boolean(bias)


def boolean(value: Any) -> bool:
    """Read a bias: a bool, or one of the strings "True" and "False" that the benchmark uses.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, str):
        if value in ("True", "False"):
            return value == "True"
    elif isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ValueError(f"sample_bias = {value!r}: give True or False (or the strings 'True', 'False')")


def canonical(scale: str, arch: Architecture) -> str:
    """Return the string that names an architecture in the benchmark, and that the hold-out is drawn by.

    Example:
        >>> canonical("s", architecture_from_canonical("gpt-s-10-192-" + "2-" * 10 + "4-" * 10 + "False")[1])[:20]
        'gpt-s-10-192-2-2-2-2'
    """
    ratios = [size // arch.n_embd for size in arch.intermediate_size]
    return canonical_text(scale, (arch.n_embd, arch.n_layer, tuple(ratios), arch.n_head, arch.bias))


def canonical_text(scale: str, key: HwgptKey) -> str:
    """Return the canonical string of width, depth, ratios, heads and bias."""
    width, depth, ratios, heads, bias = key
    return "-".join(map(str, ("gpt", scale, depth, width, *ratios, *heads, bias)))


def architecture_from_canonical(text: str) -> tuple[str, Architecture]:
    """Read the string that `canonical` gives.

    Raises:
        ValueError: not of that form, or not in the space.
    """
    parts = text.split("-")
    depth = int(parts[2]) if len(parts) > 4 and parts[2].isdigit() else -1
    numbers = parts[3:-1]
    if parts[0] != "gpt" or len(numbers) != 1 + 2 * depth or not all(number.isdigit() for number in numbers):
        raise ValueError(
            f"{text!r} is no architecture of {SOURCE}; they look like gpt-<scale>-<n_layer>-<embed_dim>-<an MLP ratio "
            "a layer>-<heads, a number a layer>-<True or False>"
        )
    values = [int(number) for number in numbers]
    config = {
        "sample_embed_dim": values[0], "sample_n_layer": depth, "sample_mlp_ratio": values[1 : depth + 1],
        "sample_n_head": values[depth + 1 :], "sample_bias": parts[-1],
    }  # fmt: skip
    return architecture_from_hwgpt(config, scale=parts[1])


def bucket(scale: str, arch: Architecture) -> int:
    """Return the hold-out bucket of an architecture, 0 to 9: 0 is kept apart, 1 tests, the others fit and validate."""
    return bucket_of(canonical(scale, arch))


def bucket_of(text: str) -> int:
    """Return the hold-out bucket of a canonical string."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % N_BUCKETS
