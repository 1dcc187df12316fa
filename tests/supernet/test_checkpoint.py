from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

import litgpt
import numpy as np
import pytest
import safetensors.torch
import torch
from family_configs import FAMILIES, build_supernet, largest_arch, random_arch, random_tokens, randomise
from litgpt.scripts import convert_hf_checkpoint as litgpt_convert

import supernet.checkpoint as checkpoint_module
from supernet.architecture import Architecture
from supernet.artifacts import read_json
from supernet.checkpoint import load_subnet, load_supernet, save_subnet, save_supernet
from supernet.extract import extract
from supernet.space import SearchSpace
from supernet.text import ByteTokenizer

STORIES = Path(__file__).parents[2].parent / "shared" / "models" / "stories260K"
SPACE = SearchSpace(name="t", n_embd=(16, 32), n_layer=(2, 4), n_head=(2, 4), intermediate_size=(24, 48), bias=(False,),
                    n_query_groups=(2,), config={"head_size": 8})  # fmt: skip


# --- our own folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_supernet_comes_back_bit_for_bit(family, tied, tmp_path):
    supernet = build_supernet(family, tied=tied)
    save_supernet(tmp_path / "net", supernet)
    loaded = load_supernet(tmp_path / "net")
    assert loaded.space is None and loaded.tokenizer is None
    assert loaded.supernet.tie_embeddings == tied
    assert asdict(loaded.supernet.config) == asdict(supernet.config)
    idx, arch = random_tokens(supernet.config), random_arch(supernet.config, np.random.default_rng(0))
    assert torch.equal(loaded.supernet.eval()(idx), supernet(idx))
    assert torch.equal(loaded.supernet(idx, arch), supernet(idx, arch))


def test_space_tokenizer_and_card_are_stored_with_a_supernet(tmp_path):
    supernet = build_supernet("llama-gqa")
    card = {"command": "paretolm train", "data": {"source": "stdlib"}, "scores": {"loss": 1.5}, "step": 7}
    save_supernet(tmp_path / "net", supernet, space=SPACE, tokenizer=ByteTokenizer(), card=card)
    loaded = load_supernet(tmp_path / "net")
    assert loaded.space == SPACE
    assert isinstance(loaded.tokenizer, ByteTokenizer)
    stored = read_json(tmp_path / "net" / "card.json")
    assert stored["scores"] == {"loss": 1.5}
    assert stored["data"] == {"source": "stdlib", "step": 7}


def test_tied_embeddings_are_stored_once(tmp_path):
    save_supernet(tmp_path / "net", build_supernet("gemma", tied=True))
    stored = safetensors.torch.load_file(tmp_path / "net" / "model.safetensors")
    assert "transformer.wte.weight" in stored and "lm_head.weight" not in stored


def test_tied_embeddings_can_be_untied_when_loading_and_different_ones_not_tied(tmp_path):
    save_supernet(tmp_path / "tied", build_supernet("gemma", tied=True))
    supernet = load_supernet(tmp_path / "tied", tie_embeddings=False).supernet
    assert supernet.lm_head.weight is not supernet.transformer.wte.weight
    assert torch.equal(supernet.lm_head.weight, supernet.transformer.wte.weight)
    save_supernet(tmp_path / "untied", build_supernet("gemma"))
    with pytest.raises(ValueError, match="lm_head and embedding differ"):
        load_supernet(tmp_path / "untied", tie_embeddings=True)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_subnet_of_different_layers_comes_back_bit_for_bit(family, tied, tmp_path):
    supernet = build_supernet(family, tied=tied)
    arch, idx = random_arch(supernet.config, np.random.default_rng(11)), random_tokens(supernet.config)
    save_subnet(tmp_path / "sub", extract(supernet, arch), arch)
    gpt, loaded_arch = load_subnet(tmp_path / "sub")
    assert loaded_arch == arch
    assert torch.equal(gpt.eval()(idx), supernet(idx, arch))
    assert (gpt.lm_head.weight is gpt.transformer.wte.weight) == tied


def test_a_subnet_of_different_layers_is_refused_as_a_supernet_and_a_uniform_one_is_one(tmp_path):
    supernet = build_supernet("llama-gqa")
    uneven = Architecture(16, (2, 4), (2, 2), (8, 9), (0, 2), bias=False)
    even = Architecture(16, (2, 2), (2, 2), (8, 8), (0, 2), bias=False)
    for name, arch in (("uneven", uneven), ("even", even)):
        save_subnet(tmp_path / name, extract(supernet, arch), arch)
    with pytest.raises(ValueError, match="read it with load_subnet"):
        load_supernet(tmp_path / "uneven")
    idx = random_tokens(supernet.config)
    assert torch.equal(load_supernet(tmp_path / "even").supernet.eval()(idx), supernet(idx, even))
    with pytest.raises(FileNotFoundError, match="no sub-network"):
        load_subnet(save_supernet(tmp_path / "net", supernet))


