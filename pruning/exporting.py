"""A pruned network as folders that others load: Hugging Face, litgpt and GGUF; each is read back before it is kept."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import litgpt
import torch
from safetensors import safe_open

from pruning.generation_check import check_hf_cache, check_litgpt_cache
from pruning.hf_blocks import MODELING_FILE, BlockLayout, block_layout, modeling_class, write_block_model
from pruning.model_card import gguf_loading, litgpt_loading, model_card, transformers_loading
from pruning.pruned import Pruned
from supernet.artifacts import atomic_folder, read_json, restore_folder, write_json, write_text
from supernet.checkpoint import TOKENIZER_FILES, write_checkpoint_card
from supernet.export import (
    HF_FILES,
    README_FILE,
    Export,
    export_litgpt,
    load_hf,
    logit_difference,
    needed_attention,
    write_companions,
    write_hf_model,
)
from supernet.hf_layouts import Layout
from supernet.huggingface import layout_for
from supernet.text import Tokenizer, stored_tokenizer

FORMATS = ("hf", "litgpt", "gguf")
GGUF_FILE = "model.gguf"
# what stands beside the weights of a checkpoint and stays true of a pruned one
_SOURCE_FILES = (*TOKENIZER_FILES, "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "LICENSE")
_NAMES = (*HF_FILES, *_SOURCE_FILES, MODELING_FILE, README_FILE)
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def export_pruned(
    folder: str | Path,
    pruned: Pruned,
    *,
    tokenizer: Tokenizer | None,
    source: str | Path | None,
    card: Mapping[str, Any],
    formats: Sequence[str] = ("hf", "litgpt"),
) -> list[Export]:
    """Write a pruned network in each format into a folder of its name below `folder`.

    hf: a stock class of transformers where one holds the network; where blocks differ or lack a part, or no stock class
    has such heads or biases, a class in a small file of its own (`trust_remote_code=True`; see `hf_blocks`).
    litgpt: stock litgpt loads it where blocks are of one shape, else `supernet.checkpoint.load_subnet`.
    gguf: model.gguf in float16 (float32 where the network is), for llama.cpp.

    Every export is read back: its logits are the network's within 1e-4, and for hf and litgpt generation with a KV
    cache gives those of a forward without one. Each folder is written whole or not at all.

    Args:
        folder: where to.
        pruned: the network.
        tokenizer: of its text.
        source: folder (or .gguf file) of the dense checkpoint: chat template, generation config, special ids and the
            tokenizer's further files come from there, where its tokenizer is `tokenizer`.
        card: what is known of the network; for README.md and card.json, see `model_card`.
        formats: some of hf, litgpt, gguf.

    Raises:
        ModuleNotFoundError: gguf is asked for and the package is not installed.
        OSError: the disk has no room; says how much is needed.
        ValueError: an unknown format; a tokenizer of another vocabulary; a network that a format cannot have (says
            what, before anything is written); an export that reads back differently.
    """
    gpt = pruned.gpt
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"formats = {list(formats)}; allowed: {', '.join(FORMATS)}")
    _check_tokenizer(gpt, tokenizer)
    layout = hf_layout(pruned) if "hf" in formats else None
    if "gguf" in formats:
        _check_gguf(gpt)
    folder = Path(folder)
    _check_room(folder, gpt, len(set(formats)))
    origin = _Origin.of(source, tokenizer)
    found = []
    for name in dict.fromkeys(formats):
        if name == "hf":
            assert layout is not None
            found.append(_export_hf(folder / name, pruned, layout, tokenizer, origin, card))
        elif name == "litgpt":
            found.append(_export_litgpt(folder / name, pruned, tokenizer, card))
        else:
            found.append(_export_gguf(folder / name, pruned, tokenizer, card))
    return found


def restate(exports: Sequence[Export], pruned: Pruned, card: Mapping[str, Any]) -> None:
    """Write README.md and card.json of exports anew: some facts, as their latency, are known only when they exist.

    Args:
        exports: what `export_pruned` gave for the network.
        pruned: the network.
        card: as in `export_pruned`; what card.json says beyond it is kept.
    """
    for export in exports:
        stored = read_json(export.folder / "card.json")
        given = {name: value for name, value in card.items() if name not in stored}  # as `write_checkpoint_card`
        write_json(export.folder / "card.json", {**stored, "data": {**stored["data"], **given}})
        own_code = (export.folder / MODELING_FILE).is_file()
        n_params = export.n_params or _n_params(pruned.gpt)
        readme = _readme(export.folder.name, pruned, card, export.class_name, n_params, own_code=own_code)
        write_text(export.folder / README_FILE, readme)


def hf_layout(pruned: Pruned) -> Layout | BlockLayout:
    """Return the class that a network is exported to: a stock one, or one built from its blocks.

    Raises:
        ValueError: there is none; says why, and what to do.
    """
    gpt, arch = pruned
    if arch.is_uniform:
        try:
            return layout_for(gpt.config)
        except ValueError:
            pass  # heads that stock classes do not divide, biases that they have no place for
    return block_layout(gpt.config, arch)


# --- formats ---------------------------------------------------------------------------------------------------------


def _export_hf(
    folder: Path,
    pruned: Pruned,
    layout: Layout | BlockLayout,
    tokenizer: Tokenizer | None,
    origin: _Origin,
    card: Mapping[str, Any],
) -> Export:
    from transformers import AutoModelForCausalLM

    gpt, arch = pruned
    attention, own_code = needed_attention(gpt.config), isinstance(layout, BlockLayout)
    with atomic_folder(folder, names=_NAMES) as new:
        model_class: Any = AutoModelForCausalLM
        if isinstance(layout, BlockLayout):
            write_block_model(new, gpt, arch, layout)
            model_class = modeling_class(new)
        else:
            write_hf_model(new, gpt, layout, tokenizer)
        origin.copy_to(new, tokenizer)
        model = load_hf(new, model_class, layout.class_name, attention)
        difference = logit_difference(gpt, model)
        cache_difference = check_hf_cache(model, block_size=gpt.config.block_size)
        n_params = _stored_parameters(new / "model.safetensors", gpt, model)
        arguments = ", ".join([f'"{folder}"', *_hf_options(gpt, own_code)])
        call = f"AutoModelForCausalLM.from_pretrained({arguments})"
        facts = {"n_params": n_params, "class": layout.class_name, "loads_with": call}
        write_text(new / README_FILE, _readme("hf", pruned, card, layout.class_name, n_params, own_code=own_code))
        scores = {**card.get("scores", {}), "max_cache_difference": cache_difference}
        write_companions(new, tokenizer, {**card, **facts, "scores": scores}, arch, difference)
    return Export(restore_folder(folder), layout.class_name, call, difference, n_params)


def _export_litgpt(folder: Path, pruned: Pruned, tokenizer: Tokenizer | None, card: Mapping[str, Any]) -> Export:
    reference = copy.deepcopy(pruned.gpt).float().cpu().eval()
    reference.cos, reference.sin = reference.rope_cache(device=torch.device("cpu"))
    n_params = _n_params(pruned.gpt)
    scores = {**card.get("scores", {}), "max_cache_difference": check_litgpt_cache(reference)}
    facts = {"n_params": n_params, "scores": scores}
    readme = _readme("litgpt", pruned, card, "litgpt.GPT", n_params)
    done = export_litgpt(folder, pruned.gpt, pruned.arch, tokenizer=tokenizer, card={**card, **facts}, readme=readme)
    return replace(done, n_params=n_params)


def _export_gguf(folder: Path, pruned: Pruned, tokenizer: Tokenizer | None, card: Mapping[str, Any]) -> Export:
    from supernet.gguf import gguf_package, read_gguf
    from supernet.gguf_writer import write_gguf

    gpt, arch = pruned
    dtype = "float32" if gpt.lm_head.weight.dtype == torch.float32 else "float16"
    kind = "llama" if arch.is_uniform else "deci"
    with atomic_folder(folder, names=(GGUF_FILE, "card.json", README_FILE)) as new:
        name = str(card.get("name", ""))
        path = write_gguf(new / GGUF_FILE, gpt, arch, tokenizer=tokenizer, dtype=dtype, name=name)
        back = read_gguf(path).gpt.float().eval()
        difference = logit_difference(_rounded(gpt, dtype), back)
        tensors = gguf_package().GGUFReader(path).tensors
        n_params = sum(int(t.n_elements) for t in tensors if t.name != "rope_freqs.weight")
        del tensors  # the reader maps the file
        write_text(new / README_FILE, _readme("gguf", pruned, card, f"GGUF {kind}", n_params))
        scores = {**card.get("scores", {}), "max_logit_difference": difference}
        facts = {"n_params": n_params, "dtype": dtype, "scores": scores}
        write_checkpoint_card(new, {**card, **facts}, what=f"export of pruned network {arch.id}")
    call = f'llama-cli -m "{folder / GGUF_FILE}"'
    return Export(restore_folder(folder), f"GGUF {kind}", call, difference, n_params)


def _readme(
    name: str, pruned: Pruned, card: Mapping[str, Any], class_name: str, n_params: int, *, own_code: bool = False
) -> str:
    """Return README.md of the export in a format; `own_code`: an hf folder brings a modeling file."""
    loading, library = {
        "hf": (transformers_loading(_hf_options(pruned.gpt, own_code)), "transformers"),
        "litgpt": (litgpt_loading(pruned.arch), "litgpt"),
        "gguf": (gguf_loading(GGUF_FILE, class_name.removeprefix("GGUF ")), "gguf"),
    }[name]
    return model_card(pruned, card, class_name=class_name, loading=loading, n_params=n_params, library=library)


def _hf_options(gpt: litgpt.GPT, own_code: bool) -> list[str]:
    """Return what `from_pretrained` is told besides the folder."""
    attention = needed_attention(gpt.config)
    options = [f'attn_implementation="{attention}"'] if attention else []
    return [*options, "trust_remote_code=True"] if own_code else options


def _rounded(gpt: litgpt.GPT, dtype: str) -> litgpt.GPT:
    """Return the network with its matrices rounded as GGUF stores them."""
    rounded = copy.deepcopy(gpt)
    with torch.no_grad():
        for parameter in rounded.parameters():
            if parameter.dim() > 1:
                parameter.copy_(parameter.to(getattr(torch, dtype)))
    return rounded


# --- checks ----------------------------------------------------------------------------------------------------------


def _n_params(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())  # tied ones once


def _stored_parameters(path: Path, gpt: litgpt.GPT, model: torch.nn.Module) -> int:
    """Return the number of parameters in a safetensors file: the network's, and biases of zeros that a class needs."""
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        zeros = [n for n in shapes if n.endswith(".bias") and not file.get_tensor(n).any()]
    sizes = {name: int(torch.Size(shape).numel()) for name, shape in shapes.items()}
    total, idle = sum(sizes.values()), sum(sizes[name] for name in zeros)
    if total != _n_params(model) or not total - idle <= _n_params(gpt) <= total:
        raise ValueError(
            f"the export has {total:,} parameters, its class {_n_params(model):,} and the network {_n_params(gpt):,}; "
            "nothing was exported"
        )
    return total


