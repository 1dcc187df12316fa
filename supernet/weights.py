"""Weight files of any origin: read, translated between Hugging Face's and litgpt's names, checked against a model.

litgpt's fused qkv rows are all q, then all k, then all v; GPT-NeoX and Falcon store q, k, v group by group.
"""

from __future__ import annotations

import pickle
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import torch
from litgpt.config import Config
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from supernet.artifacts import read_json
from supernet.hf_layouts import Layout

Weights = dict[str, Tensor]

_LAYER = re.compile(r"\.(\d+)\.")
_NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")
_BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias")  # in older files
_MULTIMODAL = ("model.language_model.", "language_model.model.")  # prefixes of the text part of Gemma 3
_VISION = ("model.vision_tower", "vision_tower", "model.multi_modal_projector", "multi_modal_projector")


# --- files -----------------------------------------------------------------------------------------------------------


def read_weights(folder: Path) -> tuple[Weights, Path]:
    """Return the tensors of a checkpoint folder, on the CPU, and the file (or index) they came from.

    Looks for lit_model.pth, safetensors (one file or shards with an index), then PyTorch .bin files.

    Raises:
        FileNotFoundError: no weights, or a shard is missing.
        ValueError: a file is damaged, or holds more than plain tensors.
    """
    lit = folder / "lit_model.pth"
    if lit.is_file():
        return _lit_state(_read_file(lit), lit), lit
    for stem, suffix in (("model", "safetensors"), ("*", "safetensors"), ("pytorch_model", "bin"), ("*", "bin")):
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            return _read_shards(index), index
        files = [file for file in sorted(folder.glob(f"{stem}.{suffix}")) if file.name not in _NOT_WEIGHTS]
        if files:
            return {name: tensor for file in files for name, tensor in _read_file(file).items()}, files[0]
    raise FileNotFoundError(f"no weights in {folder}: expected lit_model.pth, *.safetensors or *.bin")


def _read_shards(index: Path) -> Weights:
    weights: Weights = {}
    for name in sorted(set(read_json(index)["weight_map"].values())):
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index} names {name}, which is missing: copy or download that file")
        weights |= _read_file(index.parent / name)
    return weights


def _read_file(file: Path) -> Weights:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file} holds more than tensors, which could run code: save it as safetensors") from error
    except (SafetensorError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} is damaged or cut short ({reason}): copy or download it again") from error


def _lit_state(state: Weights, file: Path) -> Weights:
    state = state.get("model", state)  # type: ignore[assignment]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} is no litgpt checkpoint: expected parameters by name")
    return dict(state)


def is_litgpt(weights: Mapping[str, Tensor]) -> bool:
    """Return whether the names are litgpt's."""
    return "transformer.wte.weight" in weights


def current_names(weights: Weights, config: Config) -> Weights:
    """Return litgpt weights under today's names: old litgpt files have attn.attn, grouped, for attn.qkv."""
    old = {name: name.replace(".attn.attn.", ".attn.qkv.") for name in weights if ".attn.attn." in name}
    return {old.get(name, name): _ungroup(t, config) if name in old else t for name, t in weights.items()}


# --- Hugging Face names ----------------------------------------------------------------------------------------------


def from_hf(weights: Mapping[str, Tensor], layout: Layout, config: Config, *, zero_biases: set[str]) -> Weights:
    """Translate Hugging Face weights to litgpt's names and its order of qkv.

    Args:
        weights: by Hugging Face's names.
        layout: their class.
        config: litgpt's Config of the network.
        zero_biases: linear layers (as in `HFNetwork`) that get a bias of zeros.

    Raises:
        ValueError: a name that the class does not have.
    """
    modules = {hf: name for name, hf in layout.names.items()}
    found: Weights = {}
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in weights.items():
        if name.startswith(_VISION) or name.endswith(_BUFFERS):
            continue
        module, kind, layer = _split_name(_text_part(name))
        if module in layout.qkv:
            parts[f"transformer.h.{layer}.attn.qkv.{kind}"][layout.qkv.index(module)] = tensor
        elif module == layout.fused_mlp:
            for fc, half in zip(("fc_1", "fc_2"), tensor.chunk(2), strict=True):
                found[f"transformer.h.{layer}.mlp.{fc}.{kind}"] = half
        elif module in modules:
            found[f"{modules[module].format(layer)}.{kind}"] = tensor
        else:
            raise ValueError(f"unexpected parameter {name}: {layout.class_name} has none of that name")
    for name, tensors in parts.items():
        if len(tensors) == len(layout.qkv):
            fused = torch.cat([tensors[i] for i in range(len(tensors))]) if len(tensors) > 1 else tensors[0]
            found[name] = _ungroup(fused, config) if layout.grouped_qkv else fused
    return found | _zeros(found, zero_biases)


