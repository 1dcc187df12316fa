"""Exports of pruned networks: equal logits, KV cache, what lies in the folder, nothing half-written."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pruning_supernets import STORIES, build_supernet, calm_supernet, largest_arch, random_tokens
from safetensors import safe_open

import pruning.exporting as exporting
from pruning.exporting import export_pruned, restate
from pruning.pruned import Pruned, add_biases
from supernet.architecture import Architecture
from supernet.artifacts import read_json
from supernet.checkpoint import load_subnet, load_supernet
from supernet.extract import extract

HETEROGENEOUS = {  # family -> the stock class its blocks are built from
    "llama-mha": "Llama", "llama-gqa": "Llama", "llama-gqa6": "Llama", "llama-bias": "Llama", "mistral": "Mistral",
    "qwen2": "Qwen2", "qwen3": "Qwen3", "pythia": "GPTNeoX", "neox-sequential-tanh": "GPTNeoX", "gemma": "Gemma",
    "gemma2": "Gemma2", "gemma3": "Gemma3", "olmo": "Olmo", "olmo2": "Olmo2", "starcoder": "Starcoder2", "phi": "Phi",
}  # fmt: skip
EAGER = {"gemma2": {"attn_implementation": "eager"}}


@pytest.fixture(autouse=True)
def _remote_code_is_kept_out_of_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


def different_blocks(config, *, n_embd=32):
    """Return a network of all four blocks, no two alike: one of an MLP alone, one of attention alone."""
    G, Q = config.n_query_groups, config.n_head // config.n_query_groups
    groups = (0, G, max(1, G - 1), G)
    heads = (0, G * max(1, Q - 1), max(1, G - 1) * Q, G * Q)
    return Architecture(n_embd, heads, groups, (11, 0, 20, 30), (0, 1, 2, 3), bias=config.bias)


def pruned_network(family, arch=None, *, tied=False, intercepts=False, **changes):
    supernet = calm_supernet(family, tied=tied, **changes)
    arch = arch or different_blocks(supernet.config)
    gpt = extract(supernet, arch).eval()
    if intercepts:
        arch = add_biases(gpt, arch)
        with torch.no_grad():
            for block in gpt.transformer.h:
                for part in (block.attn, block.mlp):
                    if getattr(part, "proj", None) is not None:
                        part.proj.bias.normal_()
    return Pruned(gpt, arch)


def loaded(folder, family="", **options):
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **EAGER.get(family, {}), **options
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


def export(folder, pruned, *formats, **options):
    defaults = {"tokenizer": None, "source": None, "card": {}}
    return export_pruned(folder, pruned, formats=formats or ("hf",), **(defaults | options))


def stored_parameters(path):
    with safe_open(path, framework="pt") as file:
        return sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118


# --- blocks that differ ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", HETEROGENEOUS)
def test_blocks_that_differ_or_lack_a_part_give_equal_logits_with_and_without_cache(family, tied, tmp_path):
    pruned = pruned_network(family, tied=tied)
    (done,) = export(tmp_path, pruned)
    assert done.class_name == f"Pruned{HETEROGENEOUS[family]}ForCausalLM"
    model = loaded(done.folder, family, trust_remote_code=True)
    idx = random_tokens(pruned.gpt.config, length=20)
    with torch.no_grad():
        expected = pruned.gpt(idx)
        assert (model(idx).logits - expected).abs().max() <= 1e-4
        steps, cache = [], None
        for t in range(20):  # without generate(): a cache that the model makes itself
            out = model(idx[:, t : t + 1], past_key_values=cache, use_cache=True)
            steps, cache = [*steps, out.logits], out.past_key_values
        assert (torch.cat(steps, 1) - expected).abs().max() <= 1e-4
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    idle = sum(p.numel() for n, p in model.named_parameters() if n.endswith(".bias") and not p.any())
    n_params = sum(p.numel() for p in pruned.gpt.parameters())
    assert done.n_params == stored_parameters(done.folder / "model.safetensors") <= n_params + idle
    assert done.n_params == model.num_parameters() == read_json(done.folder / "card.json")["data"]["n_params"]


@pytest.mark.parametrize("family", ["llama-gqa", "pythia", "gemma3"])
def test_generate_continues_as_the_network_does(family, tmp_path):
    pruned = pruned_network(family)
    export(tmp_path, pruned)
    model = loaded(tmp_path / "hf", family, trust_remote_code=True)
    idx = random_tokens(pruned.gpt.config, batch=1, length=5)
    found = model.generate(idx, attention_mask=torch.ones_like(idx), max_new_tokens=10, do_sample=False)
    with torch.no_grad():
        for _ in range(10):
            idx = torch.cat([idx, pruned.gpt(idx)[:, -1:].argmax(-1)], dim=1)
    assert found.tolist() == idx.tolist()


def test_the_config_names_the_sizes_as_nemotron_nas_does(tmp_path):
    pruned = pruned_network("llama-gqa", n_head=9, n_query_groups=3)
    export(tmp_path, pruned)
    blocks = read_json(tmp_path / "hf" / "config.json")["block_configs"]
    assert [b["attention"]["no_op"] for b in blocks] == [True, False, False, False]
    assert [b["ffn"]["no_op"] for b in blocks] == [False, True, False, False]
    assert [b["attention"]["num_query_heads"] for b in blocks] == [0, 6, 6, 9]
    assert [b["attention"]["n_heads_in_group"] for b in blocks] == [None, 2, 3, 3]
    assert [b["ffn"]["intermediate_size"] for b in blocks] == [11, None, 20, 30]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "gemma2"])
def test_an_export_loads_where_paretolm_and_litgpt_cannot_be_imported(family, tmp_path):
    import subprocess
    import sys

    pruned = pruned_network(family)
    export(tmp_path, pruned)
    idx = random_tokens(pruned.gpt.config, length=9)
    torch.save(idx, tmp_path / "idx.pt")
    script = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pruning", "search", "surrogates", "hw_profiles", "supernet", "litgpt"):
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Blocker())
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("hf", trust_remote_code=True, **{EAGER.get(family, {})}).eval()
idx = torch.load("idx.pt")
with torch.no_grad():
    torch.save(model(idx).logits, "logits.pt")
model.generate(idx[:1], max_new_tokens=4, attention_mask=torch.ones_like(idx[:1]))
model.save_pretrained("again")
again = AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True, **{EAGER.get(family, {})}).eval()
with torch.no_grad():
    assert torch.equal(again(idx).logits, torch.load("logits.pt"))
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert (torch.load(tmp_path / "logits.pt") - pruned.gpt(idx)).abs().max() <= 1e-4


# --- blocks of one shape ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "groups", "n_embd", "class_name"),
    [
        (9, 3, 36, "LlamaForCausalLM"),
        (6, 2, 36, "LlamaForCausalLM"),  # a KV group less
        (6, 3, 36, "LlamaForCausalLM"),  # a head of each group less
        (9, 3, 32, "MistralForCausalLM"),  # Llama's config refuses heads that do not divide the width
        (3, 1, 32, "MistralForCausalLM"),
    ],
)
def test_odd_numbers_of_heads_have_a_stock_class(heads, groups, n_embd, class_name, tmp_path):
    supernet = calm_supernet("llama-gqa", n_head=9, n_query_groups=3, n_embd=36, tied=True)
    arch = Architecture.uniform(
        n_embd=n_embd, n_layer=3, n_head=heads, n_query_groups=groups, intermediate_size=17, bias=False
    )
    pruned = Pruned(extract(supernet, arch), arch)
    hf, lit = export(tmp_path, pruned, "hf", "litgpt")
    assert (hf.class_name, lit.class_name) == (class_name, "litgpt.GPT")
    model, idx = loaded(hf.folder), random_tokens(supernet.config, length=20)
    assert type(model).__module__.startswith("transformers.models.")
    assert not (hf.folder / "modeling_pruned.py").exists()
    assert getattr(model.config, "sliding_window", None) is None
    with torch.no_grad():
        assert (model(idx).logits - pruned.gpt(idx)).abs().max() <= 1e-4
    assert hf.n_params == lit.n_params == sum(p.numel() for p in pruned.gpt.parameters())


@pytest.mark.parametrize("n_head", [2, 3])
def test_a_gpt_neox_with_fewer_heads_is_no_stock_class_and_is_built_from_its_blocks(n_head, tmp_path):
    supernet = calm_supernet("pythia")
    arch = Architecture.uniform(n_embd=32, n_layer=2, n_head=n_head, intermediate_size=17)
    (done,) = export(tmp_path, Pruned(extract(supernet, arch), arch))
    assert done.class_name == "PrunedGPTNeoXForCausalLM"
    assert done.loads_with.endswith("trust_remote_code=True)")


@pytest.mark.parametrize(
    ("family", "class_name"),
    [
        ("llama-mha", "LlamaForCausalLM"), ("llama-gqa6", "GraniteForCausalLM"), ("qwen2", "LlamaForCausalLM"),
        ("qwen3", "PrunedQwen3ForCausalLM"), ("gemma", "PrunedGemmaForCausalLM"),
        ("mistral", "PrunedQwen2ForCausalLM"),
    ],
)  # fmt: skip
def test_intercepts_become_biases(family, class_name, tmp_path):
    supernet = build_supernet(family)
    pruned = pruned_network(family, largest_arch(supernet.config), intercepts=True)
    (done,) = export(tmp_path, pruned)
    assert done.class_name == class_name
    options = {"trust_remote_code": True} if class_name.startswith("Pruned") else {}
    model, idx = loaded(done.folder, **options), random_tokens(pruned.gpt.config, length=20)
    with torch.no_grad():
        assert (model(idx).logits - pruned.gpt(idx)).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ["llama-gqa", "qwen2", "qwen3", "gemma", "gemma2", "olmo2"])
def test_intercepts_of_blocks_that_differ_become_biases(family, tmp_path):
    pruned = pruned_network(family, intercepts=True)
    (done,) = export(tmp_path, pruned)
    model = loaded(done.folder, family, trust_remote_code=True)
    idx = random_tokens(pruned.gpt.config, length=20)
    with torch.no_grad():
        assert (model(idx).logits - pruned.gpt(idx)).abs().max() <= 1e-4


def test_what_no_class_holds_is_refused_before_anything_is_written(tmp_path):
    pruned = pruned_network("phi3")
    with pytest.raises(ValueError, match=r"none that blocks of different sizes can be built from.*formats=\[litgpt\]"):
        export(tmp_path / "out", pruned, "litgpt", "hf")
    with pytest.raises(ValueError, match="GGUF's llama architecture cannot have"):
        export(tmp_path / "out", pruned_network("pythia"), "litgpt", "gguf")
    with pytest.raises(ValueError, match="allowed: hf, litgpt, gguf"):
        export(tmp_path / "out", pruned, "onnx")
    assert not (tmp_path / "out").exists()
    (done,) = export(tmp_path / "out", pruned, "litgpt")
    assert load_subnet(done.folder)[1] == pruned.arch


# --- other formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama-gqa", "pythia"])
def test_litgpt_keeps_blocks_that_differ(family, tmp_path):
    pruned = pruned_network(family, tied=True)
    (done,) = export(tmp_path, pruned, "litgpt")
    gpt, arch = load_subnet(done.folder)
    idx = random_tokens(gpt.config)
    assert arch == pruned.arch and torch.equal(gpt.eval()(idx), pruned.gpt(idx))
    assert done.n_params == sum(p.numel() for p in pruned.gpt.parameters())


@pytest.mark.parametrize(("dtype", "kind"), [(torch.float32, "F32"), (torch.bfloat16, "F16")])
@pytest.mark.parametrize("is_uniform", [True, False])
def test_gguf_holds_both_kinds_and_says_its_parameters(is_uniform, dtype, kind, tmp_path):
    gguf = pytest.importorskip("gguf", reason="the optional package gguf is not installed")
    arch = Architecture.uniform(n_embd=32, n_layer=2, n_head=2, n_query_groups=1, intermediate_size=17, bias=False)
    pruned = pruned_network("llama-gqa", arch if is_uniform else None, tied=True)
    pruned.gpt.to(dtype)
    (done,) = export(tmp_path, pruned, "gguf")
    assert done.class_name == ("GGUF llama" if is_uniform else "GGUF deci")
    tensors = gguf.GGUFReader(done.folder / "model.gguf").tensors
    assert {t.tensor_type.name for t in tensors if len(t.shape) > 1} == {kind}
    if is_uniform:
        assert done.n_params == sum(p.numel() for p in pruned.gpt.parameters())


# --- the folder ------------------------------------------------------------------------------------------------------


def chat_checkpoint(folder):
    """Return a folder with a tokenizer, a chat template and a generation config, and a network of its vocabulary."""
    shutil.copytree(STORIES, folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "temperature": 0.7}')
    (folder / "LICENSE").write_text("MIT")
    return load_supernet(folder)


@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not there")
@pytest.mark.parametrize("is_uniform", [True, False])
def test_tokenizer_template_generation_config_and_card_come_along(is_uniform, tmp_path):
    from transformers import AutoTokenizer

    checkpoint = chat_checkpoint(tmp_path / "dense")
    config = checkpoint.supernet.config
    arch = Architecture.uniform(
        n_embd=config.n_embd, n_layer=5, n_head=4, n_query_groups=2, intermediate_size=96, bias=False
    )
    if not is_uniform:
        arch = replace(arch, n_head=(4, 0, 8, 8, 2), n_query_groups=(2, 0, 4, 4, 1))
    card = {
        "base_model": "stories260K", "license": "mit", "asked": "-25 % latency",
        "predicted": {"latency, of dense": 0.745},
        "measured": {"latency, of dense": 0.741, "latency (ms)": 1.234}, "workload": "prefill-b1-t512-float32",
        "perplexity": {"WikiText-2 test": {"before": 3.5, "after": 7.0}}, "command": "paretolm prune model=stories260K",
        "versions": {"torch": "9.9"}, "mlps_distilled": is_uniform,
    }  # fmt: skip
    (done,) = export(
        tmp_path / "out", Pruned(extract(checkpoint.supernet, arch), arch), tokenizer=checkpoint.tokenizer,
        source=tmp_path / "dense", card=card,
    )  # fmt: skip
    for name in ("chat_template.jinja", "LICENSE", "tokenizer.json"):
        assert (done.folder / name).read_bytes() == (tmp_path / "dense" / name).read_bytes()
    assert read_json(done.folder / "generation_config.json")["temperature"] == 0.7
    theirs, own = (read_json(folder / "config.json") for folder in (tmp_path / "dense", done.folder))
    assert own["eos_token_id"] == theirs["eos_token_id"] and own["torch_dtype"] == "float32"
    ids = AutoTokenizer.from_pretrained(done.folder)("Once upon a time")["input_ids"]
    assert ids[-3:] == checkpoint.tokenizer.encode("Once upon a time").tolist()[-3:]
    readme = (done.folder / "README.md").read_text()
    for text in ("license: mit", "| latency, of dense | - | 0.7450 | 0.7410 |", "| budget | -25 % latency | - | - |",
                 "| WikiText-2 test | 3.500 | 7.000 | 2.000 |", "paretolm prune model=stories260K", "torch 9.9",
                 done.class_name, f"{done.n_params:,} parameters", arch.id):  # fmt: skip
        assert text in readme
    assert ("its MLPs then whole" in readme) == is_uniform and "mlps_distilled" not in readme
    assert readme.count("trust_remote_code=True") == (0 if is_uniform else 2)  # model and tokenizer
    stored = read_json(done.folder / "card.json")
    assert stored["data"]["perplexity"] == card["perplexity"] and stored["command"] == card["command"]
    assert stored["scores"]["max_cache_difference"] <= 1e-4
    again = export(tmp_path / "out", Pruned(extract(checkpoint.supernet, arch), arch))  # replaces the older one
    assert again[0].n_params == done.n_params and not (done.folder / "LICENSE").exists()


@pytest.mark.parametrize("is_uniform", [True, False])
def test_every_format_says_how_it_is_loaded(is_uniform, tmp_path):
    arch = largest_arch(build_supernet("llama-gqa").config) if is_uniform else None
    pruned = pruned_network("llama-gqa", arch)
    done = export_pruned(
        tmp_path, pruned, tokenizer=None, source=None, card={"asked": "-25 % latency"}, formats=("hf", "litgpt", "gguf")
    )
    loads = {
        "hf": "AutoModelForCausalLM.from_pretrained",
        "litgpt": "LLM.load" if is_uniform else "load_subnet",
        "gguf": "`llama`" if is_uniform else "`deci`",
    }
    for export in done:
        readme = (export.folder / "README.md").read_text()
        assert loads[export.folder.name] in readme and f"{export.n_params:,} parameters" in readme
        assert "| budget | -25 % latency |" in readme
    restate(done, pruned, {"asked": "-25 % latency", "measured": "-26.1 % latency"})
    for export in done:
        readme, stored = (export.folder / "README.md").read_text(), read_json(export.folder / "card.json")
        assert loads[export.folder.name] in readme and f"{export.n_params:,} parameters" in readme
        assert "| budget | -25 % latency | -26.1 % latency |" in readme
        assert stored["data"]["measured"] == "-26.1 % latency" and stored["data"]["n_params"] == export.n_params
        assert "max_logit_difference" in stored["scores"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_dtype_is_kept(dtype, tmp_path):
    pruned = pruned_network("llama-gqa")
    pruned.gpt.to(dtype)
    export(tmp_path, pruned)
    assert read_json(tmp_path / "hf" / "config.json")["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert loaded(tmp_path / "hf", trust_remote_code=True, dtype="auto").dtype == dtype


def test_a_tokenizer_of_another_network_and_a_full_disk_are_refused(tmp_path, monkeypatch):
    pruned = pruned_network("llama-gqa")

    class Large:
        vocab_size = 65

    with pytest.raises(ValueError, match="65 ids and the network only 64"):
        export(tmp_path / "out", pruned, tokenizer=Large())
    with pytest.raises(FileNotFoundError, match="no folder"):
        export(tmp_path / "out", pruned, source=tmp_path / "none")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(OSError, match="1 MiB free and the export needs about"):
        export(tmp_path / "out", pruned)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["check_hf_cache", "load_hf", "write_companions", "model_card"])
def test_an_interrupted_export_leaves_the_older_one(failing, tmp_path, monkeypatch):
    pruned = pruned_network("llama-gqa")
    export(tmp_path, pruned)
    before = {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()}

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, failing, interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(tmp_path, pruned)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()} == before


def test_an_export_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    pruned = pruned_network("qwen2")
    write = exporting.write_block_model

    def wrong(new, gpt, arch, layout):
        shorter = replace(arch, n_head=(0, 2, 2, 2), n_query_groups=(0, 1, 1, 1))
        return write(new, extract(calm_supernet("qwen2"), shorter), shorter, layout)

    monkeypatch.setattr(exporting, "write_block_model", wrong)
    with pytest.raises(ValueError, match="nothing was exported"):
        export(tmp_path, pruned)
    assert list(Path(tmp_path).iterdir()) == []
