"""Export a sub-network so that stock litgpt or stock transformers loads it; the export is read back and compared."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import litgpt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from supernet.arch_list import read_architectures
from supernet.architecture import Architecture
from supernet.artifacts import atomic_folder, restore_folder, write_json, write_text
from supernet.checkpoint import (
    ARCHITECTURE_FILE,
    CONFIG_FILE,
    TOKENIZER_FILES,
    LoadedSupernet,
    load_subnet,
    write_checkpoint_card,
    write_model_config,
)
from supernet.hf_layouts import Layout
from supernet.huggingface import hf_config, layout_for, zero_biases
from supernet.litgpt_config import whole_architecture
from supernet.text import ByteTokenizer, Tokenizer
from supernet.weights import to_hf

TOLERANCE = 1e-4  # of the logits, in float32, relative to the largest where that is above 1
README_FILE = "README.md"
_LITGPT_FILES = (*TOKENIZER_FILES, "lit_model.pth", CONFIG_FILE, ARCHITECTURE_FILE, "card.json", README_FILE)
HF_FILES = (*TOKENIZER_FILES, "config.json", "model.safetensors", "card.json")


@dataclass(frozen=True)
class Export:
    """An exported sub-network.

    Attributes:
        folder: where it lies.
        class_name: the class that holds it.
        loads_with: the call that reads it.
        max_difference: largest absolute difference of the logits of the export, read back, from the sub-network's
            (float32, random tokens).
        n_params: parameters in the file, tied ones once; None where they were not counted.
    """

    folder: Path
    class_name: str
    loads_with: str
    max_difference: float
    n_params: int | None = None


def named_architecture(name: str, loaded: LoadedSupernet) -> Architecture:
    """Return the one architecture that `name` stands for: largest, smallest, an id, or a file with one.

    Raises:
        ValueError: it is none, several, or not in the space of the supernet.
    """
    if loaded.space is None and name == "largest":
        return whole_architecture(loaded.supernet.config)
    found = read_architectures(name, loaded.space)
    if len(found) != 1:
        raise ValueError(f"arch = {name!r} names {len(found)} architectures: give one")
    return found[0]


def export_subnet(
    folder: str | Path,
    gpt: litgpt.GPT,
    arch: Architecture,
    *,
    format: Literal["hf", "litgpt"],
    tokenizer: Tokenizer | None = None,
    card: Mapping[str, Any] | None = None,
) -> Export:
    """Export an extracted sub-network in one of the formats; see `export_hf` and `export_litgpt`."""
    exporters = {"hf": export_hf, "litgpt": export_litgpt}
    if format not in exporters:
        raise ValueError(f"format = {format!r}; allowed: {', '.join(exporters)}")
    return exporters[format](folder, gpt, arch, tokenizer=tokenizer, card=card)


def export_litgpt(
    folder: str | Path,
    gpt: litgpt.GPT,
    arch: Architecture,
    *,
    tokenizer: Tokenizer | None = None,
    card: Mapping[str, Any] | None = None,
    readme: str | None = None,
) -> Export:
    """Write lit_model.pth, model_config.yaml and architecture.json.

    Stock litgpt loads it when the layers are of one shape; otherwise `supernet.checkpoint.load_subnet` does, since
    litgpt's config has one number for all layers. Tied embeddings are written twice, as litgpt wants them.

    Args:
        folder: where to; an existing folder may hold nothing but such an export.
        gpt: what `extract(supernet, arch)` gave.
        arch: its architecture.
        tokenizer: of its text.
        card: as in `save_supernet`.
        readme: text of a README.md; None writes none.

    Raises:
        ValueError: the folder holds other files.
    """
    with atomic_folder(folder, names=_LITGPT_FILES) as new:
        if readme is not None:
            write_text(new / README_FILE, readme)
        write_model_config(new, gpt.config)
        write_json(new / ARCHITECTURE_FILE, arch.to_dict())
        torch.save({name: t.detach().cpu().clone() for name, t in gpt.state_dict().items()}, new / "lit_model.pth")
        difference = logit_difference(gpt, _load_litgpt(new, arch))
        write_companions(new, tokenizer, card, arch, difference)
    reader = "litgpt.LLM.load" if arch.is_uniform else "supernet.checkpoint.load_subnet"
    return Export(restore_folder(folder), "litgpt.GPT", f'{reader}("{folder}")', difference)


def export_hf(
    folder: str | Path,
    gpt: litgpt.GPT,
    arch: Architecture,
    *,
    tokenizer: Tokenizer | None = None,
    card: Mapping[str, Any] | None = None,
) -> Export:
    """Write a Hugging Face folder that stock `AutoModelForCausalLM.from_pretrained` loads with equal logits.

    A network with attention softcapping (Gemma 2) must be loaded with attn_implementation="eager": transformers'
    default leaves softcapping out. `Export.loads_with` has the call.

    Args:
        folder: as in `export_litgpt`.
        gpt: what `extract(supernet, arch)` gave; its layers are of one shape.
        arch: its architecture.
        tokenizer: of its text; bytes become a byte-level tokenizer.json whose ids are the byte values.
        card: as in `save_supernet`.

    Raises:
        ValueError: no stock class holds this network (says what it cannot have), or the folder holds other files.
    """
    from transformers import AutoModelForCausalLM

    layout = _layout(gpt, arch)
    with atomic_folder(folder, names=HF_FILES) as new:
        write_hf_model(new, gpt, layout, tokenizer)
        attention = needed_attention(gpt.config)
        model = load_hf(new, AutoModelForCausalLM, layout.class_name, attention)
        difference = logit_difference(gpt, model)
        write_companions(new, tokenizer, card, arch, difference)
    options = f', attn_implementation="{attention}"' if attention else ""
    call = f'AutoModelForCausalLM.from_pretrained("{folder}"{options})'
    return Export(restore_folder(folder), layout.class_name, call, difference)


def _layout(gpt: litgpt.GPT, arch: Architecture) -> Layout:
    if not arch.is_complete:
        raise ValueError(
            f"{arch.id}: some of its blocks have no attention or no MLP, which no stock Hugging Face class can have. "
            "Export it with format=litgpt."
        )
    if not arch.is_uniform:
        raise ValueError(
            f"{arch.id}: its layers differ in heads, groups or MLP width, and a stock Hugging Face class has one shape "
            "for all. Export it with format=litgpt, or search a space with per_layer: false."
        )
    return layout_for(gpt.config)


def needed_attention(config: litgpt.Config) -> str | None:
    """Return the attention that transformers must be asked for: its default, SDPA, leaves softcapping out silently."""
    return "eager" if config.attention_logit_softcapping else None


def write_hf_model(folder: Path, gpt: litgpt.GPT, layout: Layout, tokenizer: Tokenizer | None) -> None:
    """Write config.json and model.safetensors of a network of one shape in a class that can hold it."""
    tied = gpt.lm_head.weight is gpt.transformer.wte.weight
    state = {name: tensor.detach().cpu() for name, tensor in gpt.state_dict().items()}
    weights = to_hf(state, layout, gpt.config, zero_biases=zero_biases(layout, gpt.config))
    if tied:
        del weights[layout.names["lm_head"] + ".weight"]
    save_file({n: t.clone().contiguous() for n, t in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    dtype = str(gpt.lm_head.weight.dtype).removeprefix("torch.")
    special = {"bos_token_id": getattr(tokenizer, "bos_id", None), "eos_token_id": getattr(tokenizer, "eos_id", None)}
    write_json(folder / "config.json", hf_config(layout, gpt.config, tied=tied, dtype=dtype) | special)


def write_companions(
    folder: Path, tokenizer: Tokenizer | None, card: Mapping[str, Any] | None, arch: Architecture, difference: float
) -> None:
    """Write what lies beside the weights: the tokenizer, generation_config.json and card.json."""
    if tokenizer is not None:
        tokenizer.save(folder)
    if isinstance(tokenizer, ByteTokenizer):
        write_byte_level(folder)  # for other libraries than ours
    if not (folder / "generation_config.json").is_file():
        ids = {"bos_token_id": getattr(tokenizer, "bos_id", None), "eos_token_id": getattr(tokenizer, "eos_id", None)}
        write_json(folder / "generation_config.json", {name: value for name, value in ids.items() if value is not None})
    given = dict(card or {})
    given["scores"] = {**given.get("scores", {}), "max_logit_difference": difference}
    write_checkpoint_card(folder, {"architecture": arch.id, **given}, what=f"export of sub-network {arch.id}")


def write_byte_level(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json of a tokenizer whose ids are the bytes of the text."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers

    backend = Backend(models.BPE(vocab={char: byte for byte, char in enumerate(byte_characters())}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    write_text(folder / "tokenizer.json", backend.to_str(pretty=True))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")


def byte_characters() -> list[str]:
    """Return the printable character that stands for each byte in byte-level BPE (Radford et al., GPT-2, 2019)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


