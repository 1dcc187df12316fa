"""Exact costs: parameters against built litgpt models, multiply-adds against a counter, HW-GPT-Bench's tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from litgpt import GPT, Config
from litgpt.model import Block
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from supernet.architecture import Architecture
from supernet.cost import (
    flops,
    kv_cache_bytes,
    kv_cache_elements,
    mac_counts,
    macs,
    parameter_count,
    parameter_counts,
)
from supernet.spaces import load_space

HWGPT = Path(__file__).resolve().parents[3] / "shared" / "hwgpt_bench"
BASE = {
    "n_layer": 4, "n_embd": 48, "head_size": 8, "n_head": 8, "n_query_groups": 4, "intermediate_size": 96,
    "block_size": 32, "vocab_size": 60, "padded_vocab_size": 61,
}  # fmt: skip
LLAMA = {"norm_class_name": "RMSNorm", "mlp_class_name": "LLaMAMLP", "bias": False, "parallel_residual": False}
GEMMA = LLAMA | {"mlp_class_name": "GemmaMLP", "name": "Gemma-test", "rotary_percentage": 1.0}
WINDOW = {"sliding_window_size": 5, "sliding_window_indices": [1, 0, 1, 0]}
FAMILIES = {
    "pythia": {"n_query_groups": 8},
    "no bias": {"n_query_groups": 8, "bias": False},
    "llama": LLAMA,
    "llama multi-head": LLAMA | {"n_query_groups": 8},
    "llama multi-query": LLAMA | {"n_query_groups": 1},
    "qwen2": LLAMA | {"attn_bias": True},
    "qwen3": LLAMA | {"norm_qk": True},
    "falcon": {"n_query_groups": 1, "bias": False, "shared_attention_norm": True},
    "phi": {"n_query_groups": 8, "shared_attention_norm": True, "lm_head_bias": True},
    "stablelm": {"bias": False, "mlp_class_name": "LLaMAMLP", "parallel_residual": False},
    "gemma": GEMMA | {"n_query_groups": 1},
    "gemma2": GEMMA | WINDOW | {"post_attention_norm": True, "post_mlp_norm": True, "final_logit_softcapping": 30.0},
    "gemma3": GEMMA | WINDOW | {"post_attention_norm": True, "post_mlp_norm": True, "norm_qk": True},
    "olmo": LLAMA | {"norm_class_name": "LayerNorm", "name": "OLMo-test"},
    "olmo norm_qk": {"norm_class_name": "LayerNorm", "name": "OLMo-test", "norm_qk": True},
    "olmo2": LLAMA | {
        "norm_qk": True, "norm_qk_type": "olmo2", "norm_1": False, "norm_2": False, "post_attention_norm": True,
        "post_mlp_norm": True, "name": "OLMo-2-test",
    },
    "layer norm on queries": {"norm_qk": True},
    "olmo2 with layer norm": {"norm_qk": True, "norm_qk_type": "olmo2"},
    "shared norm without norm_2": {"shared_attention_norm": True, "norm_2": False},
    "one rotated entry": {"rotary_percentage": 0.125},
    "mistral": LLAMA | {"sliding_window_size": 4},
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def config(request) -> Config:
    return Config(**(BASE | FAMILIES[request.param]))


def random_architecture(config: Config, rng: np.random.Generator) -> Architecture:
    """Draw any sub-network, its layers of different shapes."""
    n_layer = int(rng.integers(1, config.n_layer + 1))
    groups = rng.choice([g for g in (1, 2, 3, 4, 8) if g <= config.n_query_groups], n_layer)
    per_group = config.n_head // config.n_query_groups
    heads = groups * rng.integers(1, per_group + 1, n_layer)
    return Architecture(
        n_embd=int(rng.integers(1, 7)) * 8,
        n_head=tuple(heads),
        n_query_groups=tuple(heads if per_group == 1 else groups),
        intermediate_size=tuple(rng.integers(1, 97, n_layer)),
        layers=tuple(sorted(rng.permutation(config.n_layer)[:n_layer])),
        bias=bool(config.bias and rng.random() < 0.5),
    )


def build(config: Config, arch: Architecture) -> GPT:
    """Build the sub-network from litgpt's own parts, without any of ours."""
    model = GPT(replace(config, n_layer=1, n_embd=arch.n_embd, bias=arch.bias, sliding_window_indices=None))
    blocks = []
    for i, layer in enumerate(arch.layers):
        shape = replace(
            config, n_embd=arch.n_embd, n_head=arch.n_head[i], n_query_groups=arch.n_query_groups[i],
            intermediate_size=arch.intermediate_size[i], bias=arch.bias,
        )  # fmt: skip
        blocks.append(Block(shape, layer))
    model.transformer.h = torch.nn.ModuleList(blocks)
    return model


