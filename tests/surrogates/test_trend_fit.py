import numpy as np
from small_space import SPACE, random_genes, true_latency, true_perplexity

from surrogates.layer_features import LayerFeatures
from surrogates.trend_fit import fit_logs, fit_sums, predict_linear


def test_a_sum_of_block_costs_is_found_exactly_in_spite_of_outliers() -> None:
    genes = random_genes(600)
    X, widths, y = LayerFeatures(SPACE).linear(genes), genes[:, 0], true_latency(genes)
    spoiled = y.copy()
    spoiled[::25] *= 5
    coef = fit_sums(X, widths, spoiled, n_widths=3)
    assert np.abs(predict_linear(coef, X, widths) / y - 1).max() < 2e-3


def test_positions_are_found_and_few_rows_borrow_from_other_widths() -> None:
    genes = random_genes(700)
    features = LayerFeatures(SPACE)
    X = np.hstack([features.linear(genes), features.positions(genes)])
    widths, y = genes[:, 0], true_perplexity(genes)
    kept = np.flatnonzero((widths != 2) | (np.arange(len(genes)) % 20 == 0))  # a dozen rows of the widest
    coef = fit_logs(X[kept], widths[kept], np.log(y[kept]), n_widths=3)
    held = np.setdiff1d(np.arange(len(genes)), kept)
    assert (widths[held] == 2).all()
    error = np.abs(predict_linear(coef, X[held], widths[held]) - np.log(y[held]))
    alone = np.log(y[held]) - np.log(y[kept][widths[kept] == 2]).mean()
    assert error.mean() < 0.2 * np.abs(alone).mean()


def test_a_width_without_rows_gets_the_coefficients_of_all() -> None:
    genes = random_genes(300)
    X, widths, y = LayerFeatures(SPACE).linear(genes), genes[:, 0], true_latency(genes)
    rows = widths == 0
    assert np.isfinite(fit_sums(X[rows], widths[rows], y[rows], n_widths=3)).all()
    assert np.isfinite(fit_logs(X[rows], widths[rows], np.log(y[rows]), n_widths=3)).all()