def test_bfloat16_weights_stay_bfloat16(tmp_path):
    supernet = build_supernet("llama-mha").to(torch.bfloat16)
    save_supernet(tmp_path / "net", supernet)
    loaded = load_supernet(tmp_path / "net").supernet
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}


def test_a_space_of_another_supernet_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="space 't' is not a space of this supernet: n_embd = 32"):
        save_supernet(tmp_path / "net", build_supernet("llama-gqa", n_embd=16), space=SPACE)
    assert list(tmp_path.iterdir()) == []


# --- kills, full disks, damaged files ----------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["save_file", "write_text", "write_card"])
def test_a_write_that_fails_leaves_the_old_folder_and_no_rubbish(broken, tmp_path, monkeypatch):
    old, new = build_supernet("pythia", seed=0), build_supernet("pythia", seed=1)
    save_supernet(tmp_path / "net", old)

    def full_disk(*args: object, **kwargs: object) -> None:
        path = next((a for a in args if isinstance(a, Path) and a.parent.is_dir() and not a.is_dir()), None)
        if path is not None:
            path.write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, broken, full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_supernet(tmp_path / "net", new)
    monkeypatch.undo()
    idx = random_tokens(old.config)
    assert torch.equal(load_supernet(tmp_path / "net").supernet.eval()(idx), old(idx))
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_a_kill_between_the_two_renames_is_healed_by_the_next_load(tmp_path):
    supernet = build_supernet("pythia")
    save_supernet(tmp_path / "net", supernet)
    (tmp_path / "net").rename(tmp_path / ".net.previous")
    idx = random_tokens(supernet.config)
    assert torch.equal(load_supernet(tmp_path / "net").supernet.eval()(idx), supernet(idx))


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    old = build_supernet("pythia", seed=0)
    save_supernet(tmp_path / "net", old)
    rename = Path.rename

    def refuse_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp"):
            assert not target.exists() or target.is_dir()
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(OSError, match="Input/output error"):
        save_supernet(tmp_path / "net", build_supernet("pythia", seed=1))
    monkeypatch.undo()
    idx = random_tokens(old.config)
    assert torch.equal(load_supernet(tmp_path / "net").supernet.eval()(idx), old(idx))
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


@pytest.mark.slow
def test_after_a_sigkill_at_any_moment_a_whole_supernet_is_there(tmp_path):
    save_supernet(tmp_path / "net", build_supernet("pythia", seed=0))
    script = (
        "from family_configs import build_supernet; from supernet.checkpoint import save_supernet\n"
        "nets = [build_supernet('pythia', seed=i) for i in range(2)]; print('ready', flush=True)\n"
        f"while True:\n    for net in nets: save_supernet({str(tmp_path / 'net')!r}, net)"
    )
    nets, rng = [build_supernet("pythia", seed=i) for i in range(2)], np.random.default_rng(0)
    idx = random_tokens(nets[0].config)
    expected = [net(idx) for net in nets]
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.2)))
        process.kill()
        process.wait()
        found = load_supernet(tmp_path / "net").supernet.eval()(idx)
        assert any(torch.equal(found, logits) for logits in expected)


