"""Architecture: a value that is checked, hashable and written as text."""

import json

import numpy as np
import pytest

from supernet.architecture import Architecture, parse_architecture

GOOD = {
    "n_embd": 64,
    "n_head": (4, 2, 2),
    "n_query_groups": (2, 2, 1),
    "intermediate_size": (128, 128, 96),
    "layers": (0, 1, 5),
    "bias": False,
}


def random_architecture(rng: np.random.Generator) -> Architecture:
    n = int(rng.integers(1, 9))
    groups = rng.integers(1, 5, n)
    return Architecture(
        n_embd=int(rng.integers(1, 5000)),
        n_head=tuple(groups * rng.integers(1, 5, n)),
        n_query_groups=tuple(groups),
        intermediate_size=tuple(rng.integers(1, 4, n) * 100),
        layers=tuple(sorted(rng.permutation(12)[:n])),
        bias=bool(rng.integers(2)),
    )


def test_id_json_and_dict_round_trip():
    rng = np.random.default_rng(0)
    for _ in range(300):
        arch = random_architecture(rng)
        for same in (
            Architecture.from_id(arch.id),
            Architecture.from_json(arch.to_json()),
            Architecture.from_dict(arch.to_dict()),
            parse_architecture(arch.id),
            parse_architecture(arch.to_json()),
            parse_architecture(arch.to_dict()),
            parse_architecture(arch),
        ):
            assert same == arch
            assert hash(same) == hash(arch)
            assert same.id == arch.id


def test_different_architectures_have_different_ids():
    rng = np.random.default_rng(1)
    archs = {random_architecture(rng) for _ in range(500)}
    assert len({arch.id for arch in archs}) == len(archs)


def test_id_is_short_readable_and_safe_in_file_names():
    assert Architecture(**GOOD).id == "e64-l0_1.5-h4.2x2-g2x2.1-f128x2.96-b0"
    rng = np.random.default_rng(2)
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert all(set(random_architecture(rng).id) <= allowed for _ in range(100))


def test_numpy_integers_become_python_integers():
    arch = Architecture(np.int64(64), np.array([2]), np.array([1]), [np.int32(96)], range(1), np.bool_(True))
    assert arch == Architecture(64, (2,), (1,), (96,), (0,), True)
    assert json.loads(arch.to_json())["n_head"] == [2]


def test_uniform_keeps_the_first_blocks():
    arch = Architecture.uniform(n_embd=64, n_layer=3, n_head=4, n_query_groups=2, intermediate_size=96, bias=False)
    assert (arch.layers, arch.n_layer, arch.n_query_groups, arch.is_uniform) == ((0, 1, 2), 3, (2, 2, 2), True)
    assert not Architecture(**GOOD).is_uniform


def test_multi_head_attention_is_the_default_of_uniform():
    arch = Architecture.uniform(n_embd=64, n_layer=1, n_head=4, intermediate_size=96)
    assert arch.n_query_groups == (4,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": 0}, "n_embd = 0"),
        ({"n_embd": 64.5}, "n_embd = 64.5"),
        ({"n_embd": "64"}, "n_embd = '64'"),
        ({"n_embd": None}, "n_embd = None"),
        ({"n_embd": float("nan")}, "n_embd = nan"),
        ({"n_embd": True}, "n_embd = True"),
        ({"n_head": (4, 2)}, "n_head has 2 entries for 3 kept layers"),
        (
            {"n_head": (4, 2, 0)},
            r"n_head\[2\] = 0 and n_query_groups\[2\] = 1: a block without attention has 0 of both",
        ),
        ({"n_head": (4, 2, -2)}, "n_head"),
        ({"n_head": 4}, "n_head = 4: must be a sequence"),
        ({"n_head": (4, 3, 2)}, r"n_head\[1\] = 3 is not a multiple of n_query_groups\[1\] = 2"),
        ({"intermediate_size": (128, -1, 96)}, "intermediate_size"),
        ({"intermediate_size": (128, 0.5, 96)}, r"intermediate_size\[1\] = 0.5"),
        ({"layers": ()}, "layers is empty"),
        ({"layers": (0, 2, 1)}, "ascending"),
        ({"layers": (0, 1, 1)}, "distinct"),
        ({"layers": (-1, 1, 2)}, ">= 0"),
        ({"bias": "False"}, "bias = 'False'"),
        ({"bias": None}, "bias = None"),
    ],
)
def test_bad_values_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**(GOOD | change))


@pytest.mark.parametrize(
    "text",
    ["", "e64", "e64-l0_2_3-h4x4-f8x4-b1", "e64-l0-h4x-f8-b1", "e64-l0-h-f8-b1", "e64-l0-h4-f8-b2", "e٣-l0-h4-f8-b1"],
)
def test_text_that_is_no_id_is_refused(text):
    with pytest.raises(ValueError, match="no architecture id"):
        Architecture.from_id(text)


def test_missing_and_unknown_fields_are_named():
    with pytest.raises(ValueError, match=r"missing \['layers'\], unknown \['depth'\]"):
        Architecture.from_dict({k: v for k, v in GOOD.items() if k != "layers"} | {"depth": 3})


def test_json_that_is_no_architecture_is_refused():
    with pytest.raises(ValueError, match="JSON object"):
        Architecture.from_json("[1, 2]")
    with pytest.raises(ValueError, match="no architecture"):
        parse_architecture(12)