def part_of(name: str) -> str:
    """Return the part that a litgpt parameter belongs to."""
    if "norm" in name or "ln_f" in name:
        return "norm"
    parts = {"wte": "embedding", "lm_head": "head", ".attn.": "attention", ".mlp.": "mlp"}
    return next(part for key, part in parts.items() if key in name)


# --- parameters ---------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_the_built_model_part_by_part(config):
    rng = np.random.default_rng(0)
    with torch.device("meta"):
        for _ in range(12):
            arch = random_architecture(config, rng)
            numel = dict.fromkeys(("embedding", "attention", "mlp", "norm", "head"), 0)
            for name, parameter in build(config, arch).named_parameters():
                numel[part_of(name)] += parameter.numel()
            count = parameter_count(config, arch)
            assert {part: getattr(count, part) for part in numel} == numel
            assert count.total == sum(numel.values())
            assert count.decoder == numel["attention"] + numel["mlp"] + numel["norm"]


def test_parameters_of_the_largest_are_those_of_the_litgpt_model(config):
    arch = Architecture.uniform(
        n_embd=config.n_embd, n_layer=config.n_layer, n_head=config.n_head, n_query_groups=config.n_query_groups,
        intermediate_size=config.intermediate_size, bias=config.bias,
    )  # fmt: skip
    with torch.device("meta"):
        assert parameter_count(config, arch).total == sum(p.numel() for p in GPT(config).parameters())


def test_tied_parameters_are_those_of_a_model_that_shares_the_matrix(config):
    rng = np.random.default_rng(1)
    for _ in range(3):
        arch = random_architecture(config, rng)
        model = build(config, arch)
        model.lm_head.weight = model.transformer.wte.weight
        assert parameter_count(config, arch, tied=True).total == sum(p.numel() for p in model.parameters())


def test_many_are_counted_like_one(config):
    rng = np.random.default_rng(2)
    archs = [random_architecture(config, rng) for _ in range(40)]
    counts, work = parameter_counts(config, archs), mac_counts(config, archs, seq_len=7, cache_len=3)
    elements = kv_cache_elements(config, archs, seq_len=9)
    assert counts.total.dtype == work.total.dtype == elements.dtype == np.int64
    for i, arch in enumerate(archs):
        one = parameter_count(config, arch)
        assert (one.total, one.decoder, one.norm) == (counts.total[i], counts.decoder[i], counts.norm[i])
        assert macs(config, arch, seq_len=7, cache_len=3) == work.total[i]
        assert kv_cache_bytes(config, arch, seq_len=9, bytes_per_element=1) == elements[i]


@pytest.mark.parametrize("name", ["pythia-14m", "SmolLM2-135M", "Qwen2.5-0.5B", "Gemma-2-2b", "OLMo-1B-hf", "phi-1_5"])
def test_parameters_of_real_models_are_litgpts(name):
    space = load_space(name)
    with torch.device("meta"):
        model = GPT(Config.from_name(name))
    assert parameter_count(space.model_config, space.largest()).total == sum(p.numel() for p in model.parameters())