def test_saving_again_replaces_the_folder_and_other_peoples_files_are_not_deleted(tmp_path):
    save_supernet(tmp_path / "net", build_supernet("pythia", seed=0), tokenizer=ByteTokenizer())
    save_supernet(tmp_path / "net", build_supernet("pythia", seed=1))
    assert not (tmp_path / "net" / "byte_tokenizer.json").exists()
    (tmp_path / "net" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt, which this would delete"):
        save_supernet(tmp_path / "net", build_supernet("pythia", seed=2))
    assert (tmp_path / "net" / "notes.txt").read_text() == "mine"


def test_a_truncated_file_is_named(tmp_path):
    file = save_supernet(tmp_path / "net", build_supernet("pythia")) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short"):
        load_supernet(tmp_path / "net")
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short"):
        load_supernet(tmp_path / "net")


def rewrite(folder: Path, change) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def test_the_first_parameter_that_does_not_fit_is_named_with_both_shapes(tmp_path):
    folder = save_supernet(tmp_path / "net", build_supernet("pythia"))
    rewrite(folder, lambda w: w.update({"transformer.h.1.attn.qkv.weight": torch.zeros(90, 32)}))
    with pytest.raises(
        ValueError, match=r"h\.1\.attn\.qkv\.weight is \(90, 32\) in the file, \(96, 32\) in the network"
    ):
        load_supernet(folder)


def test_missing_unexpected_and_quantised_parameters_are_named(tmp_path):
    folder = save_supernet(tmp_path / "net", build_supernet("pythia"))
    rewrite(folder, lambda w: w.update({"transformer.h.0.mlp.gate.weight": torch.zeros(3)}))
    with pytest.raises(ValueError, match=r"unexpected parameter transformer\.h\.0\.mlp\.gate\.weight \(3,\)"):
        load_supernet(folder)
    rewrite(folder, lambda w: [w.pop("transformer.h.0.mlp.gate.weight"), w.pop("transformer.h.2.mlp.fc.bias")])
    with pytest.raises(ValueError, match=r"transformer\.h\.2\.mlp\.fc\.bias \(64,\) is missing"):
        load_supernet(folder)
    rewrite(folder, lambda w: w.update({"transformer.h.2.mlp.fc.bias": torch.zeros(64, dtype=torch.int8)}))
    with pytest.raises(ValueError, match=r"mlp\.fc\.bias is torch\.int8; quantised"):
        load_supernet(folder)


def test_folders_without_a_checkpoint_say_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint folder"):
        load_supernet(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no weights in"):
        load_supernet(tmp_path)
    safetensors.torch.save_file({"transformer.wte.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no model_config\.yaml"):
        load_supernet(tmp_path)
    (tmp_path / "model_config.yaml").write_text("n_layer: [oops\n")
    with pytest.raises(ValueError, match=r"model_config\.yaml is not a litgpt model config"):
        load_supernet(tmp_path)
    (tmp_path / "model_config.yaml").write_text("n_layers: 3\n")
    with pytest.raises(ValueError, match="n_layers"):
        load_supernet(tmp_path)


# --- litgpt's folders --------------------------------------------------------------------------------------------


def write_litgpt(folder: Path, gpt: litgpt.GPT, state: dict | None = None) -> None:
    folder.mkdir()
    torch.save(state if state is not None else gpt.state_dict(), folder / "lit_model.pth")
    litgpt.utils.save_config(gpt.config, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_litgpt_folder_is_a_supernet(family, tmp_path):
    gpt = litgpt.GPT(build_supernet(family).config).eval()
    randomise(gpt, 3)
    write_litgpt(tmp_path / "lit", gpt)
    idx = random_tokens(gpt.config)
    loaded = load_supernet(tmp_path / "lit").supernet.eval()
    assert not loaded.tie_embeddings
    assert torch.equal(loaded(idx), gpt(idx))
    assert torch.equal(loaded(idx, largest_arch(gpt.config)), gpt(idx))


def test_litgpts_training_checkpoints_and_old_names_and_equal_embeddings_are_understood(tmp_path):
    supernet = build_supernet("gpt-gqa", tied=True)
    state, idx = supernet.state_dict(), random_tokens(supernet.config)
    from supernet.weights import _regroup

    old = {
        n.replace("attn.qkv", "attn.attn"): _regroup(t, supernet.config) if "attn.qkv" in n else t
        for n, t in state.items()
    }
    write_litgpt(tmp_path / "lit", supernet, {"model": old})
    loaded = load_supernet(tmp_path / "lit").supernet.eval()
    assert loaded.tie_embeddings
    assert torch.equal(loaded(idx), supernet(idx))
    stock = litgpt.GPT(supernet.config).eval()  # litgpt itself reads old names the same way
    stock.load_state_dict(old)
    assert torch.equal(stock(idx), supernet(idx))


def test_files_that_could_run_code_are_refused(tmp_path):
    gpt = litgpt.GPT(build_supernet("pythia").config)
    write_litgpt(tmp_path / "lit", gpt, {"model": partial(print, "hello")})
    with pytest.raises(ValueError, match="could run code"):
        load_supernet(tmp_path / "lit")
    (tmp_path / "lit" / "lit_model.pth").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ValueError, match=r"lit_model\.pth"):
        load_supernet(tmp_path / "lit")


def test_mixture_of_experts_is_refused_by_name(tmp_path):
    config = litgpt.Config(
        **{**FAMILIES["llama-mha"], "mlp_class_name": "LLaMAMoE", "n_expert": 2, "n_expert_per_token": 1}
    )
    write_litgpt(tmp_path / "lit", litgpt.GPT(config))
    with pytest.raises(ValueError, match="mixture of experts"):
        load_supernet(tmp_path / "lit")


# --- Hugging Face originals --------------------------------------------------------------------------------------

_HF = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
       "max_position_embeddings": 24, "pad_token_id": None, "tie_word_embeddings": False}  # fmt: skip
_GQA = {**_HF, "num_key_value_heads": 2}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 16, "rope_theta": 5e5}  # fmt: skip
_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
_WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
_GEMMA_WINDOWS = {"sliding_window": 7, "query_pre_attn_scalar": 24, "head_dim": 16,
                  "layer_types": ["sliding_attention", "full_attention"] * 2}  # fmt: skip

# name -> (transformers config class, arguments, litgpt's conversion function or None)
ORIGINALS = {
    "llama": ("LlamaConfig", {**_GQA, "head_dim": 16}, "copy_weights_hf_llama"),
    "llama3-rope": ("LlamaConfig", {**_GQA, "rope_parameters": _LLAMA3}, "copy_weights_hf_llama"),
    "llama-linear-rope": ("LlamaConfig", {**_GQA, "rope_parameters": _LINEAR}, "copy_weights_hf_llama"),
    "llama-tied": ("LlamaConfig", {**_GQA, "tie_word_embeddings": True}, "copy_weights_hf_llama"),
    "llama-bias": ("LlamaConfig", {**_GQA, "attention_bias": True, "mlp_bias": True}, None),
    "llama-attention-bias": ("LlamaConfig", {**_GQA, "attention_bias": True}, None),
    "mistral": ("MistralConfig", {**_GQA, "sliding_window": 6}, "copy_weights_hf_llama"),
    "mistral-no-window": ("MistralConfig", {**_GQA, "sliding_window": None}, "copy_weights_hf_llama"),
    "qwen2": ("Qwen2Config", _GQA, "copy_weights_qwen_2_5"),
    "qwen2-windows": ("Qwen2Config", {**_GQA, **_WINDOWS}, "copy_weights_qwen_2_5"),
    "qwen3": ("Qwen3Config", {**_GQA, "head_dim": 16}, "copy_weights_qwen_3"),
    "gemma": ("GemmaConfig", {**_GQA, "head_dim": 16, "tie_word_embeddings": True}, "copy_weights_hf_llama"),
    "gemma2": ("Gemma2Config", {**_GQA, **_GEMMA_WINDOWS, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
                                "tie_word_embeddings": True}, "copy_weights_gemma_2"),
    "gemma3": ("Gemma3TextConfig", {**_GQA, **_GEMMA_WINDOWS, "tie_word_embeddings": True}, "copy_weights_gemma_3"),
    "gpt-neox": ("GPTNeoXConfig", {**_HF, "rotary_pct": 0.25}, "copy_weights_gpt_neox"),
    "gpt-neox-sequential": ("GPTNeoXConfig", {**_HF, "use_parallel_residual": False, "attention_bias": False}, None),
    "phi": ("PhiConfig", {**_HF, "partial_rotary_factor": 0.5}, "copy_weights_phi"),
    "phi3": ("Phi3Config", {**_GQA, "original_max_position_embeddings": 24}, "copy_weights_phi"),
    "olmo": ("OlmoConfig", _HF, "copy_weights_hf_llama"),
    "olmo2": ("Olmo2Config", _GQA, "copy_weights_olmo2"),
    "stablelm": ("StableLmConfig", {**_GQA, "use_qkv_bias": True}, None),
    "stablelm-parallel": ("StableLmConfig", {**_HF, "num_key_value_heads": 4, "use_parallel_residual": True}, None),
    "falcon-7b": ("FalconConfig", {**_HF, "multi_query": True}, "copy_weights_falcon"),
    "falcon-40b": ("FalconConfig", {**_HF, "new_decoder_architecture": True, "num_kv_heads": 2}, "copy_weights_falcon"),
    "starcoder2": ("Starcoder2Config", {**_GQA, "sliding_window": 6}, None),
    "granite": ("GraniteConfig", {**_GQA, "attention_multiplier": 0.5}, None),
}  # fmt: skip


def save_original(name: str, folder: Path):
    import transformers

    class_name, arguments, _ = ORIGINALS[name]
    torch.manual_seed(0)
    config = getattr(transformers, class_name)(**arguments)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():  # norms and biases too
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_hugging_face_folder_is_a_supernet_with_its_logits(name, tmp_path):
    model = save_original(name, tmp_path / "hf")
    supernet = load_supernet(tmp_path / "hf").supernet.eval()
    idx = random_tokens(supernet.config, length=20)
    with torch.no_grad():
        expected = model(idx).logits
        for logits in (supernet(idx), supernet(idx, largest_arch(supernet.config))):
            assert (logits - expected).abs().max() <= 1e-4
        assert expected.std() > 0.05  # the comparison is of something
    assert supernet.tie_embeddings == model.config.tie_word_embeddings


@pytest.mark.parametrize("name", [name for name, (_, _, function) in ORIGINALS.items() if function])
def test_weights_are_translated_as_litgpts_own_conversion_does(name, tmp_path):
    model = save_original(name, tmp_path / "hf")
    supernet = load_supernet(tmp_path / "hf").supernet
    config, function = supernet.config, getattr(litgpt_convert, ORIGINALS[name][2])
    weights = dict(model.state_dict())
    if supernet.tie_embeddings:
        weights.pop("lm_head.weight", None)
    converted: dict[str, torch.Tensor] = {}
    grouped = function.__name__ in ("copy_weights_gpt_neox", "copy_weights_falcon")
    takes_config = function.__name__ not in ("copy_weights_gemma_2", "copy_weights_gemma_3")
    arguments = ([config] if takes_config else []) + ([] if grouped else [{}])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(*arguments, converted, weights)
    own = supernet.state_dict()
    assert converted.keys() == own.keys()
    assert all(torch.equal(converted[n], own[n]) for n in own)
    stock = litgpt.GPT(config).eval()
    stock.load_state_dict(converted, strict=True)
    idx = random_tokens(config)
    assert torch.equal(stock(idx), supernet.eval()(idx))


def test_sharded_hugging_face_weights_are_read_and_a_missing_shard_is_named(tmp_path):
    model = save_original("llama", tmp_path / "whole")
    model.save_pretrained(tmp_path / "hf", max_shard_size="10KB")
    shards = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert len(shards) > 2
    idx = random_tokens(load_supernet(tmp_path / "whole").supernet.config)
    assert (load_supernet(tmp_path / "hf").supernet.eval()(idx) - model(idx).logits).abs().max() <= 1e-4
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=shards[1].name):
        load_supernet(tmp_path / "hf")


