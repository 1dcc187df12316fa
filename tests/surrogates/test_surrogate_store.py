import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from surrogate_data import latency_ms, noisy, perplexity, sampled, small_space

import surrogates.store as store
from surrogates.calibration import ConformalSurrogate
from surrogates.candidates import candidate_models
from surrogates.fit import fit_metric
from surrogates.fitted import FittedSurrogate, SurrogateSet
from surrogates.intervals import INTERVALS
from surrogates.models import LinearSurrogate, XGBoostSurrogate
from surrogates.store import build_model, describe_model, load_set, load_surrogate, save_set, save_surrogate
from surrogates.targets import Targets

SPACE = small_space()
ARCHS = tuple(sampled(SPACE, 30))
NEW = sampled(SPACE, 25, seed=9)
FEW_TREES = XGBoostSurrogate(n_estimators=20)
MODELS = candidate_models(SPACE, trees=FEW_TREES)


def fitted(metric: str, names: list[str], intervals: str = "conformal") -> FittedSurrogate:
    exact = latency_ms(SPACE, ARCHS) if metric == "latency_ms" else perplexity(SPACE, ARCHS)
    unit = {"latency_ms": "ms", "perplexity": "1"}[metric]
    data = Targets(metric, unit, "cpu", "prefill-b1-t64-float32", ARCHS, noisy(exact, 0.02))
    return fit_metric(data, SPACE, {name: MODELS[name] for name in names}, intervals=intervals)


LATENCY = fitted("latency_ms", ["xgboost"])
PERPLEXITY = fitted("perplexity", ["linear"])
SET = SurrogateSet([LATENCY, PERPLEXITY])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_surrogate_predicts_exactly_the_same(name: str, tmp_path: Path) -> None:
    surrogate = fitted("latency_ms", [name])
    again = load_surrogate(save_surrogate(tmp_path / "latency", surrogate, command="test"))
    before, after = surrogate.predict(NEW), again.predict(NEW)
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(after.std, before.std)
    np.testing.assert_array_equal(after.quantiles, before.quantiles)
    assert (after.levels, again.unit, again.workload) == (before.levels, surrogate.unit, surrogate.workload)
    assert again.space == surrogate.space
    np.testing.assert_array_equal(again.report.predicted, surrogate.report.predicted)
    np.testing.assert_array_equal(again.report.measured, surrogate.report.measured)
    assert again.report.architectures == surrogate.report.architectures
    assert again.report.candidates.keys() == surrogate.report.candidates.keys()
    assert json.dumps(again.report.scores.to_dict()) == json.dumps(surrogate.report.scores.to_dict())


@pytest.mark.parametrize("intervals", INTERVALS)
def test_intervals_of_every_kind_are_saved_with_their_surrogate(intervals: str, tmp_path: Path) -> None:
    surrogate = fitted("latency_ms", ["xgboost"], intervals)
    folder = save_surrogate(tmp_path / "latency", surrogate, command="test")
    again = load_surrogate(folder)
    assert json.loads((folder / "card.json").read_text())["intervals"] == intervals
    assert (folder / "intervals.ubj").exists() == (intervals == "quantile_regression")
    np.testing.assert_array_equal(again.predict(NEW).quantiles, surrogate.predict(NEW).quantiles)
    np.testing.assert_array_equal(again.predict(NEW).mean, surrogate.predict(NEW).mean)
    np.testing.assert_array_equal(again.predict(NEW).std, surrogate.predict(NEW).std)


def test_a_card_without_intervals_has_conformal_ones(tmp_path: Path) -> None:
    folder = save_surrogate(tmp_path / "x", LATENCY, command="test")
    card = json.loads((folder / "card.json").read_text())
    del card["intervals"]
    (folder / "card.json").write_text(json.dumps(card))
    np.testing.assert_array_equal(load_surrogate(folder).predict(NEW).quantiles, LATENCY.predict(NEW).quantiles)


def test_a_set_predicts_each_metric_in_its_unit(tmp_path: Path) -> None:
    save_set(tmp_path / "run" / "surrogates", SET, command="test")
    for folder in (tmp_path / "run", tmp_path / "run" / "surrogates"):
        loaded = SurrogateSet.load(folder)
        assert loaded.metrics == ("latency_ms", "perplexity")
        assert loaded.units == {"latency_ms": "ms", "perplexity": "1"}
        np.testing.assert_array_equal(loaded.predict(NEW, "latency_ms").mean, LATENCY.predict(NEW).mean)
        both = loaded.predict_all(NEW)
        np.testing.assert_array_equal(both["perplexity"].quantiles, PERPLEXITY.predict(NEW).quantiles)
        assert list(loaded.predict_all(NEW, ["perplexity"])) == ["perplexity"]
    with pytest.raises(KeyError, match="no surrogate of 'energy_mj'; this set has: latency_ms, perplexity"):
        loaded.predict(NEW, "energy_mj")


def test_a_single_surrogate_loads_as_a_set(tmp_path: Path) -> None:
    assert load_set(save_surrogate(tmp_path / "one", LATENCY, command="test")).metrics == ("latency_ms",)


def test_sets_are_of_one_space_and_distinct_metrics() -> None:
    with pytest.raises(ValueError, match="each of another metric"):
        SurrogateSet([LATENCY, LATENCY])
    with pytest.raises(ValueError, match="give at least one"):
        SurrogateSet([])
    other = FittedSurrogate(**(PERPLEXITY.__dict__ | {"space": small_space(name="other")}))
    with pytest.raises(ValueError, match=r"different spaces \['other', 'small'\]"):
        SurrogateSet([LATENCY, other])