# --- multiply-adds ------------------------------------------------------------------------------------------------


def test_linear_macs_are_those_of_the_matrices_that_were_multiplied(config):
    rng = np.random.default_rng(3)
    for _ in range(4):
        arch = random_architecture(config, rng)
        seen = []

        def count(module, args, output, seen=seen):
            seen.append(args[0].numel() // module.in_features * module.weight.numel())

        model = build(config, arch)
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(count)
        with torch.inference_mode():
            model(torch.zeros(3, 10, dtype=torch.long))
        assert macs(config, arch, seq_len=10, batch_size=3, include_attention_scores=False) == sum(seen)


def unmasked_pairs(window: int | None, seq_len: int, cache_len: int) -> int:
    positions = range(cache_len, cache_len + seq_len)
    return sum(1 for i in positions for j in range(i + 1) if window is None or i - j < window)


@pytest.mark.parametrize(("seq_len", "cache_len"), [(1, 0), (10, 0), (1, 20), (4, 3), (32, 0)])
def test_attention_scores_count_the_pairs_of_the_mask(config, seq_len, cache_len):
    rng = np.random.default_rng(4)
    for _ in range(5):
        arch = random_architecture(config, rng)
        expected = 0
        for heads, layer in zip(arch.n_head, arch.layers, strict=True):
            slides = config.sliding_window_size is not None and config.sliding_window_indices[layer]
            pairs = unmasked_pairs(config.sliding_window_size if slides else None, seq_len, cache_len)
            expected += 2 * heads * config.head_size * pairs
        sizes = {"seq_len": seq_len, "cache_len": cache_len, "batch_size": 2}
        without = macs(config, arch, include_attention_scores=False, **sizes)
        assert macs(config, arch, **sizes) - without == 2 * expected
        assert flops(config, arch, **sizes) == 2 * (without + 2 * expected)


def test_flops_agree_with_torchs_counter_up_to_the_masked_pairs():
    config = Config(**(BASE | LLAMA))
    arch = random_architecture(config, np.random.default_rng(5))
    math = sdpa_kernel(SDPBackend.MATH)  # the counter sees no attention in the CPU's fused kernel
    with torch.inference_mode(), math, FlopCounterMode(display=False) as counter:
        build(config, arch)(torch.zeros(2, 16, dtype=torch.long))
    masked = 2 * 2 * 2 * config.head_size * sum(arch.n_head) * (16 * 15 // 2)  # torch counts these pairs too
    assert counter.get_total_flops() == flops(config, arch, seq_len=16, batch_size=2) + masked


def test_decoding_step_by_step_costs_the_same_as_at_once(config):
    arch = random_architecture(config, np.random.default_rng(6))
    steps = sum(macs(config, arch, seq_len=1, cache_len=i) for i in range(12))
    assert steps == macs(config, arch, seq_len=12)


# --- KV cache -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kv_cache_bytes_are_those_that_litgpt_allocates(config, dtype):
    rng = np.random.default_rng(7)
    for length in (1, 3, 32):
        arch = random_architecture(config, rng)
        model = build(config, arch)
        model.set_kv_cache(2, max_seq_length=length, dtype=dtype)
        allocated = sum(t.nbytes for block in model.transformer.h for t in block.attn.kv_cache.buffers())
        size = kv_cache_bytes(config, arch, seq_len=length, batch_size=2, bytes_per_element=dtype.itemsize)
        assert size == allocated


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"seq_len": 0}, "seq_len = 0"),
        ({"seq_len": 1, "batch_size": 0}, "batch_size = 0"),
        ({"seq_len": 1, "cache_len": -1}, "cache_len = -1"),
        ({"seq_len": 30, "cache_len": 3}, r"30 \+ 3 tokens are more than block_size = 32"),
    ],
)
def test_sizes_that_cannot_be_run_are_refused(sizes, message):
    config = Config(**(BASE | LLAMA))
    arch = random_architecture(config, np.random.default_rng(0))
    with pytest.raises(ValueError, match=message):
        macs(config, arch, **sizes)


