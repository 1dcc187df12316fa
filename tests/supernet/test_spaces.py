"""Shipped spaces, spaces derived from litgpt configs, and what keeps torch out of them."""

import json
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
import yaml

from supernet.cost import parameter_count
from supernet.litgpt_config import config_names, model_config, named_config, unsupported_features
from supernet.space import SearchSpace
from supernet.spaces import load_space, space_from_litgpt, space_names

CONF = resources.files("supernet.conf").joinpath("space")
HWGPT = {
    "gpt-s": ((192, 384, 768), (10, 11, 12), (4, 8, 12), (2, 3, 4)),
    "gpt-m": ((256, 512, 1024), (22, 23, 24), (8, 12, 16), (2, 3, 4)),
    "gpt-l": ((320, 640, 1280), (34, 35, 36), (8, 16, 20), (2, 3, 4)),
    "gpt-s-wide": ((192, 384, 768), (3, 6, 12), (4, 8, 12), (1, 2, 4)),
    "gpt-m-wide": ((256, 512, 1024), (6, 12, 24), (4, 8, 16), (1, 2, 4)),
    "gpt-l-wide": ((320, 640, 1280), (9, 18, 36), (5, 10, 20), (1, 2, 4)),
}
FAMILIES = (
    "pythia-14m", "pythia-70m", "Llama-3.2-1B", "Qwen2.5-0.5B", "Qwen3-0.6B", "SmolLM2-135M", "Gemma-2b", "Gemma-2-2b",
    "Gemma-3-1b-it", "phi-1_5", "phi-2", "Phi-3-mini-4k-instruct", "Mistral-7B-v0.1", "falcon-7b", "falcon-40b",
    "OLMo-1B-hf", "OLMo-2-1124-7B", "stablelm-3b-4e1t", "tiny-llama-1.1b", "CodeLlama-34b-hf",
)  # fmt: skip


# --- shipped ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", space_names())
def test_shipped_space_loads_and_names_itself(name):
    space = load_space(name)
    assert space.name == name
    assert parameter_count(space.model_config, space.largest()).total > 0
    assert space.validate(space.sample(np.random.default_rng(0)))


@pytest.mark.parametrize("name", space_names())
def test_shipped_file_begins_with_a_comment_and_is_plain_data(name):
    text = CONF.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    data = yaml.safe_load(text)
    assert set(data) <= {"litgpt", *SearchSpace.__dataclass_fields__}


@pytest.mark.parametrize("name", HWGPT)
def test_gpt_spaces_are_those_of_hwgpt_bench(name):
    space = load_space(name)
    assert (space.n_embd, space.n_layer, space.n_head, space.mlp_ratio) == HWGPT[name]
    assert space.bias == (False, True)
    config = space.model_config
    assert (config.head_size, config.padded_vocab_size, config.block_size) == (64, 50254, 1024)
    assert (config.norm_class_name, config.parallel_residual, config.rotary_percentage) == ("LayerNorm", True, 0.25)


def test_tiny_is_for_two_cores():
    space = load_space("tiny")
    largest = parameter_count(space.model_config, space.largest()).total
    assert 1_000_000 <= largest <= 3_000_000
    assert parameter_count(space.model_config, space.smallest()).total <= largest / 10
    assert space.num_architectures >= 1_000_000
    assert (space.config["padded_vocab_size"], space.config["block_size"]) == (256, 256)


@pytest.mark.parametrize("name", space_names())
def test_hydra_composes_the_space_group(name):
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("supernet.conf", version_base="1.3"):
        cfg = compose(overrides=[f"+space={name}", "space.name=mine"])
    assert load_space(cfg.space) == load_space(OmegaConf.to_container(cfg.space)) == load_space(name).renamed("mine")


# --- sources ------------------------------------------------------------------------------------------------------


def test_every_form_of_a_space_loads_the_same(tmp_path):
    space = load_space("tiny-gqa")
    (tmp_path / "space.json").write_text(json.dumps(space.to_dict()))
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space.to_dict()))
    forms = [space, space.to_dict(), tmp_path / "space.json", str(tmp_path / "space.yaml"), "tiny-gqa"]
    assert all(load_space(form) == space for form in forms)


def test_a_litgpt_name_is_a_source():
    assert load_space("pythia-160m") == space_from_litgpt("pythia-160m")


