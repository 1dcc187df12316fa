from __future__ import annotations

import subprocess
import sys

import litgpt
import numpy as np
import pytest
import torch
from family_configs import FAMILIES, HF_CLASSES, build_supernet, largest_arch, random_arch, random_tokens
from litgpt.config import Config

import supernet.export as export_module
from supernet.architecture import Architecture
from supernet.artifacts import read_json
from supernet.checkpoint import load_subnet, load_supernet, save_supernet
from supernet.export import export_hf, export_litgpt, export_subnet, named_architecture
from supernet.extract import extract
from supernet.hf_layouts import LAYOUTS
from supernet.huggingface import layout_for, refusals
from supernet.selection import subnet_config
from supernet.space import SearchSpace
from supernet.spaces import load_space
from supernet.text import ByteTokenizer, HFTokenizer


def stock(folder, **options):
    """Return the logits function of what stock transformers loads; every parameter must have been in the file."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", HF_CLASSES)
def test_the_whole_network_is_exported_to_its_class_with_equal_logits(family, tied, tmp_path):
    supernet = build_supernet(family, tied=tied)
    arch, idx = largest_arch(supernet.config), random_tokens(supernet.config, length=20)
    done = export_hf(tmp_path / "hf", extract(supernet, arch), arch)
    assert done.class_name == HF_CLASSES[family]
    attention = {"attn_implementation": "eager"} if family == "gemma2" else {}
    model = stock(tmp_path / "hf", **attention)
    with torch.no_grad():
        assert (model(idx).logits - supernet(idx)).abs().max() <= 1e-4
    assert done.max_difference <= 1e-4
    assert model.config.tie_word_embeddings == tied
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("family", FAMILIES)
def test_random_uniform_subnets_are_exported_with_equal_logits_or_refused_with_the_reason(family, tmp_path):
    supernet = build_supernet(family)
    idx, rng = random_tokens(supernet.config, length=20), np.random.default_rng(5)
    n_exported = 0
    for i in range(5):
        arch = random_arch(supernet.config, rng, uniform=True)
        gpt = extract(supernet, arch)
        if all(refusals(layout, gpt.config) for layout in LAYOUTS):
            with pytest.raises(ValueError, match=r"cannot have: .* format=litgpt"):
                export_hf(tmp_path / str(i), gpt, arch)
            continue
        n_exported += 1
        done = export_hf(tmp_path / str(i), gpt, arch)
        options = {"attn_implementation": "eager"} if gpt.config.attention_logit_softcapping else {}
        with torch.no_grad():
            logits = stock(tmp_path / str(i), **options)(idx).logits
            assert (logits - supernet(idx, arch)).abs().max() <= 1e-4, done.class_name
        assert sum(p.numel() for p in gpt.parameters()) <= sum(
            t.numel() for t in stock(tmp_path / str(i)).state_dict().values()
        )
    free = ("llama-mha", "llama-gqa", "llama-mqa", "llama-bias", "mistral", "qwen2", "qwen3", "gemma", "gemma3", "phi",
            "olmo", "olmo2", "starcoder")  # fmt: skip
    if family in free:
        assert n_exported == 5


@pytest.mark.parametrize("family", HF_CLASSES)
def test_an_exported_subnet_is_a_supernet_again(family, tmp_path):
    supernet = build_supernet(family)
    arch = largest_arch(supernet.config)
    export_hf(tmp_path / "hf", extract(supernet, arch), arch)
    back, idx = load_supernet(tmp_path / "hf").supernet.eval(), random_tokens(supernet.config)
    assert torch.equal(back(idx), supernet(idx))
    smaller = random_arch(back.config, np.random.default_rng(1))
    assert torch.equal(back(idx, smaller), supernet(idx, smaller))


@pytest.mark.parametrize(
    ("family", "arch", "message"),
    [
        ("pythia", (20, 4, 4), r"GPTNeoXForCausalLM, cannot have: n_embd 20 != n_head 4 x head_size 8"),
        ("gpt-gqa", (32, 4, 2), r"n_query_groups 2 != n_head 4"),
        ("falcon-40b", (32, 2, 2), r"ForCausalLM, cannot have: n_embd 32 != n_head 2 x head_size 8"),
        ("stablelm", (24, 2, 2), r"StableLmForCausalLM, cannot have: n_embd 24 != n_head 2 x head_size 8"),
    ],
)
def test_what_no_stock_class_holds_is_refused_with_the_reason_and_the_way_out(family, arch, message, tmp_path):
    supernet = build_supernet(family)
    n_embd, heads, groups = arch
    arch = Architecture.uniform(n_embd=n_embd, n_layer=2, n_head=heads, n_query_groups=groups, intermediate_size=16,
                                bias=supernet.config.bias)  # fmt: skip
    with pytest.raises(ValueError, match=message) as error:
        export_hf(tmp_path / "hf", extract(supernet, arch), arch)
    assert "format=litgpt" in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert export_litgpt(tmp_path / "lit", extract(supernet, arch), arch).max_difference == 0


def test_layers_that_differ_are_refused_by_hugging_face_and_kept_by_litgpt(tmp_path):
    supernet = build_supernet("llama-gqa")
    arch = Architecture(16, (2, 4), (2, 2), (8, 9), (0, 2), bias=False)
    gpt = extract(supernet, arch)
    with pytest.raises(ValueError, match=r"its layers differ .* format=litgpt"):
        export_subnet(tmp_path / "out", gpt, arch, format="hf")
    done = export_subnet(tmp_path / "out", gpt, arch, format="litgpt")
    loaded, loaded_arch = load_subnet(done.folder)
    idx = random_tokens(supernet.config)
    assert loaded_arch == arch
    assert torch.equal(loaded.eval()(idx), supernet(idx, arch))
    with pytest.raises(ValueError, match="format = 'gguf'; allowed: hf, litgpt"):
        export_subnet(tmp_path / "out", gpt, arch, format="gguf")


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_stock_litgpt_loads_a_uniform_export(family, tied, tmp_path):
    supernet = build_supernet(family, tied=tied)
    arch, idx = random_arch(supernet.config, np.random.default_rng(2), uniform=True), random_tokens(supernet.config)
    done = export_litgpt(tmp_path / "lit", extract(supernet, arch), arch)
    gpt = litgpt.GPT(Config.from_file(tmp_path / "lit" / "model_config.yaml")).eval()
    gpt.load_state_dict(torch.load(tmp_path / "lit" / "lit_model.pth", weights_only=True), strict=True)
    assert torch.equal(gpt(idx), supernet(idx, arch))
    assert done.class_name == "litgpt.GPT"
    assert load_supernet(tmp_path / "lit").supernet.tie_embeddings == tied


@pytest.mark.parametrize("name", ["tiny", "tiny-gqa"])
def test_every_uniform_network_of_the_shipped_tiny_spaces_has_a_stock_class(name):
    space, rng = load_space(name), np.random.default_rng(0)
    config = Config(**space.config)
    for _ in range(200):
        arch = space.sample(rng)
        uniform = Architecture.uniform(
            n_embd=arch.n_embd, n_layer=arch.n_layer, n_head=arch.n_head[0], n_query_groups=arch.n_query_groups[0],
            intermediate_size=arch.intermediate_size[0], bias=arch.bias,
        )  # fmt: skip
        assert layout_for(subnet_config(config, uniform)).model_type in ("llama", "mistral")


# --- tokenizer, generation, safety -------------------------------------------------------------------------------


def test_bytes_become_a_tokenizer_that_stock_transformers_reads(tmp_path):
    from transformers import AutoTokenizer

    supernet = build_supernet("llama-gqa", vocab_size=256, padded_vocab_size=256)
    arch = largest_arch(supernet.config)
    export_hf(tmp_path / "hf", extract(supernet, arch), arch, tokenizer=ByteTokenizer())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text in ("def f(x):\n    return x  # 'naïve'\t", "日本語 🙂", " leading", "".join(map(chr, range(128)))):
        ids = tokenizer(text)["input_ids"]
        assert ids == list(text.encode("utf-8"))
        assert tokenizer.decode(ids) == text
    assert isinstance(load_supernet(tmp_path / "hf").tokenizer, ByteTokenizer)
    assert HFTokenizer(tmp_path / "hf").encode("é").tolist() == [195, 169]


@pytest.mark.parametrize("family", ["llama-gqa", "pythia", "qwen3", "gemma2", "falcon-40b"])
def test_stock_generate_continues_as_the_subnet_does(family, tmp_path):
    supernet = build_supernet(family, sliding_window_size=None) if family != "gemma2" else build_supernet(family)
    arch = largest_arch(supernet.config)
    gpt = extract(supernet, arch)
    export_hf(tmp_path / "hf", gpt, arch)
    options = {"attn_implementation": "eager"} if family == "gemma2" else {}
    idx = random_tokens(supernet.config, batch=1, length=4)
    found = stock(tmp_path / "hf", **options).generate(
        idx, attention_mask=torch.ones_like(idx), max_new_tokens=8, do_sample=False
    )
    with torch.no_grad():
        for _ in range(8):
            idx = torch.cat([idx, gpt(idx)[:, -1:].argmax(-1)], dim=1)
    assert found.tolist() == idx.tolist()


def test_an_export_whose_logits_differ_is_not_kept(tmp_path, monkeypatch):
    supernet = build_supernet("pythia")
    arch = largest_arch(supernet.config)
    gpt = extract(supernet, arch)
    export_hf(tmp_path / "hf", gpt, arch)
    before = (tmp_path / "hf" / "model.safetensors").read_bytes()
    translate = export_module.to_hf
    monkeypatch.setattr(
        export_module, "to_hf", lambda *args, **kwargs: {n: t * 1.01 for n, t in translate(*args, **kwargs).items()}
    )
    with pytest.raises(ValueError, match="nothing was exported"):
        export_hf(tmp_path / "hf", gpt, arch)
    assert (tmp_path / "hf" / "model.safetensors").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


def test_exporting_leaves_the_model_as_it_was_and_keeps_bfloat16(tmp_path):
    supernet = build_supernet("llama-gqa").to(torch.bfloat16).train()
    arch = largest_arch(supernet.config)
    gpt = extract(supernet, arch)
    export_hf(tmp_path / "hf", gpt, arch)
    assert gpt.training and gpt.lm_head.weight.dtype == torch.bfloat16
    assert read_json(tmp_path / "hf" / "config.json")["torch_dtype"] == "bfloat16"
    assert stock(tmp_path / "hf", dtype="auto").dtype == torch.bfloat16
    assert read_json(tmp_path / "hf" / "card.json")["scores"]["max_logit_difference"] <= 1e-4


# --- command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    space = SearchSpace(name="t", n_embd=(16, 32), n_layer=(2, 4), n_head=(2, 4), intermediate_size=(24, 48),
                        n_query_groups=(2,), bias=(False,), config={"head_size": 8})  # fmt: skip
    supernet = build_supernet("llama-gqa", vocab_size=256, padded_vocab_size=256)
    return save_supernet(tmp_path_factory.mktemp("net") / "net", supernet, space=space, tokenizer=ByteTokenizer())


def test_one_architecture_is_named_by_name_id_or_file(saved, tmp_path):
    loaded = load_supernet(saved)
    assert named_architecture("largest", loaded) == loaded.space.largest()
    assert named_architecture("smallest", loaded) == loaded.space.smallest()
    arch = loaded.space.smallest()
    assert named_architecture(arch.id, loaded) == arch
    (tmp_path / "pick.json").write_text(arch.to_json())
    assert named_architecture(str(tmp_path / "pick.json"), loaded) == arch
    with pytest.raises(ValueError, match="names 2 architectures"):
        named_architecture("largest,smallest", loaded)
    with pytest.raises(ValueError, match=r"n_embd = 17"):
        named_architecture("e17-l0_1-h2x2-f24x2-b0", loaded)
    spaceless = type(loaded)(loaded.supernet, None, None)
    assert named_architecture("largest", spaceless) == largest_arch(loaded.supernet.config)


@pytest.mark.slow
def test_the_command_exports_and_says_so_in_one_line(saved, tmp_path):
    paretolm = [sys.executable, "-c", "import sys; from supernet.dispatch import main; sys.exit(main())", "export"]
    arguments = [f"supernet={saved}", "arch=smallest", f"out={tmp_path / 'hf'}", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run([*paretolm, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "exported as LlamaForCausalLM" in done.stdout
    loaded = load_supernet(saved)
    idx = random_tokens(loaded.supernet.config)
    logits = stock(tmp_path / "hf")(idx).logits
    assert (logits - loaded.supernet.eval()(idx, loaded.space.smallest())).abs().max() <= 1e-4
    assert (tmp_path / "run" / "config.yaml").is_file()
    wrong = subprocess.run(
        [*paretolm, f"supernet={tmp_path / 'none'}", f"run_dir={tmp_path / 'run2'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 1
    assert "no checkpoint folder" in wrong.stderr
    assert "Traceback" not in wrong.stderr
