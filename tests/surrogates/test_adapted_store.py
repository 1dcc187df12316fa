import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_adapt import MODEL, MODEL_GENES, measured, predicted

from surrogates.adapt import adapt_device
from surrogates.adapted import AdaptedDevice
from surrogates.added_devices import added_targets
from surrogates.device_store import device_folders, load_device, save_device


def a_device(name: str = "mybox", n: int = 25) -> AdaptedDevice:
    return adapt_device(MODEL, [measured(n=n)], name=name, command="test", hardware="Intel something")


DEVICE = a_device()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_saved_device_predicts_exactly_the_same(tmp_path: Path) -> None:
    again = load_device(save_device(tmp_path / "mybox", DEVICE))
    np.testing.assert_array_equal(predicted(again), predicted(DEVICE))
    old, new = DEVICE.metrics["latency_ms"], again.metrics["latency_ms"]
    np.testing.assert_array_equal(new.log_quantiles((0.1, 0.9)), old.log_quantiles((0.1, 0.9)))
    assert (again.name, again.space, again.hardware, again.command) == ("mybox", MODEL.space, "Intel something", "test")
    assert (new.sources, new.workload, new.unit, new.n) == (old.sources, old.workload, old.unit, 25)
    assert new.report.shares == old.report.shares and new.report.best_source == old.report.best_source
    assert new.report.scores == old.report.scores


def test_reading_a_device_needs_no_scikit_learn(tmp_path: Path) -> None:
    folder = save_device(tmp_path / "mybox", DEVICE)
    code = (
        "import sys; from surrogates.device_store import load_device; "
        f"load_device({str(folder)!r}).metrics['latency_ms'].log_quantiles((0.1, 0.9)); "
        "print([name for name in ('sklearn', 'torch', 'pandas', 'xgboost', 'scipy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_card_tells_scores_and_sources(tmp_path: Path) -> None:
    card = json.loads((save_device(tmp_path / "x", DEVICE) / "card.json").read_text())
    facts = card["metrics"]["latency_ms"]
    assert card["what"] == "paretolm device" and card["name"] == "mybox" and card["space"]["name"] == "small"
    assert (facts["unit"], facts["workload"], facts["n"], facts["noise"]) == ("ms", "prefill-b1-t128-float32", 25, None)
    assert {"blend", "source", "scratch"} <= set(facts["leave_one_out"])
    assert set(facts["quantiles"]) == {"0.05", "0.1", "0.25", "0.5", "0.75", "0.9", "0.95"}
    assert ["latency_ms", "h100"] in facts["sources"] and card["versions"]["python"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = save_device(tmp_path / "mybox", DEVICE)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="holds device 'mybox' already, which is not overwritten"):
        save_device(folder, a_device(n=30))
    with pytest.raises(ValueError, match="holds something else already"):
        save_device(tmp_path / "other", DEVICE)
    with pytest.raises(ValueError, match="there is a device 'mybox' already"):
        save_device(tmp_path / "new", DEVICE, reserved=["mybox"])
    assert contents(tmp_path) == before


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = save_device(tmp_path / "mybox", DEVICE)
    raw = bytearray((folder / "arrays.npz").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "arrays.npz").write_bytes(raw)
    with pytest.raises(ValueError, match=r"arrays.npz is damaged: its SHA-256"):
        load_device(folder)
    (folder / "arrays.npz").unlink()
    with pytest.raises(ValueError, match=r"arrays.npz is missing"):
        load_device(folder)


@pytest.mark.parametrize(("key", "value"), [("metrics", {"latency_ms": {}}), ("sha256", {}), ("space", None)])
def test_a_card_that_does_not_fit_is_refused(key: str, value: object, tmp_path: Path) -> None:
    folder = save_device(tmp_path / "mybox", DEVICE)
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {key: value}))
    with pytest.raises(ValueError, match=r"card.json is damaged or of another version"):
        load_device(folder)
    (folder / "card.json").write_text(json.dumps(card | {"format": 9}))
    with pytest.raises(ValueError, match="format 9; expected 'paretolm device' 1"):
        load_device(folder)


def test_no_array_needs_pickle(tmp_path: Path) -> None:
    with np.load(save_device(tmp_path / "x", DEVICE) / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays.files and all(arrays[name].dtype.kind in "biufU" for name in arrays.files)


def test_devices_in_a_folder_are_found(tmp_path: Path) -> None:
    for name in ("b", "a"):
        save_device(tmp_path / name, a_device(name))
    (tmp_path / "empty").mkdir()
    assert [folder.name for folder in device_folders(tmp_path)] == ["a", "b"]
    assert device_folders(tmp_path / "nothing") == []
    with pytest.raises(FileNotFoundError, match="`paretolm adapt` makes one"):
        load_device(tmp_path / "empty")


def test_a_benchmark_gets_targets_and_cards(tmp_path: Path) -> None:
    folder = save_device(tmp_path / "mybox", DEVICE)
    [(target, card)] = added_targets(folder, MODEL)
    np.testing.assert_array_equal(target.predict(MODEL_GENES, MODEL.predict(MODEL_GENES)), predicted(DEVICE))
    assert target.log_quantiles(MODEL_GENES[:4], (0.1, 0.9)).shape == (4, 2)
    assert str(card.target) == "latency_ms of mybox" and card.n_train == 25 and card.hardware == "Intel something"
    assert card.workload == "prefill-b1-t128-float32" and not card.noise and card.winner.startswith("blend of ")
    assert card.scores["mape"] < 2 and 0.8 < card.scores["coverage90"] <= 1
