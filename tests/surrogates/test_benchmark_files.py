import json
import shutil

import numpy as np
import pytest
from benchmark_fakes import TARGETS, FakeModel, fake_files, fake_space

import surrogates.benchmark_files as files_module
import surrogates.compiled_model as compiled_model
import surrogates.space_store as store
from surrogates.benchmark_files import load_benchmark, read_card, shipped_folder
from surrogates.reference_fronts import ReferenceFront, ReferenceFronts, objective_label


def card_of(space):
    scores = {"n": 9, "r2": 0.5, "kendall": None, "intervals": [{"nominal": 0.9, "coverage": 0.88, "width": 0.1}]}
    entries = [
        {
            "metric": target.metric, "device": target.device, "workload": "prefill-b8-t64-float32", "protocol": "p",
            "n_train": 5, "test": scores, "winner": "blend", "noise": True,
        }
        for target in TARGETS
    ]  # fmt: skip
    return {"what": "Fakes.", "space": space.to_dict(), "targets": entries, "anomalies": ["one"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    space = fake_space()
    monkeypatch.setattr(store, "load_space_model", lambda _: FakeModel(space))
    monkeypatch.setattr(compiled_model, "CompiledModel", lambda model: model)
    monkeypatch.setattr(files_module, "DATA", tmp_path)
    place = tmp_path / "small"
    place.mkdir()
    (place / "card.json").write_text(json.dumps(card_of(space)))
    fake_files().fronts.save(place, how={"command": "test"})
    return place


def test_a_shipped_benchmark_is_found_by_its_name(folder):
    for name in ("small", fake_space()):
        files = load_benchmark(name)
        assert files.space == fake_space()
        assert [card.target for card in files.card.targets] == list(TARGETS)
    card = files.card.targets[0]
    assert card.scores["coverage90"] == 0.88 and np.isnan(card.scores["kendall"]) and card.n_train == 5
    assert load_benchmark("small", folder=folder).card == files.card


def test_unknown_names_list_near_matches_and_all_benchmarks(folder):
    with pytest.raises(ValueError, match="no benchmark of a space 'smal'; near matches: small; benchmarks: small"):
        load_benchmark("smal")
    shutil.rmtree(folder)
    with pytest.raises(ValueError, match="none installed"):
        shipped_folder("small")


def test_a_benchmark_of_another_space_is_refused(folder):
    with pytest.raises(ValueError, match="another space 'small', not of 'other'"):
        load_benchmark("other", folder=folder)
    changed = type(fake_space()).from_dict({**fake_space().to_dict(), "n_layer": [3, 4]})
    with pytest.raises(ValueError, match="another space"):
        load_benchmark(changed)


@pytest.mark.parametrize("text", ["{", "[]", '{"targets": [{}]}'])
def test_a_damaged_card_is_named(folder, text):
    (folder / "card.json").write_text(text)
    with pytest.raises(ValueError, match=r"card\.json is damaged"):
        read_card(folder)


# --- reference fronts -----------------------------------------------------------------------------------------------


def test_fronts_are_read_as_they_were_saved(folder):
    saved, read = fake_files().fronts, ReferenceFronts.load(folder)
    assert dict(read.extremes) == dict(saved.extremes)
    assert set(read.fronts) == set(saved.fronts)
    for pair, front in saved.fronts.items():
        for part in ReferenceFront.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(read.fronts[pair], part), getattr(front, part))
    assert json.loads((folder / "fronts.json").read_text())["command"] == "test"


def test_a_folder_without_fronts_has_none(tmp_path):
    fronts = ReferenceFronts.load(tmp_path)
    assert not fronts.fronts and not fronts.extremes
    assert fronts.front(["perplexity", "macs"]) is None


def test_damaged_or_missing_fronts_are_named(folder):
    path = folder / "fronts.npz"
    raw = path.read_bytes()
    for damaged in (raw[:-1], raw + b"x", None):
        if damaged is None:
            path.unlink()
        else:
            path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"fronts\.npz is damaged"):
            ReferenceFronts.load(folder)


def test_only_fronts_of_two_objectives_are_looked_for():
    fronts = fake_files().fronts
    labels = ["perplexity", "latency_ms@a100"]
    assert fronts.front(labels) is fronts.fronts[tuple(labels)]
    assert fronts.front([*labels, "macs"]) is None and fronts.front(labels[:1]) is None
    assert [objective_label(target) for target in TARGETS[-3:-1]] == ["memory_mib@a100", "perplexity"]
