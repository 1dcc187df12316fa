"""The tokenizer in a GGUF file <-> Hugging Face's tokenizer files.

Two kinds: "gpt2", byte-level BPE whose splitting of text has a name (`tokenizer.ggml.pre`), and "llama", SentencePiece
BPE, whose merges follow from the scores of the tokens. Files written here also carry the whole tokenizer.json, as the
GGUF specification allows, and reading prefers that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from supernet.artifacts import read_json, write_text
from supernet.text import HF_FILE

_KEY = "tokenizer.ggml."
_WHOLE = "tokenizer.huggingface.json"
_TEMPLATE = "tokenizer.chat_template"
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
_SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "padding_token_id", "unk": "unknown_token_id"}
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPACE = "▁"
_PROBE = "Hello  world's 12345 x_y(z)\n\n\tline\r\n café ÀB c漢字かな 3.14 '' don't I'LL !?…  end"
_WAY_OUT = "Give the folder of its Hugging Face tokenizer as tokenizer=."
_PRE = ("gpt-2", "smollm", "llama-bpe", "qwen2")


# --- reading ---------------------------------------------------------------------------------------------------------


def write_tokenizer_files(folder: Path, metadata: Mapping[str, Any]) -> bool:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json; return whether the file has a tokenizer.

    Args:
        folder: where to.
        metadata: of the GGUF file, by key.

    Raises:
        ValueError: a tokenizer of an unsupported kind (named).
    """
    kind = metadata.get(f"{_KEY}model", "none")
    if kind in ("none", "no_vocab"):
        return False
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"tokenizers of kind {kind!r} are not supported; supported: gpt2 and llama. {_WAY_OUT}")
    own = {key.removeprefix(_KEY): value for key, value in metadata.items() if key.startswith(_KEY)}
    tokens: list[str] = own["tokens"]
    special = {name: own[key] for name, key in _SPECIAL.items() if 0 <= own.get(key, -1) < len(tokens)}
    adds_bos = own.get("add_bos_token", kind == "llama" or own.get("pre") == "llama-bpe") and "bos" in special
    text = metadata.get(_WHOLE)
    if text is None:
        backend = _byte_level(own) if kind == "gpt2" else _sentence_piece(own)
        _add_special(backend, tokens, own.get("token_type", []))
        if adds_bos:
            bos = tokens[special["bos"]]
            backend.post_processor = processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, special["bos"])]
            )
        text = backend.to_str(pretty=True)
    settings = {f"{name}_token": tokens[i] for name, i in special.items()} | {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(adds_bos), "add_eos_token": bool(own.get("add_eos_token", False)),
    }  # fmt: skip
    if _TEMPLATE in metadata:
        settings["chat_template"] = metadata[_TEMPLATE]
    ids = {f"{name}_token_id": int(special[name]) for name in ("bos", "eos", "pad") if name in special}
    write_text(folder / HF_FILE, text)
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    write_text(folder / "generation_config.json", json.dumps(ids, indent=2) + "\n")
    return True


def _byte_level(own: Mapping[str, Any]) -> Tokenizer:
    pre = own.get("pre", "gpt-2")
    if pre not in _PRE:
        raise ValueError(f"the tokenizer splits text as {pre!r}; supported: {', '.join(_PRE)}. {_WAY_OUT}")
    merges = [tuple(merge.split(" ", 1)) for merge in own.get("merges", [])]
    backend = Tokenizer(models.BPE(vocab=_vocabulary(own), merges=merges, ignore_merges=pre == "llama-bpe"))
    backend.normalizer, backend.pre_tokenizer = _splitting(pre)
    backend.decoder = decoders.ByteLevel()
    return backend


def _vocabulary(own: Mapping[str, Any]) -> dict[str, int]:
    types = own.get("token_type") or [_NORMAL] * len(own["tokens"])
    return {t: i for i, (t, kind) in enumerate(zip(own["tokens"], types, strict=True)) if kind != _UNUSED}


