import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hw_profiles.importers.hwgpt_arrays import HwgptArchitectures
from hw_profiles.importers.hwgpt_devices import (
    ACCURACY,
    DEVICES,
    ENERGY,
    HOST_ENERGY,
    LATENCY,
    MEASURED,
    MEMORY,
    PERPLEXITY,
    Selection,
    device_named,
    n_runs,
    workload_of,
)
from hw_profiles.importers.hwgpt_protocol import (
    BATCH_SIZES,
    SCALES,
    architecture_from_canonical,
    architecture_from_hwgpt,
    bucket,
    canonical,
    hwgpt_from_architecture,
    scale_of,
    space_of,
)
from supernet.architecture import Architecture
from supernet.encoding import to_genes

FOLDER = Path(__file__).parents[2].parent / "shared" / "hwgpt_bench"
CONFIG = {
    "sample_embed_dim": 192, "sample_n_layer": 10, "sample_mlp_ratio": [2, 3] * 6, "sample_n_head": [4, 8] * 6,
    "sample_bias": True,
}  # fmt: skip
TEXT = "gpt-s-10-192-2-3-2-3-2-3-2-3-2-3-4-8-4-8-4-8-4-8-4-8-True"


def sample(scale, n=20):
    rng = np.random.default_rng(0)
    return [space_of(scale).sample(rng) for _ in range(n)]


@pytest.mark.parametrize("scale", SCALES)
def test_dictionaries_and_strings_of_the_benchmark_come_back_as_they_went(scale):
    for arch in sample(scale):
        config = hwgpt_from_architecture(arch)
        assert architecture_from_hwgpt(config) == (scale, arch)
        assert architecture_from_hwgpt(config | {"sample_bias": str(arch.bias)}) == (scale, arch)
        assert architecture_from_canonical(canonical(scale, arch)) == (scale, arch)


def test_entries_of_layers_that_are_not_there_are_ignored():
    scale, arch = architecture_from_hwgpt(CONFIG)
    assert (scale, arch.n_head, arch.intermediate_size) == ("s", (4, 8) * 5, (384, 576) * 5)
    assert canonical(scale, arch) == TEXT


def test_buckets_are_those_of_the_canonical_strings_hash():
    arch = architecture_from_hwgpt(CONFIG)[1]
    assert bucket("s", arch) == int(hashlib.sha256(TEXT.encode()).hexdigest(), 16) % 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_bias": "yes"}, "sample_bias = 'yes': give True or False"),
        ({"sample_bias": 1}, "sample_bias = 1: give True or False"),
        ({"sample_embed_dim": 200}, "n_embd = 200 is in no scale .* s: 192, 384, 768; m: 256, 512, 1024"),
        ({"sample_n_layer": 9}, "n_layer = 9 is not in space 'gpt-s'; allowed: 10, 11, 12"),
        ({"sample_n_head": [5] * 12}, "n_head.* 5 .*is not in space 'gpt-s'"),
        ({"sample_mlp_ratio": [2.5] * 12}, r"sample_mlp_ratio has 2.5, .* it has \(2, 3, 4\)"),
        ({"sample_mlp_ratio": [2] * 9}, "sample_mlp_ratio has 9 entries for sample_n_layer = 10"),
        ({"sample_n_head": None}, "is no architecture of HW-GPT-Bench: give sample_embed_dim"),
        ({"sample_n_layer": "many"}, "is no architecture of HW-GPT-Bench: give sample_embed_dim"),
    ],
)
def test_dictionaries_that_are_no_architecture_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        architecture_from_hwgpt(CONFIG | changes)


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="KeyError: 'sample_bias'"):
        architecture_from_hwgpt({name: value for name, value in CONFIG.items() if name != "sample_bias"})


@pytest.mark.parametrize("text", ["", "gpt-s", "gpt-s-10-192", TEXT.replace("-2-", "-x-", 1), TEXT[:-5], "e192-l0_9"])
def test_strings_that_are_no_architecture_are_refused(text):
    with pytest.raises(ValueError, match="is no architecture of HW-GPT-Bench; they look like gpt-<scale>-"):
        architecture_from_canonical(text)


def test_a_string_of_another_scale_is_refused():
    with pytest.raises(ValueError, match=r"n_embd = 192 is not in space 'gpt-m'"):
        architecture_from_canonical(TEXT.replace("gpt-s", "gpt-m"))
    with pytest.raises(ValueError, match="measured the scales s, m, l"):
        architecture_from_canonical(TEXT.replace("gpt-s", "gpt-xl"))


def test_an_architecture_of_other_spaces_has_no_dictionary():
    foreign = Architecture.uniform(n_embd=192, n_layer=10, n_head=1, intermediate_size=384)
    with pytest.raises(ValueError, match=r"n_head"):
        hwgpt_from_architecture(foreign)


# --- many at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_arrays_of_architectures_give_what_one_at_a_time_gives(scale):
    archs = sample(scale)
    many = HwgptArchitectures.from_rows([hwgpt_from_architecture(arch) for arch in archs])
    assert (many.scale, len(many)) == (scale, len(archs))
    assert many.architectures == archs
    assert many.canonical == [canonical(scale, arch) for arch in archs]
    assert many.buckets.tolist() == [bucket(scale, arch) for arch in archs]
    np.testing.assert_array_equal(many.genes, to_genes(space_of(scale), archs))


