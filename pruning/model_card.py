"""README.md of an exported network: what was asked, predicted and measured, its shape, how to load and repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from pruning.pruned import Pruned
from search.number_format import number
from supernet.architecture import Architecture
from supernet.artifacts import versions

_PLACED = {
    "name", "base_model", "license", "language", "asked", "predicted", "measured", "perplexity", "scores", "device",
    "workload", "command", "versions", "data", "what", "notes", "mlps_distilled",
}  # fmt: skip


def model_card(
    pruned: Pruned, card: Mapping[str, Any], *, class_name: str, loading: str, n_params: int, library: str
) -> str:
    """Return the text of README.md.

    Args:
        pruned: the network.
        card: what is known of it; all optional. `name`, `base_model`, `license`, `language`: text. `asked`,
            `predicted`, `measured`: text or a mapping from what ("latency (ms)", "latency, of dense") to the value.
            `perplexity`: text -> {"before": ..., "after": ...}. `workload`, `device`, `command`, `notes`: text.
            `versions`: package -> version. Other entries are listed as they are.
        class_name: the class that holds it.
        loading: how it is loaded, Markdown: `transformers_loading`, `litgpt_loading` or `gguf_loading`.
        n_params: parameters in the file.
        library: the library that loads it, for the front matter.
    """
    base = card.get("base_model")
    name = card.get("name") or (f"{base}, pruned" if base else "A pruned language model")
    parts = [_front_matter(card, library), f"# {name}"]
    origin = f"a pruned version of `{base}`" if base else "a pruned language model"
    distilled = ", its MLPs then whole, to the original's residual stream" if card.get("mlps_distilled") else ""
    parts.append(
        f"This is {origin}, made with paretolm: attention heads, key/value "
        "groups, MLP neurons and whole parts of blocks were removed, and the output projections of what stayed were "
        f"fitted again by least squares{distilled}. It has {n_params:,} parameters."
    )
    parts += _numbers(card) + _perplexities(card)
    parts += ["## Shape", _shape(pruned.arch, class_name)]
    parts += ["## Load it", loading]
    others = {key: value for key, value in card.items() if key not in _PLACED}
    if others:
        parts += ["## More facts", "\n".join(f"- {key}: {_text(value)}" for key, value in others.items())]
    if card.get("notes"):
        parts += ["## Notes", str(card["notes"])]
    if card.get("command"):
        parts += ["## Made with", f"```\n{card['command']}\n```"]
    known = card.get("versions") or versions()
    parts += ["Versions: " + ", ".join(f"{package} {version}" for package, version in known.items())]
    return "\n\n".join(parts) + "\n"


def _front_matter(card: Mapping[str, Any], library: str) -> str:
    lines = [f"library_name: {library}", "pipeline_tag: text-generation"]
    lines += [f"{key}: {card[key]}" for key in ("license", "language", "base_model") if card.get(key)]
    return "\n".join(["---", *lines, "tags:", "- pruned", "- paretolm", "---"])


def _numbers(card: Mapping[str, Any]) -> list[str]:
    """Return a table of what was asked, predicted and measured, a row a quantity."""
    columns = [key for key in ("asked", "predicted", "measured") if card.get(key) is not None]
    if not columns:
        return []
    tables = {key: card[key] if isinstance(card[key], Mapping) else {"budget": card[key]} for key in columns}
    rows = list(dict.fromkeys(row for table in tables.values() for row in table))
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for row in rows:
        lines.append(f"| {row} | " + " | ".join(_text(tables[key].get(row)) for key in columns) + " |")
    where = [f"{key} {card[key]}" for key in ("workload", "device") if card.get(key)]
    note = [f"Measured by turns with the dense model: {', '.join(where)}."] if where else []
    return ["## Budget", "\n".join(lines), *note]


def _perplexities(card: Mapping[str, Any]) -> list[str]:
    texts = card.get("perplexity") or {}
    if not texts:
        return []
    lines = ["| text | before | after | ratio |", "|---|---:|---:|---:|"]
    for text, values in texts.items():
        before, after = values.get("before"), values.get("after")
        ratio = after / before if before and after else None
        lines.append(f"| {text} | {_text(before)} | {_text(after)} | {_text(ratio)} |")
    return ["## Perplexity", "\n".join(lines)]


def _shape(arch: Architecture, class_name: str) -> str:
    """Return a table of the blocks, runs of equal ones together."""
    shapes = zip(arch.n_head, arch.n_query_groups, arch.intermediate_size, strict=True)
    lines = ["| blocks | query heads | key/value heads | MLP neurons |", "|---|---:|---:|---:|"]
    for shape, run in groupby(enumerate(shapes), key=lambda pair: pair[1]):
        places = [i for i, _ in run]
        blocks = str(places[0]) if len(places) == 1 else f"{places[0]} to {places[-1]}"
        lines.append(f"| {blocks} | " + " | ".join(str(value) if value else "none" for value in shape) + " |")
    kept = f"{arch.n_layer} blocks, width {arch.n_embd}, class `{class_name}`, architecture `{arch.id}`."
    return f"{kept}\n\n" + "\n".join(lines)


def transformers_loading(options: Sequence[str]) -> str:
    """Return how transformers loads an export; `options` are further arguments of from_pretrained."""
    arguments = "".join(f", {option}" for option in options)
    code_of_its_own = "trust_remote_code=True" in options  # transformers 5 asks for it with the tokenizer too
    trusted = ", trust_remote_code=True" if code_of_its_own else ""
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder"{arguments})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder"{trusted})'
    )
    note = ""
    if code_of_its_own:
        note = "\n\nIts blocks have sizes of their own, which the file modeling_pruned.py in this folder builds."
    return f"```python\n{code}\n```{note}"


def litgpt_loading(arch: Architecture) -> str:
    """Return how an export in litgpt's format is loaded."""
    if arch.is_uniform:
        return '```python\nfrom litgpt import LLM\n\nllm = LLM.load("path/to/this/folder")\n```'
    load = 'gpt, arch = load_subnet("path/to/this/folder")'
    code = f"from supernet.checkpoint import load_subnet  # pip install paretolm\n\n{load}"
    note = "Its blocks have sizes of their own, for which litgpt's config has no place: paretolm builds the network."
    return f"```python\n{code}\n```\n\n{note}"


def gguf_loading(file: str, kind: str) -> str:
    """Return how llama.cpp loads an export; `kind` is the architecture's name there."""
    return f"```\nllama-cli -m path/to/this/folder/{file}\n```\n\nllama.cpp reads it as its architecture `{kind}`."


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else number(value, 4)
