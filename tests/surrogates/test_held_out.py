from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from surrogate_data import latency_ms, perplexity, sampled, small_space

from supernet.cost import parameter_counts
from supernet.encoding import to_genes
from surrogates.campaign import Campaign, TargetKey
from surrogates.held_out import LEVELS, RAW_GENES, held_out_tests, log_drift

SPACE = small_space()
N = 900
ARCHS = sampled(SPACE, N)
GENES = to_genes(SPACE, ARCHS)
LATENCY, QUALITY, MISSING = TargetKey("latency_ms", "gpu"), TargetKey("perplexity"), TargetKey("energy_mj", "gpu")
TRUTH = {LATENCY: latency_ms(SPACE, ARCHS), QUALITY: perplexity(SPACE, ARCHS)}
ORDER = np.random.default_rng(3).permutation(N)
DRIFT = 0.2 * np.sin(ORDER / 120)  # smooth along the series
TEST = np.random.default_rng(5).random(N) < 0.2


class Known:
    """Knows the truth of every architecture, and says that errors are 1 % (with drift: 15 %)."""

    targets: Sequence[TargetKey] = (MISSING, LATENCY, QUALITY)

    def __init__(self) -> None:
        self.rows = {tuple(genes): i for i, genes in enumerate(GENES.tolist())}

    def predict(self, genes: np.ndarray) -> np.ndarray:
        rows = [self.rows[tuple(g)] for g in genes.tolist()]
        return np.column_stack([np.ones(len(rows)), TRUTH[LATENCY][rows], TRUTH[QUALITY][rows]])

    def log_quantiles(self, genes: np.ndarray, levels: Sequence[float], *, drift: bool = False) -> np.ndarray:
        size = 0.15 if drift else 0.01
        return np.tile(size * (2 * np.asarray(levels) - 1), (len(genes), 3, 1))


def measured(*, drift: bool = True) -> Campaign:
    rng = np.random.default_rng(0)
    latency = TRUTH[LATENCY] * np.exp(drift * DRIFT + 0.002 * rng.standard_normal(N))
    quality = np.where(np.arange(N) < 600, TRUTH[QUALITY], np.nan)
    order = {LATENCY: ORDER, QUALITY: np.arange(N)}
    repeats = {LATENCY: np.repeat(latency[:, None], 4, axis=1)}
    values = {LATENCY: latency, QUALITY: quality}
    return Campaign(SPACE, np.array([a.id for a in ARCHS]), GENES, values, order, repeats, dict.fromkeys(values, "w"))


def held_out_of(data: Campaign, **changes: object) -> list:
    settings = {"train": ~TEST, "test": TEST, "baselines": False} | changes
    return list(held_out_tests(data, Known(), **settings))  # type: ignore[arg-type]


def test_every_shared_target_is_tested_on_its_measured_held_out_rows() -> None:
    latency, quality = held_out_of(measured())
    assert (latency.metric, latency.device, latency.space) == ("latency_ms", "gpu", "small")
    assert (quality.metric, quality.device) == ("perplexity", "any")
    np.testing.assert_array_equal(latency.raw, measured().values[LATENCY][TEST])
    np.testing.assert_array_equal(latency.predicted, TRUTH[LATENCY][TEST])
    np.testing.assert_array_equal(quality.raw, TRUTH[QUALITY][TEST & (np.arange(N) < 600)])
    assert latency.n_train == (~TEST).sum() and quality.n_train == (~TEST & (np.arange(N) < 600)).sum()
    assert latency.repeats.shape == (TEST.sum(), 4) and quality.repeats is None
    counts = parameter_counts(SPACE.model_config, [a for a, held in zip(ARCHS, TEST, strict=True) if held]).total
    np.testing.assert_array_equal(latency.parameters, counts)


def test_drift_is_divided_out_of_per_device_metrics_only() -> None:
    latency, quality = held_out_of(measured())
    found = np.log(latency.raw / latency.adjusted)
    assert np.corrcoef(found, DRIFT[TEST])[0, 1] > 0.98
    for width in SPACE.n_embd:  # the usual drift of a width stays in its level
        inside = latency.widths == width
        assert np.std(np.log(latency.adjusted / latency.predicted)[inside]) < 0.02 < 0.1 < np.std(found[inside])
    assert np.abs(latency.raw / latency.predicted - 1).mean() > 0.1
    np.testing.assert_array_equal(quality.adjusted, quality.raw)
    steady = held_out_of(measured(drift=False))[0]
    np.testing.assert_allclose(steady.adjusted, steady.raw, rtol=0.005)


def test_no_held_out_measurement_says_anything_about_the_drift() -> None:
    data, known = measured(), ~TEST
    before = log_drift(data, LATENCY, TRUTH[LATENCY], known)
    values = np.where(TEST, 7 * data.values[LATENCY], data.values[LATENCY])
    after = log_drift(replace(data, values={LATENCY: values}), LATENCY, TRUTH[LATENCY], known)
    np.testing.assert_array_equal(after, before)


def test_intervals_for_published_values_are_the_wide_ones() -> None:
    latency = held_out_of(measured())[0]
    np.testing.assert_array_equal(latency.levels, LEVELS)
    np.testing.assert_allclose(np.log(latency.quantiles[0] / latency.predicted[0]), 0.01 * (2 * LEVELS - 1))
    np.testing.assert_allclose(np.log(latency.raw_quantiles[0] / latency.predicted[0]), 0.15 * (2 * LEVELS - 1))


def test_baselines_learn_adjusted_training_rows_only() -> None:
    data = measured()
    latency = held_out_of(data, baselines=True)[0]
    assert set(latency.baselines) == {"linear", RAW_GENES}
    for predicted in latency.baselines.values():
        assert np.abs(predicted / latency.adjusted - 1).mean() < 0.04  # drift alone is 0.13
    values = np.where(TEST, 7 * data.values[LATENCY], data.values[LATENCY])
    other = held_out_of(replace(data, values={LATENCY: values}), baselines=True)[0]
    for name in latency.baselines:
        np.testing.assert_array_equal(other.baselines[name], latency.baselines[name])


def test_rows_in_both_sets_and_empty_test_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=rf"{TEST.sum()} rows are in both training and test"):
        held_out_of(measured(), train=np.ones(N, bool))
    with pytest.raises(ValueError, match="0 to test"):
        held_out_of(measured(), test=np.zeros(N, bool))
