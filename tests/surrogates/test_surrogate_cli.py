import json
from pathlib import Path

import numpy as np
import pytest
from surrogate_data import latency_and_perplexity

from supernet.dispatch import main
from supernet.spaces import load_space
from surrogates.candidates import CANDIDATES
from surrogates.fitted import SurrogateSet
from surrogates.intervals import kind_of

SPACE = load_space("tiny")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return latency_and_perplexity(tmp_path, SPACE, n=30).path


def run(table: Path, run_dir: Path, *overrides: str) -> int:
    settings = ["surrogate.trees.n_estimators=10", "folds=3", "hydra/job_logging=disabled", *overrides]
    return main(["fit", f"table={table}", f"run_dir={run_dir}", *settings])


def test_fit_saves_surrogates_and_ends_with_where_they_lie(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(table, tmp_path / "run") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-3].startswith("latency_ms [ms] by ") and "parameter count" in lines[-3]
    assert lines[-2].startswith("perplexity [1] by ")
    assert lines[-1] == f"Surrogates of latency_ms, perplexity: {tmp_path / 'run' / 'surrogates'}"
    loaded = SurrogateSet.load(tmp_path / "run")
    assert np.isfinite(loaded.predict([SPACE.largest(), SPACE.smallest()], "perplexity").mean).all()
    card = json.loads((tmp_path / "run" / "surrogates" / "latency_ms" / "card.json").read_text())
    assert set(card["scores"]["cross_validated"]) == set(CANDIDATES)
    assert card["command"].startswith("paretolm fit table=") and card["data"]["table"] == str(table)
    assert (tmp_path / "run" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("group", "winners"),
    [("xgboost", {"xgboost"}), ("blend", {"blend"}), ("linear", {name for name in CANDIDATES if "l" in name})],
)
def test_the_surrogate_group_chooses_the_candidates(table: Path, tmp_path: Path, group: str, winners: set[str]) -> None:
    assert run(table, tmp_path / "run", f"surrogate={group}", "metrics=[latency_ms]") == 0
    fitted = SurrogateSet.load(tmp_path / "run")["latency_ms"]
    assert fitted.report.winner in winners
    assert "linear" in fitted.report.candidates
    if group == "xgboost":
        assert fitted.model.get_params()["n_estimators"] == 10


def test_the_form_of_intervals_is_a_setting(table: Path, tmp_path: Path) -> None:
    assert run(table, tmp_path / "run", "surrogate=linear", "surrogate.intervals=normalised") == 0
    assert kind_of(SurrogateSet.load(tmp_path / "run")["perplexity"].calibration) == "normalised"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("space=tiny-gqa", "the table has no space 'tiny-gqa'"),
        ("device_name=tpu", "the table has no device 'tpu'"),
        ("workload_id=decode", "latency_ms has no workload 'decode'"),
        ("folds=50", "50 folds need at least 100"),
        ("surrogate.candidates=[forest]", "give at least one of linear"),
        ("surrogate.criterion=rmse", "criterion = 'rmse'; allowed: mape"),
        ("surrogate.intervals=bayes", "intervals = 'bayes'; allowed: conformal, normalised, quantile_regression"),
        ("table=nowhere", "nowhere does not exist"),
    ],
)
def test_bad_input_is_one_message_and_keeps_the_old_surrogates(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert run(table, tmp_path / "run", "metrics=[latency_ms]", "surrogate=linear") == 0
    card = tmp_path / "run" / "surrogates" / "latency_ms" / "card.json"
    before = card.read_bytes()
    capsys.readouterr()
    overrides = [override] if override.startswith("surrogate") else [override, "surrogate=linear"]
    assert run(table, tmp_path / "run", *overrides) == 1
    stderr = capsys.readouterr().err
    assert message in stderr and "Traceback" not in stderr
    assert card.read_bytes() == before
