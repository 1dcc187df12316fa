import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from surrogate_data import (
    DEVICE,
    WORKLOAD,
    frame_of,
    latency_and_perplexity,
    latency_ms,
    measurements,
    noisy,
    sampled,
    small_space,
    table_of,
)

from hw_profiles.device import Workload
from hw_profiles.table import METRICS
from supernet.cost import parameter_counts
from surrogates.candidates import candidate_models
from surrogates.fit import fit_metric, fit_surrogates, summary
from surrogates.fitted import FittedSurrogate
from surrogates.intervals import kind_of
from surrogates.models import LinearSurrogate, XGBoostSurrogate
from surrogates.prediction import Prediction
from surrogates.targets import Targets, measured_metrics, targets
from surrogates.validation import rank_correlations

SPACE = small_space()
FAST = candidate_models(SPACE, ["linear", "xgboost"], trees=XGBoostSurrogate(n_estimators=40))


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    return latency_and_perplexity(tmp_path, SPACE).read()


def changed(frame: pd.DataFrame, row: int, **values: object) -> pd.DataFrame:
    frame = frame.copy()
    for column, value in values.items():
        frame.loc[row, column] = value
    return frame


def test_every_measured_metric_gets_a_surrogate_of_its_unit(frame: pd.DataFrame) -> None:
    fitted = fit_surrogates(frame, SPACE, candidates=FAST)
    assert fitted.units == {"latency_ms": "ms", "perplexity": "1"}
    assert (fitted["latency_ms"].device, fitted["latency_ms"].workload) == (DEVICE, WORKLOAD.id)
    assert fitted["perplexity"].device == "any"
    new = sampled(SPACE, 200, seed=5)
    error = np.abs(fitted.predict(new, "latency_ms").mean / latency_ms(SPACE, new) - 1)
    assert error.mean() < 0.03  # noise was 2 %


def test_the_best_cross_validated_candidate_wins_and_all_scores_are_kept(frame: pd.DataFrame) -> None:
    report = fit_surrogates(frame, SPACE, metrics=["latency_ms"], candidates=FAST)["latency_ms"].report
    assert report.winner == "linear"  # the times are a sum of costs
    assert report.candidates["linear"].mape < report.candidates["xgboost"].mape
    assert report.scores == report.candidates["linear"] == report.linear
    worst = fit_surrogates(frame, SPACE, metrics=["latency_ms"], candidates={"xgboost": FAST["xgboost"]})
    report = worst["latency_ms"].report
    assert report.winner == "xgboost" and set(report.candidates) == {"xgboost", "linear"}


def test_the_criterion_decides() -> None:
    archs = sampled(SPACE, 12)

    class Double(LinearSurrogate):
        """Ranks perfectly, but predicts twice the value."""

        def predict(self, X: np.ndarray) -> Prediction:
            return Prediction(2 * super().predict(X).mean)

    data = Targets("latency_ms", "ms", DEVICE, WORKLOAD.id, tuple(archs), latency_ms(SPACE, archs))
    candidates = {"constant": XGBoostSurrogate(n_estimators=1), "double": Double(columns=FAST["linear"].columns)}
    assert fit_metric(data, SPACE, candidates, criterion="kendall").report.winner == "double"
    assert fit_metric(data, SPACE, candidates, criterion="mape").report.winner == "constant"


@pytest.mark.parametrize("intervals", ["normalised", "quantile_regression"])
def test_the_chosen_intervals_are_fitted_and_scored(frame: pd.DataFrame, intervals: str) -> None:
    def fit(kind: str) -> FittedSurrogate:
        return fit_surrogates(frame, SPACE, metrics=["latency_ms"], candidates=FAST, intervals=kind)["latency_ms"]

    usual, other = fit("conformal"), fit(intervals)
    assert kind_of(other.calibration) == intervals
    assert other.report.scores.intervals != usual.report.scores.intervals
    assert [i.nominal for i in other.report.scores.intervals] == [0.5, 0.8, 0.9]
    new = sampled(SPACE, 200, seed=5)
    np.testing.assert_array_equal(other.predict(new).mean, usual.predict(new).mean)
    assert (other.predict(new).quantiles != usual.predict(new).quantiles).any()
    y, prediction = noisy(latency_ms(SPACE, new), 0.02, seed=7), other.predict(new, levels=(0.1, 0.9))
    assert 0.6 < np.mean((prediction.quantile(0.1) <= y) & (y <= prediction.quantile(0.9))) < 0.97


