"""Evaluations of text become rows of the table of measurements."""

import pandas as pd
import pytest

from hw_profiles.device import Workload
from hw_profiles.quality import quality_rows, read_evaluations
from hw_profiles.table import ANY_DEVICE, MeasurementTable

ROW = {"architecture": "e8-l0-h1-f8-b1", "loss": 1.0, "perplexity": 2.5, "bits_per_byte": 1.4, "stderr": 0.1,
       "n_tokens": 640, "n_blocks": 10}  # fmt: skip


def test_each_evaluation_gives_perplexity_bits_and_loss(tmp_path):
    frame = pd.DataFrame([ROW, {**ROW, "architecture": "", "loss": 9.0}])
    rows = quality_rows(frame, space="s", extra={"text": "t"})
    assert {(r.metric, r.repeats[0], r.unit) for r in rows} == {
        ("perplexity", 2.5, "1"), ("bits_per_byte", 1.4, "bits/byte"), ("loss", 1.0, "nats/token"),
    }  # fmt: skip
    assert {r.device for r in rows} == {ANY_DEVICE}
    assert {r.workload for r in rows} == {Workload(1, 64)}
    table = MeasurementTable(tmp_path / "m.parquet")
    table.append(rows)
    assert table.read()["median"].tolist() == [r.repeats[0] for r in rows]


def test_unknown_bits_per_byte_are_left_out_and_a_loss_that_is_no_number_is_refused():
    assert len(quality_rows(pd.DataFrame([{**ROW, "bits_per_byte": float("nan")}]), space="s")) == 2
    with pytest.raises(ValueError, match="e8-l0-h1-f8-b1"):
        quality_rows(pd.DataFrame([{**ROW, "loss": float("nan")}]), space="s")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_evaluations_are_read_in_every_format(tmp_path, suffix):
    path = tmp_path / f"e{suffix}"
    frame = pd.DataFrame([ROW])
    {".parquet": frame.to_parquet, ".csv": frame.to_csv, ".json": frame.to_json}[suffix](path)
    assert read_evaluations(path)["perplexity"].tolist() == [2.5]


def test_foreign_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="paretolm evaluate"):
        read_evaluations(tmp_path / "none.parquet")
    pd.DataFrame({"x": [1]}).to_csv(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="lacks the columns"):
        read_evaluations(tmp_path / "x.csv")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ValueError, match="read from"):
        read_evaluations(tmp_path / "x.txt")


@pytest.mark.parametrize(
    "workload", [Workload(1, 256), Workload(4, 1, dtype="bfloat16", phase="decode", cache_len=512)]
)
def test_a_workload_is_read_back_from_its_id(workload):
    assert Workload.from_id(workload.id) == workload


@pytest.mark.parametrize("text", ["", "prefill-b1-c4-float32", "decode-b1-t4-float32", "prefill-b0-t4-float32"])
def test_what_is_no_workload_id_is_refused(text):
    with pytest.raises(ValueError, match="workload"):
        Workload.from_id(text)