# --- reading back ------------------------------------------------------------------------------------------------


def _load_litgpt(folder: Path, arch: Architecture) -> litgpt.GPT:
    if not arch.is_uniform:
        return load_subnet(folder)[0].float().eval()
    gpt = litgpt.GPT(litgpt.Config.from_file(folder / CONFIG_FILE))
    gpt.load_state_dict(torch.load(folder / "lit_model.pth", weights_only=True, mmap=True), strict=True)
    return gpt.float().eval()


def load_hf(folder: Path, model_class: Any, name: str, attention: str | None) -> Any:
    """Return what a class reads from a folder, in float32.

    Args:
        folder: with config.json and weights.
        model_class: its `from_pretrained` reads them.
        name: of the class, for errors.
        attention: as `needed_attention` says.

    Raises:
        ValueError: the weights are not all that the class has.
    """
    from transformers.utils import logging

    shows_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            folder,
            attn_implementation=attention,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
        )
    finally:
        if shows_bars:
            logging.enable_progress_bar()
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(problem):
            raise ValueError(f"{name}: {problem} {sorted(map(str, info[problem]))[:3]}; nothing was exported")
    return model.eval()


@torch.inference_mode()
def logit_difference(gpt: litgpt.GPT, export: nn.Module) -> float:
    """Return the largest absolute difference of an export's logits from the network's, in float32 on random tokens.

    Args:
        gpt: the network.
        export: the export, read back, in float32: tokens (B, T) -> logits (B, T, V), or an output of transformers.

    Raises:
        ValueError: as in `largest_difference`.
    """
    window = gpt.config.sliding_window_size or 0
    length = min(gpt.max_seq_length, window + 16 if 48 < window <= 1024 else 64)  # beyond a window where it is cheap
    idx = torch.randint(gpt.config.padded_vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    reference = copy.deepcopy(gpt).float().cpu().eval()
    reference.cos, reference.sin = reference.rope_cache(device=idx.device)  # a bfloat16 model's tables are rounded

    def logits(network: Any, model: Any) -> tuple[Tensor, Tensor]:
        found = model(idx)
        return found if isinstance(found, Tensor) else found.logits, network(idx)

    return largest_difference(logits, reference, export, what="the export's logits differ from the sub-network's")


def largest_difference(
    compare: Callable[..., tuple[Tensor, Tensor]], *networks: nn.Module, what: str = "logits differ"
) -> float:
    """Return the largest absolute difference of two ways to the same logits, in float32.

    Some networks make far more of a rounding than 1e-4 of a few tokens' logits, pruned ones with large residual streams
    above all. So where float32 is not within `TOLERANCE`, copies in float64 must be: there a mistake is as large as
    before and rounding is not.

    Args:
        compare: networks -> logits found, logits expected.
        networks: in float32, as `compare` takes them.
        what: the beginning of the error.

    Raises:
        ValueError: neither is within `TOLERANCE`, relative to the largest logit where that is above 1.
    """
    found, expected = compare(*networks)
    difference = (found - expected).abs().max().item()
    if not _within(found, expected) and not _within(*compare(*(copy.deepcopy(own).double() for own in networks))):
        raise ValueError(f"{what} by {difference:.3g}; nothing was exported")
    return difference


def _within(found: Tensor, expected: Tensor) -> bool:
    return (found - expected).abs().max().item() <= TOLERANCE * max(1.0, expected.abs().max().item())