def test_unsupported_classes_and_features_are_refused_by_name(tmp_path):
    save_original("llama", tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    given = read_json(path)
    for change, message in [
        ({"model_type": "mixtral"}, "model_type 'mixtral' is not supported; supported: llama, mistral"),
        ({"model_type": "no-such"}, "model_type 'no-such'"),
        ({"num_key_value_heads": 3}, "does not describe a network"),
        ({"hidden_act": "relu"}, "hidden_act = 'relu' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}}, "RoPE scaling 'yarn'"),
    ]:
        path.write_text(json.dumps(given | change))
        with pytest.raises(ValueError, match=message):
            load_supernet(tmp_path / "hf")


def test_an_odd_number_of_rotated_dimensions_is_refused(tmp_path):
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(
        vocab_size=64, hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)  # a quarter of 12 dimensions
    with pytest.raises(ValueError, match=r"3 of 12 dimensions of a head would be rotated.*even number"):
        load_supernet(tmp_path)


def test_a_foreign_parameter_in_a_hugging_face_folder_is_named(tmp_path):
    save_original("llama", tmp_path / "hf")
    rewrite(tmp_path / "hf", lambda w: w.update({"model.layers.0.self_attn.lora_A.weight": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"unexpected parameter model\.layers\.0\.self_attn\.lora_A\.weight"):
        load_supernet(tmp_path / "hf")


# --- a real model ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not STORIES.is_dir(), reason="the model stories260K is not beside the checkout")
def test_a_real_model_gives_transformers_logits_and_its_known_story():
    from transformers import AutoModelForCausalLM

    loaded = load_supernet(STORIES)
    supernet, model = loaded.supernet.eval(), AutoModelForCausalLM.from_pretrained(STORIES).eval()
    assert supernet.tie_embeddings
    assert sum(p.numel() for p in supernet.parameters()) == 260_032
    idx = torch.randint(512, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (supernet(idx) - model(idx).logits).abs().max() <= 1e-4
        ids = torch.tensor([[1]])
        for _ in range(24):
            ids = torch.cat([ids, supernet(ids)[:, -1:].argmax(-1)], dim=1)
    assert loaded.tokenizer.decode(ids[0]).startswith("Once upon a time, there was a little girl named Lily.")
