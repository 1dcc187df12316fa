"""Architectures as a command line names them."""

import json

import pandas as pd
import pytest

from supernet.arch_list import read_architectures
from supernet.space import SearchSpace

SPACE = SearchSpace(name="t", n_embd=(16, 32), n_layer=(1, 2), n_head=(1, 2), mlp_ratio=(1, 2), config={"head_size": 8})
LARGEST, SMALLEST = SPACE.largest(), SPACE.smallest()


def test_names_numbers_and_ids_can_be_mixed():
    assert read_architectures("largest,smallest", SPACE) == [LARGEST, SMALLEST]
    assert read_architectures(f"{SMALLEST.id}, largest", SPACE) == [SMALLEST, LARGEST]
    drawn = read_architectures("largest,5", SPACE, seed=1)
    assert len(set(drawn)) == 6 and drawn == read_architectures(["largest", 5], SPACE, seed=1)
    assert drawn != read_architectures("largest,5", SPACE, seed=2)
    assert len(read_architectures(3, SPACE)) == 3
    assert read_architectures("largest,largest", SPACE) == [LARGEST]
    assert read_architectures(LARGEST.to_json(), None) == [LARGEST]


@pytest.mark.parametrize("kind", ["ids", "jsonl", "list", "dicts", "object", "csv", "parquet"])
def test_files_of_every_kind_are_read(tmp_path, kind):
    both = [LARGEST, SMALLEST]
    if kind in ("csv", "parquet"):
        table = pd.DataFrame({"x": [1, 2], "architecture": [a.id for a in both]})
        path = tmp_path / f"a.{kind}"
        table.to_csv(path) if kind == "csv" else table.to_parquet(path)
    else:
        path = tmp_path / ("a.txt" if kind in ("ids", "jsonl") else "a.json")
        texts = {
            "ids": "\n".join(a.id for a in both) + "\n\n",
            "jsonl": "\n".join(a.to_json() for a in both),
            "list": json.dumps([a.id for a in both]),
            "dicts": json.dumps([a.to_dict() for a in both], indent=1),
            "object": json.dumps(LARGEST.to_dict(), indent=2),
        }
        path.write_text(texts[kind])
    assert read_architectures(path, SPACE) == (both[:1] if kind == "object" else both)


def test_what_is_no_architecture_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file gone\.json"):
        read_architectures("gone.json", SPACE)
    with pytest.raises(ValueError, match=r"'larger' is no architecture id.*largest, smallest"):
        read_architectures("larger", SPACE)
    with pytest.raises(ValueError, match="'largest' needs a search space"):
        read_architectures("largest", None)
    with pytest.raises(ValueError, match="no architecture is named"):
        read_architectures([], SPACE)
    with pytest.raises(ValueError, match="n_embd = 64 is not in space 't'"):
        read_architectures(LARGEST.id.replace("e32", "e64"), SPACE)
    (tmp_path / "bad.txt").write_text("e16-l0\n")
    with pytest.raises(ValueError, match=r"bad\.txt, entry 1: .* is no architecture id"):
        read_architectures(tmp_path / "bad.txt", SPACE)
    pd.DataFrame({"id": []}).to_csv(tmp_path / "bad.csv")
    with pytest.raises(ValueError, match="no column 'architecture'"):
        read_architectures(tmp_path / "bad.csv", SPACE)