def test_unknown_intervals_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="intervals = 'bayes'; allowed: conformal, normalised, quantile_regression"):
        fit_surrogates(frame, SPACE, candidates=FAST, intervals="bayes")


def test_the_same_seed_gives_the_same_surrogate(frame: pd.DataFrame) -> None:
    first, second = (fit_surrogates(frame, SPACE, candidates=FAST, seed=1) for _ in range(2))
    new = sampled(SPACE, 20, seed=5)
    for metric in first.metrics:
        np.testing.assert_array_equal(first.predict(new, metric).quantiles, second.predict(new, metric).quantiles)


def test_the_parameter_count_is_scored_beside_the_surrogate(frame: pd.DataFrame) -> None:
    report = fit_surrogates(frame, SPACE, metrics=["perplexity"], candidates=FAST)["perplexity"].report
    archs = targets(frame, SPACE, metric="perplexity").archs
    decoder = parameter_counts(SPACE.model_config, archs).decoder
    assert report.parameter_count.kendall == pytest.approx(-rank_correlations(report.measured, decoder)[0])


def test_the_summary_names_winner_linear_and_parameter_count(frame: pd.DataFrame) -> None:
    line = summary(fit_surrogates(frame, SPACE, metrics=["latency_ms"], candidates=FAST)["latency_ms"])
    assert line.startswith("latency_ms [ms] by linear: Kendall 0.")
    assert "(linear 0." in line and "parameter count 0." in line and "5-fold, 40 architectures" in line


def test_drift_of_the_machine_is_divided_out(tmp_path: Path) -> None:
    archs = sampled(SPACE, 20)
    exact, drift = latency_ms(SPACE, archs), np.linspace(1.0, 1.5, 20)
    frame = frame_of(tmp_path, measurements(SPACE, archs, exact * drift, references=5 * drift))
    y = targets(frame, SPACE, metric="latency_ms").y
    np.testing.assert_allclose(y / exact, (y / exact)[0])


def test_an_architecture_measured_twice_counts_once(tmp_path: Path) -> None:
    archs = sampled(SPACE, 12)
    table = table_of(tmp_path, measurements(SPACE, archs, np.full(12, 2.0)))
    table.append(measurements(SPACE, archs[:3], np.full(3, 4.0)))
    found = targets(table.read(), SPACE, metric="latency_ms")
    assert found.archs == tuple(archs)
    np.testing.assert_array_equal(found.y, [3.0] * 3 + [2.0] * 9)


def test_device_and_workload_must_be_chosen_when_there_are_several(tmp_path: Path) -> None:
    archs = sampled(SPACE, 12)
    decode = Workload(1, 1, phase="decode", cache_len=16)
    rows = measurements(SPACE, archs, np.full(12, 1.0)) + measurements(SPACE, archs, np.full(12, 2.0), device="gpu")
    rows += measurements(SPACE, archs, np.full(12, 3.0), device="gpu", workload=decode)
    rows += measurements(SPACE, archs, np.full(12, 9.0), metric="perplexity")
    frame = frame_of(tmp_path, rows)
    with pytest.raises(ValueError, match=f"several devices: choose one of gpu, {DEVICE}"):
        targets(frame, SPACE, metric="latency_ms")
    with pytest.raises(ValueError, match=f"several workloads: choose one of {decode.id}, {WORKLOAD.id}"):
        targets(frame, SPACE, metric="latency_ms", device="gpu")
    assert targets(frame, SPACE, metric="latency_ms", device="gpu", workload=decode).y[0] == 3.0
    assert targets(frame, SPACE, metric="latency_ms", device="gpu", workload=WORKLOAD.id).y[0] == 2.0
    assert targets(frame, SPACE, metric="perplexity", device="gpu", workload=decode).y[0] == 9.0
    with pytest.raises(ValueError, match="latency_ms has no device 'tpu' in the table of measurements; it has: gpu"):
        targets(frame, SPACE, metric="latency_ms", device="tpu")
    with pytest.raises(ValueError, match="the table has no device 'tpu'"):
        measured_metrics(frame, SPACE, device="tpu")


def test_exact_metrics_need_no_surrogate(tmp_path: Path) -> None:
    archs = sampled(SPACE, 12)
    rows = measurements(SPACE, archs, np.full(12, 1.0)) + measurements(SPACE, archs, np.full(12, 2.0), metric="flops")
    frame = frame_of(tmp_path, rows)
    assert measured_metrics(frame, SPACE) == ["latency_ms"]
    with pytest.raises(ValueError, match="flops needs no surrogate"):
        targets(frame, SPACE, metric="flops")
    with pytest.raises(ValueError, match="no measured metric of space 'small'"):
        fit_surrogates(frame[frame["metric"] == "flops"], SPACE)


