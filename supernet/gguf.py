"""GGUF files as litgpt models and as checkpoint folders: any quantisation that the `gguf` package dequantises.

The architectures are those in `gguf_layout`; `gguf_writer` writes such files.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import litgpt
import numpy as np
import torch
from torch import Tensor

from supernet.architecture import Architecture
from supernet.artifacts import atomic_folder, read_json, restore_folder, write_json
from supernet.checkpoint import save_subnet, write_checkpoint_card
from supernet.export import HF_FILES, write_hf_model
from supernet.extract import build_gpt
from supernet.gguf_layout import Shape, architecture_metadata, block_shapes, read_config
from supernet.gguf_tensors import read_weights, real_shapes
from supernet.gguf_tokenizer import write_tokenizer_files
from supernet.hf_layouts import Layout
from supernet.huggingface import layout_for
from supernet.text import HFTokenizer, Tokenizer, load_tokenizer
from supernet.tokens import default_cache_dir
from supernet.weights import check_matches


@dataclass(frozen=True)
class GGUFModel:
    """What a GGUF file holds.

    Attributes:
        gpt: the dense litgpt model, on the CPU; tied embeddings are one parameter.
        arch: its architecture; layers count from 0.
        tokenizer: its tokenizer, or None.
    """

    gpt: litgpt.GPT
    arch: Architecture
    tokenizer: Tokenizer | None


def gguf_package() -> Any:
    """Return the `gguf` package, an optional one."""
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise ModuleNotFoundError("GGUF files need the package gguf: pip install 'paretolm[gguf]'") from error
    return gguf


def read_gguf(
    path: str | Path, *, dtype: torch.dtype = torch.float32, tokenizer: Tokenizer | str | Path | None = None
) -> GGUFModel:
    """Read a GGUF file as a litgpt model.

    Args:
        path: the file.
        dtype: of the parameters; quantised tensors are dequantised.
        tokenizer: one to take in the place of that in the file; as in `load_tokenizer`.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the gguf package is not installed.
        ValueError: no GGUF file, a damaged one, an unsupported architecture, feature, tensor type or tokenizer (named).
    """
    path = Path(path)
    reader = _open(path)
    try:
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        name, own = architecture_metadata(metadata)
        tensors = {tensor.name: _dequantised(tensor, dtype) for tensor in reader.tensors}
        shapes = real_shapes(block_shapes(own), tensors, name)
        config = read_config(name, own, tensors)
        weights = read_weights(tensors, config, shapes, name)
        found = load_tokenizer(tokenizer) if tokenizer is not None else _tokenizer(metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    gpt, arch = _model(config, shapes, weights, path)
    return GGUFModel(gpt, arch, found)


def _open(path: Path) -> Any:
    """Return the package's reader of a file."""
    gguf = gguf_package()
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file {path}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} is no GGUF file: it does not begin with GGUF")
    try:
        return gguf.GGUFReader(path)
    except (ValueError, KeyError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is damaged, cut short or of a newer kind ({reason}): download it again") from error


def _dequantised(tensor: Any, dtype: torch.dtype) -> Tensor:
    """Return a tensor of the file with memory of its own."""
    try:
        values = gguf_package().quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ValueError(
            f"tensor {tensor.name} is of type {tensor.tensor_type.name}, which gguf cannot dequantise: convert the "
            "file to F16 with llama-quantize"
        ) from error
    return torch.from_numpy(np.array(values, dtype=np.float32)).to(dtype)


def _tokenizer(metadata: Mapping[str, Any]) -> Tokenizer | None:
    with tempfile.TemporaryDirectory() as folder:
        return HFTokenizer(folder) if write_tokenizer_files(Path(folder), metadata) else None


def _model(
    config: litgpt.Config, shapes: Sequence[Shape], weights: dict[str, Tensor], path: Path
) -> tuple[litgpt.GPT, Architecture]:
    kept = [shape for shape in shapes if any(shape)]
    heads, groups, neurons = zip(*kept, strict=True)
    arch = Architecture(config.n_embd, heads, groups, neurons, tuple(range(len(kept))), bias=config.bias)
    gpt = build_gpt(config, arch, device="meta")
    tied = "lm_head.weight" not in weights
    if tied:
        weights = {**weights, "lm_head.weight": weights["transformer.wte.weight"]}
    check_matches(weights, gpt, path)
    gpt.load_state_dict(weights, strict=True, assign=True)
    if tied:
        gpt.lm_head.weight = gpt.transformer.wte.weight
    gpt.cos, gpt.sin = gpt.rope_cache(device=torch.device("cpu"))
    return gpt.eval(), arch


def convert_gguf(
    path: str | Path,
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    tokenizer: Tokenizer | str | Path | None = None,
) -> Path:
    """Convert a GGUF file into a folder that `load_supernet` reads, once; return the folder.

    The folder is a Hugging Face one where a stock class holds the network, else one of `save_subnet` (blocks that
    differ: `load_subnet` reads it). It is left as it is when it was made from this file, as its size and time tell.

    Args:
        path: the file.
        folder: where to; an existing folder may hold nothing but such a conversion.
        dtype: of the weights.
        tokenizer: as in `read_gguf`.

    Raises:
        ValueError: as in `read_gguf`, or the folder holds other files.
    """
    path, folder = Path(path), restore_folder(folder)
    if not path.is_file():
        raise FileNotFoundError(f"no GGUF file {path}")
    facts, given = path.stat(), None if tokenizer is None else load_tokenizer(tokenizer)
    source = {
        "file": path.name, "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "dtype": str(dtype),
        "tokenizer": getattr(given, "fingerprint", None),
    }  # fmt: skip
    if _source_of(folder) == source:
        return folder
    model = read_gguf(path, dtype=dtype, tokenizer=given)
    card: dict[str, Any] = {"what": f"conversion of {path.name}", "data": {"source": source}}
    layout = _layout(model)
    if layout is None:
        return save_subnet(folder, model.gpt, model.arch, tokenizer=model.tokenizer, card=card)
    with atomic_folder(folder, names=HF_FILES) as new:
        write_hf_model(new, model.gpt, layout, model.tokenizer)
        if model.tokenizer is not None:
            model.tokenizer.save(new)
        if (new / "generation_config.json").is_file():  # the tokenizer itself knows only ids that it adds
            ids = read_json(new / "generation_config.json")
            write_json(new / "config.json", read_json(new / "config.json") | ids)
        write_checkpoint_card(new, card, what=card["what"])
    return restore_folder(folder)


def cached_gguf(path: str | Path) -> Path:
    """Return the folder of a GGUF file in the user's cache (as `default_cache_dir`), converted at the first call."""
    digest = hashlib.sha256(str(Path(path).resolve()).encode()).hexdigest()[:12]
    return convert_gguf(path, default_cache_dir().with_name("gguf") / f"{Path(path).stem}-{digest}")


def _source_of(folder: Path) -> Any:
    card = folder / "card.json"
    return read_json(card).get("data", {}).get("source") if card.is_file() else None


def _layout(model: GGUFModel) -> Layout | None:
    try:
        return layout_for(model.gpt.config) if model.arch.is_uniform else None
    except ValueError:
        return None
