"""Networks that no stock Hugging Face class holds as folders that `trust_remote_code=True` loads.

config.json has the sizes of every block (`block_configs`, in the words of nemotron-nas), and the folder holds the small
file that builds them (`modeling_pruned.py`, Llama's; other families' by their names). It loads without paretolm.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import litgpt
import torch
from safetensors.torch import save_file
from torch import Tensor

from supernet.architecture import Architecture
from supernet.artifacts import write_json, write_text
from supernet.hf_layouts import ATTENTION, LAYOUTS, Layout, layer_windows
from supernet.huggingface import hf_config, refusals
from supernet.weights import to_hf

MODELING_FILE = "modeling_pruned.py"
_FAMILIES = ("llama", "mistral", "qwen2", "granite", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2",
             "gpt_neox", "starcoder2", "phi")  # fmt: skip
_LINEAR = ATTENTION | {"mlp"}


@dataclass(frozen=True)
class BlockLayout:
    """A stock class whose blocks may have sizes of their own.

    Attributes:
        layout: the stock class.
        forced: linear layers (as in `Layout.biases`) that get a bias which the stock class does not have.
    """

    layout: Layout
    forced: frozenset[str]

    @property
    def stock_name(self) -> str:
        """What the stock class's names begin with."""
        return self.layout.class_name.removesuffix("ForCausalLM")

    @property
    def class_name(self) -> str:
        """The class in the modeling file."""
        return f"Pruned{self.layout.class_name}"

    @property
    def config_name(self) -> str:
        """The config's class in the modeling file."""
        return f"Pruned{_stock_config(self.layout)}"

    @property
    def model_type(self) -> str:
        """The config's model_type."""
        return f"pruned_{self.layout.model_type}"


def block_layout(config: litgpt.Config, arch: Architecture) -> BlockLayout:
    """Return the class that holds a network whose blocks may differ, or lack attention or MLP.

    Raises:
        ValueError: none does; says what the nearest cannot have, and what to do.
    """
    found = []
    for layout in LAYOUTS:
        if layout.model_type not in _FAMILIES:
            continue
        relaxed = replace(layout, heads="free", multi_head_only=False, biases={**layout.biases, "any": _LINEAR})
        reasons = refusals(relaxed, config)
        if layout.multi_head_only and arch.n_query_groups != arch.n_head:
            reasons.append("fewer key/value heads than query heads")
        extra = _wanted_biases(config) - set().union(*layout.biases.values())
        found.append((len(reasons), len(extra), len(_idle_biases(layout, config)), layout, reasons, extra))
    n_reasons, _, _, layout, reasons, extra = min(found, key=lambda row: row[:3])
    if n_reasons:
        raise ValueError(
            f"{arch.id}: no stock Hugging Face class holds this network, and none that blocks of different sizes can "
            f"be built from; the nearest, {layout.class_name}, cannot have: {'; '.join(reasons)}. "
            "Export it with formats=[litgpt]."
        )
    return BlockLayout(layout, frozenset(extra))


def _wanted_biases(config: litgpt.Config) -> set[str]:
    return set(_LINEAR) if config.bias else {"qkv"} if config.attn_bias else set()


def _idle_biases(layout: Layout, config: litgpt.Config) -> set[str]:
    """Return the linear layers whose bias the stock class has and the network has not."""
    wanted = _wanted_biases(config)
    present = set().union(*(groups for flag, groups in layout.biases.items() if not flag or groups & wanted))
    return present - wanted


# --- writing ---------------------------------------------------------------------------------------------------------


def write_block_model(folder: Path, gpt: litgpt.GPT, arch: Architecture, layout: BlockLayout) -> int:
    """Write config.json, the modeling file and model.safetensors; return the number of parameters in the file."""
    write_text(folder / MODELING_FILE, modeling_text(layout, gpt.config))
    tied = gpt.lm_head.weight is gpt.transformer.wte.weight
    dtype = str(gpt.lm_head.weight.dtype).removeprefix("torch.")
    write_json(folder / "config.json", block_config(gpt.config, arch, layout, tied=tied, dtype=dtype))
    weights = {name: tensor.clone().contiguous() for name, tensor in _weights(gpt, arch, layout.layout).items()}
    if tied:
        del weights[layout.layout.names["lm_head"] + ".weight"]
    weights |= _zero_biases(folder, weights, gpt.lm_head.weight.dtype)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return sum(tensor.numel() for tensor in weights.values())


def modeling_text(layout: BlockLayout, config: litgpt.Config) -> str:
    """Return the modeling file of a family: Llama's with the family's names."""
    text = Path(__file__).with_name(MODELING_FILE).read_text(encoding="utf-8")
    names = layout.layout.names
    modules = {part: names[f"transformer.h.{{}}.{part}.proj"].split(".")[-2] for part in ("attn", "mlp")}
    norms = {
        "ATTENTION_NORMS": _norms(layout.layout, config, ("norm_1", "post_attention_norm")),
        "MLP_NORMS": _norms(layout.layout, config, ("norm_2", "post_mlp_norm")),
    }
    changes = {
        'ATTENTION, MLP = "self_attn", "mlp"': f'ATTENTION, MLP = "{modules["attn"]}", "{modules["mlp"]}"',
        'ATTENTION_NORMS: tuple[str, ...] = ("input_layernorm",)': _assignment("ATTENTION_NORMS", norms),
        'MLP_NORMS: tuple[str, ...] = ("post_attention_layernorm",)': _assignment("MLP_NORMS", norms),
        "LlamaConfig": _stock_config(layout.layout),
        "pruned_llama": layout.model_type,
        "Llama": layout.stock_name,
    }
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def _assignment(name: str, norms: Mapping[str, tuple[str, ...]]) -> str:
    names = "".join(f'"{norm}", ' for norm in norms[name])
    return f"{name}: tuple[str, ...] = ({names.strip()})"


