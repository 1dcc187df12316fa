"""litgpt's own Config class without importing torch.

`import litgpt` imports torch and lightning (seconds). Its config.py needs neither, so that one file is loaded by
itself; the search space, the cost formulas and the surrogates stay light.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from supernet.architecture import Architecture

_ALIAS = "_paretolm_litgpt_config"


class ModelConfig(Protocol):
    """The fields of litgpt.Config that the torch-free modules read."""

    name: str
    block_size: int
    n_layer: int
    n_embd: int
    padded_vocab_size: int
    n_head: int
    head_size: int
    n_query_groups: int
    intermediate_size: int
    bias: bool
    attn_bias: bool
    lm_head_bias: bool
    norm_class_name: str
    norm_1: bool
    norm_2: bool
    norm_qk: bool
    norm_qk_type: str
    post_attention_norm: bool
    post_mlp_norm: bool
    parallel_residual: bool
    shared_attention_norm: bool
    mlp_class_name: str
    rotary_percentage: float
    sliding_window_size: int | None
    sliding_window_indices: list[int] | None


@lru_cache(maxsize=1)
def _config_module() -> ModuleType:
    spec = importlib.util.find_spec("litgpt")  # finds the package without running it
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("litgpt is not installed: pip install 'litgpt>=0.5.13,<0.6'")
    path = Path(spec.origin).with_name("config.py")
    file_spec = importlib.util.spec_from_file_location(_ALIAS, path)
    assert file_spec is not None and file_spec.loader is not None
    module = importlib.util.module_from_spec(file_spec)
    sys.modules[_ALIAS] = module  # dataclasses look their module up here
    file_spec.loader.exec_module(module)
    return module


def model_config(arguments: Mapping[str, Any]) -> ModelConfig:
    """Build litgpt's Config from keyword arguments, e.g. `SearchSpace.config`."""
    try:
        return _config_module().Config(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        detail = str(error) or "one of its assertions on the sizes failed"
        raise ValueError(f"litgpt.Config does not take these arguments ({detail}): {dict(arguments)}") from error


def named_config(name: str) -> dict[str, Any]:
    """Return the keyword arguments of the litgpt config called `name` ("pythia-14m", "Llama-3.2-1B", ...).

    Raises:
        KeyError: litgpt has no such config; the message lists near matches.
    """
    import difflib

    known: dict[str, dict[str, Any]] = _config_module().name_to_config
    if name not in known:
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
        raise KeyError(f"litgpt has no config {name!r}; near matches: {near or sorted(known)[:5]}")
    return dict(known[name])


def config_names() -> list[str]:
    """Return the names of all litgpt configs, sorted."""
    return sorted(_config_module().name_to_config)


def whole_architecture(config: ModelConfig) -> Architecture:
    """Return the architecture of the whole supernet of `config`."""
    return Architecture.uniform(
        n_embd=config.n_embd, n_layer=config.n_layer, n_head=config.n_head, n_query_groups=config.n_query_groups,
        intermediate_size=config.intermediate_size, bias=config.bias,
    )  # fmt: skip


def unsupported_features(config: ModelConfig) -> list[str]:
    """Return, in words, what a litgpt config uses that sub-networks do not support (empty: all is supported)."""
    found: list[str] = []
    if config.mlp_class_name == "LLaMAMoE" or getattr(config, "n_expert", None):
        found.append("mixture of experts (mlp_class_name='LLaMAMoE', n_expert > 0)")
    if getattr(config, "latent_attention", None):
        found.append("multi-head latent attention (latent_attention)")
    return found


def check_fits(config: ModelConfig, arch: Architecture) -> None:
    """Raise ValueError, naming the dimension and the limit, unless the supernet of `config` contains `arch`."""

    def refuse(what: str, value: object, allowed: str) -> None:
        raise ValueError(f"{what} = {value} is not in this supernet ({config.name or 'unnamed'}); allowed: {allowed}")

    if arch.n_embd > config.n_embd:
        refuse("n_embd", arch.n_embd, f"1 to {config.n_embd}")
    if arch.layers[-1] >= config.n_layer:
        refuse("layers", arch.layers, f"block indices 0 to {config.n_layer - 1}")
    if arch.bias and not config.bias:
        refuse("bias", arch.bias, "False (the supernet has no biases)")
    heads_per_group = config.n_head // config.n_query_groups
    for i, (h, g, f) in enumerate(zip(arch.n_head, arch.n_query_groups, arch.intermediate_size, strict=True)):
        if g > config.n_query_groups:
            refuse(f"n_query_groups[{i}]", g, f"1 to {config.n_query_groups}")
        if h > g * heads_per_group:
            refuse(f"n_head[{i}]", h, f"{g} to {g * heads_per_group} in steps of {g} (with n_query_groups[{i}] = {g})")
        if f > config.intermediate_size:
            refuse(f"intermediate_size[{i}]", f, f"1 to {config.intermediate_size}")
