"""The model of a costly objective: laws recovered, honest draws, budgets seen only where they are missed."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal
from search_fakes import CONFIG, large_space, small_space

from search.algorithms.gene_arrays import GeneArrays
from search.algorithms.gene_basis import GeneBasis
from search.algorithms.quality_model import (
    TargetScale,
    fit_excess_model,
    fit_quality_model,
    minus_log_posterior,
)
from supernet.encoding import to_genes
from supernet.space import SearchSpace


def draw_genes(space, n, seed):
    arrays = GeneArrays(space)
    return np.unique(arrays.canonical(arrays.random(n, np.random.default_rng(seed))), axis=0)


def none(genes):
    return np.empty((len(genes), 0))


def law(space, seed, noise=0.0):
    """A function of genes drawn from the prior: totals, shapes and single blocks, shared and by width."""
    basis, rng = GeneBasis(space), np.random.default_rng(seed)
    table = np.zeros((basis.n_widths, basis.n_columns))
    for group in basis.groups:
        weights = rng.standard_normal((basis.n_widths if group.by_width else 1, group.directions.shape[1]))
        table += group.expected * weights @ group.directions.T

    def values(genes):
        rows = basis(genes, none(genes))
        return np.exp(3 + 0.3 * ((rows * table[genes[:, 0]]).sum(axis=1) + noise * rng.standard_normal(len(genes))))

    return values


@pytest.mark.parametrize(
    "space",
    [
        small_space(),
        small_space(name="subset", n_layer=(1, 3, 4), layer_choice="subset", n_embd=(32,)),
        small_space(name="alike", n_layer=(2, 4, 6), mlp_ratio=(1, 2, 3, 4), per_layer=False),
        SearchSpace(name="grouped", n_embd=(32,), n_layer=(2, 3), n_head=(2, 4), n_query_groups=(1, 2),
                    mlp_ratio=(1, 2), config=CONFIG),
    ],
    ids=lambda space: space.name,
)  # fmt: skip
def test_columns_tell_all_networks_of_any_space_apart(space):
    genes = to_genes(space, list(space.enumerate()))
    basis = GeneBasis(space)
    rows = np.column_stack([genes[:, 0], basis(genes, none(genes))])
    assert rows.shape == (space.num_architectures, 1 + basis.n_columns)
    assert len(np.unique(rows, axis=0)) == space.num_architectures


def test_every_column_has_a_coefficient_shared_and_by_width():
    basis = GeneBasis(large_space(), n_extra=2)
    for by_width in (False, True):
        directions = np.column_stack([g.directions for g in basis.groups if g.by_width == by_width])
        assert np.linalg.matrix_rank(directions) == basis.n_columns


def test_a_known_law_is_recovered_from_a_few_hundred_networks():
    space = large_space()
    values = law(space, 0)
    genes, unseen = draw_genes(space, 250, 1), draw_genes(space, 1000, 2)
    basis = GeneBasis(space)
    model = fit_quality_model(basis, genes, none(genes), values(genes))
    predicted = model.predict(model.mean(), basis(unseen, none(unseen)), unseen[:, 0])[0]
    error = np.log(predicted / values(unseen))
    assert np.sqrt(np.mean(error**2)) < 0.06 * np.log(values(unseen)).std()


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_draws_cover_unseen_values_nearly_as_often_as_they_say_and_the_noise_is_found(noise):
    """Of 90 % at least 80: the scales are point estimates, whose own uncertainty is left out."""
    space, covered, found = large_space(), [], []
    basis = GeneBasis(space)
    for seed in range(4):
        values = law(space, seed, noise)
        genes, unseen = draw_genes(space, 200, 10 + seed), draw_genes(space, 300, 20 + seed)
        model = fit_quality_model(basis, genes, none(genes), values(genes))
        rng = np.random.default_rng(seed)
        draws = np.log(model.predict(model.draw(200, rng), basis(unseen, none(unseen)), unseen[:, 0]))
        draws += model.scales[-1] * model.target.spread * rng.standard_normal(draws.shape)
        low, high = np.quantile(draws, [0.05, 0.95], axis=0)
        covered.append(np.mean((low <= np.log(values(unseen))) & (np.log(values(unseen)) <= high)))
        found.append(model.scales[-1] * model.target.spread / 0.3)
    assert 0.8 < np.mean(covered) < 0.97
    assert 0.5 * noise < np.median(found) < 1.5 * noise


def test_mean_and_draws_are_those_of_bayesian_linear_regression():
    """The posterior in closed form, on explicit columns: shared ones, then those of each width."""
    space = large_space()
    basis = GeneBasis(space, n_extra=1)
    genes, unseen = draw_genes(space, 60, 0), draw_genes(space, 8, 1)
    rng = np.random.default_rng(0)
    extra, more = rng.standard_normal((len(genes), 1)), rng.standard_normal((len(unseen), 1))
    values = rng.standard_normal(len(genes))
    model = fit_quality_model(basis, genes, extra, values)

    def columns(genes, extra):
        rows = basis(genes, extra)
        parts = []
        for group, scale in zip(basis.groups, model.scales, strict=False):
            part = scale * rows @ group.directions
            own = [part * (genes[:, :1] == w) for w in range(basis.n_widths)] if group.by_width else [part]
            parts += own
        return np.concatenate(parts, axis=1)

    X, Z, noise = columns(genes, extra), columns(unseen, more), model.scales[-1]
    precision = X.T @ X / noise**2 + np.eye(X.shape[1])
    mean = Z @ np.linalg.solve(precision, X.T @ model.scaled) / noise**2
    std = np.sqrt(np.einsum("ij,ji->i", Z, np.linalg.solve(precision, Z.T)))
    rows = basis(unseen, more)
    np.testing.assert_allclose(
        model.predict(model.mean(), rows, unseen[:, 0])[0], model.target.inverse(mean), rtol=1e-6, atol=1e-8
    )
    draws = model.predict(model.draw(4000, rng), rows, unseen[:, 0])
    draws = (draws - model.target.centre) / model.target.spread
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=5 * std.max() / np.sqrt(4000))
    np.testing.assert_allclose(draws.std(axis=0), std, rtol=0.1)


def test_evidence_is_the_density_of_the_values_and_its_gradient_is_right():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((12, k)) for k in (2, 5)]
    kernels = np.array([p @ p.T for p in parts] + [np.eye(12)])
    z, expected = rng.standard_normal(12), np.array([1.0, 0.3, 0.1])

    def value(log_scales):
        return minus_log_posterior(log_scales, kernels, z, expected)[0]

    def density(log_scales):
        covariance = np.tensordot(np.exp(2 * log_scales), kernels, 1)
        away = (log_scales - np.log(expected)) / 2
        return -multivariate_normal(np.zeros(12), covariance).logpdf(z) + 0.5 * away @ away

    first, second = np.log([0.5, 1.0, 0.3]), np.log([2.0, 0.1, 0.7])
    assert value(first) - value(second) == pytest.approx(density(first) - density(second))
    np.testing.assert_allclose(
        minus_log_posterior(first, kernels, z, expected)[1], approx_fprime(first, value, 1e-6), rtol=1e-4
    )


def test_a_limit_is_found_from_how_far_it_is_missed_alone():
    space = large_space()
    values = law(space, 3)
    genes, unseen = draw_genes(space, 150, 0), draw_genes(space, 1000, 1)
    limit = np.median(values(genes))
    basis = GeneBasis(space)
    model = fit_excess_model(basis, genes, none(genes), np.maximum(values(genes) / limit - 1, 0))
    excess = model.predict(model.mean(), basis(unseen, none(unseen)), unseen[:, 0])[0]
    assert np.mean((excess > 0) == (values(unseen) > limit)) > 0.93


def test_values_of_any_sign_and_equal_values_have_a_scale():
    for values in (np.array([1.0, 2.0, 5.0]), np.array([-1.0, 0.0, 5.0]), np.array([3.0, 3.0])):
        scale = TargetScale.of(values)
        assert scale.log == (values > 0).all()
        np.testing.assert_allclose(scale.inverse(scale.forward(values)), values, atol=1e-12)


def test_a_fit_goes_on_from_the_scales_of_the_last_one():
    space = large_space()
    genes, basis = draw_genes(space, 100, 0), GeneBasis(space)
    values = law(space, 1)(genes)
    first = fit_quality_model(basis, genes, none(genes), values)
    second = fit_quality_model(basis, genes, none(genes), values, scales=first.scales)
    third = fit_quality_model(basis, genes, none(genes), values, scales=second.scales)
    assert not np.allclose(first.scales, np.array([*(g.expected for g in basis.groups), 0.02]))
    np.testing.assert_allclose(third.scales, second.scales, rtol=0.3)