def to_hf(weights: Mapping[str, Tensor], layout: Layout, config: Config, *, zero_biases: set[str]) -> Weights:
    """Translate the weights of a uniform litgpt network to a Hugging Face class; the inverse of `from_hf`.

    Args:
        weights: by litgpt's names.
        layout: the class.
        config: litgpt's Config of the network.
        zero_biases: linear layers whose bias is written as zeros (`huggingface.zero_biases`).
    """
    weights = {**weights, **_zeros(weights, zero_biases)}
    found: Weights = {}
    for name, tensor in weights.items():
        module, kind, layer = _split_name(name)
        if module == "transformer.h.{}.attn.qkv":
            parts = _regroup(tensor, config) if layout.grouped_qkv else tensor
            sizes = _qkv_sizes(config) if len(layout.qkv) == 3 else [len(tensor)]
            found |= {f"{m.format(layer)}.{kind}": t for m, t in zip(layout.qkv, parts.split(sizes), strict=True)}
        elif layout.fused_mlp and module.endswith((".fc_1", ".fc_2")):
            halves = [weights[f"transformer.h.{layer}.mlp.{fc}.{kind}"] for fc in ("fc_1", "fc_2")]
            found[f"{layout.fused_mlp.format(layer)}.{kind}"] = torch.cat(halves)
        else:
            found[f"{layout.names[module].format(layer)}.{kind}"] = tensor
    return found


def _split_name(name: str) -> tuple[str, str, str]:
    """Return (module with "{}" for the layer, "weight" or "bias", layer)."""
    module, _, kind = name.rpartition(".")
    layer = _LAYER.search(name)
    return _LAYER.sub(".{}.", module, count=1), kind, layer.group(1) if layer else ""


def _text_part(name: str) -> str:
    for prefix in _MULTIMODAL:
        if name.startswith(prefix):
            return "model." + name.removeprefix(prefix)
    return name.removeprefix("language_model.")


def _zeros(weights: Mapping[str, Tensor], groups: set[str]) -> Weights:
    """Return a bias of zeros for each weight of the linear layers in `groups`."""
    ends = {"qkv": (".attn.qkv",), "proj": (".attn.proj",), "mlp": (".mlp.fc", ".mlp.fc_1", ".mlp.fc_2", ".mlp.proj")}
    modules = tuple(end for group in groups - {"lm_head"} for end in ends[group])
    names = [n for n in weights if n.endswith(".weight") and n.removesuffix(".weight").endswith(modules or ("\0",))]
    if "lm_head" in groups:
        names.append("transformer.wte.weight")  # always there, of the head's height and dtype
    biases = {n: n.replace("transformer.wte", "lm_head").removesuffix(".weight") + ".bias" for n in names}
    return {biases[n]: weights[n].new_zeros(len(weights[n])) for n in names}


def _qkv_sizes(config: Config) -> list[int]:
    D, H, G = config.head_size, config.n_head, config.n_query_groups
    assert D is not None and G is not None
    return [H * D, G * D, G * D]


def _ungroup(qkv: Tensor, config: Config) -> Tensor:
    """Rows q, k, v of group 1, then of group 2, ... -> all q, all k, all v."""
    G, D = config.n_query_groups, config.head_size
    assert G is not None and D is not None
    if len(qkv) != sum(_qkv_sizes(config)):
        return qkv  # `check_matches` names it, with both shapes
    groups = qkv.unflatten(0, (G, -1, D))  # (G, q_per_group + 2, D, ...)
    return torch.cat([part.flatten(0, 2) for part in groups.split([config.n_head // G, 1, 1], dim=1)])


def _regroup(qkv: Tensor, config: Config) -> Tensor:
    """The inverse of `_ungroup`."""
    G, D = config.n_query_groups, config.head_size
    assert G is not None and D is not None
    q, k, v = (part.unflatten(0, (G, -1, D)) for part in qkv.split(_qkv_sizes(config)))
    return torch.cat([q, k, v], dim=1).flatten(0, 2)


# --- checks ----------------------------------------------------------------------------------------------------------


def is_tied(weights: Mapping[str, Tensor]) -> bool:
    """Return whether lm_head is stored as, or equal to, the embedding (litgpt-named weights)."""
    head, embedding = weights.get("lm_head.weight"), weights.get("transformer.wte.weight")
    return head is None or (embedding is not None and torch.equal(head, embedding))


def check_matches(weights: Mapping[str, Tensor], model: nn.Module, source: Path) -> None:
    """Raise ValueError, naming the first parameter that is missing, unexpected or of another shape."""
    expected = model.state_dict()
    for name, parameter in expected.items():
        if name not in weights:
            raise ValueError(f"{source} does not fit this network: {name} {tuple(parameter.shape)} is missing")
        found = weights[name]
        if found.shape != parameter.shape:
            shapes = f"{tuple(found.shape)} in the file, {tuple(parameter.shape)} in the network"
            raise ValueError(f"{source} does not fit this network: {name} is {shapes}")
        if not found.is_floating_point():
            raise ValueError(f"{source}: {name} is {found.dtype}; quantised weights are not supported")
    for name, tensor in weights.items():
        if name not in expected:
            raise ValueError(f"{source} does not fit this network: unexpected parameter {name} {tuple(tensor.shape)}")
