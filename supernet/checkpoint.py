"""Supernets and sub-networks on disk (safetensors, model_config.yaml); litgpt and Hugging Face folders as supernets.

A folder is written whole or not at all. Tied embeddings are stored once; nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import litgpt
import torch
import yaml
from litgpt.config import Config
from safetensors.torch import save_file

from supernet.architecture import Architecture
from supernet.artifacts import atomic_folder, read_json, restore_folder, write_card, write_json, write_text
from supernet.extract import build_gpt
from supernet.huggingface import litgpt_arguments
from supernet.litgpt_config import check_fits
from supernet.model import Supernet
from supernet.space import SearchSpace
from supernet.text import BYTE_FILE, HF_FILE, Tokenizer, stored_tokenizer
from supernet.weights import Weights, check_matches, current_names, from_hf, is_litgpt, is_tied, read_weights

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "model_config.yaml"
ARCHITECTURE_FILE = "architecture.json"
SPACE_FILE = "space.json"
TOKENIZER_FILES = (
    HF_FILE, BYTE_FILE, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
    "chat_template.jinja",
)  # fmt: skip
CHECKPOINT_FILES = (*TOKENIZER_FILES, WEIGHTS_FILE, CONFIG_FILE, ARCHITECTURE_FILE, SPACE_FILE, "card.json")


@dataclass(frozen=True)
class LoadedSupernet:
    """A supernet and what was stored with it."""

    supernet: Supernet
    space: SearchSpace | None
    tokenizer: Tokenizer | None


def save_supernet(
    folder: str | Path,
    supernet: Supernet,
    *,
    space: SearchSpace | None = None,
    tokenizer: Tokenizer | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write a supernet into a folder of its own, which replaces an older one at once; return the folder.

    Args:
        folder: where to; an existing folder may hold nothing but such a checkpoint.
        supernet: the network.
        space: its search space.
        tokenizer: of the text it was trained on.
        card: `data`, `scores`, `command` and more for card.json.

    Raises:
        ValueError: the space is not one of this supernet, or the folder holds other files.
    """
    if space is not None:
        check_space(space, supernet.config)
    with atomic_folder(folder, names=CHECKPOINT_FILES) as new:
        _write_model(new, supernet, tied=supernet.tie_embeddings)
        if space is not None:
            write_json(new / SPACE_FILE, space.to_dict())
        _write_extras(new, tokenizer, card, what=f"supernet {supernet.config.name}".strip())
    return restore_folder(folder)


