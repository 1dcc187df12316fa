"""Least squares against numpy's, and the promise: never worse than the plain mask."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.input_statistics import InputStatistics
from pruning.moments import InputMoments
from pruning.reconstruction import PrefixSolver, damped_factor


def statistics(x):
    sums = InputStatistics(x.shape[-1], device=x.device, dtype=torch.float64)
    sums.add(x)
    return sums.result()


def problem(seed=0, n=12, outputs=7, tokens=200, offset=0.0, dtype=torch.float64):
    """Return a weight and correlated inputs (1, tokens, n)."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n, n, generator=generator, dtype=torch.float64)
    x = torch.randn(1, tokens, n, generator=generator, dtype=torch.float64) @ mixing + offset
    return torch.randn(outputs, n, generator=generator, dtype=torch.float64).to(dtype), x


def relative_error(weight, x, solved, intercept=None):
    """Return the relative error on stored inputs."""
    rows, weight = x.flatten(0, 1), weight.double()
    target = rows @ weight.T
    found = rows[:, : solved.shape[1]] @ solved.double().T
    found = found if intercept is None else found + intercept.double()
    return ((target - found).square().sum() / target.square().sum()).item()


@pytest.mark.parametrize("size", [1, 5, 11, 12])
def test_a_solution_is_numpys_least_squares_where_the_penalty_vanishes(size):
    weight, x = problem()
    solver = PrefixSolver(weight, statistics(x), damping=1e-12)
    rows = x[0].numpy()
    expected = np.linalg.lstsq(rows[:, :size], rows @ weight.numpy().T, rcond=None)[0].T
    np.testing.assert_allclose(solver.solve(size).weight.numpy(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [1, 6, 11])
def test_an_intercept_is_that_of_a_regression_with_a_column_of_ones(size):
    weight, x = problem(offset=2.0)
    solution = PrefixSolver(weight, statistics(x), damping=1e-12, intercept=True).solve(size)
    rows = x[0].numpy()
    design = np.hstack([rows[:, :size], np.ones((len(rows), 1))])
    expected = np.linalg.lstsq(design, rows @ weight.numpy().T, rcond=None)[0].T
    np.testing.assert_allclose(solution.weight.numpy(), expected[:, :-1], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(solution.intercept.numpy(), expected[:, -1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("damping", [1e-3, 0.01, 1.0, 100.0])
def test_the_penalty_pulls_towards_the_weights_that_are_there(damping):
    weight, x = problem()
    inputs, size = statistics(x), 7
    pull = (damping * inputs.second.diagonal()[:size]).sqrt().diag()
    rows = x[0] / math.sqrt(x.shape[1])
    design = torch.cat([rows[:, :size], pull])
    target = torch.cat([rows @ weight.T, pull @ weight[:, :size].T])
    expected = torch.linalg.lstsq(design, target).solution.T
    found = PrefixSolver(weight, inputs, damping=damping).solve(size).weight
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 24), tokens=st.integers(2, 60), share=st.floats(0, 1),
    log_damping=st.floats(-9, 4), intercept=st.booleans(), reconstruct=st.booleans(),
    offset=st.sampled_from([0.0, 1.0, 30.0]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), dead=st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_a_solution_is_never_worse_than_the_plain_mask(
    seed, n, tokens, share, log_damping, intercept, reconstruct, offset, dtype, dead
):
    weight, x = problem(seed, n=n, outputs=5, tokens=tokens, offset=offset, dtype=dtype)
    if dead:
        x[..., : n // 2] = 0
    solver = PrefixSolver(weight, statistics(x), damping=10**log_damping, intercept=intercept, reconstruct=reconstruct)
    size = max(1, round(share * n))
    solution = solver.solve(size)
    assert solution.weight.dtype == dtype and solution.weight.shape == (5, size)
    assert solution.error <= solution.mask_error
    if x.any() and (x[0] @ weight.double().T).any():
        mask = relative_error(weight, x, weight[:, :size])
        found = relative_error(weight, x, solution.weight, solution.intercept)
        assert found <= mask * (1 + 1e-6) + 1e-9
        assert solution.mask_error == pytest.approx(mask, rel=1e-6, abs=1e-9)
        assert solution.error == pytest.approx(found, rel=1e-6, abs=1e-9)


def test_more_inputs_leave_less_error():
    weight, x = problem(n=20)
    for intercept in (False, True):
        solver = PrefixSolver(weight, statistics(x), damping=1e-9, intercept=intercept)
        errors = [solver.solve(size).error for size in range(1, 21)]
        assert all(b <= a + 1e-12 for a, b in pairwise(errors))
        assert errors[-1] == pytest.approx(0, abs=1e-12)


def test_an_intercept_helps_where_inputs_have_a_mean():
    weight, x = problem(offset=3.0)
    inputs = statistics(x)
    without, fitted = (PrefixSolver(weight, inputs, intercept=i).solve(4) for i in (False, True))
    assert fitted.error < without.error and without.intercept is None


def test_the_mask_with_an_intercept_is_flaps_bias_compensation():
    weight, x = problem(offset=3.0)
    inputs = statistics(x)
    solution = PrefixSolver(weight, inputs, intercept=True, reconstruct=False).solve(5)
    assert torch.equal(solution.weight, weight[:, :5])
    torch.testing.assert_close(solution.intercept, weight[:, 5:] @ inputs.mean[5:])


def test_the_whole_projection_is_left_as_it_is():
    weight, x = problem(dtype=torch.float32)
    solution = PrefixSolver(weight, statistics(x), intercept=True).solve(12)
    assert torch.equal(solution.weight, weight) and solution.intercept is None
    assert solution.error == solution.mask_error == 0


def test_inputs_that_are_always_zero_are_no_problem():
    weight, x = problem()
    solution = PrefixSolver(weight, statistics(torch.zeros_like(x))).solve(3)
    assert torch.equal(solution.weight, weight[:, :3]) and solution.error == 0


def moments_with(second):
    n = len(second)
    zeros = torch.zeros(n, dtype=torch.float64)
    return InputMoments(second, zeros, zeros, zeros, 10)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_moments_that_are_not_finite_are_refused(bad):
    second = torch.eye(4, dtype=torch.float64)
    second[1, 2] = second[2, 1] = bad
    with pytest.raises(ValueError, match="layer 3, mlp: second moments that are not finite"):
        PrefixSolver(torch.ones(2, 4), moments_with(second), where="layer 3, mlp")


def test_matrices_that_are_no_second_moments_are_refused():
    with pytest.raises(ValueError, match="not positive semi-definite"):
        damped_factor(torch.tensor([[1.0, 1e12], [1e12, 1.0]]), 0.01, where="x")


def test_bad_arguments_say_what_is_allowed():
    weight, x = problem()
    inputs = statistics(x)
    with pytest.raises(ValueError, match="the weight is \\(7, 11\\), the moments are of 12 inputs"):
        PrefixSolver(weight[:, :11], inputs)
    for damping in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="must be positive"):
            PrefixSolver(weight, inputs, damping=damping)
    for size in (0, 13):
        with pytest.raises(ValueError, match="allowed: 1 to 12"):
            PrefixSolver(weight, inputs).solve(size)
