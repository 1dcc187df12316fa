"""Attainment surfaces and differences are what counting runs at every point of a grid gives."""

import numpy as np
import pytest
from comparison_fakes import CASE, run_record

from search.comparison.attainment import attainment_difference, attainment_surfaces, run_fronts, staircase
from search.comparison.attainment_figures import rasterised

CASE_ = CASE.format("a100")


def fronts(method, distance, seeds=6):
    runs = [run_record(CASE_, method, s, distance=distance, offset=len(method)) for s in range(seeds)]
    return list(run_fronts(runs, CASE_, method, at=40).values())


def attained(found, points):
    """Share of runs (n,) that attain each point."""
    return np.mean([(front[:, None] <= points).all(-1).any(0) for front in found], axis=0)


POINTS = np.random.default_rng(0).uniform(1.0, 5.0, (3000, 2))


def test_half_of_the_runs_attain_what_lies_beyond_the_median_surface():
    found = fronts("a", 0.3)
    share = attained(found, POINTS)
    surfaces = attainment_surfaces(found, (50.0, 100.0))
    for level, surface in surfaces.items():
        beyond = (surface[:, None] <= POINTS).all(-1).any(0)
        assert (beyond == (share >= level / 100 - 1e-9)).all()
        assert (staircase(surface, POINTS[:, 0]) <= POINTS[:, 1]).tolist() == beyond.tolist()


def test_surfaces_are_nested():
    surfaces = attainment_surfaces(fronts("a", 0.3))
    x = np.linspace(1, 5, 200)
    heights = [staircase(surfaces[level], x) for level in (25.0, 50.0, 75.0)]
    assert (heights[0] <= heights[1]).all() and (heights[1] <= heights[2]).all()


def test_differences_are_differences_of_shares():
    first, second = fronts("a", 0.1), fronts("bb", 0.4)
    found = attainment_difference(first, second)
    expected = attained(first, POINTS) - attained(second, POINTS)
    low, high = found.corners[:, :2], found.corners[:, 2:]
    inside = (low[:, None] <= POINTS).all(-1) & (high[:, None] > POINTS).all(-1)  # (rectangles, points)
    for rows, wanted in zip(inside.T, expected, strict=True):
        assert np.allclose(found.shares[rows] if rows.any() else 0.0, wanted)
    assert expected.max() > 0.3


def test_a_raster_of_the_difference_is_the_difference_at_its_pixels():
    first, second = fronts("a", 0.1), fronts("bb", 0.4)
    x, y = np.linspace(1.01, 5, 40), np.linspace(1.01, 5, 30)
    image = rasterised(attainment_difference(first, second), x, np.repeat(y[:, None], 40, axis=1))
    points = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)
    assert image.ravel() == pytest.approx(attained(first, points) - attained(second, points))


def test_fronts_are_of_the_budget_and_points_are_whole():
    run = run_record(CASE_, "a", 0)
    point = run_record(CASE_, "lts", 0, is_point=True)
    early = run_fronts([run], CASE_, "a", at=10)[0]
    assert all((row == run.values[:10]).all(1).any() for row in early)
    assert run_fronts([run], CASE_, "a", at=41) == {}
    assert len(run_fronts([point], CASE_, "lts", at=5)[0])


def test_unequal_numbers_of_runs_are_refused():
    with pytest.raises(ValueError, match="5 runs against 6"):
        attainment_difference(fronts("a", 0.1, 5), fronts("bb", 0.1))
    with pytest.raises(ValueError, match="at least one run"):
        attainment_surfaces([])