def _norms(layout: Layout, config: litgpt.Config, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the norms in a Hugging Face block that go with a part; none where one norm serves both parts."""
    if config.parallel_residual and config.shared_attention_norm:
        return ()
    known = (layout.names.get(f"transformer.h.{{}}.{name}") for name in names)
    return tuple(name.split(".")[-1] for name in known if name is not None)


def _stock_config(layout: Layout) -> str:
    name = layout.class_name.removesuffix("ForCausalLM")
    return f"{name}TextConfig" if layout.model_type.endswith("_text") else f"{name}Config"


def block_config(
    config: litgpt.Config, arch: Architecture, layout: BlockLayout, *, tied: bool, dtype: str
) -> dict[str, Any]:
    """Return config.json of a network whose blocks may differ.

    The heads outside `block_configs` are the widest block's where the stock config accepts them (some ask that they
    divide the width), else another number: nothing is built from them.
    """
    fields = hf_config(layout.layout, config, tied=tied, dtype=dtype)
    kinds = ["sliding_attention" if window else "full_attention" for window in layer_windows(config)]
    if "layer_types" in fields:  # in the order of the KV cache, which blocks without attention have no place in
        fields["layer_types"] = sorted_by_cache(kinds, arch)
    if layout.layout.heads != "free" and config.n_embd % config.n_head:
        fields["num_attention_heads"] = fields["num_key_value_heads"] = math.gcd(config.n_embd, config.n_head)
    module = f"{Path(MODELING_FILE).stem}."
    return fields | {
        "architectures": [layout.class_name],
        "model_type": layout.model_type,
        "auto_map": {"AutoConfig": module + layout.config_name, "AutoModelForCausalLM": module + layout.class_name},
        "head_dim": config.head_size,
        "block_configs": [_block(config, arch, i, kinds[i], layout) for i in range(arch.n_layer)],
    }


def sorted_by_cache(kinds: list[str], arch: Architecture) -> list[str]:
    """Return the blocks' kinds of attention, those of blocks that have some first."""
    return [kinds[i] for i in sorted(range(arch.n_layer), key=lambda i: arch.n_head[i] == 0)]


def _block(config: litgpt.Config, arch: Architecture, i: int, kind: str, layout: BlockLayout) -> dict[str, Any]:
    heads, groups, neurons = arch.n_head[i], arch.n_query_groups[i], arch.intermediate_size[i]
    attention: dict[str, Any] = {"no_op": not heads, "n_heads_in_group": heads // groups if heads else None}
    attention |= {"num_query_heads": heads, "num_key_value_heads": groups, "layer_type": kind}
    attention |= {"bias": bool(layout.forced & ATTENTION), "norm_all_heads": config.norm_qk_type == "olmo2"}
    ffn = {"no_op": not neurons, "intermediate_size": neurons or None, "bias": "mlp" in layout.forced}
    return {"attention": attention, "ffn": ffn}


def _weights(gpt: litgpt.GPT, arch: Architecture, layout: Layout) -> dict[str, Tensor]:
    """Return the weights by Hugging Face's names, block by block, since the sizes of qkv are the block's."""
    found: dict[str, Tensor] = {}
    parts: dict[int, dict[str, Tensor]] = {}
    for name, tensor in gpt.state_dict().items():
        layer = int(name.split(".")[2]) if name.startswith("transformer.h.") else -1
        parts.setdefault(layer, {})[name] = tensor.detach().cpu()
    for layer, weights in parts.items():
        heads, groups = (arch.n_head[layer], arch.n_query_groups[layer]) if layer >= 0 else (1, 1)
        sizes = replace(gpt.config, n_head=heads or 1, n_query_groups=groups or 1)
        found |= to_hf(weights, layout, sizes, zero_biases=set())
    return found


def _zero_biases(folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a bias of zeros for each that the class in the folder has and the network has not."""
    model_class = modeling_class(folder)
    with torch.device("meta"):
        expected = model_class(model_class.config_class.from_pretrained(folder)).state_dict()
    return {
        name: torch.zeros(tensor.shape, dtype=dtype)
        for name, tensor in expected.items()
        if name.endswith(".bias") and name not in weights
    }


def modeling_class(folder: Path) -> Any:
    """Return the class that a folder's modeling file defines, without transformers' cache of remote code."""
    spec = importlib.util.spec_from_file_location("paretolm_exported_modeling", folder / MODELING_FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # transformers looks for it there, and reads its file
    spec.loader.exec_module(module)
    (name,) = (name for name in vars(module) if name.startswith("Pruned") and name.endswith("ForCausalLM"))
    return getattr(module, name)