def save_subnet(
    folder: str | Path,
    gpt: litgpt.GPT,
    arch: Architecture,
    *,
    tokenizer: Tokenizer | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write an extracted sub-network, whose layers may differ or lack a part, and its architecture; return the folder.

    Args:
        folder: as in `save_supernet`.
        gpt: what `extract(supernet, arch)` gave.
        arch: its architecture in the supernet.
        tokenizer: of its text.
        card: as in `save_supernet`.
    """
    tied = gpt.lm_head.weight is gpt.transformer.wte.weight
    with atomic_folder(folder, names=CHECKPOINT_FILES) as new:
        _write_model(new, gpt, tied=tied)
        write_json(new / ARCHITECTURE_FILE, arch.to_dict())
        _write_extras(new, tokenizer, card, what=f"sub-network {arch.id}")
    return restore_folder(folder)


def load_supernet(folder: str | Path, *, tie_embeddings: bool | None = None) -> LoadedSupernet:
    """Read a supernet, or any dense litgpt or Hugging Face checkpoint folder as one, on the CPU in its own dtype.

    Args:
        folder: of `save_supernet`; or with litgpt's model_config.yaml and lit_model.pth; or of a Hugging Face model
            (config.json with safetensors or .bin files) of a class in `hf_layouts.LAYOUTS`; or a .gguf file, which is
            converted in the user's cache at the first call (`gguf.cached_gguf`).
        tie_embeddings: let lm_head and the embedding be one parameter; None does so where they are stored as one or
            are equal.

    Raises:
        FileNotFoundError: the folder or its weights are missing.
        ValueError: a damaged file; weights that do not fit (names the first); an unsupported class or feature (named).
    """
    folder = _existing(folder)
    config, weights, source = _read_dense(folder)
    if tie_embeddings and not is_tied(weights):
        raise ValueError(f"{source}: lm_head and embedding differ, so they cannot be tied; leave tie_embeddings out")
    tied = is_tied(weights) if tie_embeddings is None else tie_embeddings
    with torch.device("meta"):
        supernet = Supernet(config, tie_embeddings=tied)
    _assign(supernet, weights, source, tied=tied)
    space = SearchSpace.from_dict(read_json(folder / SPACE_FILE)) if (folder / SPACE_FILE).is_file() else None
    if space is not None:
        check_space(space, config)
    return LoadedSupernet(supernet, space, stored_tokenizer(folder))


def load_subnet(folder: str | Path) -> tuple[litgpt.GPT, Architecture]:
    """Read a sub-network that `save_subnet` or `export_litgpt` wrote.

    Returns:
        The dense litgpt model and its architecture in the supernet it was taken from.

    Raises:
        FileNotFoundError: there is no architecture.json or no weights.
        ValueError: a damaged file or weights that do not fit.
    """
    folder = _existing(folder)
    if not (folder / ARCHITECTURE_FILE).is_file():
        raise FileNotFoundError(f"{folder} has no {ARCHITECTURE_FILE}: it is no sub-network (see load_supernet)")
    arch = Architecture.from_dict(read_json(folder / ARCHITECTURE_FILE))
    config = _read_config(folder)
    weights, source = read_weights(folder)
    tied = is_tied(weights)
    gpt = build_gpt(config, replace(arch, layers=tuple(range(arch.n_layer))), device="meta")
    _assign(gpt, weights, source, tied=tied)
    return gpt, arch


def check_space(space: SearchSpace, config: Config) -> None:
    """Raise ValueError unless the supernet of `config` contains the largest network of `space`."""
    try:
        check_fits(config, space.largest())
    except ValueError as error:
        raise ValueError(f"space {space.name!r} is not a space of this supernet: {error}") from error


# --- writing -----------------------------------------------------------------------------------------------------


def _write_model(folder: Path, model: litgpt.GPT, *, tied: bool) -> None:
    write_model_config(folder, model.config)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if tied:
        del state["lm_head.weight"]
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def write_model_config(folder: Path, config: Config) -> None:
    """Write litgpt's model_config.yaml (`litgpt.Config.from_file` reads it)."""
    plain = json.loads(json.dumps(asdict(config)))  # tuples would become Python tags, which safe_load refuses
    write_text(folder / CONFIG_FILE, yaml.safe_dump(plain))


def _write_extras(folder: Path, tokenizer: Tokenizer | None, card: Mapping[str, Any] | None, *, what: str) -> None:
    if tokenizer is not None:
        tokenizer.save(folder)
    write_checkpoint_card(folder, card, what=what)


def write_checkpoint_card(folder: Path, card: Mapping[str, Any] | None, *, what: str) -> None:
    """Write card.json; fields of `card` other than what, command, data and scores go under data."""
    given = dict(card or {})
    known = {name: given.pop(name, default) for name, default in (("what", what), ("command", ""), ("scores", {}))}
    write_card(folder, data={**given.pop("data", {}), **given}, **known)


# --- reading -----------------------------------------------------------------------------------------------------


def _existing(folder: str | Path) -> Path:
    if str(folder).endswith(".gguf"):
        from supernet.gguf import cached_gguf  # it writes such folders, and so needs this module

        folder = cached_gguf(folder)
    path = restore_folder(folder)
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint folder {folder}")
    return path


def _read_dense(folder: Path) -> tuple[Config, Weights, Path]:
    """Return the config and the litgpt-named weights of a network whose layers are all of one shape."""
    if (folder / ARCHITECTURE_FILE).is_file():
        arch = Architecture.from_dict(read_json(folder / ARCHITECTURE_FILE))
        if not arch.is_uniform:
            raise ValueError(f"{folder} is a sub-network whose layers differ or lack a part: read it with load_subnet")
    weights, source = read_weights(folder)
    if is_litgpt(weights) or any(".attn.attn." in name for name in weights):
        config = _read_config(folder)
        return config, current_names(weights, config), source
    network = litgpt_arguments(_read_hf_config(folder))
    try:
        config = Config(**network.arguments)
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"{folder / 'config.json'} does not describe a network: {error or network.arguments}"
        ) from error
    if config.rope_n_elem % 2:
        raise ValueError(
            f"{folder / 'config.json'}: {config.rope_n_elem} of {config.head_size} dimensions of a head would be "
            f"rotated (a share of {config.rotary_percentage}); RoPE needs an even number"
        )
    config.name = _litgpt_name(folder, config)
    return config, from_hf(weights, network.layout, config, zero_biases=network.zero_biases), source


def _read_config(folder: Path) -> Config:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"no {CONFIG_FILE} in {folder}: litgpt's weights need it")
    try:
        return Config.from_file(path)
    except (yaml.YAMLError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise ValueError(f"{path} is not a litgpt model config: {error}") from error


def _read_hf_config(folder: Path) -> Any:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {CONFIG_FILE} (litgpt) and no config.json (Hugging Face) in {folder}")
    model_type = read_json(path).get("model_type")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} (model_type {model_type!r}) cannot be read by transformers: {error}") from error


def _litgpt_name(folder: Path, config: Config) -> str:
    """Return the name in a folder's model_config.yaml if litgpt builds the same norms with it, else the class's."""
    if not (folder / CONFIG_FILE).is_file():
        return config.name
    name = _read_config(folder).name
    same = all((word in name) == (word in config.name) for word in ("Gemma", "OLMo"))
    return name if same else config.name


def _assign(model: litgpt.GPT, weights: Weights, source: Path, *, tied: bool) -> None:
    """Give a model on the meta device these weights, as memory of its own, and its RoPE tables."""
    embedding = weights.get("transformer.wte.weight")
    if "lm_head.weight" not in weights and embedding is not None:
        weights = {**weights, "lm_head.weight": embedding}
    check_matches(weights, model, source)
    copies = {name: tensor.clone() for name, tensor in weights.items() if not (tied and name == "lm_head.weight")}
    model.load_state_dict(copies, strict=not tied, assign=True)
    if tied:
        model.lm_head.weight = model.transformer.wte.weight
    model.cos, model.sin = model.rope_cache(device=torch.device("cpu"))
