"""The spaces that come with paretolm, and spaces derived from any litgpt config by name. No torch, no Hydra.

A space file (conf/space/*.yaml) holds the fields of `SearchSpace`, with litgpt.Config arguments under `config:`; or
`litgpt: <config name>` and the fields that differ from what `space_from_litgpt` chooses.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from supernet.litgpt_config import ModelConfig, config_names, model_config, named_config, unsupported_features
from supernet.space import SearchSpace

_FRACTIONS = (0.5, 0.75, 1.0)
_SIZE_FIELDS = ("n_embd", "n_layer", "n_head", "n_query_groups", "intermediate_size", "bias")


def space_names() -> list[str]:
    """Return the names of the shipped spaces, sorted."""
    folder = resources.files("supernet.conf").joinpath("space")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_space(source: SearchSpace | str | Path | Mapping[str, Any]) -> SearchSpace:
    """Return a search space from any of its forms.

    Args:
        source: a space; the name of a shipped space ("tiny", "gpt-s", ...) or of a litgpt config ("pythia-160m");
            the path of a .yaml or .json space file; or the mapping that such a file holds.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: no such name (near matches are given), or not a legal space.

    Example:
        >>> load_space("gpt-s").num_architectures
        1903784282946
    """
    if isinstance(source, SearchSpace):
        return source
    if isinstance(source, Mapping):
        return _from_mapping(source)
    path = Path(source)
    if path.suffix in (".yaml", ".yml", ".json") and str(source) not in space_names():
        return _from_mapping(_read(path))
    if source in space_names():
        text = resources.files("supernet.conf").joinpath("space", f"{source}.yaml").read_text(encoding="utf-8")
        return _from_mapping(yaml.safe_load(text))
    if source in config_names():
        return space_from_litgpt(str(source))
    near = difflib.get_close_matches(str(source), space_names() + config_names(), n=5, cutoff=0.5)
    raise ValueError(
        f"no search space {str(source)!r}; near matches: {near}; shipped: {', '.join(space_names())}; "
        "or give the name of a litgpt config, or the path of a .yaml or .json space file"
    )


def space_from_litgpt(
    base: str | Mapping[str, Any],
    *,
    name: str | None = None,
    n_embd: Sequence[int] | None = None,
    n_layer: Sequence[int] | None = None,
    n_head: Sequence[int] | None = None,
    n_query_groups: Sequence[int] | None = None,
    mlp_ratio: Sequence[float] | None = None,
    intermediate_size: Sequence[int] | None = None,
    bias: Sequence[bool] | None = None,
    layer_choice: str = "prefix",
    per_layer: bool = True,
    config: Mapping[str, Any] | None = None,
) -> SearchSpace:
    """Derive the space of the sub-networks of a litgpt model.

    What is not given is chosen: about a half, three quarters and all of the model's width, layers, heads and MLP
    neurons (widths and neurons rounded up to a multiple of a power of two, at most 64); all and half of its query
    groups; its own bias. Heads are chosen so that each fits a number of groups. Everything else is the model's own.

    Args:
        base: name of a litgpt config, or keyword arguments of litgpt.Config.
        name: the space's name; None for the model's.
        n_embd: as in `SearchSpace`, and so are the following; the largest value may be smaller than the model's.
        n_layer: numbers of kept blocks.
        n_head: query heads of a layer.
        n_query_groups: key/value groups of a layer.
        mlp_ratio: MLP neurons as multiples of the width.
        intermediate_size: MLP neurons; the default where `mlp_ratio` is not given either.
        bias: choices of litgpt's `Config.bias`.
        layer_choice: "prefix" or "subset".
        per_layer: whether layers may differ.
        config: keyword arguments of litgpt.Config that replace the model's, e.g. {"block_size": 512}.

    Raises:
        KeyError: litgpt has no config of that name; near matches are given.
        ValueError: the model is of a family that is not supported (named), or the choices are not legal.

    Example:
        >>> space = space_from_litgpt("SmolLM2-135M", n_layer=(10, 20, 30))
        >>> space.n_head, space.n_query_groups, space.attention_choices
        ((3, 6, 9), (1, 3), ((3, 1), (3, 3), (6, 3), (9, 3)))
    """
    arguments = (named_config(base) if isinstance(base, str) else dict(base)) | dict(config or {})
    model = model_config(arguments)
    if found := unsupported_features(model):
        raise ValueError(f"no space of {model.name or 'this config'}: sub-networks do not support {'; '.join(found)}")
    if n_query_groups is None and model.n_query_groups < model.n_head:
        candidates = _default_groups(model, max(n_head or (model.n_head,)))
        n_head = n_head or _default_heads(model, candidates)
        n_query_groups = [g for g in candidates if any(_is_legal(h, g, max(n_head), max(candidates)) for h in n_head)]
    if intermediate_size is None and mlp_ratio is None:
        intermediate_size = _fractions(model.intermediate_size)
    return SearchSpace(
        name=name or model.name or "litgpt",
        n_embd=tuple(n_embd or _fractions(model.n_embd)),
        n_layer=tuple(n_layer or _fractions(model.n_layer, multiple=1)),
        n_head=tuple(n_head or _default_heads(model, n_query_groups)),
        n_query_groups=None if n_query_groups is None else tuple(n_query_groups),
        mlp_ratio=None if mlp_ratio is None else tuple(mlp_ratio),
        intermediate_size=None if intermediate_size is None else tuple(intermediate_size),
        bias=(bool(model.bias),) if bias is None else tuple(bias),
        layer_choice=layer_choice,  # type: ignore[arg-type]  # SearchSpace checks it
        per_layer=per_layer,
        config={k: v for k, v in arguments.items() if k not in _SIZE_FIELDS} | {"head_size": model.head_size},
    )


def _fractions(size: int, *, multiple: int | None = None) -> tuple[int, ...]:
    """Return about 1/2, 3/4 and all of `size`, rounded up to a multiple."""
    step = multiple or min(64, 1 << max(0, (size // 8).bit_length() - 1))
    return tuple(sorted({min(size, -(-round(fraction * size) // step) * step) for fraction in _FRACTIONS}))


def _default_groups(model: ModelConfig, n_head: int) -> tuple[int, ...]:
    """Return half and all of the model's query groups, or of the most that divide `n_head`."""
    most = max(g for g in range(1, model.n_query_groups + 1) if n_head % g == 0)
    return (most // 2, most) if most % 2 == 0 else tuple(sorted({1, most}))


def _default_heads(model: ModelConfig, groups: Sequence[int] | None) -> tuple[int, ...]:
    """Return the legal numbers of heads nearest to 1/2, 3/4 and all of the model's; the smaller of two as near."""
    H = model.n_head
    legal = [*range(1, H + 1)]
    if groups is not None:
        legal = [h for h in legal if any(_is_legal(h, g, H, max(groups)) for g in groups)]
    return tuple(sorted({min(legal, key=lambda h: (abs(h - fraction * H), h)) for fraction in _FRACTIONS}))


def _is_legal(h: int, g: int, H: int, G: int) -> bool:
    return h % g == 0 and h // g <= H // G


def _from_mapping(source: Mapping[str, Any]) -> SearchSpace:
    data = _plain(source)
    if "litgpt" not in data:
        return SearchSpace.from_dict(data)
    base = data.pop("litgpt")
    if unknown := set(data) - set(SearchSpace.__dataclass_fields__):
        raise ValueError(f"not a search space: unknown fields {sorted(unknown)}; known: {_known_fields()}")
    return space_from_litgpt(base, **data)


def _known_fields() -> list[str]:
    return ["litgpt", *SearchSpace.__dataclass_fields__]


def _plain(value: Any) -> Any:
    """Return plain dicts and lists, e.g. of an OmegaConf node."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"no search space file {path}; shipped spaces: {', '.join(space_names())}")
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no {path.suffix} file: {error}") from error
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} holds no search space: expected the fields {_known_fields()}")
    return data
