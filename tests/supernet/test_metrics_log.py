from __future__ import annotations

from pathlib import Path

from supernet.metrics_log import MetricsLog, read_metrics


def test_rows_read_back_exactly_and_in_order(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.csv")
    log.log_metrics({"train/loss": 1 / 3, "tokens": 64.0}, step=1)
    log.log_metrics({"train/loss": 0.1 + 0.2, "tokens": 128.0}, step=2)
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"step": 1, "train/loss": 1 / 3, "tokens": 64.0},
        {"step": 2, "train/loss": 0.1 + 0.2, "tokens": 128.0},
    ]


def test_new_metrics_extend_the_header(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.csv")
    log.log_metrics({"train/loss": 3.0}, step=1)
    log.log_metrics({"val/ppl_largest": 20.0}, step=1)
    log.log_metrics({"train/loss": 2.0}, step=2)
    assert (tmp_path / "metrics.csv").read_text() == "step,train/loss,val/ppl_largest\n1,3.0,\n1,,20.0\n2,2.0,\n"


def test_a_resumed_log_drops_later_rows_and_goes_on(tmp_path: Path) -> None:
    first = MetricsLog(tmp_path / "metrics.csv")
    for step in (1, 2, 3, 4):
        first.log_metrics({"train/loss": float(step)}, step=step)
    second = MetricsLog(tmp_path / "metrics.csv", resume_step=2)
    second.log_metrics({"train/loss": 30.0}, step=3)
    assert [(r["step"], r["train/loss"]) for r in read_metrics(tmp_path / "metrics.csv")] == [(1, 1), (2, 2), (3, 30)]


def test_a_row_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss\n1,3.5\n2,3.2")
    assert read_metrics(path) == [{"step": 1, "train/loss": 3.5}]
    MetricsLog(path, resume_step=9).log_metrics({"train/loss": 3.25}, step=2)
    assert path.read_text() == "step,train/loss\n1,3.5\n2,3.25\n"


def test_a_file_that_does_not_exist_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.csv") == []


def test_nan_is_written_as_a_missing_value(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.csv").log_metrics({"a": float("nan"), "b": float("inf")}, step=1)
    assert read_metrics(tmp_path / "metrics.csv") == [{"step": 1, "b": float("inf")}]