def columns(scale, archs):
    L = space_of(scale).max_layer
    found = {"embed_dim": [a.n_embd for a in archs], "n_layer": [a.n_layer for a in archs],
             "bias": [a.bias for a in archs]}  # fmt: skip
    for i in range(L):
        found[f"n_head_{i:02}"] = [a.n_head[i] if i < a.n_layer else 0 for a in archs]
        found[f"mlp_ratio_{i:02}"] = [a.intermediate_size[i] // a.n_embd if i < a.n_layer else 0 for a in archs]
    return found


def test_columns_of_a_table_are_architectures_whatever_their_type():
    archs = sample("m")
    expected = HwgptArchitectures.from_columns(columns("m", archs), scale="m")
    assert expected.architectures == archs
    frame = pd.DataFrame(columns("m", archs)).astype(dict.fromkeys(["n_layer"], np.int8))
    frame["bias"] = frame["bias"].astype(str)
    assert HwgptArchitectures.from_columns(frame, scale="m").architectures == archs


def test_a_value_outside_the_space_is_named_by_row_and_column():
    wrong = columns("m", sample("m"))
    wrong["n_head_01"][3] = 7
    with pytest.raises(ValueError, match=r"architecture 3 has n_head = 7, .* space 'gpt-m'; allowed: 8, 12, 16"):
        HwgptArchitectures.from_columns(wrong, scale="m")
    del wrong["bias"], wrong["mlp_ratio_23"]
    with pytest.raises(ValueError, match=r"lacks the columns \['bias', 'mlp_ratio_23'\]"):
        HwgptArchitectures.from_columns(wrong, scale="m")
    with pytest.raises(ValueError, match="no architectures: give at least one"):
        HwgptArchitectures.from_rows([])


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the tables of HW-GPT-Bench are not beside this checkout")
@pytest.mark.parametrize("scale", SCALES)
def test_the_published_architectures_have_no_hold_out_bucket(scale):
    frame = pd.read_parquet(FOLDER / f"architectures_{scale}.parquet")
    many = HwgptArchitectures.from_columns(frame, scale=scale)
    assert set(many.buckets.tolist()) == set(range(1, 10))
    assert len(set(many.canonical)) == len(many)


# --- what was measured --------------------------------------------------------------------------------------------


def test_workloads_are_those_of_the_protocol():
    assert {scale: workload_of(LATENCY, scale, "a100").id for scale in SCALES} == {
        "s": "prefill-b8-t1024-bfloat16", "m": "prefill-b4-t1024-bfloat16", "l": "prefill-b1-t1024-bfloat16"
    }  # fmt: skip
    assert {workload_of(ENERGY, scale, "v100").id for scale in SCALES} == {"prefill-b8-t1024-float16"}
    assert workload_of(ENERGY, "l", "cpu_amd_7513") == workload_of(LATENCY, "l", "cpu_amd_7513")
    assert workload_of(ENERGY, "m", "cpu_amd_7513").id == "prefill-b4-t1024-float32"
    assert workload_of(HOST_ENERGY, "l", "h100").id == "prefill-b1-t1024-bfloat16"
    assert workload_of(MEMORY, "m", "rtx2080").id == "prefill-b4-t1024-float16"
    assert workload_of(PERPLEXITY, "s") == workload_of(ACCURACY, "l")


def test_devices_have_the_metrics_that_were_measured_on_them():
    by_metric = {metric: Selection().devices_with(metric) for metric in MEASURED}
    gpus = ("p100", "a100", "a40", "a6000", "h100", "rtx2080", "rtx3080", "v100")
    cpus = ("cpu_xeon_silver", "cpu_xeon_gold", "cpu_amd_7502", "cpu_amd_7513", "cpu_amd_7452")
    assert by_metric[LATENCY] == (*gpus, *cpus, "cpu_p100_host") == tuple(DEVICES)
    assert by_metric[ENERGY] == (*gpus, *cpus)
    assert by_metric[HOST_ENERGY] == gpus[1:]
    assert by_metric[MEMORY] == ("a100", "rtx2080")
    assert by_metric[PERPLEXITY] == by_metric[ACCURACY] == ("any",)
    assert Selection(devices=("v100", "a40")).devices_with(ENERGY) == ("a40", "v100")


def test_scales_have_widths_of_their_own_and_their_batch():
    for scale in SCALES:
        assert {scale_of(width) for width in space_of(scale).n_embd} == {scale}
    assert dict(BATCH_SIZES) == {"s": 8, "m": 4, "l": 1}
    assert (n_runs("s", "cpu_amd_7513"), n_runs("m", "cpu_amd_7513"), n_runs("s", "a100")) == (1, 10, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": ("xl",)}, "scale = 'xl'; HW-GPT-Bench measured the scales s, m, l"),
        ({"scales": ()}, "scales is empty"),
        ({"devices": ("a10",)}, "no device 'a10'; did you mean a100"),
        ({"metrics": ("latency",)}, "did not measure 'latency'; did you mean latency_ms"),
    ],
)
def test_a_selection_of_what_is_not_there_is_refused_with_near_matches(arguments, message):
    with pytest.raises(ValueError, match=message):
        Selection(**arguments)


def test_a_name_alone_is_a_selection_of_one():
    assert Selection(scales="s", devices="a100").scales == ("s",)
    with pytest.raises(ValueError, match="Its devices: p100, a100"):
        device_named("tpu")
