import numpy as np
from small_space import LATENCY, made_up_campaign, true_latency

from surrogates.drift import Series, drift_and_fit, estimate_drift, neighbour_effect, running_median
from surrogates.layer_features import LayerFeatures
from surrogates.trend_fit import fit_sums, predict_linear


def test_steps_and_job_offsets_are_found_and_divided_out() -> None:
    data, truth = made_up_campaign()
    features = LayerFeatures(data.space)
    X, widths = features.linear(data.genes), data.genes[:, 0]
    known = np.random.default_rng(1).random(len(X)) < 0.85
    y = data.values[LATENCY]

    def fit_predict(values: np.ndarray) -> np.ndarray:
        return predict_linear(fit_sums(X[known], widths[known], values[known], n_widths=3), X, widths)

    series = Series.of(data.order[LATENCY], widths, job_size=len(X) // 2)
    drift, predicted = drift_and_fit(y, series, known, fit_predict)
    held = ~known
    plain = np.abs(np.log(y / fit_predict(y)))[held].mean()
    adjusted = np.abs(np.log(y / predicted) - drift)[held].mean()
    assert adjusted < 0.25 * plain
    for width in range(3):  # the level of each width is the median over its rows, so compare up to a constant
        rows = held & (widths == width)
        error = (drift - truth)[rows]
        assert np.median(np.abs(error - np.median(error))) < 0.01
    ratio = np.log(predicted / true_latency(data.genes))
    assert max(ratio[widths == w].std() for w in range(3)) < 0.01


def test_a_rows_factor_never_comes_from_the_row_itself() -> None:
    rng = np.random.default_rng(0)
    n = 200
    series = Series.of(np.arange(n), np.zeros(n, int), job_size=100)
    residuals, known = rng.normal(size=n), rng.random(n) < 0.8
    before = running_median(series, residuals, known, window=11)
    for row in (0, 57, 99, 100, 199):
        changed = residuals.copy()
        changed[row] += 100.0
        assert running_median(series, changed, known, window=11)[row] == before[row]
    unknown = np.flatnonzero(~known)
    changed = residuals.copy()
    changed[unknown] = 1e6
    assert np.array_equal(running_median(series, changed, known, window=11), before)
    assert np.array_equal(
        estimate_drift(series, changed, known)[known], estimate_drift(series, residuals, known)[known]
    )


def test_jobs_do_not_see_each_other() -> None:
    residuals = np.r_[np.zeros(100), np.ones(100)]
    series = Series.of(np.arange(200), np.zeros(200, int), job_size=100)
    smooth = running_median(series, residuals, np.ones(200, bool))
    assert (smooth[:100] == 0).all() and (smooth[100:] == 1).all()


def test_neighbours_explain_what_lasts_for_a_few_rows_and_nothing_of_white_noise() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    slow = np.convolve(rng.normal(size=n + 3), np.ones(4) / 2, mode="valid")
    series, known = Series.of(np.arange(n), np.zeros(n, int)), np.ones(n, bool)
    effect = neighbour_effect(series, slow, known)
    assert np.corrcoef(effect, slow)[0, 1] > 0.7
    white = rng.normal(size=n)
    assert neighbour_effect(series, white, known).std() < 0.15 * white.std()