def _check_tokenizer(gpt: litgpt.GPT, tokenizer: Tokenizer | None) -> None:
    vocab_size = gpt.config.padded_vocab_size or 0
    if tokenizer is not None and tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids and the network only {vocab_size}: it is another network's"
        )


def _check_gguf(gpt: litgpt.GPT) -> None:
    from supernet.gguf import gguf_package
    from supernet.gguf_layout import check_writable

    gguf_package()
    check_writable(gpt.config)


def _check_room(folder: Path, gpt: litgpt.GPT, n_formats: int) -> None:
    """Raise OSError unless the disk has room for all formats: litgpt stores tied embeddings twice."""
    needed = n_formats * sum(tensor.nbytes for tensor in gpt.state_dict().values()) + (16 << 20)
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise OSError(
            f"{place} has {free >> 20:,} MiB free and the export needs about {needed >> 20:,}: make room, give another "
            "folder, or fewer formats"
        )


# --- what comes from the dense checkpoint ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Origin:
    """The dense checkpoint's folder; None where there is none, or its tokenizer is another."""

    folder: Path | None

    @classmethod
    def of(cls, source: str | Path | None, tokenizer: Tokenizer | None) -> _Origin:
        if source is None:
            return cls(None)
        if str(source).endswith(".gguf"):
            from supernet.gguf import cached_gguf

            source = cached_gguf(source)
        folder = Path(source)
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder} of the dense checkpoint: leave source out, or give it")
        stored = stored_tokenizer(folder)
        same = tokenizer is None or (stored is not None and stored.fingerprint == tokenizer.fingerprint)
        return cls(folder if same else None)

    def copy_to(self, new: Path, tokenizer: Tokenizer | None) -> None:
        """Copy what goes with the text, and the special ids in config.json."""
        if tokenizer is not None:
            tokenizer.save(new)
        if self.folder is None:
            return
        for name in _SOURCE_FILES:
            if (self.folder / name).is_file() and not (new / name).exists():
                shutil.copyfile(self.folder / name, new / name)
        if (self.folder / "config.json").is_file():
            theirs, own = read_json(self.folder / "config.json"), read_json(new / "config.json")
            write_json(new / "config.json", own | {n: theirs[n] for n in _SPECIAL_IDS if theirs.get(n) is not None})
