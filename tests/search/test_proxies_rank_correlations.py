import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from search.proxies.rank_correlations import rank_correlations, resampled, top_k


def sets(seed: int, *, n: int = 40, values: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """A noisy proxy and quality; few distinct values give ties."""
    rng = np.random.default_rng(seed)
    proxy = rng.integers(values, size=n).astype(float)
    return proxy, -proxy + rng.normal(0, 0.3 * values, n).round()


def signs(values: np.ndarray) -> np.ndarray:
    return np.sign(values[None, :] - values[:, None])


@pytest.mark.parametrize("values", [6, 1000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_correlations_are_scipys(values, seed):
    proxy, quality = sets(seed, values=values)
    (found,) = rank_correlations({"p": proxy}, quality, baseline="p", rng=np.random.default_rng(0), n_resamples=10)
    assert found.spearman.value == pytest.approx(spearmanr(proxy, -quality).statistic, abs=1e-12)
    assert found.kendall.value == pytest.approx(kendalltau(proxy, -quality).statistic, abs=1e-12)


@pytest.mark.parametrize("values", [6, 1000])
def test_resampled_correlations_are_scipys_of_the_repeated_rows(values):
    proxy, quality = sets(5, values=values)
    rng = np.random.default_rng(1)
    weights = rng.multinomial(40, np.full(40, 1 / 40), size=20)
    rho, tau = resampled(signs(proxy), signs(quality), weights.astype(float))
    for i, counts in enumerate(weights):
        rows = np.repeat(np.arange(40), counts)
        assert rho[i] == pytest.approx(spearmanr(proxy[rows], quality[rows]).statistic, abs=1e-12)
        assert tau[i] == pytest.approx(kendalltau(proxy[rows], quality[rows]).statistic, abs=1e-12)


def test_intervals_are_quantiles_of_the_resamples_and_repeat_with_the_seed():
    proxy, quality = sets(2)
    found = [
        rank_correlations({"p": proxy}, quality, baseline="p", rng=np.random.default_rng(7), level=0.8)[0]
        for _ in range(2)
    ]
    assert found[0] == found[1]
    weights = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), size=2000).astype(float)
    rho, tau = resampled(signs(proxy), -signs(quality), weights)
    for interval, drawn in ((found[0].spearman, rho), (found[0].kendall, tau)):
        assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(drawn, [0.1, 0.9])))
        assert interval.low < interval.value < interval.high


def test_intervals_cover_the_true_correlation_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    truth, covered = 6 / np.pi * np.arcsin(0.6 / 2), 0  # Spearman's rho of a bivariate normal with correlation 0.6
    for _ in range(200):
        x = rng.normal(size=60)
        y = 0.6 * x + 0.8 * rng.normal(size=60)
        (found,) = rank_correlations({"x": x}, -y, baseline="x", rng=rng, n_resamples=400)
        covered += found.spearman.low <= truth <= found.spearman.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_baseline_gains_nothing_on_itself_and_all_proxies_share_the_resamples():
    proxy, quality = sets(3)
    values = {"decoder": proxy, "copy": 2 * proxy + 1, "reversed": -proxy, "noise": sets(9)[0]}
    found = {c.proxy: c for c in rank_correlations(values, quality, baseline="decoder", rng=np.random.default_rng(0))}
    for name in ("decoder", "copy"):  # the same ranks
        gain = found[name].kendall_gain
        assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    assert found["reversed"].kendall.value == -found["decoder"].kendall.value
    assert found["reversed"].kendall_gain.value == pytest.approx(-2 * found["decoder"].kendall.value)
    noise = found["noise"]
    assert noise.kendall_gain.value == noise.kendall.value - noise.baseline_kendall
    assert noise.kendall_gain.high < 0


def test_a_proxy_without_variation_has_no_correlation():
    _, quality = sets(0)
    values = {"constant": np.ones(40), "decoder": -quality}
    constant, perfect = rank_correlations(values, quality, baseline="decoder", rng=np.random.default_rng(0))
    assert np.isnan([constant.spearman.value, constant.kendall.value, constant.spearman.low]).all()
    assert perfect.spearman.value == perfect.kendall.value == perfect.spearman.low == 1


# --- the best -------------------------------------------------------------------------------------------------------


def test_top_k_counts_common_members_and_ranks_inside_the_truly_best():
    quality = np.arange(10.0)
    proxy = np.array([5, 9, 8, 1, 7, 0, 2, 3, 4, 6.0])  # best by proxy: rows 1, 2, 4, 9, 0
    top20, top50 = top_k(proxy, quality, (20, 50))
    assert (top20.n, top20.common_ratio) == (2, 0.5)
    assert (top50.n, top50.common_ratio) == (5, 4 / 5)
    assert top50.spearman == pytest.approx(spearmanr([5, 9, 8, 1, 7], [0, -1, -2, -3, -4]).statistic)
    assert np.isnan(top20.spearman)  # two networks


def test_the_whole_set_is_its_own_top_100_percent():
    proxy, quality = sets(4)
    (whole,) = top_k(proxy, quality, (100,))
    assert (whole.n, whole.common_ratio) == (40, 1.0)
    assert whole.spearman == pytest.approx(spearmanr(proxy, -quality).statistic)


def test_ties_at_the_edge_count_by_the_share_that_has_room():
    quality, proxy = np.arange(10.0), np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 2.0])
    (found,) = top_k(proxy, quality, (30,))
    assert found.common_ratio == pytest.approx(3 * (2 / 9) / 3)  # row 9 is in; two of nine equal ones are


def test_a_share_of_no_network_is_left_out():
    assert [top.percent for top in top_k(np.arange(8.0), np.arange(8.0), (10, 50))] == [50]


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "quality", "message"),
    [
        ({"p": [1, 2, 3]}, [1, 2, 3, 4], r"p has shape \(3,\): give \(4,\) finite numbers"),
        ({"p": [1, 2, float("nan")]}, [1, 2, 3], "p has shape"),
        ({"p": [1, 2]}, [1, 2], "n >= 3"),
        ({"q": [1, 2, 3]}, [1, 2, 3], "baseline = 'p'; allowed: q"),
    ],
)
def test_mistakes_are_named(values, quality, message):
    with pytest.raises(ValueError, match=message):
        rank_correlations(values, quality, baseline="p", rng=np.random.default_rng(0))
