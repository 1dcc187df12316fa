import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone

from surrogates.calibration import ResidualQuantiles
from surrogates.models import LinearSurrogate
from surrogates.normalised import NormalisedQuantiles, NormalisedRows, NormalisedSurrogate
from surrogates.quantile_grid import QuantileGrid
from surrogates.scale import KINDS, ScaleModel

WIDTHS = np.array([32, 64, 128])


def uneven(n: int, seed: int, *, slope: float = 1.5) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Widths, a feature, the true spread of log errors, and measurements of a model that says 1."""
    rng = np.random.default_rng(seed)
    widths, feature = rng.choice(WIDTHS, n), rng.uniform(0, 1, n)
    spread = 0.02 * (widths / 32.0) * np.exp(slope * feature)
    return widths, feature[:, None], spread, np.exp(spread * rng.standard_normal(n))


# --- scale --------------------------------------------------------------------------------------------------------


def test_a_scale_is_the_mean_size_that_depends_on_width_and_features() -> None:
    widths, F, spread, y = uneven(20_000, 0)
    sizes = np.abs(np.log(y))[:, None]
    expected = spread * np.sqrt(2 / np.pi)  # mean of |normal|
    rich = ScaleModel.fit(sizes, widths, F).predict(widths, F)[:, 0]
    np.testing.assert_allclose(rich, expected, rtol=0.08)
    by_width = ScaleModel.fit(sizes, widths, F, kinds="width").predict(widths, F)[:, 0]
    for width in WIDTHS:
        assert by_width[widths == width][0] == pytest.approx(sizes[widths == width].mean(), rel=0.03)
    constant = ScaleModel.fit(sizes, widths, F, kinds="constant").predict(widths, F)[:, 0]
    assert np.ptp(constant) == 0 and constant[0] == pytest.approx(sizes.mean(), rel=0.02)


def test_a_scale_takes_zeros_missing_values_and_unknown_widths() -> None:
    widths, F, _, y = uneven(300, 0)
    sizes = np.abs(np.log(y))[:, None]
    zeros = np.where(np.arange(300)[:, None] % 2, sizes, 0.0)
    found = ScaleModel.fit(np.hstack([sizes, zeros, np.zeros((300, 1))]), widths, F).predict(widths, F)
    assert (found > 0).all() and np.isfinite(found).all()
    assert found[:, 1].mean() == pytest.approx(zeros.mean(), rel=0.1)
    holes = np.where(np.arange(300)[:, None] < 200, sizes, np.nan)
    np.testing.assert_allclose(
        ScaleModel.fit(holes, widths, F, kinds="width").predict(widths[:9], F[:9]),
        ScaleModel.fit(sizes[:200], widths[:200], F[:200], kinds="width").predict(widths[:9], F[:9]),
    )
    model = ScaleModel.fit(sizes, widths, F, kinds="width")
    assert model.predict(np.array([999]), F[:1])[0, 0] == pytest.approx(sizes.mean(), rel=0.05)
    far = model.predict(widths[:1], np.array([[1e9]]))
    assert np.isfinite(far).all()


def test_one_broken_measurement_does_not_widen_a_scale() -> None:
    widths, F, _, y = uneven(3000, 0)
    sizes = np.abs(np.log(y))[:, None]
    broken = sizes.copy()
    broken[0] = 50.0
    usual, other = (ScaleModel.fit(s, widths, F).predict(widths, F) for s in (sizes, broken))
    np.testing.assert_allclose(other, usual, rtol=0.03)


def test_bad_sizes_and_kinds_are_refused() -> None:
    widths, F, _, y = uneven(20, 0)
    sizes = np.abs(np.log(y))[:, None]
    with pytest.raises(ValueError, match=r"kinds \['cubic'\]: give one of constant, width, log_linear"):
        ScaleModel.fit(sizes, widths, F, kinds="cubic")
    with pytest.raises(ValueError, match="finite and not negative"):
        ScaleModel.fit(-sizes, widths, F)
    with pytest.raises(ValueError, match=r"sizes have shape \(20, 1\), widths \(19,\)"):
        ScaleModel.fit(sizes, widths[1:], F)
    with pytest.raises(ValueError, match=r"was fitted with features: give them, \(n, 1\)"):
        ScaleModel.fit(sizes, widths, F).predict(widths)


# --- grid ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [25, 199, 1234])
def test_a_grid_has_the_finite_sample_ranks_of_all_residuals(n: int) -> None:
    residuals = np.random.default_rng(n).standard_normal((n, 2))
    grid, full = QuantileGrid.of(residuals), ResidualQuantiles(np.sort(residuals, axis=0), np.array([False] * 2))
    levels = [0.05, 0.1, 0.5, 0.9, 0.95]
    np.testing.assert_array_equal(grid.quantiles(levels), full.quantiles(levels))
    between = grid.quantiles([0.9025])[:, 0]
    low, high = grid.quantiles([0.9, 0.905]).T
    np.testing.assert_allclose(between, (low + high) / 2)


def test_a_grid_of_few_residuals_has_the_levels_that_they_allow() -> None:
    residuals = np.random.default_rng(0).standard_normal((30, 2))
    residuals[12:, 1] = np.nan
    grid = QuantileGrid.of(residuals)
    assert grid.counts.tolist() == [30, 12]
    assert grid.possible() == (0.1, 0.25, 0.5, 0.75, 0.9)
    with pytest.raises(ValueError, match="need at least 19 rows, there are 12: measure 7 more"):
        grid.quantiles([0.95])
    with pytest.raises(ValueError, match=r"level 0.999: this grid has levels from 0.005 to 0.995"):
        grid.quantiles([0.999])
    with pytest.raises(ValueError, match="target 1 of 2 has no residuals"):
        QuantileGrid.of(np.c_[residuals[:, 0], np.full(30, np.nan)])


# --- normalised intervals -----------------------------------------------------------------------------------------


def test_the_kind_of_scale_is_chosen_for_each_target() -> None:
    widths, F, _, y = uneven(3000, 1)
    rng = np.random.default_rng(2)
    flat = np.exp(0.03 * rng.standard_normal(3000))
    stepped = np.exp(0.001 * widths * rng.standard_normal(3000))
    Y = np.c_[y, flat, stepped]
    found = NormalisedQuantiles.of(Y, np.ones_like(Y), widths=widths, features=F)
    assert [KINDS[i] for i in found.kinds] == ["log_linear", "constant", "width"]


@pytest.mark.parametrize("nominal", [0.5, 0.8, 0.9])
def test_normalised_intervals_hold_their_share_in_every_corner(nominal: float) -> None:
    widths, F, _, y = uneven(6000, 3)
    fitted = NormalisedQuantiles.of(y[:3000], np.ones(3000), widths=widths[:3000], features=F[:3000])
    levels = ((1 - nominal) / 2, (1 + nominal) / 2)
    quantiles = fitted.predict(np.ones(3000), levels, widths=widths[3000:], features=F[3000:]).quantiles
    held = (quantiles[:, 0] <= y[3000:]) & (y[3000:] <= quantiles[:, 1])
    low, high = stats.binom.interval(0.9999, 3000, nominal)
    assert low / 3000 - 0.015 < held.mean() < high / 3000 + 0.015
    for corner in (widths[3000:] == 32, widths[3000:] == 128, F[3000:, 0] < 0.3, F[3000:, 0] > 0.7):
        assert held[corner].mean() == pytest.approx(nominal, abs=0.06)
    same = ResidualQuantiles.of(y[:3000], np.ones(3000)).predict(np.ones(3000), levels).quantiles
    small = (widths[3000:] == 32) & (F[3000:, 0] < 0.3)
    assert ((same[:, 0] <= y[3000:]) & (y[3000:] <= same[:, 1]))[small].mean() > nominal + 0.08  # what the scale is for


def test_targets_that_were_not_measured_everywhere_are_calibrated_on_their_rows() -> None:
    widths, F, _, y = uneven(600, 4)
    holes = np.where(np.arange(600) < 400, y, np.nan)
    found = NormalisedQuantiles.of(np.c_[y, holes], np.ones((600, 2)), widths=widths, features=F)
    assert found.grid.counts.tolist() == [600, 400]
    prediction = found.predict(np.ones((5, 2)), widths=widths[:5], features=F[:5])
    assert prediction.quantiles.shape == (5, 2, 7) and np.isfinite(prediction.quantiles).all()
    again = NormalisedQuantiles.from_arrays(found.arrays())
    np.testing.assert_array_equal(
        again.offsets((0.1, 0.9), widths[:5], F[:5]), found.offsets((0.1, 0.9), widths[:5], F[:5])
    )
    assert all(a.dtype.kind in "biuf" for a in found.arrays().values())


def test_std_is_the_scale_of_the_errors_of_a_row() -> None:
    widths, F, spread, y = uneven(20_000, 5)
    std = NormalisedQuantiles.of(y, np.ones(len(y)), widths=widths, features=F).predict(
        np.full(len(y), 3.0), widths=widths, features=F
    ).std  # fmt: skip
    np.testing.assert_allclose(std, 3 * np.sqrt(np.expm1(spread**2)), rtol=0.1)


@pytest.mark.parametrize("method", ["cross", "split"])
def test_a_normalised_surrogate_keeps_the_contract_of_surrogates(method: str) -> None:
    widths, F, _, y = uneven(400, 6)
    X = np.c_[widths, F]
    model = NormalisedSurrogate(LinearSurrogate(loss="log"), by=0, columns=(1,), method=method)
    fitted = clone(model).fit(X, y)
    prediction = fitted.predict(X[:7], levels=(0.9, 0.1))
    assert prediction.levels == (0.1, 0.9) and prediction.quantiles.shape == (7, 2)
    relative = (prediction.quantile(0.9) - prediction.quantile(0.1)) / prediction.mean
    assert relative.max() > 1.5 * relative.min()
    again = clone(model).restore(fitted.state())
    np.testing.assert_array_equal(again.predict(X).quantiles, fitted.predict(X).quantiles)
    both = clone(model).fit(X, np.c_[y, y]).predict(X[:3])
    assert both.std.shape == (3, 2)


def test_bad_calibration_input_is_refused() -> None:
    widths, F, _, y = uneven(20, 0)
    with pytest.raises(ValueError, match=r"1 rows, 1 folds, kinds \['constant', 'width', 'log_linear'\]: give at"):
        NormalisedQuantiles.of(y[:1], y[:1], widths=widths[:1])
    with pytest.raises(ValueError, match="numbers that are not finite"):
        NormalisedQuantiles.of(y, np.where(np.arange(20) == 3, np.nan, y), widths=widths)
    rows = NormalisedRows(NormalisedQuantiles.of(y, np.ones(20), widths=widths), by=0)
    assert rows.predict_rows(np.c_[widths, F], np.ones(20)).levels[0] == 0.05