def test_the_card_says_what_how_and_how_good(tmp_path: Path) -> None:
    folder = save_surrogate(tmp_path / "x", LATENCY, command="paretolm fit table=t", table="t")
    card = json.loads((folder / "card.json").read_text())
    assert card["command"] == "paretolm fit table=t" and card["data"] == {"table": "t", "rows": 30}
    assert (card["metric"], card["unit"], card["device"]) == ("latency_ms", "ms", "cpu")
    assert card["scores"]["winner"] == "xgboost"
    assert set(card["scores"]["cross_validated"]) == {"xgboost", "linear"}
    assert card["scores"]["parameter_count"]["mape"] is None
    assert set(card["sha256"]) == {"arrays.npz", "model.ubj"} == {p.name for p in folder.iterdir()} - {"card.json"}
    assert card["space"]["name"] == "small" and "n_embd" in card["features"]
    assert {"xgboost", "xgboost-cpu"} & set(card["versions"])  # two distributions of one package


def test_saving_twice_gives_the_same_bytes_but_for_the_date(tmp_path: Path) -> None:
    first, second = (contents(save_set(tmp_path / name, SET, command="test")) for name in ("a", "b"))
    for name in first:
        if name.endswith("card.json"):
            one, two = (json.loads(files[name]) | {"created": ""} for files in (first, second))
            assert one == two
        else:
            assert first[name] == second[name]


@pytest.mark.parametrize("name", ["model.ubj", "arrays.npz"])
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    folder = save_set(tmp_path / "set", SET, command="test")
    path = folder / "latency_ms" / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"latency_ms.{name} is damaged: its SHA-256"):
        load_set(folder)
    path.unlink()
    with pytest.raises(ValueError, match=rf"latency_ms.{name} is missing"):
        load_set(folder)


def drop_space(card: dict[str, Any]) -> None:
    del card["space"]


def other_format(card: dict[str, Any]) -> None:
    card["format"] = 99


def other_features(card: dict[str, Any]) -> None:
    card["features"] = card["features"][:-1]


def other_class(card: dict[str, Any]) -> None:
    card["model"]["class"] = "os.system"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_space, r"card.json is damaged or of another version of paretolm \(KeyError\('space'\)\)"),
        (other_format, "format 99; expected 'paretolm surrogate' 1"),
        (other_features, "features of this version of paretolm differ"),
        (other_class, "card.json is damaged or of another version"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    folder = save_surrogate(tmp_path / "x", LATENCY, command="test")
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        load_surrogate(folder)


def test_a_cut_off_card_is_named(tmp_path: Path) -> None:
    folder = save_surrogate(tmp_path / "x", LATENCY, command="test")
    (folder / "card.json").write_text((folder / "card.json").read_text()[:100])
    with pytest.raises(ValueError, match=r"card.json is damaged: not JSON"):
        load_surrogate(folder)


def test_a_missing_surrogate_says_which_command_makes_it(tmp_path: Path) -> None:
    for load in (load_set, load_surrogate):
        with pytest.raises(FileNotFoundError, match="`paretolm fit` makes"):
            load(tmp_path / "nothing")


def test_saving_replaces_the_whole_set(tmp_path: Path) -> None:
    folder = save_set(tmp_path / "set", SET, command="test")
    save_set(folder, SurrogateSet([LATENCY]), command="again")
    assert [path.name for path in folder.iterdir()] == ["latency_ms"]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_other_things_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds something else than surrogates \(notes.txt\)"):
        save_set(tmp_path, SET, command="test")
    with pytest.raises(ValueError, match="holds something else than a surrogate"):
        save_surrogate(tmp_path, LATENCY, command="test")
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_an_error_while_writing_keeps_the_old_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_set(tmp_path / "set", SET, command="test")
    before = contents(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        save_set(folder, SurrogateSet([PERPLEXITY]), command="again")
    assert contents(tmp_path) == before


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    folder = save_set(tmp_path / "run" / "surrogates", SET, command="test")
    before = contents(folder)
    for read in (lambda: load_set(folder), lambda: load_set(folder.parent)):
        folder.replace(folder.with_name(".surrogates.old"))  # what a kill at that moment leaves
        assert read().metrics == SET.metrics
        assert contents(folder) == before
    shutil.copytree(folder, folder.with_name(".surrogates.old"))  # a kill just after the second rename
    assert load_set(folder).metrics == SET.metrics
    assert [path.name for path in folder.parent.iterdir()] == ["surrogates"]


def test_no_array_needs_pickle(tmp_path: Path) -> None:
    folder = save_set(tmp_path / "set", SET, command="test")
    for path in folder.rglob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype.kind in "biufU" for name in arrays.files)


def test_models_survive_json_with_their_settings() -> None:
    for model in [*MODELS.values(), ConformalSurrogate(MODELS["blend"], method="split", seed=4)]:
        text = json.dumps(describe_model(model))
        assert json.dumps(describe_model(build_model(json.loads(text)))) == text


def test_a_model_of_an_unknown_class_is_not_saved() -> None:
    class Mine(LinearSurrogate):
        pass

    with pytest.raises(ValueError, match="a Mine cannot be saved; models that can: XGBoostSurrogate"):
        describe_model(Mine())