@pytest.mark.parametrize("value", [np.nan, -1.0, 0.0, np.inf])
def test_measurements_that_are_not_positive_numbers_are_refused(frame: pd.DataFrame, value: float) -> None:
    arch = frame["architecture"][2]
    with pytest.raises(ValueError, match=rf"latency_ms of {arch} is {value} \(adjusted_median; 1 such rows\)"):
        fit_surrogates(changed(frame, 2, adjusted_median=value), SPACE, candidates=FAST)


def test_mixed_units_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="latency_ms has the units ms, s in the table, but is in ms"):
        fit_surrogates(changed(frame, 0, unit="s"), SPACE, candidates=FAST)


def test_too_few_rows_say_how_many_are_needed(tmp_path: Path) -> None:
    archs = sampled(SPACE, 9)
    frame = frame_of(tmp_path, measurements(SPACE, archs, latency_ms(SPACE, archs)))
    with pytest.raises(ValueError, match=r"for 9 architectures \(device .*\); 5 folds need at least 10"):
        fit_surrogates(frame, SPACE, candidates=FAST)
    with pytest.raises(ValueError, match="folds = 1: give at least 2"):
        fit_surrogates(frame, SPACE, candidates=FAST, folds=1)
    assert fit_surrogates(frame, SPACE, candidates=FAST, folds=3).metrics == ("latency_ms",)


@pytest.mark.parametrize("n", [10, 14])
def test_all_candidates_work_on_the_fewest_rows(tmp_path: Path, n: int) -> None:
    archs = sampled(SPACE, n)
    frame = frame_of(tmp_path, measurements(SPACE, archs, noisy(latency_ms(SPACE, archs), 0.02)))
    models = candidate_models(SPACE, trees=XGBoostSurrogate(n_estimators=10))
    report = fit_surrogates(frame, SPACE, candidates=models)["latency_ms"].report
    assert set(report.candidates) == set(models)
    assert all(np.isfinite(score.mape) for score in report.candidates.values())


def test_a_constant_metric_can_be_fitted(tmp_path: Path) -> None:
    archs = sampled(SPACE, 20)
    frame = frame_of(tmp_path, measurements(SPACE, archs, np.full(20, 7.0), metric="memory_mib"))
    fitted = fit_surrogates(frame, SPACE, candidates=candidate_models(SPACE, trees=XGBoostSurrogate(n_estimators=10)))
    np.testing.assert_allclose(fitted.predict(archs, "memory_mib").mean, 7.0)


def test_another_space_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="the table has no space 'tiny' in the table of measurements; it has: small"):
        fit_surrogates(frame, small_space(name="tiny"), candidates=FAST)
    with pytest.raises(ValueError, match=r"does not fit space 'small': n_embd = \d+ is not in space"):
        fit_surrogates(frame, small_space(n_embd=(40, 56)), candidates=FAST)


def test_unknown_metrics_and_foreign_frames_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="no metric 'speed'; metrics: latency_ms"):
        fit_surrogates(frame, SPACE, metrics=["speed"])
    with pytest.raises(
        ValueError, match="no metric 'energy_mj' in the table of measurements; it has: latency_ms, perp"
    ):
        fit_surrogates(frame, SPACE, metrics=["energy_mj"])
    with pytest.raises(ValueError, match=r"not a table of measurements: it lacks the columns \['unit'\]"):
        fit_surrogates(frame.drop(columns="unit"), SPACE)
    with pytest.raises(ValueError, match="the table of measurements is empty"):
        fit_surrogates(frame.iloc[:0], SPACE)


def test_units_of_fitted_metrics_are_those_of_the_registry(frame: pd.DataFrame) -> None:
    fitted = fit_surrogates(frame, SPACE, candidates=FAST)
    assert all(METRICS[name].unit == unit for name, unit in fitted.units.items())


def test_surrogates_never_import_torch() -> None:
    modules = sorted(path.stem for path in Path(sys.modules["surrogates"].__path__[0]).glob("[!_]*.py"))
    assert "fit" in modules
    imports = "; ".join(f"import surrogates.{name}" for name in modules)
    code = f"import sys; {imports}; print(sorted({{'torch', 'lightning', 'litgpt', 'hydra'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
