"""litgpt models as GGUF files that llama.cpp runs.

`llama` holds blocks of one shape, `deci` blocks that differ, or lack attention or MLP.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any, Literal

import litgpt
import numpy as np

from supernet.architecture import Architecture
from supernet.artifacts import atomic_path
from supernet.export import write_byte_level
from supernet.gguf import gguf_package
from supernet.gguf_layout import Shape, check_writable, write_config, written_shapes
from supernet.gguf_tensors import write_tensors
from supernet.gguf_tokenizer import tokenizer_metadata
from supernet.text import ByteTokenizer, Tokenizer, load_tokenizer

_FILE_TYPES = {"float32": 0, "float16": 1}  # general.file_type


def write_gguf(
    path: str | Path,
    gpt: litgpt.GPT,
    arch: Architecture,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    dtype: Literal["float16", "float32"] = "float16",
    name: str = "",
) -> Path:
    """Write a litgpt model as a GGUF file, atomically; return the path.

    Args:
        path: the file; an older one is replaced.
        gpt: what `extract(supernet, arch)` gave, or a whole model; biases that it has beyond its config are kept.
        arch: its architecture: of one shape it becomes `llama`, else `deci`.
        tokenizer: of its text, as in `load_tokenizer`; None writes a file without a vocabulary.
        dtype: of the matrices; norms and biases are float32, as llama.cpp wants.
        name: of the model, for people.

    Raises:
        ModuleNotFoundError: the gguf package is not installed.
        ValueError: a network or a tokenizer that GGUF's llama architectures cannot have (named).
    """
    if dtype not in _FILE_TYPES:
        raise ValueError(f"dtype = {dtype!r}; allowed: {', '.join(_FILE_TYPES)}")
    gguf, config = gguf_package(), gpt.config
    check_writable(config)
    kind = "llama" if arch.is_uniform else "deci"
    shapes: list[Shape] = list(zip(arch.n_head, arch.n_query_groups, arch.intermediate_size, strict=True))
    if kind == "deci":
        shapes = written_shapes(shapes)
    metadata = {"general.name": name or f"paretolm {arch.id}", "general.file_type": _FILE_TYPES[dtype]}
    metadata |= write_config(config, shapes, kind) | _tokenizer_metadata(tokenizer, config.padded_vocab_size or 0)
    tied = gpt.lm_head.weight is gpt.transformer.wte.weight
    state = {key: tensor.detach().cpu() for key, tensor in gpt.state_dict().items()}
    tensors = write_tensors(state, config, shapes, tied=tied)
    logging.getLogger("gguf.gguf_writer").setLevel(logging.WARNING)  # else it tells the temporary file's name
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, kind)
        for key, value in metadata.items():
            _add(writer, key, value)
        for key, tensor in tensors.items():
            wanted = np.float32 if tensor.dim() == 1 else np.dtype(dtype)
            writer.add_tensor(key, tensor.float().contiguous().numpy().astype(wanted))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return Path(path)


def _tokenizer_metadata(tokenizer: Tokenizer | str | Path | None, vocab_size: int) -> dict[str, Any]:
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none"}
    tokenizer = load_tokenizer(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        if isinstance(tokenizer, ByteTokenizer):
            write_byte_level(Path(folder))
        return tokenizer_metadata(Path(folder), vocab_size)


def _add(writer: Any, key: str, value: Any) -> None:
    """Add one value under its GGUF type: bool, uint32, float32, string or array."""
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)