def test_an_unknown_name_gets_near_matches():
    with pytest.raises(ValueError, match=r"no search space 'gpt-xs'; near matches: .*'gpt-s'"):
        load_space("gpt-xs")


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="no search space file nowhere.yaml"):  # noqa: RUF043
        load_space("nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[1, 2]", "holds no search space"), ("a: [", "is no .yaml file"), ("depth: 3", r"unknown fields \['depth'\]")],
)
def test_a_file_that_is_no_space_is_refused(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_space(tmp_path / "bad.yaml")


def test_unknown_fields_beside_litgpt_are_named():
    with pytest.raises(ValueError, match=r"unknown fields \['widths'\]; known: \['litgpt', 'name'"):
        load_space({"litgpt": "pythia-14m", "widths": [64]})


# --- derived from litgpt ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_the_supernet_of_a_derived_space_is_the_litgpt_model(name):
    space = space_from_litgpt(name)
    assert vars(space.model_config) == vars(model_config(named_config(name)))
    rng = np.random.default_rng(0)
    for _ in range(20):
        space.validate(space.sample(rng))
    smallest = parameter_count(space.model_config, space.smallest())
    assert smallest.decoder < 0.5 * parameter_count(space.model_config, space.largest()).decoder


def test_every_litgpt_config_gives_a_space_or_a_reason():
    refused = 0
    for name in config_names():
        if unsupported_features(model_config(named_config(name))):
            refused += 1
            with pytest.raises(ValueError, match="mixture of experts"):
                space_from_litgpt(name)
        else:
            assert space_from_litgpt(name).num_architectures > 1000
    assert 0 < refused < 20


def test_latent_attention_is_refused_by_name():
    latent = dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8)
    with pytest.raises(ValueError, match="multi-head latent attention"):
        space_from_litgpt({"n_embd": 32, "n_head": 4, "latent_attention": latent})


def test_choices_can_be_overridden():
    space = space_from_litgpt(
        "Llama-3.2-1B", name="mine", n_embd=(512, 1024), n_layer=(2, 4), n_head=(4, 8), mlp_ratio=(1, 2), bias=(False,),
        layer_choice="subset", per_layer=False, config={"block_size": 128},
    )  # fmt: skip
    config = space.model_config
    assert (config.n_embd, config.n_layer, config.n_head, config.n_query_groups) == (1024, 4, 8, 8)
    assert (config.intermediate_size, config.block_size, config.head_size) == (2048, 128, 64)
    assert (space.name, space.layer_choice, space.per_layer) == ("mine", "subset", False)
    assert config.rope_adjustments == model_config(named_config("Llama-3.2-1B")).rope_adjustments


def test_defaults_are_about_a_half_three_quarters_and_all():
    space = space_from_litgpt("pythia-410m")
    assert (space.n_embd, space.n_layer, space.n_head) == ((512, 768, 1024), (12, 18, 24), (8, 12, 16))
    assert space.intermediate_size == (2048, 3072, 4096)


def test_default_heads_of_grouped_queries_all_have_a_partner():
    space = space_from_litgpt("Qwen2.5-0.5B")  # 14 heads in 2 groups
    assert space.attention_choices == ((7, 1), (10, 2), (14, 2))


def test_an_unknown_litgpt_name_gets_near_matches():
    with pytest.raises(KeyError, match="near matches: .*pythia-70m"):  # noqa: RUF043
        space_from_litgpt("pythia-75m")


def test_keyword_arguments_are_a_base():
    space = space_from_litgpt({"n_embd": 64, "n_head": 4, "n_layer": 4, "padded_vocab_size": 64})
    assert space.name == "litgpt"
    assert space.largest().intermediate_size == (256,) * 4


# --- torch-free ---------------------------------------------------------------------------------------------------


def test_the_modules_below_never_import_torch():
    code = (
        "import sys, numpy as np\n"
        "from supernet import architecture, arrays, cost, encoding, engineered, litgpt_config, space, spaces\n"
        "s = spaces.load_space('qwen2.5-0.5b'); a = [s.sample(np.random.default_rng(0))]\n"
        "encoding.one_hot(s, a); engineered.engineered(s, a); s.mutate(a[0], np.random.default_rng(0))\n"
        "heavy = [m for m in ('torch', 'litgpt', 'transformers', 'hydra', 'pandas') if m in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
