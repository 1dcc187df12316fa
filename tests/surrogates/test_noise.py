import numpy as np
import pytest
from scipy import stats

from surrogates.noise import NoiseModel, ceiling, repeat_std


def repeated(truth: np.ndarray, std: np.ndarray | float, r: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((len(truth), r))
    return truth[:, None] * np.exp(np.reshape(std, (-1, 1)) * noise)


def no_ceiling(found: object) -> bool:
    return all(np.isnan(value) for value in vars(found).values())


# --- size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [2, 3, 4, 10, 50])
def test_noise_of_normal_repeats_is_their_standard_deviation(r: int) -> None:
    found = repeat_std(repeated(np.full(6000, 7.0), 0.03, r))
    assert found.mean() == pytest.approx(0.03, rel=0.03)


def test_a_first_repeat_that_is_far_off_does_not_count() -> None:
    usual = repeated(np.full(500, 7.0), 0.02, 10)
    slow = usual.copy()
    slow[:, 0] *= 3
    np.testing.assert_array_equal(repeat_std(slow), repeat_std(usual))


def test_one_broken_repeat_of_ten_changes_little() -> None:
    usual = repeated(np.full(2000, 7.0), 0.02, 10)
    broken = usual.copy()
    broken[:, 6] *= 24
    assert np.median(repeat_std(broken)) < 1.3 * np.median(repeat_std(usual))
    assert np.log(broken).std(axis=1).min() > 0.5  # what it would be without care


def test_coarsely_printed_repeats_are_rarely_without_noise() -> None:
    repeats = repeated(np.full(2000, 7.0), 0.001, 10).round(2)
    deviations = np.abs(repeats - np.median(repeats, axis=1, keepdims=True))
    assert np.mean(repeat_std(repeats) == 0) < 0.5 * np.mean(np.median(deviations, axis=1) == 0)


def test_rows_with_other_numbers_of_repeats_are_taken_as_they_are() -> None:
    repeats = repeated(np.full(3, 7.0), 0.02, 10)
    ragged = repeats.copy()
    ragged[1, 6:] = np.nan
    ragged[2, 1:] = np.nan
    found = repeat_std(ragged)
    np.testing.assert_array_equal(found[:2], [repeat_std(repeats[:1])[0], repeat_std(repeats[1:2, :6])[0]])
    assert np.isnan(found[2])


def test_repeats_that_are_no_measurements_are_refused() -> None:
    with pytest.raises(ValueError, match="repeats are finite and above 0"):
        repeat_std(np.array([[1.0, 0.0, 2.0]]))
    with pytest.raises(ValueError, match=r"repeats have shape \(3,\): give \(n, r\)"):
        repeat_std(np.ones(3))


# --- model --------------------------------------------------------------------------------------------------------


def test_a_noise_model_finds_noise_that_depends_on_width_and_size() -> None:
    rng = np.random.default_rng(1)
    widths, logs = rng.choice([192, 384, 768], 6000), rng.uniform(15, 18, 6000)
    std = 0.05 * (192 / widths) * np.exp(-0.3 * (logs - 16))
    measured = np.c_[repeat_std(repeated(np.ones(6000), std, 10)), np.full(6000, np.nan)]
    model = NoiseModel.fit(measured, widths, logs[:, None])
    found = model.predict(widths, logs[:, None])
    np.testing.assert_allclose(found[:, 0], std, rtol=0.08)
    assert np.isnan(found[:, 1]).all()
    again = NoiseModel.from_arrays(model.arrays())
    np.testing.assert_array_equal(again.predict(widths, logs[:, None]), found)
    assert all(a.dtype.kind in "biuf" for a in model.arrays().values())
    by_width = NoiseModel.fit(measured, widths).predict(np.array([192, 384, 768]))[:, 0]
    assert by_width[0] > 1.8 * by_width[1] > 3 * by_width[2]


def test_without_repeats_there_is_no_noise_to_learn() -> None:
    with pytest.raises(ValueError, match="no target was measured more than once"):
        NoiseModel.fit(repeat_std(np.ones((5, 1)))[:, None], np.ones(5))


# --- ceilings -----------------------------------------------------------------------------------------------------


def test_a_ceiling_is_what_a_perfect_prediction_reaches() -> None:
    rng = np.random.default_rng(2)
    widths = rng.choice([1.0, 2.0, 3.0], 1500)
    truth = np.exp(widths + 0.15 * rng.standard_normal(1500))
    repeats = repeated(truth, 0.1, 10, seed=3)
    found = ceiling(repeats, widths=widths, rng=rng)
    medians = np.median(repeats, axis=1)
    perfect = stats.kendalltau(truth, medians).statistic
    assert found.full_kendall == pytest.approx(perfect, abs=0.006)
    assert found.full_spearman == pytest.approx(stats.spearmanr(truth, medians).statistic, abs=0.004)
    odd, even = np.median(repeats[:, ::2], axis=1), np.median(repeats[:, 1::2], axis=1)
    assert found.half_kendall == pytest.approx(stats.kendalltau(odd, even).statistic)
    assert found.half_kendall < found.full_kendall
    inside = [stats.kendalltau(truth[widths == w], medians[widths == w]).statistic for w in (1, 2, 3)]
    assert found.full_kendall_within == pytest.approx(np.mean(inside), abs=0.03)
    assert found.half_kendall_within < found.full_kendall_within < found.full_kendall


def test_a_slow_first_repeat_does_not_lower_the_ceiling_of_all_repeats() -> None:
    rng = np.random.default_rng(4)
    truth = np.exp(0.3 * rng.standard_normal(800))
    usual = repeated(truth, 0.02, 10)
    slow = usual.copy()
    slow[:, 0] *= 1.3
    one = np.ones(800)
    plain, moved = (ceiling(r, widths=one, rng=np.random.default_rng(0)).full_kendall for r in (usual, slow))
    assert moved == pytest.approx(plain, abs=0.01)


def test_repeats_without_noise_have_a_ceiling_of_one() -> None:
    repeats = np.repeat(np.arange(1.0, 30.0)[:, None], 6, axis=1)
    found = ceiling(repeats, widths=np.ones(29), rng=np.random.default_rng(0))
    np.testing.assert_allclose([found.half_kendall, found.full_kendall, found.full_kendall_within], 1.0)


def test_one_repeat_has_no_ceiling() -> None:
    rng = np.random.default_rng(0)
    assert no_ceiling(ceiling(np.ones((9, 1)), widths=np.ones(9), rng=rng))
    assert no_ceiling(ceiling(None, widths=np.ones(9), rng=rng))
    assert no_ceiling(ceiling(np.c_[np.ones(9), np.full(9, np.nan)], widths=np.ones(9), rng=rng))