def test_kv_cache_sizes_are_checked():
    config = Config(**(BASE | LLAMA))
    arch = random_architecture(config, np.random.default_rng(0))
    for sizes in ({"seq_len": 33}, {"seq_len": 1, "batch_size": 0}, {"seq_len": 1, "bytes_per_element": 0}):
        with pytest.raises(ValueError, match=r"block_size|batch_size|bytes_per_element"):
            kv_cache_bytes(config, arch, **sizes)


def test_what_the_supernet_does_not_have_is_refused():
    config = Config(**(BASE | LLAMA))
    deep = Architecture(48, (2, 2), (2, 2), (8, 8), (1, 4), bias=False)
    with pytest.raises(ValueError, match=r"layers = \(1, 4\) .* allowed: block indices 0 to 3"):
        parameter_count(config, deep)
    with pytest.raises(ValueError, match="bias = True"):
        parameter_count(config, Architecture(48, (2,), (2,), (8,), (0,), bias=True))


def test_unsupported_families_are_refused_by_name():
    config = Config(**(BASE | LLAMA), n_expert=2, n_expert_per_token=1, moe_intermediate_size=8)
    with pytest.raises(ValueError, match="mixture of experts"):
        parameter_count(config, Architecture(48, (2,), (2,), (8,), (0,), bias=False))


# --- HW-GPT-Bench -------------------------------------------------------------------------------------------------


def read_hwgpt(scale: str):
    """Return the architectures of a scale and the rows of its cost table, in the same order."""
    import pandas as pd

    if not (HWGPT / f"cost_{scale}.parquet").is_file():
        pytest.skip(f"no HW-GPT-Bench tables at {HWGPT}")
    table = pd.read_parquet(HWGPT / f"architectures_{scale}.parquet").set_index("arch_id")
    cost = pd.read_parquet(HWGPT / f"cost_{scale}.parquet").set_index("arch_id").loc[table.index]
    heads = table.filter(regex=r"^n_head_\d").to_numpy(np.int64)
    ratios = table.filter(regex=r"^mlp_ratio_\d").to_numpy(np.int64)
    archs = []
    rows = zip(table["embed_dim"], table["n_layer"], table["bias"], heads, ratios, strict=True)
    for width, depth, bias, head, ratio in rows:
        kept = tuple(head[:depth].tolist())
        mlp = tuple((int(width) * ratio[:depth]).tolist())
        archs.append(Architecture(int(width), kept, kept, mlp, tuple(range(depth)), bool(bias)))
    return archs, cost


@pytest.mark.parametrize(("scale", "batch_size"), [("s", 8), ("m", 4), ("l", 1)])
def test_costs_are_those_of_every_row_of_hwgpt_bench(scale, batch_size):
    archs, cost = read_hwgpt(scale)
    assert len(archs) > 8900
    space = load_space(f"gpt-{scale}")
    config = space.model_config
    assert np.array_equal(parameter_counts(config, archs).total, cost["n_params"])
    assert np.array_equal(batch_size * mac_counts(config, archs, seq_len=1024).linear, cost["macs"])
    assert space.encode(archs).shape[0] == len(archs)  # all are in the space
    one = macs(config, archs[0], seq_len=1024, batch_size=batch_size, include_attention_scores=False)
    assert one == cost["macs"].iloc[0]


@pytest.mark.parametrize(
    ("changes", "gene"),
    [({"n_embd": 999}, "n_embd"), ({"intermediate_size": (9999,) * 6}, "intermediate_size"), ({"bias": True}, "bias")],
)
def test_an_architecture_beyond_the_supernet_is_refused_by_name(changes, gene):
    space = load_space("tiny")
    arch = replace(space.largest(), **changes)
    with pytest.raises(ValueError, match=gene):
        parameter_counts(space.model_config, [space.smallest(), arch])
