import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.target_fit import TargetFit


def data(seed=0, inputs=6, outputs=4, tokens=120, offset=0.5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, tokens // 3, inputs, generator=generator) + offset
    y = torch.randn(3, tokens // 3, outputs, generator=generator) + x[..., :outputs] - offset
    return x, y, torch.randn(outputs, inputs, generator=generator)


def fit(x, y):
    sums = TargetFit(x.shape[-1], y.shape[-1], device=x.device)
    for i in range(len(x)):
        sums.add(x[i : i + 1], y[i : i + 1])
    return sums


@pytest.mark.parametrize("intercept", [False, True])
def test_a_fit_is_numpys_regression_where_the_penalty_vanishes(intercept):
    x, y, weight = data()
    solution = fit(x, y).solve(weight, damping=1e-9, intercept=intercept, where="x")
    rows, targets = x.flatten(0, 1).double().numpy(), y.flatten(0, 1).double().numpy()
    design = np.hstack([rows, np.ones((len(rows), 1))]) if intercept else rows
    expected = np.linalg.lstsq(design, targets, rcond=None)[0].T
    np.testing.assert_allclose(solution.weight.numpy(), expected[:, :6], rtol=1e-3, atol=1e-4)
    found = rows @ solution.weight.double().numpy().T
    if intercept:
        np.testing.assert_allclose(solution.intercept.numpy(), expected[:, 6], rtol=1e-3, atol=1e-4)
        found = found + solution.intercept.double().numpy()
    assert solution.error == pytest.approx(((targets - found) ** 2).sum() / (targets**2).sum(), rel=1e-4)


def test_the_target_of_the_weight_itself_is_the_weight():
    x, _, weight = data()
    solution = fit(x, x @ weight.T).solve(weight, damping=0.3, intercept=False, where="x")
    torch.testing.assert_close(solution.weight, weight, rtol=1e-4, atol=1e-5)


@given(
    seed=st.integers(0, 10_000), inputs=st.integers(1, 12), tokens=st.integers(3, 60), log_damping=st.floats(-6, 3),
    intercept=st.booleans(), offset=st.sampled_from([0.0, 20.0]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_a_fit_is_never_worse_than_the_weight_it_starts_from(seed, inputs, tokens, log_damping, intercept, offset):
    x, y, weight = data(seed, inputs=inputs, outputs=1, tokens=tokens, offset=offset)
    solution = fit(x, y).solve(weight, damping=10**log_damping, intercept=intercept, where="x")
    assert solution.error <= solution.mask_error
    found = x.double() @ solution.weight.double().T
    found = found if solution.intercept is None else found + solution.intercept.double()
    before, after = (y - x.double() @ weight.double().T).square().sum(), (y - found).square().sum()
    assert after <= before * (1 + 1e-4) + 1e-4


def test_targets_that_are_not_finite_are_refused():
    x, y, weight = data()
    x[0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="layer 1: second moments that are not finite"):
        fit(x, y).solve(weight, damping=0.01, intercept=False, where="layer 1")