def _splitting(pre: str) -> tuple[Any, Any]:
    """Return the normalizer and the pre-tokenizer that llama.cpp knows by this name."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "gpt-2":
        return None, gpt2
    if pre == "smollm":
        return None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    words = Regex(_WORDS % (r"\p{N}{1,3}" if pre == "llama-bpe" else r"\p{N}"))
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    splits = pre_tokenizers.Sequence([pre_tokenizers.Split(words, "isolated"), bytes_only])
    return (normalizers.NFC() if pre == "qwen2" else None), splits


def _sentence_piece(own: Mapping[str, Any]) -> Tokenizer:
    vocabulary, tokens = _vocabulary(own), own["tokens"]
    unknown = next((t for t, kind in zip(tokens, own["token_type"], strict=True) if kind == _UNKNOWN), None)
    merges = _merges(vocabulary, own["scores"], own["token_type"])
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefixes = own.get("add_space_prefix", True)
    replace = normalizers.Replace(" ", _SPACE)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replace]) if prefixes else replace
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixes else steps)
    return backend


def _merges(vocabulary: Mapping[str, int], scores: Sequence[float], types: Sequence[int]) -> list[tuple[str, str]]:
    """Return the merges of SentencePiece's BPE: every split of a token into two, the best tokens first."""
    found = [
        (-scores[i], vocabulary[token[:cut]], vocabulary[token[cut:]], (token[:cut], token[cut:]))
        for token, i in vocabulary.items()
        if types[i] == _NORMAL
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    return [merge for *_, merge in sorted(found)]


def _add_special(backend: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    for token, kind in zip(tokens, types, strict=False):
        if kind in (_CONTROL, _UNKNOWN):
            backend.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == _USER:
            backend.add_tokens([AddedToken(token, normalized=False, special=False)])


# --- writing ---------------------------------------------------------------------------------------------------------


def tokenizer_metadata(folder: Path, vocab_size: int) -> dict[str, Any]:
    """Return the metadata of the Hugging Face tokenizer in `folder`, for a model with `vocab_size` embeddings.

    Raises:
        ValueError: no BPE, a way of splitting text that llama.cpp has no name for here, or more tokens than embeddings.
    """
    text = (folder / HF_FILE).read_text(encoding="utf-8")
    whole, backend = json.loads(text), Tokenizer.from_str(text)
    model = whole["model"]
    if model["type"] != "BPE":
        raise ValueError(f"a tokenizer of type {model['type']} has no form in GGUF here: only BPE; write without it")
    ids = backend.get_vocab(with_added_tokens=True)
    if max(ids.values()) >= vocab_size:
        raise ValueError(f"the tokenizer has ids up to {max(ids.values())}, the model {vocab_size} embeddings")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    for token, i in ids.items():
        tokens[i] = token
    known = set(ids.values())
    types = [_NORMAL if i in known else _UNUSED for i in range(vocab_size)]
    for added in whole.get("added_tokens", []):
        types[added["id"]] = _CONTROL if added["special"] else _USER
    if model.get("byte_fallback"):
        kind = _sentence_piece_metadata(backend, tokens, types, merges, model.get("unk_token"))
    else:
        kind = {"model": "gpt2", "pre": _name_of_splitting(backend, merges), "merges": merges}
    found = {"tokens": tokens, "token_type": types} | kind | _special_metadata(folder, ids, backend)
    template = _json(folder / "tokenizer_config.json").get("chat_template")
    own = {f"{_KEY}{name}": value for name, value in found.items()} | {_WHOLE: text}
    return own | ({_TEMPLATE: template} if isinstance(template, str) else {})


def _name_of_splitting(backend: Tokenizer, merges: Sequence[str]) -> str:
    """Return the name of the known pre-tokenizer that splits a text as this one does."""
    if not merges:
        return "gpt-2"  # single bytes, however the text is split
    for name in _PRE:
        if _pieces(*_splitting(name)) == _pieces(backend.normalizer, backend.pre_tokenizer):
            return name
    raise ValueError(
        f"the tokenizer splits text in none of the ways that have a name here ({', '.join(_PRE)}): write the GGUF "
        "without a tokenizer, or convert it with llama.cpp's own script"
    )


def _pieces(normalizer: Any, pre_tokenizer: Any) -> list[str]:
    text = normalizer.normalize_str(_PROBE) if normalizer is not None else _PROBE
    return [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)] if pre_tokenizer is not None else [text]


def _sentence_piece_metadata(
    backend: Tokenizer, tokens: Sequence[str], types: list[int], merges: Sequence[str], unknown: str | None
) -> dict[str, Any]:
    """Return the metadata of a BPE with byte fallback; marks bytes and the unknown token in `types`."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge.split(" ", 1)), rank)
    for i, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            types[i] = _BYTE
        elif token == unknown:
            types[i] = _UNKNOWN
    return {
        "model": "llama", "pre": "default", "scores": [-float(ranks.get(token, len(merges))) for token in tokens],
        "add_space_prefix": backend.encode("a", add_special_tokens=False).tokens[0].startswith(_SPACE),
    }  # fmt: skip


def _special_metadata(folder: Path, ids: Mapping[str, int], backend: Tokenizer) -> dict[str, Any]:
    settings, generation = _json(folder / "tokenizer_config.json"), _json(folder / "generation_config.json")
    found: dict[str, Any] = {}
    for name, key in _SPECIAL.items():
        token = settings.get(f"{name}_token")
        content = token["content"] if isinstance(token, dict) else token
        value = ids.get(content) if content is not None else generation.get(f"{name}_token_id")
        if value is not None:
            found[key] = int(value[0] if isinstance(value, list) else value)
    adds_bos = settings.get("add_bos_token") or found.get("bos_token_id") in backend.encode("").ids[:1]
    return found | {"add_bos_token": bool(adds_bos), "add_eos_token": bool(settings.get("add_eos_token", False))}


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
