"""Files that list architectures."""

import json

import pandas as pd
import pytest

from supernet.arch_files import read_architecture_file
from supernet.spaces import load_space

TINY = load_space("tiny")


def test_every_kind_of_file_gives_the_same_list(tmp_path):
    wanted = [TINY.smallest(), TINY.largest()]
    frame = pd.DataFrame({"architecture": [a.id for a in wanted], "other": [1, 2]})
    frame.to_csv(tmp_path / "a.csv")
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.txt").write_text("# picks\n\n" + "\n".join(a.id for a in wanted))
    (tmp_path / "a.jsonl").write_text("\n".join(a.to_json() for a in wanted))
    (tmp_path / "a.json").write_text(json.dumps([wanted[0].id, wanted[1].to_dict()]))
    for name in ("a.csv", "a.parquet", "a.txt", "a.jsonl", "a.json"):
        assert read_architecture_file(tmp_path / name) == wanted
    (tmp_path / "architecture.json").write_text(wanted[0].to_json())
    assert read_architecture_file(tmp_path / "architecture.json") == wanted[:1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "# nothing\n", "lists no architectures"),
        ("a.txt", "e64-l0-h1-f64-b0\nwrong\n", r"a.txt, entry 2: 'wrong' is no architecture id"),
        ("a.csv", "id\ne64\n", r"no column 'architecture'; its columns are \['id'\]"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "{}", "entry 1: not an architecture: missing"),
        ("a.json", "3", "holds a int; give a list"),
        ("a.json", "[3]", "entry 1"),
        ("a.yaml", "", "lists no architectures"),
    ],
)
def test_a_list_that_cannot_be_read_is_refused_by_file_and_entry(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_architecture_file(tmp_path / name)


def test_a_list_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.txt does not exist"):
        read_architecture_file(tmp_path / "none.txt")
